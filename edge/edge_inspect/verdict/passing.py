"""One part on its way through the picture, as the light barrier follows it: columns in, columns out, no frames.

1. Positions are columns along the belt; a part lies where it was seen, and moves with the belt while it is not.
2. An end that was seen once moves with the belt, give or take SLACK; one that was not may turn out to lie elsewhere.
3. It is real when it is long enough, travels with the belt, and came in over the edge or was seen on SURE_FRAMES.
"""

from __future__ import annotations

from edge_inspect.verdict.belt import Piece

SLACK = 3
"""Columns by which an end of a part may be seen off its place: blur, noise, reflections."""
SURE_FRAMES = 3
"""Seen on so many frames, something that did not come in over the edge is a part all the same."""


class PassingPart:
    """Something that travels through the picture; positions along the belt in columns."""

    def __init__(self, start: float, end: float, entered: bool) -> None:
        self.number: int | None = None
        self.start, self.end = start, end
        self.low, self.high = 0.0, 1.0
        self.start_seen = self.end_seen = False
        """An end counts as seen once more empty belt lies before it than the gap inside a part may be."""
        self.entered = entered
        """It came in over the edge, or there was no frame before to compare with."""
        self.frames = 0
        self.in_sight = True
        self.moved = self.slipped = 0.0
        """How far it should have moved with the belt, and how far off that it was seen."""
        self.seen_whole = self.is_long = self.hole = self.done = False
        self.looks = 0
        self.looked_ago = 0.0
        """A long part: columns since its last look."""
        self.spoilt = ""

    @property
    def length(self) -> float:
        return self.end - self.start

    def advance(self, shift: float) -> None:
        self.start += shift
        self.end += shift
        self.moved += shift
        self.looked_ago += abs(shift)
        self.in_sight = False

    def overlaps(self, piece: Piece) -> bool:
        return min(self.end, piece.end) > max(self.start, piece.start)

    def fit(self, pieces: list[Piece], columns: int, gap: int) -> None:
        """It was seen as these pieces. An end that was seen before moves with the belt, give or take `SLACK`."""
        start = pieces[0].start if pieces[0].start > 0 else min(0.0, self.start)
        end = pieces[-1].end if pieces[-1].end < columns else max(float(columns), self.end)
        start_off, end_off = start - self.start, end - self.end
        if not self.start_seen or (start > 0 and abs(start_off) <= SLACK):
            self.slipped += start_off if self.start_seen else 0.0
            self.start = start
        if not self.end_seen or (end < columns and abs(end_off) <= SLACK):
            self.slipped += end_off if self.end_seen else 0.0
            self.end = end
        self.start_seen |= self.start > gap
        self.end_seen |= columns - self.end > gap
        self.low, self.high = min(piece.low for piece in pieces), max(piece.high for piece in pieces)
        self.frames += 1
        self.in_sight = True

    def is_real(self, least: float) -> bool:
        travels = abs(self.slipped) <= max(4 * SLACK, abs(self.moved))
        return travels and self.length >= least and (self.entered or self.frames >= SURE_FRAMES)
