"""What belongs to one camera, and what is known of one part once it is judged."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_inspect.capture.picture_check import PictureCheck
from edge_inspect.capture.protocol import Pixels, Stamp
from edge_inspect.capture.ring import Ring, Slot
from edge_inspect.counts import Durations, LaneCounts
from edge_inspect.inference.decode import Decoder, Detections
from edge_inspect.inference.engine import Engine
from edge_inspect.inference.letterbox import Letterbox
from edge_inspect.line.open import PartTimes
from edge_inspect.line.outlet import SOURCE
from edge_inspect.line.protocol import Answer, AnswerKind
from edge_inspect.verdict.judge import NON_FINITE, Judge, Kind, Verdict
from edge_inspect.verdict.parts import Look, PartFinder
from edge_inspect.verdict.recipe import Recipe
from edge_wire import messages as wire


class Seen(NamedTuple):
    """What a verdict that rests on a picture rests on; `pixels` only as long as the slot is leased."""

    box_px: tuple[int, int, int, int]
    stages: Stages
    pixels: Pixels


class Stages(NamedTuple):
    """Where the time between a frame's capture and its part's verdict went, nanoseconds."""

    capture_ns: int
    """From the camera's time stamp until the inspect thread took the frame: driver, decoding, waiting."""
    letterbox_ns: int
    inference_ns: int
    decode_ns: int
    judge_ns: int


@dataclass(frozen=True, slots=True)
class Judged:
    """One part and its verdict, as told to the line and, if not OK, reported."""

    part: int
    verdict: Verdict
    frame_index: int
    captured_ns: int
    captured_utc_ns: int
    verdict_ns: int
    box_px: tuple[int, int, int, int] | None
    """The part in the frame: x0, y0, x1, y1; None when the part was not seen."""
    stages: Stages | None
    sequence: int | None = None
    """The line's number of the trigger that brought the part."""
    model: wire.ModelRef | None = None
    """Which model's verdict it is; of a part that was never looked at, which model would have judged it."""

    @property
    def must_be_reported(self) -> bool:
        return self.verdict.kind is not Kind.OK

    @property
    def age_ms(self) -> float:
        return (self.verdict_ns - self.captured_ns) / 1e6


class LineSide(Protocol):
    """Whoever tells a line: a `Desk` for triggers, an `Outlet` where the camera finds the parts."""

    @property
    def busy(self) -> bool: ...

    def has_news(self) -> bool: ...

    def answer(self, part: int, kind: AnswerKind, reason: str, captured_ns: int) -> Answer: ...

    def hold(self, reason: str) -> None: ...

    def withdrawn(self) -> list[Answer]: ...


@dataclass(slots=True)
class ModelCounts:
    """What one model has done on one camera; counted by the inspect thread."""

    frames: int = 0
    parts: int = 0
    ng: int = 0
    unknown: Counter[str] = field(default_factory=Counter)
    non_finite: int = 0
    """Frames on which it answered numbers that are not finite."""
    non_finite_now: int = 0
    non_finite_in_row: int = 0
    """The run of such frames that lasts, and the longest one."""
    known_answer_failures: int = 0
    inference: Durations = field(default_factory=Durations)

    def ran(self, duration_ns: int, finite: bool) -> None:
        """One picture went through the network."""
        self.frames += 1
        self.inference.add(duration_ns)
        self.non_finite_now = 0 if finite else self.non_finite_now + 1
        self.non_finite += not finite
        self.non_finite_in_row = max(self.non_finite_in_row, self.non_finite_now)

    def judged(self, verdict: Verdict) -> None:
        """One part was told."""
        self.parts += 1
        self.ng += verdict.kind is Kind.NG
        if verdict.kind is Kind.UNKNOWN:
            self.unknown[verdict.reason] += 1


@dataclass(slots=True)
class FittedModel:
    """A model made ready for one camera: all that turns its pictures into verdicts. One thread runs it."""

    engine: Engine
    letterbox: Letterbox
    decoder: Decoder
    judge: Judge
    thresholds: NDArray[np.float32]
    """Least confidence per class, shape (classes,)."""
    ref: wire.ModelRef
    counts: ModelCounts = field(default_factory=ModelCounts)
    on_trial: bool = False
    """A wrong known answer is counted, and makes parts UNKNOWN, where it would otherwise end the process."""
    distrusted: str = ""
    """Why nothing that it finds is believed any more; parts are UNKNOWN for this reason."""

    def find(self, pixels: Pixels) -> tuple[Detections, tuple[int, int, int]]:
        """What is on a picture, and the nanoseconds that letterbox, network and decoder took."""
        start = time.perf_counter_ns()
        self.letterbox(pixels, out=self.engine.input)
        boxed = time.perf_counter_ns()
        self.engine.run()
        ran = time.perf_counter_ns()
        found = self.decoder.decode(self.engine.output, self.letterbox, self.thresholds)
        done = time.perf_counter_ns()
        self.counts.ran(ran - boxed, found.finite)
        return found, (boxed - start, ran - boxed, done - ran)

    def look(self, look: Look, found: Detections) -> Verdict | None:
        """Note what was found on this look of a part; the verdict if it was the last one."""
        if self.distrusted:
            self.judge.unusable(look, self.distrusted)
        elif found.finite:
            self.judge.look(look, found.boxes, found.scores, found.classes, found.n)
        else:
            self.judge.unusable(look, NON_FINITE)
        return self.judge.decide(look.part) if look.last else None


def fit(engine: Engine, recipe: Recipe, height_px: int, width_px: int) -> FittedModel:
    """For a camera's frames of that size. Raises BadConfig when the recipe names a class that the model lacks."""
    manifest = engine.package.manifest
    return FittedModel(
        engine=engine,
        letterbox=Letterbox(height_px, width_px, engine.height, engine.width),
        decoder=Decoder(engine.layout, engine.classes),
        judge=Judge(recipe, engine.classes),
        thresholds=recipe.thresholds(engine.classes),
        ref=wire.ModelRef(
            name=manifest.name,
            version=manifest.version,
            digest=engine.package.digest,
            variant_digest=f"sha256:{engine.variant.sha256}",
        ),
    )


@dataclass(slots=True)
class Lane:
    """All that belongs to one camera. Built when its picture size is known; touched by the inspect thread only."""

    name: str
    ring: Ring
    model: FittedModel
    """Judges the parts that come; exchanged between two frames."""
    finder: PartFinder
    recipe: Recipe
    counts: LaneCounts
    check: PictureCheck
    """Tells pictures that show nothing: black, white, garbage, and of live cameras frozen ones."""
    line: LineSide | None = None
    """Who is told each verdict first, if anybody is."""
    dead_picture: str = ""
    """`frozen`, `black` or `white` while the camera shows nothing that could be judged."""
    dead_said: str = ""
    """What of it the log says, since `dead_said_ns`."""
    dead_said_ns: int = -(1 << 62)
    begun: dict[int, FittedModel] = field(default_factory=dict)
    """Parts between their first look and their last, and the model that began each: it judges them to their end."""

    @property
    def engine(self) -> Engine:
        return self.model.engine

    @property
    def letterbox(self) -> Letterbox:
        return self.model.letterbox

    @property
    def thresholds(self) -> NDArray[np.float32]:
        return self.model.thresholds

    def model_of(self, part: int) -> FittedModel:
        """Whose verdict on this part counts."""
        return self.begun.get(part, self.model)

    def looked(self, look: Look, model: FittedModel) -> None:
        """`model` saw this look of a part; from its first look on the part is that model's."""
        if look.last:
            self.begun.pop(look.part, None)
        else:
            self.begun[look.part] = model

    def give_up(self, part: int, reason: str) -> tuple[FittedModel, Verdict]:
        """No more looks of this part come: the verdict of the model that began it, if one did."""
        model = self.begun.pop(part, self.model)
        return model, model.judge.decide(part, reason)

    def uses(self, engine: Engine) -> bool:
        """Any thread: a part may still be judged by it."""
        return any(each is engine for each in self.engines())

    def engines(self) -> list[Engine]:
        """Any thread: what judges the parts that come, and those that are begun."""
        return [self.model.engine, *(model.engine for model in list(self.begun.values()))]


class Watcher(Protocol):
    """Sees each frame while its slot is still leased: annotated videos, galleries, scores. Not for the line."""

    def frame(self, lane: Lane, slot: Slot, looks: list[Look], found: Detections | None) -> None: ...

    def judged(self, lane: Lane, judged: Judged, pixels: Pixels | None) -> None: ...


class Beside(Protocol):
    """Another model that judges the same parts in a thread of its own; no call takes longer than copying a frame."""

    def seen(
        self, lane: Lane, slot: Slot, looks: Sequence[Look], decided: Mapping[int, tuple[Verdict, Judged]]
    ) -> None:
        """All parts of this frame have been told. `decided`: by part, those whose last look it was."""

    def gave_up(self, lane: Lane, part: int) -> None:
        """No more looks of this part come."""


def judged_as_told(
    part: int, verdict: Verdict, stamp: Stamp, seen: Seen | None, told: Answer | None, model: wire.ModelRef
) -> Judged:
    """`told`: what the line heard, where there is one; that, and nothing else, is the verdict.

    `stamp`: of the frame, or of the moment, at which the verdict was found.
    """
    captured_ns, utc_ns, verdict_ns, sequence = stamp.captured_ns, stamp.utc_ns, time.monotonic_ns(), None
    if told is not None:
        verdict_ns = told.answered_ns
        if (told.kind, told.reason) != (verdict.kind.value, verdict.reason):
            verdict = Verdict(Kind(told.kind), told.reason, verdict.defects)
    if told is not None and told.trigger.source != SOURCE:
        sequence = told.sequence
        if seen is None:  # nothing was captured: the trigger's time stands for it
            captured_ns = min(told.trigger.at_ns, told.answered_ns)
            utc_ns += captured_ns - stamp.captured_ns
    return Judged(
        part=part,
        verdict=verdict,
        frame_index=stamp.index,
        captured_ns=captured_ns,
        captured_utc_ns=utc_ns,
        verdict_ns=verdict_ns,
        box_px=seen.box_px if seen else None,
        stages=seen.stages if seen else None,
        sequence=sequence,
        model=model,
    )


def part_times(recipe: Recipe) -> PartTimes:
    """A recipe's word on triggers, as a line has to know it."""
    part = recipe.part
    return PartTimes(part.mode == "trigger", part.deadline_ms, part.delay_ms, part.window_ms)
