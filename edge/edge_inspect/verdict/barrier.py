"""The software light barrier: finds parts as they pass through the picture.

1. A part is real when it is long enough, travels with the belt, and came in over the picture's edge (or was seen on
   three frames): dirt, reflections and flicker are no parts.
2. A part is inspected while it is wholly in the picture, at places spread evenly over its way. A part longer than the
   picture is inspected stretch by stretch; if a stretch was missed, it is unjudged.
3. What is in the picture at the start is judged if it can still be seen whole, else unjudged (`not-seen`); what had
   left before is not counted.
4. Parts are followed only as long as frames fit together (`travel.py`). When they do not, everything starts anew, and
   what was not judged by then is unjudged.

One frame: belt -> what covers it -> how far all of it moved -> which piece is which part -> who is due for a look.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from edge_inspect.verdict.belt import BANDS, Belt, Piece
from edge_inspect.verdict.parts import NOT_SEEN, Box, Look, Pixels, Sighting
from edge_inspect.verdict.passing import SLACK, PassingPart
from edge_inspect.verdict.recipe import Barrier
from edge_inspect.verdict.travel import Travel

CAMERA_LOST = "camera-lost"
NO_BELT = "belt-not-seen"
DOUBTFUL_FRAMES = 3
"""So many frames in a row that do not fit the ones before (a flash, a hand) are sat out before starting anew."""
MOST_PICTURES = 8
"""A part longer than so many pictures is a web, or parts that touch: it gets a verdict each time it passed so far."""
STRIDE = 0.9
"""A part longer than the picture is inspected each time it advanced by this share of the picture."""
HIDDEN_FRAMES = 750
"""No belt at all for so long: what is known of it is wrong, or the line is jammed; learnt anew, and told."""
BLIND_FRAMES = 25
"""Blind for so long before the belt was ever seen running: a part may have passed."""


class LightBarrier:
    """Finds parts in frames of `height` x `width` px; see `parts.PartFinder`."""

    def __init__(self, rule: Barrier, height: int, width: int) -> None:
        self._rule = rule
        self._size_px = (width, height)
        self._belt = Belt(rule, height, width)
        self._columns = self._belt.columns
        self._gap = round(rule.gap * self._columns)
        self._least = rule.min_length * self._columns
        self._travel = Travel(self._columns, BANDS)
        self._parts: list[PassingPart] = []
        self._numbered = 0
        self._unjudged: list[tuple[int, str]] = []
        self._started = False
        self._blind_frames = 0
        self._blind_reason = ""
        self._blind_told = False
        self._doubtful = 0
        self._step = 0.0
        """Columns that parts are expected to move until the next frame, at most."""

    # --- what the pipeline calls ------------------------------------------------------------------------------------

    def see(self, pixels: Pixels, captured_ns: int) -> Sequence[Look]:
        self._belt.see(pixels)
        shift = self._shift(captured_ns)
        if shift is None:
            return ()
        self._step = max(abs(shift), abs(self._travel.per_frame))
        for part in self._parts:
            part.advance(shift)
        self._match(self._belt.pieces(self._gap), shift)
        self._blind_frames, self._blind_reason, self._blind_told = 0, "", False
        self._started = True
        looks = [look for part in self._parts if part.in_sight and not part.done for look in self._look(part)]
        self._drop_those_gone()
        self._watch_for_jam()
        return looks

    def blind(self, reason: str, captured_ns: int, frames: int = 1) -> None:
        self._blind_frames += frames
        self._blind_reason = self._blind_reason or reason
        for part in self._parts:
            part.spoilt = part.spoilt or reason
        reach = self._travel.reach(captured_ns, self._blind_frames)
        for part in self._parts:
            if reason == CAMERA_LOST or (reach is not None and self._is_gone(part, reach)):
                self._give_up(part)
        self._tell_of_unseen(reach)

    def unjudged(self) -> Sequence[tuple[int, str]]:
        told, self._unjudged = self._unjudged, []
        return told

    def in_sight(self) -> Sequence[Sighting]:
        real = [part for part in self._parts if part.in_sight and part.is_real(self._least)]
        return [Sighting(part.number, *self._place(part)) for part in real]

    # --- how far everything moved -----------------------------------------------------------------------------------

    @property
    def _direction(self) -> int:
        """-1: towards column 0; 1: away from it; 0: not known yet."""
        if self._rule.direction == "auto":
            return self._travel.direction
        return -1 if self._rule.direction in ("left", "up") else 1

    def _shift(self, captured_ns: int) -> float | None:
        """Columns since the last frame that was understood; None: this frame is sat out."""
        frames = 1 + self._blind_frames + self._doubtful
        reach = self._travel.reach(captured_ns, frames) if self._blind_frames else 0.0
        shift = None
        if reach is None or abs(reach) <= self._travel.furthest:
            shift = self._travel.measure(self._belt.looks, captured_ns, frames)
        if shift is not None:
            self._doubtful = 0
            return shift
        brief = reach is not None and abs(reach) <= self._travel.furthest / 2
        if brief and self._doubtful < DOUBTFUL_FRAMES:
            self._doubtful += 1
            return None
        self._start_anew(captured_ns, reach)
        return 0.0

    def _start_anew(self, captured_ns: int, reach: float | None) -> None:
        if self._blind_frames:
            self._tell_of_unseen(reach)
        for part in self._parts:
            self._give_up(part)
        self._parts.clear()
        self._travel.restart(self._belt.looks, captured_ns)
        self._doubtful = 0
        self._started = False

    # --- which piece is which part ----------------------------------------------------------------------------------

    def _match(self, pieces: list[Piece], shift: float) -> None:
        seen_as: dict[int, list[Piece]] = {}
        fresh: list[PassingPart] = []
        for piece in pieces:
            owners = [index for index, part in enumerate(self._parts) if part.overlaps(piece)]
            for index in owners:
                seen_as.setdefault(index, []).append(piece)
            fresh += [self._new(*rest, shift) for rest in self._left_over(piece, owners)]
        for index, own in seen_as.items():
            self._parts[index].fit(own, self._columns, self._gap)
        for part in fresh:
            part.fit([piece for piece in pieces if part.overlaps(piece)], self._columns, self._gap)
        self._parts = sorted(self._parts + fresh, key=lambda part: part.start)

    def _left_over(self, piece: Piece, owners: list[int]) -> Iterator[tuple[float, float]]:
        """What of a piece belongs to no known part; more than that only where a part's end is known."""
        if not owners:
            yield piece.start, piece.end
            return
        first, last = self._parts[owners[0]], self._parts[owners[-1]]
        enough = self._gap + self._least + SLACK
        if first.start_seen and first.start - piece.start > enough:
            yield piece.start, first.start - SLACK
        if last.end_seen and piece.end - last.end > enough:
            yield last.end + SLACK, piece.end

    def _new(self, start: float, end: float, shift: float) -> PassingPart:
        near = self._gap + abs(shift) + 1
        over_start, over_end = start <= near, end >= self._columns - near
        entered = {-1: over_end, 1: over_start, 0: over_start or over_end}[self._direction]
        return PassingPart(start, end, entered or not self._started)

    def _is_gone(self, part: PassingPart, further: float = 0.0) -> bool:
        start, end = part.start + further, part.end + further
        out_at_start, out_at_end = end <= 0, start >= self._columns
        return {-1: out_at_start, 1: out_at_end, 0: out_at_start or out_at_end}[self._direction]

    def _drop_those_gone(self) -> None:
        for part in self._parts:
            if self._is_gone(part):
                self._give_up(part)
        self._parts = [part for part in self._parts if not self._is_gone(part) and not self._was_flicker(part)]

    def _was_flicker(self, part: PassingPart) -> bool:
        return not part.in_sight and part.number is None and not part.is_real(self._least)

    # --- who is due for a look --------------------------------------------------------------------------------------

    def _look(self, part: PassingPart) -> Iterator[Look]:
        if not self._direction:
            return
        whole = part.start_seen and part.end_seen and part.start > 0 and part.end < self._columns
        if whole:
            yield from self._look_at_whole(part)
        elif part.seen_whole or (self._tail_seen(part) and self._to_go(part) <= 0 and not part.is_long):
            self._give_up(part)
        elif part.is_long or self._is_longer_than_picture(part):
            yield from self._look_at_stretch(part)

    def _look_at_whole(self, part: PassingPart) -> Iterator[Look]:
        if not part.is_real(self._least):
            return
        part.seen_whole = True
        wanted = self._rule.looks
        room = self._columns - part.length
        come = self._direction * ((part.start + part.end) / 2 - self._columns / 2) + room / 2
        due = sum(come + self._step / 2 >= room * k / (wanted + 1) for k in range(1, wanted + 1))
        if self._to_go(part) <= self._step:
            due = wanted  # the last chance: on the next frame its head has left the picture
        if due > part.looks:
            part.looks = due
            part.done = due == wanted
            yield self._show(part, whole=True)

    def _is_longer_than_picture(self, part: PassingPart) -> bool:
        """Its head is about to leave before its tail came in."""
        to_go = self._to_go(part)
        if self._tail_seen(part) or to_go > self._step or not part.is_real(self._least):
            return False
        head_seen = part.start_seen if self._direction < 0 else part.end_seen
        part.is_long = True
        part.hole = not head_seen or to_go < -SLACK
        part.looked_ago = math.inf
        return True

    def _tail_seen(self, part: PassingPart) -> bool:
        return part.end_seen if self._direction < 0 else part.start_seen

    def _to_go(self, part: PassingPart) -> float:
        """Columns until its head leaves the picture; negative: it is out."""
        return part.start if self._direction < 0 else self._columns - part.end

    def _look_at_stretch(self, part: PassingPart) -> Iterator[Look]:
        last = self._tail_seen(part)
        if not last and part.looked_ago + self._step < STRIDE * self._columns:
            return
        part.hole |= math.isfinite(part.looked_ago) and part.looked_ago > self._columns
        part.looked_ago = 0.0
        endless = part.length > MOST_PICTURES * self._columns
        if (last or endless) and part.hole:
            self._give_up(part)
        else:
            part.done = last or endless
            yield self._show(part, whole=False)
        if endless and not last:
            self._go_on_as_another(part)

    def _go_on_as_another(self, part: PassingPart) -> None:
        """What never ends is judged piece by piece: from here on it is the next part."""
        part.number, part.done, part.hole, part.spoilt = None, False, False, ""
        part.start, part.end = max(part.start, 0.0), min(part.end, float(self._columns))

    def _show(self, part: PassingPart, *, whole: bool) -> Look:
        box, origin = self._place(part)
        return Look(self._number(part), box, part.done, origin, whole)

    def _place(self, part: PassingPart) -> tuple[Box, tuple[int, int]]:
        """Where the part is in this frame (a column wider at each end), and where its corner is."""
        along_px, across_px = self._size_px[:: -1 if self._belt.vertical else 1]
        start, end = (part.start - 1) * self._belt.column_px, (part.end + 1) * self._belt.column_px
        near, far = max(0, math.floor(start)), min(along_px, math.ceil(end))
        low, high = math.floor(part.low * across_px), math.ceil(part.high * across_px)
        box = (low, near, high, far) if self._belt.vertical else (near, low, far, high)
        return box, (low, math.floor(start)) if self._belt.vertical else (math.floor(start), low)

    # --- what could not be judged -----------------------------------------------------------------------------------

    def _number(self, part: PassingPart) -> int:
        if part.number is None:
            part.number = self._numbered
            self._numbered += 1
        return part.number

    def _give_up(self, part: PassingPart) -> None:
        if not part.done and (part.number is not None or part.is_real(self._least)):
            part.done = True
            self._unjudged.append((self._number(part), part.spoilt or NOT_SEEN))

    def _tell_of_unseen(self, reach: float | None) -> None:
        """Once per blindness: a whole part may have passed in it."""
        if reach is None:
            possible = self._blind_reason == CAMERA_LOST or self._blind_frames >= BLIND_FRAMES
        else:
            possible = abs(reach) >= self._columns + self._least
        if possible and not self._blind_told:
            self._blind_told = True
            self._unjudged.append((self._numbered, self._blind_reason))
            self._numbered += 1

    def _watch_for_jam(self) -> None:
        if self._belt.hidden_frames >= HIDDEN_FRAMES:
            for part in self._parts:
                part.spoilt = part.spoilt or NO_BELT
                self._give_up(part)
            self._parts.clear()
            self._belt.forget()
            self._started = False
