"""Frames on their way to the model beside: a few buffers, and which parts it can still see whole.

1. The inspect thread takes a buffer if one stands free, and never waits; the thread `shadow` gives it back.
2. Nothing of a frame's size is allocated per frame: only when frames become larger, and when a shadow begins.
3. A part of which one look was missed is not judged beside.

    frames = Frames()
    frames.make_room(2_764_800)                 # the thread `shadow`
    shown = Intake(frames).copy(beside, lane, slot, looks, decided)     # the inspect thread; None: left out
    frames.give_back(shown)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edge_inspect.beside_model import ModelBeside
from edge_inspect.capture.ring import Slot
from edge_inspect.delivery.picture_pool import Pixels, shaped
from edge_inspect.lane import Judged, Lane
from edge_inspect.verdict.judge import Verdict
from edge_inspect.verdict.parts import Look

BUFFERS = 4
Decided = tuple[Verdict, Judged]


class Shown:
    """A frame that was handed over; reused."""

    __slots__ = ("buffer", "decided", "lane", "looks", "size")

    def __init__(self) -> None:
        self.buffer: NDArray[np.uint8] = np.zeros(0, np.uint8)
        self.lane: Lane | None = None
        self.looks: tuple[Look, ...] = ()
        self.decided: dict[int, Decided] = {}
        self.size = (0, 0)

    @property
    def pixels(self) -> Pixels:
        height, width = self.size
        return shaped(self.buffer, (0, 0, width, height))


class Frames:
    """Buffers for frames. `take` is the inspect thread's, the rest is the thread `shadow`'s."""

    def __init__(self) -> None:
        self.free: deque[Shown] = deque(Shown() for _ in range(BUFFERS))
        """Both threads pop: either may find it emptied by the other."""
        self._size_bytes = 0

    def take(self, size_bytes: int) -> Shown | None:
        """A buffer that a frame of so many bytes fits into, or None."""
        shown = self._pop()
        if shown is not None and shown.buffer.size < size_bytes:
            self.free.append(shown)
            return None
        return shown

    def make_room(self, size_bytes: int) -> None:
        """Buffers for frames so large, or none; one that is in use follows when it comes back."""
        self._size_bytes = size_bytes
        for _ in range(BUFFERS):
            if (shown := self._pop()) is None:
                return
            self.give_back(shown)

    def give_back(self, shown: Shown) -> None:
        shown.lane, shown.looks = None, ()
        shown.decided.clear()
        if shown.buffer.size < self._size_bytes or not self._size_bytes:
            shown.buffer = np.ones(self._size_bytes, np.uint8)  # written to: its pages are there when a frame comes
        self.free.append(shown)

    def _pop(self) -> Shown | None:
        try:
            return self.free.popleft()
        except IndexError:
            return None


class Intake:
    """What the inspect thread does with a frame whose parts have been told. `frames`: shared with the other thread."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self._left_out: set[tuple[str, int]] = set()
        """Parts of which a look was missed."""

    def copy(
        self, beside: ModelBeside, lane: Lane, slot: Slot, looks: Sequence[Look], decided: Mapping[int, Decided]
    ) -> Shown | None:
        """The frame in a buffer, with those looks whose parts can be judged beside; None where there is none of them,
        or no buffer."""
        if lane.name not in beside.fitted:
            return None
        if lane.name not in beside.joined:  # parts that were begun before are not ours
            beside.joined.add(lane.name)
            self._left_out = {key for key in self._left_out if key[0] != lane.name}
            self._left_out.update((lane.name, part) for part in lane.begun)
            return None
        wanted = tuple(look for look in looks if self._follows(lane, look))
        shown = self._frames.take(slot.pixels.nbytes) if wanted else None
        if shown is None:
            beside.tally.skipped += len(wanted)
            self._left_out.update((lane.name, look.part) for look in wanted if not look.last)
            return None
        shown.lane, shown.looks, shown.size = lane, wanted, slot.pixels.shape[:2]
        np.copyto(shown.pixels, slot.pixels)
        for look in wanted:
            if look.last:
                shown.decided[look.part] = decided[look.part]
        return shown

    def forget(self, lane: Lane, part: int) -> None:
        """No more looks of it come."""
        self._left_out.discard((lane.name, part))

    def _follows(self, lane: Lane, look: Look) -> bool:
        """From its first look on: a part of which a look was missed is not judged beside."""
        key = lane.name, look.part
        if key in self._left_out:
            if look.last:
                self._left_out.discard(key)
            return False
        return True
