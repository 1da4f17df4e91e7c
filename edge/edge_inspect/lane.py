"""What belongs to one camera, and what is known of one part once it is judged."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_inspect.capture.picture_check import PictureCheck
from edge_inspect.capture.protocol import Pixels, Stamp
from edge_inspect.capture.ring import Ring
from edge_inspect.counts import LaneCounts
from edge_inspect.inference.decode import Decoder
from edge_inspect.inference.engine import Engine
from edge_inspect.inference.letterbox import Letterbox
from edge_inspect.line.open import PartTimes
from edge_inspect.line.outlet import SOURCE
from edge_inspect.line.protocol import Answer, AnswerKind
from edge_inspect.verdict.judge import Judge, Kind, Verdict
from edge_inspect.verdict.parts import PartFinder
from edge_inspect.verdict.recipe import Recipe


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

    def release(self) -> None: ...


@dataclass(slots=True)
class Lane:
    """All that belongs to one camera. Built when its picture size is known; touched by the inspect thread only."""

    name: str
    ring: Ring
    engine: Engine
    letterbox: Letterbox
    decoder: Decoder
    finder: PartFinder
    judge: Judge
    recipe: Recipe
    thresholds: NDArray[np.float32]
    """Least confidence per class, shape (classes,)."""
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


def judged_as_told(part: int, verdict: Verdict, stamp: Stamp, seen: Seen | None, told: Answer | None) -> Judged:
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
    )


def part_times(recipe: Recipe) -> PartTimes:
    """A recipe's word on triggers, as a line has to know it."""
    part = recipe.part
    return PartTimes(part.mode == "trigger", part.deadline_ms, part.delay_ms, part.window_ms)
