"""A part that must go goes, when it is at the gate; and a miss is noticed."""

from __future__ import annotations

import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_inspect.line.desk import Desk
from edge_inspect.line.protocol import Answer, AnswerKind, Trigger
from edge_inspect.line.reject import MS, RejectTracker


class Gate:
    def __init__(self) -> None:
        self.pulses: list[float] = []

    def reject(self, pulse_ms: float) -> None:
        self.pulses.append(pulse_ms)


class Clock:
    now_ns = 10_000 * MS

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gate() -> Gate:
    return Gate()


def answer(part: int, kind: AnswerKind, at_ns: int, encoder: int | None = None) -> Answer:
    return Answer(part, kind, "whatever", part, Trigger(part, at_ns, "test", encoder), at_ns, at_ns + 50 * MS)


def timed(gate: Gate, clock: Clock, **options: int) -> RejectTracker:
    return RejectTracker([gate], travel_ns=800 * MS, pulse_ms=100.0, clock_ns=clock, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "pulses"), [("OK", 0), ("NG", 1), ("UNKNOWN", 1)])
def test_all_but_ok_go(clock: Clock, gate: Gate, kind: AnswerKind, pulses: int) -> None:
    tracker = timed(gate, clock)
    tracker.tell(answer(0, kind, clock.now_ns))
    clock.now_ns += 799 * MS
    tracker.step()
    assert gate.pulses == []
    clock.now_ns += MS
    tracker.step()
    assert gate.pulses == [100.0] * pulses and tracker.alarm == ""


def test_a_part_goes_once_however_often_it_is_told(clock: Clock, gate: Gate) -> None:
    tracker = timed(gate, clock)
    for kind in ("NG", "NG", "UNKNOWN"):
        tracker.tell(answer(0, kind, clock.now_ns))  # type: ignore[arg-type]
    clock.now_ns += 800 * MS
    tracker.step()
    assert len(gate.pulses) == 1


def test_five_parts_on_a_counter_that_stands_still_are_one_ok_and_four_that_go(clock: Clock, gate: Gate) -> None:
    tracker = timed(gate, clock)
    desk = Desk(50 * MS, [tracker], clock_ns=clock)
    for number in range(5):
        desk.fire(Trigger(7, clock.now_ns, "modbus-client"))
        if number == 0:
            part = desk.due(clock.now_ns)
            assert part is not None
            desk.answer(part, "OK", "no-defect")
        clock.now_ns += 500 * MS
        tracker.step()
    clock.now_ns += 800 * MS
    tracker.step()
    assert tracker.counts.rejected == 4 and desk.counts.ok == 1
    assert len(gate.pulses) + tracker.counts.missed == 4, "each at its own time"


def test_an_ok_that_could_not_be_told_in_time_goes_once(clock: Clock, gate: Gate) -> None:
    tracker = timed(gate, clock)
    tracker.tell(answer(1, "OK", clock.now_ns))
    tracker.tell(answer(1, "OK", clock.now_ns))
    for _ in range(2):
        tracker.tell(answer(1, "UNKNOWN", clock.now_ns))
    clock.now_ns += 800 * MS
    tracker.step()
    assert len(gate.pulses) == 1 and tracker.counts.rejected == 1 and tracker.alarm == ""


def test_answers_may_come_in_another_order_than_parts(clock: Clock, gate: Gate) -> None:
    tracker = timed(gate, clock)
    tracker.tell(answer(1, "NG", clock.now_ns + 10 * MS))
    tracker.tell(answer(0, "NG", clock.now_ns))
    clock.now_ns += 800 * MS
    assert tracker.step() == pytest.approx(0.01)
    assert len(gate.pulses) == 1


def test_a_part_that_is_past_the_gate_is_a_miss(clock: Clock, gate: Gate) -> None:
    tracker = timed(gate, clock)
    tracker.tell(answer(0, "NG", clock.now_ns))
    clock.now_ns += 851 * MS
    tracker.step()
    assert gate.pulses == [] and tracker.counts.missed == 1 and tracker.alarm == "reject-missed"


def test_an_alarm_stands_for_its_time(clock: Clock, gate: Gate) -> None:
    tracker = timed(gate, clock, alarm_ns=1_000 * MS)
    tracker.tell(answer(0, "NG", clock.now_ns - 2_000 * MS))
    tracker.step()
    clock.now_ns += 1_000 * MS
    assert tracker.alarm == "reject-missed"
    clock.now_ns += 1
    assert tracker.alarm == ""


def test_a_belt_that_stops_stops_its_parts(clock: Clock, gate: Gate) -> None:
    tracker = RejectTracker([gate], travel_counts=500, clock_ns=clock)
    tracker.encoder(2**32 - 100)
    tracker.tell(answer(0, "NG", clock.now_ns, encoder=2**32 - 100))
    for counts in (2**32 - 1, 0, 399, 399):
        clock.now_ns += 60_000 * MS
        tracker.encoder(counts)
        tracker.step()
    assert gate.pulses == []
    tracker.encoder(400)
    tracker.step()
    assert len(gate.pulses) == 1


def test_a_part_nobody_can_place_is_a_miss(clock: Clock, gate: Gate) -> None:
    tracker = RejectTracker([gate], travel_counts=500, clock_ns=clock)
    tracker.tell(answer(0, "NG", clock.now_ns))
    assert tracker.counts.missed == 1 and tracker.alarm == "reject-missed"


@pytest.mark.parametrize(("after_ms", "missed"), [(0, 0), (300, 0), (301, 1)])
def test_a_drive_is_confirmed_in_its_window_or_missed(clock: Clock, gate: Gate, after_ms: int, missed: int) -> None:
    tracker = timed(gate, clock, confirm_ns=200 * MS)
    tracker.tell(answer(0, "NG", clock.now_ns))
    clock.now_ns += 800 * MS
    tracker.step()
    clock.now_ns += after_ms * MS
    tracker.confirmed(1)
    tracker.step()
    counts = tracker.counts
    assert (counts.confirmed, counts.missed, counts.unexpected) == (1 - missed, missed, missed)


def test_a_drive_that_nobody_confirms_is_a_miss(clock: Clock, gate: Gate) -> None:
    tracker = timed(gate, clock, confirm_ns=200 * MS)
    tracker.tell(answer(0, "NG", clock.now_ns))
    for _ in range(20):
        clock.now_ns += 80 * MS
        tracker.step()
        tracker.step()
    assert tracker.counts.missed == 1


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    parts=st.lists(st.tuples(st.sampled_from(["OK", "NG", "UNKNOWN"]), st.integers(0, 400)), max_size=30),
    pauses=st.lists(st.integers(0, 70), min_size=1, max_size=60),
)
def test_every_part_that_must_go_is_driven_or_missed(parts: list[tuple[AnswerKind, int]], pauses: list[int]) -> None:
    clock, gate = Clock(), Gate()
    tracker = timed(gate, clock)
    waiting, number = list(parts), 0
    for pause_ms in [*pauses, *[40] * 40]:
        if waiting:
            kind, ago_ms = waiting.pop()
            tracker.tell(answer(number, kind, clock.now_ns - ago_ms * MS))
            number += 1
        clock.now_ns += pause_ms * MS
        assert tracker.step() >= 0
    clock.now_ns += 2_000 * MS
    tracker.step()
    told = parts[len(waiting) :] if waiting else parts
    must_go = sum(kind != "OK" for kind, _ in told)
    assert len(gate.pulses) + tracker.counts.missed == must_go == tracker.counts.rejected


def test_it_runs_by_itself_and_ends() -> None:
    driven, stop = threading.Event(), threading.Event()

    class Signal(Gate):
        def reject(self, pulse_ms: float) -> None:
            driven.set()

    tracker = RejectTracker([Signal()], travel_ns=20 * MS, pulse_ms=60_000.0)
    thread = threading.Thread(target=tracker.run, args=(stop,))
    thread.start()
    try:
        import time

        tracker.tell(answer(0, "NG", time.monotonic_ns()))
        assert driven.wait(30)
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive() and tracker.beat_ns is None
