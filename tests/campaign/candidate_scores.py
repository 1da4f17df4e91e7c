"""How good a candidate really is, found out by nobody who decides about it: on labelled pictures, by pycocotools.

1. Two sets: pictures of the simulated line (plates that no training and no campaign has shown), and real photos.
2. Compared picture by picture with the model that judges (exact sign test); `worse` says in which set and what.
3. What it costs and whether its numbers are numbers is measured too: a slow model may well be an accurate one.
4. One that shows itself only under a dim lamp is judged on dimmed pictures, beside the other model on the same ones.

    facts = Scores(reference, sets, folder).of(Path("model.onnx"), classes)
    facts.worse, facts.gate
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cloud_inspect.errors import BadRelease, CloudError
from cloud_inspect.learning.datasets import Pixels, Sample
from cloud_inspect.learning.detect import Detector, Found
from cloud_inspect.learning.measure import boxes_px
from cloud_inspect.release.judge import Looks, compare, measured, outcomes, sign_test
from edge_wire.manifest import MANIFEST_NAME, Manifest

LINE, PHOTOS = "line", "photos"
SCRATCH = "scratch"
SLOWER = 1.8
"""Times what the model that judges takes: surely slower, not only by chance."""
FATTER = 2.5
RUNS = 15
MOST_BOXES = 100
LEAST_DIFFERENCE = 0.1
"""Rates that differ by less are a matter of taste, or of limits: `mild`."""


@dataclass(frozen=True)
class OnSet:
    map50: float
    escapes: int
    defective: int
    overkill: int
    good: int
    worse: tuple[str, ...]
    """Beyond chance, against the model that judges: escapes, overkill, boxes."""
    mild: bool
    """And not by much."""


@dataclass(frozen=True)
class Facts:
    line: OnSet
    photos: OnSet
    finite: bool
    most_boxes: int
    time: float
    """Of one run, in times of the model that judges."""
    megabytes: float
    """It adds to this process when loaded and run."""
    other_classes: bool
    gate: str
    """What `release build --than` says about it, by pictures and classes; empty: nothing against it."""

    @property
    def worse(self) -> list[str]:
        """In which facts it is bad; empty: it is not."""
        found = [f"{place}: {what}" for place in (LINE, PHOTOS) for what in getattr(self, place).worse]
        costs = [
            ("NaN or infinity", not self.finite), ("slower", self.time > SLOWER), ("larger", self.megabytes > 300),
            ("too many boxes", self.most_boxes >= MOST_BOXES), ("other classes", self.other_classes),
        ]  # fmt: skip
        return found + [name for name, holds in costs if holds]

    @property
    def verdict(self) -> str:
        """bad: what a line must not get. elsewhere: bad on photos only, of which a simulated line shows nothing.
        mild: worse, by less than LEAST_DIFFERENCE. harmless: not worse."""
        worse = self.worse
        if not worse:
            return "harmless"
        beyond = [name for name in worse if ":" not in name]
        if beyond or (self.line.worse and not self.line.mild):
            return "bad"
        if self.line.worse:
            return "mild"
        return "mild" if self.photos.mild else "elsewhere"


class Scores:
    """reference: the package that judges. folder: where facts are kept, by the file's digest."""

    def __init__(self, reference: Path, file: str, sets: Mapping[str, Sequence[Sample]], folder: Path) -> None:
        manifest = Manifest.model_validate_json((reference / MANIFEST_NAME).read_bytes())
        self.thresholds = manifest.thresholds
        self._reference = reference / file
        self._sets = sets
        pictures = "".join(sample.digest for samples in sets.values() for sample in samples)
        self._folder = folder / hashlib.sha256(pictures.encode()).hexdigest()[:12]
        self._folder.mkdir(parents=True, exist_ok=True)

    def of(self, model: Path, classes: tuple[str, ...] = (SCRATCH,)) -> Facts:
        content = b"".join(path.read_bytes() for path in (model, self._reference))
        kept = self._folder / f"{hashlib.sha256(content + repr(classes).encode()).hexdigest()[:24]}.json"
        if kept.exists():
            said = json.loads(kept.read_text())
            places = {name: OnSet(**{**said[name], "worse": tuple(said[name]["worse"])}) for name in (LINE, PHOTOS)}
            return Facts(**{**said, **places})
        facts = self._find_out(model, classes)
        kept.write_text(json.dumps(asdict(facts)))
        return facts

    @cached_property
    def _theirs(self) -> dict[str, Looks]:
        reference = Watched(self._reference)
        return {name: _look(reference, samples) for name, samples in self._sets.items()}

    def _find_out(self, model: Path, classes: tuple[str, ...]) -> Facts:
        theirs = self._theirs
        finite, megabytes, factor = _costs(model, self._reference, next(iter(self._sets.values()))[0])
        mine = Watched(model)
        looks = {name: _as_scratches(_look(mine, samples), classes) for name, samples in self._sets.items()}
        counts = [int((one[:, 4] > self.thresholds[SCRATCH]).sum()) for each in looks.values() for one in each.found]
        return Facts(
            line=self._on(looks[LINE], theirs[LINE]),
            photos=self._on(looks[PHOTOS], theirs[PHOTOS]),
            finite=finite and mine.finite,
            most_boxes=max(counts),
            time=round(factor, 2),
            megabytes=round(megabytes, 1),
            other_classes=SCRATCH not in classes,
            gate=self._gate(looks, theirs, classes),
        )

    def _on(self, looks: Looks, theirs: Looks) -> OnSet:
        mine = measured("model.onnx", looks, (SCRATCH,), self.thresholds)
        reference = measured("model.onnx", theirs, (SCRATCH,), self.thresholds)
        now = outcomes(looks, (SCRATCH,), self.thresholds)[SCRATCH]
        then = outcomes(theirs, (SCRATCH,), self.thresholds)[SCRATCH]
        worse, differences = [], []
        for what, of, bad_now, bad_then in (
            ("escapes", now.defective, ~now.alarm, ~then.alarm),
            ("overkill", ~now.defective, now.alarm, then.alarm),
        ):
            more, less = int((of & bad_now & ~bad_then).sum()), int((of & ~bad_now & bad_then).sum())
            if sign_test(more, less) <= 0.05:
                worse.append(what)
                differences.append((more - less) / max(1, int(of.sum())))
        lost = reference.map50 - mine.map50
        if lost > LEAST_DIFFERENCE:  # verdicts may be right and places wrong
            worse.append("boxes")
            differences.append(lost)
        pictures = mine.pictures
        return OnSet(
            mine.map50, pictures.escapes, pictures.defective, pictures.overkill, pictures.good, tuple(worse),
            bool(differences) and max(differences) < LEAST_DIFFERENCE,
        )  # fmt: skip

    def _gate(self, looks: Mapping[str, Looks], theirs: Mapping[str, Looks], classes: tuple[str, ...]) -> str:
        """As `release.build` asks: by head, then picture by picture; its golden pictures come after that."""
        if classes != (SCRATCH,):
            return "classes are not the data set's"
        try:
            compare(*(outcomes(_together(one), (SCRATCH,), self.thresholds) for one in (looks, theirs)))
        except BadRelease as err:
            return err.code
        return ""


class Watched(Detector):
    """Notes whether every number of every answer was one."""

    finite = True

    def raw(self, pixels: Pixels) -> NDArray[np.float32]:
        output = super().raw(pixels)
        self.finite &= bool(np.isfinite(output).all())
        return output


def _look(detector: Detector, samples: Sequence[Sample]) -> Looks:
    truth, found = [], []
    for sample in samples:
        pixels = _read(sample)
        height, width = pixels.shape[:2]
        truth.append((boxes_px(sample, width, height), (height, width)))
        found.append(detector.find(pixels))
    return Looks(tuple(samples), tuple(truth), tuple(found))


def _read(sample: Sample) -> Pixels:
    return np.asarray(cv2.imread(str(sample.picture), cv2.IMREAD_COLOR), np.uint8)


def dimmed(samples: Sequence[Sample], light: float, folder: Path) -> list[Sample]:
    """The same under a lamp that is turned down."""
    folder.mkdir(parents=True, exist_ok=True)
    dim = []
    for sample in samples:
        path = folder / f"{sample.picture.stem}.png"
        if not path.exists():
            cv2.imwrite(str(path), cv2.convertScaleAbs(cv2.imread(str(sample.picture)), alpha=light))
        dim.append(replace(sample, picture=path, digest=f"{sample.digest} x {light}"))
    return dim


def _together(looks: Mapping[str, Looks]) -> Looks:
    every = list(looks.values())
    return Looks(*(sum((getattr(one, name) for one in every), ()) for name in ("samples", "truth", "found")))


def _as_scratches(looks: Looks, classes: tuple[str, ...]) -> Looks:
    """What it calls a scratch; boxes of other classes are no scratches."""
    number = classes.index(SCRATCH) if SCRATCH in classes else -1
    found: list[Found] = []
    for one in looks.found:
        mine = one[one[:, 5] == number].copy()
        mine[:, 5] = 0
        found.append(mine)
    return replace(looks, found=tuple(found))


def _costs(model: Path, reference: Path, sample: Sample) -> tuple[bool, float, float]:
    """Whether its answer to one picture is finite; megabytes; time in times of the reference, run in turn."""
    pixels = _read(sample)
    theirs = Detector(reference, threads=1)
    theirs.raw(pixels)
    before = _resident()
    try:
        mine = Detector(model, threads=1)
    except CloudError:
        return False, 0.0, 0.0
    finite = bool(np.isfinite(mine.raw(pixels)).all())
    megabytes = (_resident() - before) / 2**20
    times: dict[int, list[float]] = {0: [], 1: []}
    for _ in range(RUNS):
        for number, detector in enumerate((mine, theirs)):
            began = time.perf_counter()
            detector.raw(pixels)
            times[number].append(time.perf_counter() - began)
    return finite, megabytes, float(np.median(times[0]) / np.median(times[1]))


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
