"""The ring keeps its promises under any order of moves, and between two real threads."""

from __future__ import annotations

import threading

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge_inspect.capture.ring import Ring, Slot, State

SLOTS = 3


class RingMachine(RuleBasedStateMachine):
    """One filler and one taker make every move they may make; the model is a list of frame numbers."""

    @initialize(policy=st.sampled_from(["newest", "every", "trigger"]))
    def build(self, policy: str) -> None:
        self.ring = Ring(SLOTS, 4, 6, policy)  # type: ignore[arg-type]
        self.addresses = [slot.pixels.ctypes.data for slot in self.ring.slots]
        self.filling: Slot | None = None
        self.using: Slot | None = None
        self.next_number = 1
        self.expected: list[int] = []
        self.in_use_number = 0
        self.gaps = 0

    @precondition(lambda self: self.filling is None)
    @rule()
    def begin_fill(self) -> None:
        had_free = self.ring.occupancy["free"] > 0
        lease = self.ring.fill(timeout_s=0)
        self.filling = lease.__enter__()
        if self.filling is None:
            lease.__exit__(None, None, None)
            assert not had_free
            assert self.ring.policy != "newest", "newest always finds room"
            if self.ring.policy == "trigger":
                self.ring.refuse(captured_ns=self.next_number)
                self.next_number += 1
                self.gaps += 1
        elif not had_free:
            assert self.ring.policy == "newest"
            self.expected.pop(0)

    @precondition(lambda self: self.filling is not None)
    @rule(keep=st.booleans())
    def end_fill(self, keep: bool) -> None:
        assert self.filling is not None
        lease = self.ring._filling
        if keep:
            self.filling.pixels[:] = self.next_number % 251
            self.filling.stamp.index = self.next_number
            self.expected.append(self.next_number)
            self.next_number += 1
        else:
            lease.discard()
        lease.__exit__(None, None, None)
        self.filling = None

    @precondition(lambda self: self.using is None)
    @rule()
    def begin_use(self) -> None:
        lease = self.ring.take(timeout_s=0)
        self.using = lease.__enter__()
        if self.using is None:
            lease.__exit__(None, None, None)
            assert not self.expected
            return
        self.in_use_number = self.using.stamp.index
        assert self.in_use_number == self.expected.pop(0), "frames come out in the order they went in"

    @precondition(lambda self: self.using is not None)
    @rule()
    def end_use(self) -> None:
        assert self.using is not None
        assert self.using.stamp.index == self.in_use_number
        assert (self.using.pixels == self.in_use_number % 251).all(), "nobody wrote into the frame while it was in use"
        self.ring._using.__exit__(None, None, None)
        self.using = None

    @invariant()
    def every_slot_is_in_one_hand(self) -> None:
        hands = self.ring.occupancy
        assert sum(hands.values()) == SLOTS
        assert hands["filling"] == (self.filling is not None)
        assert hands["in use"] == (self.using is not None)
        assert hands["ready"] == len(self.expected)

    @invariant()
    def counts_add_up(self) -> None:
        assert self.ring.grabbed == self.ring.taken + self.ring.overrun + self.ring.occupancy["ready"]

    @invariant()
    def slots_never_move(self) -> None:
        assert [slot.pixels.ctypes.data for slot in self.ring.slots] == self.addresses


TestRing = RingMachine.TestCase
TestRing.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("policy", ["newest", "every", "trigger"])
def test_no_frame_is_overwritten_while_in_use_between_two_threads(policy: str) -> None:
    ring = Ring(4, 24, 32, policy)  # type: ignore[arg-type]
    total = 3_000
    seen: list[int] = []

    def grab() -> None:
        for number in range(1, total + 1):
            with ring.fill(timeout_s=10) as slot:
                if slot is None:
                    assert policy == "trigger"
                    ring.refuse(number)
                    continue
                slot.stamp.index = number
                slot.pixels[:] = number % 251
        ring.close()

    grabber = threading.Thread(target=grab, name="grab")
    grabber.start()
    while True:
        with ring.take(timeout_s=5) as frame:
            if frame is None:
                break
            number, generation = frame.stamp.index, frame.generation
            assert (frame.pixels == number % 251).all()
            seen.append(number)
            assert (frame.stamp.index, frame.generation) == (number, generation)
    grabber.join()

    assert seen == sorted(set(seen)), "order kept, nothing twice"
    assert ring.grabbed == total == ring.taken + ring.overrun
    assert len(seen) == ring.taken
    if policy == "every":
        assert ring.overrun == 0


def test_two_hands_on_one_slot_is_an_error() -> None:
    ring = Ring(2, 4, 4, "every")
    with ring.fill(timeout_s=0):
        with pytest.raises(RuntimeError, match="one filler"):
            with ring.fill(timeout_s=0):
                pass


def test_a_frame_that_failed_to_fill_is_never_taken() -> None:
    ring = Ring(2, 4, 4, "every")
    with pytest.raises(ValueError, match="cut"):
        with ring.fill(timeout_s=0):
            raise ValueError("cable cut")
    with ring.take(timeout_s=0) as frame:
        assert frame is None
    assert all(slot.state is State.FREE for slot in ring.slots)


def test_gaps_keep_their_place_in_time() -> None:
    ring = Ring(2, 4, 4, "trigger")
    ring.note_gap(100, "camera-lost")
    ring.note_gap(300, "overrun")
    assert ring.next_gap(before_ns=200) == (100, "camera-lost", 1)
    assert ring.next_gap(before_ns=200) is None
    assert ring.next_gap() == (300, "overrun", 1)


def test_what_the_camera_lost_before_a_dropped_frame_is_still_told() -> None:
    ring = Ring(2, 4, 4, "newest")
    for missed in (40, 0, 0):
        with ring.fill(timeout_s=0) as slot:
            assert slot is not None
            slot.stamp.captured_ns, slot.stamp.missed = 100, missed
    assert ring.overrun == 1
    assert ring.next_gap() == (100, "frames-lost", 40)
    assert ring.next_gap() is None


def test_a_closed_ring_lets_nobody_wait() -> None:
    ring = Ring(2, 4, 4, "every")
    ring.close()
    with ring.fill(timeout_s=60) as slot:
        assert slot is None
