"""How a model does on labelled pictures, in the plant's words, and whether it is worse than another one.

1. Nothing is averaged away: every class is judged for itself, and all together as the line judges parts.
2. Two models are compared on the same pictures, one by one; only pictures on which they differ count (exact sign test,
   McNemar). So a small difference on few pictures is no refusal, and a forgotten class always is one.
3. mAP is pycocotools'.

    looks = look(Path("model.onnx"), dataset.val)
    measured("model.onnx", looks, classes, thresholds).pictures.escapes
    compare(outcomes(looks, ...), outcomes(reference, ...))     # raises BadRelease
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import comb, sqrt
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cloud_inspect.errors import BadRelease
from cloud_inspect.learning.datasets import Sample
from cloud_inspect.learning.detect import Detector, Found
from cloud_inspect.learning.measure import average_precision, boxes_px
from edge_wire.manifest import Measured, Tally

ALL = "all classes"
LEAST_DOUBT = 0.05
"""A difference that chance gives more often than this is none."""

Step = Callable[[str, int, int], None]
"""What is being done, how far, of how much."""
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Looks:
    """What one model found on labelled pictures, in their order."""

    samples: tuple[Sample, ...]
    truth: tuple[tuple[Found, tuple[int, int]], ...]
    """Labels as (n, 5): x1, y1, x2, y2 in px, class; and the picture's (height, width)."""
    found: tuple[Found, ...]
    """(n, 6): x1, y1, x2, y2 in px, score, class."""


@dataclass(frozen=True)
class Outcome:
    """One flag a picture: shows a defect, was called NG."""

    defective: Flags
    alarm: Flags


def look(model: Path, samples: Sequence[Sample], step: Step | None = None, name: str = "") -> Looks:
    """Run `model` on every picture. Raises BadWeights, TrainingMissing."""
    detector = Detector(model)
    truth, found = [], []
    for number, sample in enumerate(samples, 1):
        pixels = np.asarray(cv2.imread(str(sample.picture), cv2.IMREAD_COLOR), np.uint8)
        height, width = pixels.shape[:2]
        truth.append((boxes_px(sample, width, height), (height, width)))
        found.append(detector.find(pixels))
        if step:
            step(f"judging {name or model.name}", number, len(samples))
    return Looks(tuple(samples), tuple(truth), tuple(found))


def renumbered(looks: Looks, names: Sequence[str], classes: Sequence[str]) -> Looks:
    """The same with classes numbered as in `classes`; `names` are the numbers' names in the model that looked."""
    number = np.array([classes.index(name) for name in names], np.float64)
    found = []
    for one in looks.found:
        changed = one.copy()
        changed[:, 5] = number[one[:, 5].astype(int)]
        found.append(changed)
    return Looks(looks.samples, looks.truth, tuple(found))


def outcomes(looks: Looks, classes: Sequence[str], thresholds: Mapping[str, float]) -> dict[str, Outcome]:
    """For ALL (any defect makes a picture NG, whatever it is taken for) and for each class alone."""
    least = np.array([thresholds[name] for name in classes])
    shown = np.array([[(boxes[:, 4] == c).any() for c in range(len(classes))] for boxes, _ in looks.truth], bool)
    called = np.array([_called(one, least) for one in looks.found], bool)
    shape = (len(looks.found), len(classes))
    shown, called = shown.reshape(shape), called.reshape(shape)
    each = {name: Outcome(shown[:, c], called[:, c]) for c, name in enumerate(classes)}
    return {ALL: Outcome(shown.max(axis=1), called.max(axis=1)), **each}


def measured(file: str, looks: Looks, classes: tuple[str, ...], thresholds: Mapping[str, float]) -> Measured:
    """What the manifest says about one variant."""
    map50, _ = average_precision(looks.truth, looks.found, classes)
    tallies = {name: tally(one) for name, one in outcomes(looks, classes, thresholds).items()}
    return Measured(
        file=file,
        map50=0.0 if np.isnan(map50) else round(max(0.0, map50), 4),
        pictures=tallies.pop(ALL),
        classes=tallies,
    )


def tally(one: Outcome) -> Tally:
    return Tally(
        defective=int(one.defective.sum()),
        escapes=int((one.defective & ~one.alarm).sum()),
        good=int((~one.defective).sum()),
        overkill=int((~one.defective & one.alarm).sum()),
    )


def compare(candidate: Mapping[str, Outcome], reference: Mapping[str, Outcome]) -> None:
    """Raises BadRelease where the candidate is worse for sure: class-forgotten, worse-escapes, worse-overkill."""
    for name, then in reference.items():
        now = candidate[name]
        if not (now.alarm & now.defective).any() and (then.alarm & then.defective).any():
            many = int(now.defective.sum())
            raise BadRelease("class-forgotten", f"{name}: finds none of {many} defective pictures; the reference does")
    for name, then in reference.items():
        now = candidate[name]
        for code, of, bad_now, bad_then in (
            ("worse-escapes", now.defective, ~now.alarm, ~then.alarm),
            ("worse-overkill", ~now.defective, now.alarm, then.alarm),
        ):
            worse, better = int((of & bad_now & ~bad_then).sum()), int((of & ~bad_now & bad_then).sum())
            if sign_test(worse, better) <= LEAST_DOUBT:
                rates = f"{_rate(of & bad_now, of)}, the reference {_rate(of & bad_then, of)}"
                what = "escapes" if code == "worse-escapes" else "overkill"
                raise BadRelease(code, f"{name}: {what} {rates}; worse on {worse} pictures, better on {better}")


def sign_test(worse: int, better: int) -> float:
    """How often chance alone gives at least so many worse of worse + better (exact, one-sided)."""
    whole = worse + better
    return float(sum(comb(whole, k) for k in range(worse, whole + 1)) / 2**whole)


def wilson(bad: int, of: int, z: float = 1.96) -> tuple[float, float]:
    """95 % bounds of a rate (Wilson, 1927)."""
    if of == 0:
        return 0.0, 1.0
    rate, spread = bad / of, z * z / of
    middle, half = rate + spread / 2, z * sqrt(rate * (1 - rate) / of + spread / (4 * of))
    return max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))


def _called(found: Found, least: NDArray[np.float64]) -> list[bool]:
    classes = found[:, 5].astype(int)
    above = found[:, 4] > least[classes]
    return [bool((above & (classes == c)).any()) for c in range(len(least))]


def _rate(bad: Flags, of: Flags) -> str:
    low, high = wilson(int(bad.sum()), int(of.sum()))
    return f"{int(bad.sum())} of {int(of.sum())} ({low:.1%} to {high:.1%})"
