"""The frame ring: a fixed set of preallocated slots between one grab thread and one inspect thread.

1. Every slot is in exactly one hand: FREE, FILLING, READY or IN_USE.
2. Slots never move and never grow: `Slot.pixels` is the same memory for the life of the ring.
3. Frames are taken in the order in which they were filled.
4. A slot's generation goes up each time it is filled: whoever kept a frame too long can tell.
5. grabbed == taken + overrun + ready, at every moment at which nobody holds the lock.
6. What happens when all slots are busy is the recipe's choice, never an accident:
     newest   the oldest READY frame is dropped and counted: the view stays live
     every    the camera waits: replay, lossless
     trigger  the new frame is refused and counted; `next_gap` hands it over to be told as UNKNOWN
7. Time in which nothing could be seen (camera lost, frame refused) is a gap, kept in order of time beside the frames.

    ring = Ring(slots=4, height_px=360, width_px=640, policy="newest")
    with ring.fill(timeout_s=1.0) as slot:          # grab thread
        camera.read_into(slot.pixels, slot.stamp)
    with ring.take(timeout_s=0.2) as frame:         # inspect thread; None when nothing came
        ...
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import threading
from collections import deque
from enum import Enum
from typing import Literal, NamedTuple

import numpy as np

from edge_inspect.capture.protocol import Pixels, Stamp

Policy = Literal["newest", "every", "trigger"]

GAPS_KEPT = 1024


class Gap(NamedTuple):
    """At `at_ns` (CLOCK_MONOTONIC) something passed unseen, and why: `overrun`, `camera-lost`, ..."""

    at_ns: int
    reason: str
    frames: int = 1
    """How many frames that is, as far as anyone knows."""


class State(Enum):
    FREE = "free"
    FILLING = "filling"
    READY = "ready"
    IN_USE = "in use"


class Slot:
    """One preallocated picture and what is known about it."""

    __slots__ = ("generation", "number", "pixels", "stamp", "state")

    def __init__(self, number: int, pixels: Pixels) -> None:
        self.number = number
        self.pixels = pixels
        self.stamp = Stamp()
        self.state = State.FREE
        self.generation = 0


class Ring:
    """`slots` pictures of (height_px, width_px, 3) uint8 in one block of memory; one filler, one taker.

    drops_are_gaps: a frame that `newest` drops leaves a gap, for whoever follows parts from frame to frame.
    Several rings may share one `ready` condition, so that one thread can wait for any of them.
    """

    def __init__(
        self,
        slots: int,
        height_px: int,
        width_px: int,
        policy: Policy,
        *,
        ready: threading.Condition | None = None,
        drops_are_gaps: bool = False,
    ) -> None:
        if slots < 2:
            raise ValueError(f"a ring needs at least 2 slots, not {slots}: one is filled while one is in use")
        self.policy: Policy = policy
        self._drops_are_gaps = drops_are_gaps
        has_spare = policy == "trigger"
        self._memory = np.zeros((slots + has_spare, height_px, width_px, 3), dtype=np.uint8)
        self.locked = _lock_into_ram(self._memory)
        self.slots = tuple(Slot(n, self._memory[n]) for n in range(slots))
        self.spare = Slot(slots, self._memory[-1]) if has_spare else None
        """Takes the picture that policy `trigger` has no slot for: the camera must be emptied all the same."""
        self._changed = ready if ready is not None else threading.Condition()
        self._free = deque(self.slots)
        self._ready: deque[Slot] = deque()
        self._gaps: deque[Gap] = deque(maxlen=GAPS_KEPT)
        self._closed = False
        self.grabbed = 0
        self.taken = 0
        self.overrun = 0
        self._filling = _Filling(self)
        self._using = _Using(self)

    def fill(self, timeout_s: float) -> _Filling:
        """Lease a slot to write into; `None` inside the `with` when the ring is closed or none is free.

        Policy `every` waits up to `timeout_s` for one.

        Leaving the block normally makes the frame READY; `lease.discard()` or an exception gives the slot back unused.
        """
        self._filling.timeout_s = timeout_s
        return self._filling

    def take(self, timeout_s: float) -> _Using:
        """Lease the oldest READY frame; `None` inside the `with` when none came in time."""
        self._using.timeout_s = timeout_s
        return self._using

    def note_gap(self, at_ns: int, reason: str) -> None:
        """Nothing could be seen at `at_ns`; wakes the taker."""
        with self._changed:
            self._gaps.append(Gap(at_ns, reason))
            self._changed.notify_all()

    def next_gap(self, before_ns: int | None = None) -> Gap | None:
        """Take the oldest gap (of those before `before_ns`), or None."""
        with self._changed:
            if not self._gaps or (before_ns is not None and self._gaps[0].at_ns > before_ns):
                return None
            return self._gaps.popleft()

    def has_news(self) -> bool:
        """A frame can be taken or a gap is waiting."""
        return bool(self._ready) or bool(self._gaps)

    def close(self) -> None:
        """Wake everybody who waits; frames that are READY can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def occupancy(self) -> dict[str, int]:
        """How many slots are in each state; they always add up to all of them."""
        with self._changed:
            return {state.value: sum(slot.state is state for slot in self.slots) for state in State}

    def glance(self) -> dict[str, int]:
        """`occupancy` as a bystander sees it: without the lock, so that whoever only looks never holds up a frame."""
        seen = [slot.state for slot in self.slots]
        return {state.value: seen.count(state) for state in State}

    # The moves. Each happens under the lock and changes exactly one slot's hand (dropping the oldest changes two).

    def _begin_fill(self, timeout_s: float) -> Slot | None:
        with self._changed:
            if not self._free and self.policy == "newest" and self._ready:
                oldest = self._ready.popleft()
                self.overrun += 1
                if self._drops_are_gaps:
                    self._gaps.append(Gap(oldest.stamp.captured_ns, "overrun", 1 + oldest.stamp.missed))
                elif oldest.stamp.missed:  # what the camera lost before it is told all the same
                    self._gaps.append(Gap(oldest.stamp.captured_ns, "frames-lost", oldest.stamp.missed))
                self._move(oldest, State.READY, State.FREE)
                self._free.append(oldest)
            if not self._free and self.policy == "every":
                self._changed.wait_for(lambda: self._free or self._closed, timeout_s)
            if self._closed or not self._free:
                return None
            slot = self._free.popleft()
            self._move(slot, State.FREE, State.FILLING)
            return slot

    def _end_fill(self, slot: Slot, keep: bool) -> None:
        with self._changed:
            if keep:
                slot.generation += 1
                self.grabbed += 1
                self._move(slot, State.FILLING, State.READY)
                self._ready.append(slot)
            else:
                self._move(slot, State.FILLING, State.FREE)
                self._free.append(slot)
            self._changed.notify_all()

    def refuse(self, captured_ns: int, missed: int = 0) -> None:
        """Policy `trigger`: the frame in `spare` came while every slot was busy. It counts as grabbed and overrun."""
        with self._changed:
            self.grabbed += 1
            self.overrun += 1
            self._gaps.append(Gap(captured_ns, "overrun", 1 + missed))
            self._changed.notify_all()

    def _begin_use(self, timeout_s: float) -> Slot | None:
        with self._changed:
            if not self._ready and timeout_s > 0:
                self._changed.wait_for(lambda: self._ready or self._closed, timeout_s)
            if not self._ready:
                return None
            slot = self._ready.popleft()
            self.taken += 1
            self._move(slot, State.READY, State.IN_USE)
            return slot

    def _end_use(self, slot: Slot) -> None:
        with self._changed:
            self._move(slot, State.IN_USE, State.FREE)
            self._free.append(slot)
            self._changed.notify_all()

    @staticmethod
    def _move(slot: Slot, expected: State, then: State) -> None:
        if slot.state is not expected:
            raise RuntimeError(
                f"slot {slot.number} is {slot.state.value}, expected {expected.value}: two hands on one slot"
            )
        slot.state = then


class _Filling:
    """The lease of the one filler; reused, so that no object is made per frame."""

    __slots__ = ("_keep", "_ring", "_slot", "timeout_s")

    def __init__(self, ring: Ring) -> None:
        self._ring = ring
        self._slot: Slot | None = None
        self._keep = True
        self.timeout_s = 0.0

    def __enter__(self) -> Slot | None:
        if self._slot is not None:
            raise RuntimeError("the ring is being filled already: one filler only")
        self._keep = True
        self._slot = self._ring._begin_fill(self.timeout_s)
        return self._slot

    def discard(self) -> None:
        """Nothing worth keeping was written: the slot goes back to FREE."""
        self._keep = False

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        slot, self._slot = self._slot, None
        if slot is not None:
            self._ring._end_fill(slot, self._keep and error is None)


class _Using:
    """The lease of the one taker; reused, so that no object is made per frame."""

    __slots__ = ("_ring", "_slot", "timeout_s")

    def __init__(self, ring: Ring) -> None:
        self._ring = ring
        self._slot: Slot | None = None
        self.timeout_s = 0.0

    def __enter__(self) -> Slot | None:
        if self._slot is not None:
            raise RuntimeError("a frame is in use already: one taker only")
        self._slot = self._ring._begin_use(self.timeout_s)
        return self._slot

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        slot, self._slot = self._slot, None
        if slot is not None:
            self._ring._end_use(slot)


def _lock_into_ram(memory: Pixels) -> bool:
    """mlock(2) the ring, so that no frame waits for a page; False where RLIMIT_MEMLOCK does not allow it."""
    if os.name != "posix":
        return False
    libc = ctypes.CDLL(ctypes.util.find_library("c") or "libc.so.6", use_errno=True)
    result: int = libc.mlock(ctypes.c_void_p(memory.ctypes.data), ctypes.c_size_t(memory.nbytes))
    return result == 0
