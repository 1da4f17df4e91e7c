"""What one part is, and on which frames it must be inspected: the words, and the finders for modes `frame`, `trigger`.

1. Every part gets a number, once, in the order in which it passed; numbers have no holes.
2. A part is inspected only while it is wholly in the picture; its last look says so (`Look.last`). A part longer than
   the picture is inspected stretch by stretch, without a hole.
3. A part that passed without a usable look is named by `unjudged`, never silently dropped. When nothing could be seen
   for so long that a whole part may have passed, that is one unjudged part too.

    finder = part_finder(recipe, height=360, width=640)
    for look in finder.see(pixels, captured_ns): ...
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_inspect.verdict.recipe import Recipe

Pixels = NDArray[np.uint8]
Box = tuple[int, int, int, int]

NOT_SEEN = "not-seen"


MOST_AT_ONCE = 100
"""A gap of more frames than this is told as so many parts: a driver's counter that jumps must not flood the plant."""


class Look(NamedTuple):
    """One part to be inspected on this frame."""

    part: int
    box: Box
    """x0, y0, x1, y1 in px of the frame; the whole frame in mode `frame`."""
    last: bool
    """No more looks come: decide."""
    origin: tuple[int, int] | None = None
    """Where the part's upper left corner is, px of the frame, possibly outside of it; None: where the box's is."""
    whole: bool = True
    """False: this look shows only a stretch of a part that is longer than the picture."""


class Sighting(NamedTuple):
    """A part somewhere in the picture, whether or not it is due for a look."""

    part: int | None
    """None: not looked at yet, so it has no number."""
    box: Box
    origin: tuple[int, int]


class PartFinder(Protocol):
    def see(self, pixels: Pixels, captured_ns: int) -> Sequence[Look]:
        """What must be inspected on this frame."""

    def blind(self, reason: str, captured_ns: int, frames: int = 1) -> None:
        """Frames were lost or broken: parts that pass now cannot be vouched for."""

    def unjudged(self) -> Sequence[tuple[int, str]]:
        """(part, reason) of parts that got no last look and will get none, since the last call."""

    def in_sight(self) -> Sequence[Sighting]:
        """Where parts were on the last frame that was seen; for drawings."""


class Triggers(Protocol):
    """Whoever knows what the line asked (`line.desk.Desk`)."""

    def due(self, captured_ns: int) -> int | None:
        """The part whose picture a frame is; None when it is nobody's."""

    def blind(self, reason: str, at_ns: int) -> None:
        """Nothing could be seen at that time."""

    def unseen(self) -> Sequence[tuple[int, str]]:
        """(part, reason) of parts that were answered without a picture, since the last call."""


def part_finder(recipe: Recipe, height: int, width: int, triggers: Triggers | None = None) -> PartFinder:
    """The finder for the recipe's mode and frames of `height` x `width` px. Mode `trigger` needs `triggers`."""
    if recipe.part.mode == "barrier":
        from edge_inspect.verdict.barrier import LightBarrier

        return LightBarrier(recipe.barrier, height, width)
    if recipe.part.mode == "trigger":
        if triggers is None:
            raise ValueError("part.mode = 'trigger' without anybody who brings triggers")
        return TriggeredPart(triggers, height, width)
    return FramePart(height, width)


class FramePart:
    """Each frame is a part; a frame that was lost or broken is an unjudged one."""

    def __init__(self, height: int, width: int) -> None:
        self._box = (0, 0, width, height)
        self._parts = 0
        self._unjudged: list[tuple[int, str]] = []

    def see(self, pixels: Pixels, captured_ns: int) -> Sequence[Look]:
        self._parts += 1
        return (Look(self._parts - 1, self._box, last=True),)

    def blind(self, reason: str, captured_ns: int, frames: int = 1) -> None:
        for _ in range(min(frames, MOST_AT_ONCE)):
            self._unjudged.append((self._parts, reason))
            self._parts += 1

    def unjudged(self) -> Sequence[tuple[int, str]]:
        told, self._unjudged = self._unjudged, []
        return told

    def in_sight(self) -> Sequence[Sighting]:
        return (Sighting(self._parts - 1, self._box, (0, 0)),) if self._parts else ()


class TriggeredPart:
    """A part is what the line says; of its pictures only the first one is inspected. Numbers come from the desk."""

    def __init__(self, triggers: Triggers, height: int, width: int) -> None:
        self._triggers = triggers
        self._box = (0, 0, width, height)
        self._newest: int | None = None

    def see(self, pixels: Pixels, captured_ns: int) -> Sequence[Look]:
        self._newest = self._triggers.due(captured_ns)
        return () if self._newest is None else (Look(self._newest, self._box, last=True),)

    def blind(self, reason: str, captured_ns: int, frames: int = 1) -> None:
        self._triggers.blind(reason, captured_ns)

    def unjudged(self) -> Sequence[tuple[int, str]]:
        return self._triggers.unseen()

    def in_sight(self) -> Sequence[Sighting]:
        return () if self._newest is None else (Sighting(self._newest, self._box, (0, 0)),)
