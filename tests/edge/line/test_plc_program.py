"""The PLC's program alone: what passes the gate and what does not. Time is a number here."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_inspect.line import modbus_map as at
from edge_inspect.line.modbus_map import Command
from edge_inspect.line.modbus_words import CommandWatch, EdgeWords, Told
from edge_inspect.line.plc_program import PlcPart, PlcProgram

MS = 1_000_000


class Belt:
    """A program, the registers of both sides, and a clock that stands still until `after`."""

    def __init__(self, entries: int = 16, **options: object) -> None:
        self.gate: list[PlcPart] = []
        self.plc = PlcProgram(
            deadline_ms=100, gate_ms=400, heartbeat_ms=1000, entries=entries, decided=self.gate.append, **options  # type: ignore[arg-type]
        )  # fmt: skip
        self.edge = EdgeWords(entries)
        self.edge.status(True, False, False)
        self.command = [0] * at.COMMAND_WORDS
        self.watch = CommandWatch(entries)
        self.now_ms = 10_000.0
        self.beats = True
        self.after(10)
        self.after(10)

    def after(self, ms: float) -> list[int]:
        """The sequence numbers that have been fired by the scan after `ms`."""
        self.now_ms += ms
        if self.beats:
            self.edge.beat()
        self.plc.scan(int(self.now_ms * MS), self.edge.words, self.command)
        return [sequence for sequence, _ in self.watch.look(self.command).triggers]

    def fire(self) -> int:
        self.plc.arrives()
        (sequence,) = self.after(5)
        return sequence

    def to_the_gate(self) -> PlcPart:
        for _ in range(50):
            self.after(10)
        return self.gate[-1]


def test_ok_in_time_passes() -> None:
    belt = Belt()
    belt.edge.tell(Told(belt.fire(), "OK", "no-defect"))
    belt.after(20)
    part = belt.to_the_gate()
    assert part.passed and part.why == "ok" and part.reason == "no-defect"
    assert belt.plc.counts.passed == 1 and belt.plc.counts.rejected == 0
    assert belt.command[at.REJECT_COUNT] == 0 and belt.plc.idle


def no_answer(belt: Belt) -> None:
    belt.fire()


def told(kind: str) -> Callable[[Belt], None]:
    def tell(belt: Belt) -> None:
        belt.edge.tell(Told(belt.fire(), kind, "x"))  # type: ignore[arg-type]
        belt.after(20)

    return tell


def late_ok(belt: Belt) -> None:
    sequence = belt.fire()
    belt.now_ms += 100
    belt.edge.tell(Told(sequence, "OK", "no-defect"))
    belt.after(1)


def ok_of_another(belt: Belt) -> None:
    sequence = belt.fire()
    belt.edge.tell(Told(sequence + 16, "OK", "no-defect"))
    belt.after(20)


def ok_and_ng_at_once(belt: Belt) -> None:
    sequence = belt.fire()
    belt.edge.tell(Told(sequence, "OK", "no-defect"))
    belt.edge.words[belt.edge.slot(sequence) + 2] |= at.Result.NG
    belt.after(20)


def half_written(belt: Belt) -> None:
    sequence = belt.fire()
    belt.edge.tell(Told(sequence, "OK", "no-defect"))
    belt.edge.words[belt.edge.slot(sequence) + 5] += 1
    belt.after(20)


def heartbeat_stops(belt: Belt) -> None:
    belt.edge.tell(Told(belt.fire(), "OK", "no-defect"))
    belt.after(1)
    belt.beats = False
    belt.now_ms += 2000


def another_map(belt: Belt) -> None:
    belt.edge.words[at.VERSION] = 99
    belt.edge.tell(Told(belt.fire(), "OK", "no-defect"))
    belt.after(1)


@pytest.mark.parametrize(
    ("what", "why"),
    [
        (no_answer, "missed"), (told("NG"), "ng"), (told("UNKNOWN"), "unknown"), (late_ok, "late"),
        (ok_of_another, "mismatched"), (ok_and_ng_at_once, "unknown"), (half_written, "missed"),
        (heartbeat_stops, "heartbeat"), (another_map, "heartbeat"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("low_word_first", [False])
def test_everything_but_a_timely_ok_of_its_own_is_rejected_and_confirmed(
    what: Callable[[Belt], None], why: str, low_word_first: bool
) -> None:
    belt = Belt()
    what(belt)
    part = belt.to_the_gate()
    assert part.passed is False and part.why == why
    assert belt.plc.counts.rejected == 1 and belt.plc.counts.passed == 0
    assert belt.command[at.REJECT_COUNT] == 1 and belt.plc.idle


def test_stale_result_of_the_same_number_is_not_taken() -> None:
    belt = Belt(first_sequence=5)
    belt.edge.tell(Told(5, "OK", "no-defect"))
    assert belt.fire() == 5
    assert belt.to_the_gate().why == "missed"


def test_parts_reach_the_gate_in_the_order_of_their_triggers() -> None:
    belt = Belt()
    fired = [belt.fire() for _ in range(10)]
    for sequence in reversed(fired):
        belt.edge.tell(Told(sequence, "OK" if sequence % 2 else "NG", "x"))
        belt.after(1)
    belt.to_the_gate()
    assert [part.sequence for part in belt.gate] == fired
    assert [part.passed for part in belt.gate] == [bool(sequence % 2) for sequence in fired]


def test_triggers_of_one_scan_all_stand_in_the_ring() -> None:
    belt = Belt()
    for _ in range(7):
        belt.plc.arrives()
    assert belt.after(5) == [1, 2, 3, 4, 5, 6, 7]


def test_part_beyond_the_ring_gets_no_trigger_and_is_rejected() -> None:
    belt = Belt()
    for _ in range(17):
        belt.plc.arrives()
    belt.after(5)
    belt.after(5)
    assert belt.plc.counts.triggers == 16 and belt.plc.counts.skipped == 1
    belt.to_the_gate()
    assert belt.plc.counts.rejected == 17


def test_part_that_waits_for_room_is_fired_when_there_is_some() -> None:
    belt = Belt(waits_for_room=True)
    for _ in range(17):
        belt.plc.arrives()
    assert len(belt.after(5)) == 16
    belt.edge.tell(Told(1, "OK", "no-defect"))
    assert belt.after(5) == [17]


def test_plain_handshake_fires_the_next_part_only_after_ack() -> None:
    belt = Belt(entries=0)
    assert belt.fire() == 1
    belt.edge.begin(1)
    belt.edge.tell(Told(1, "OK", "no-defect"))
    belt.after(5)
    assert belt.command[at.COMMAND] == Command.ACK
    belt.plc.arrives()
    assert belt.after(5) == [] and belt.plc.counts.skipped == 1
    belt.edge.acknowledge()
    belt.after(5)
    assert belt.command[at.COMMAND] == 0
    assert belt.fire() == 3
    belt.to_the_gate()
    assert [part.why for part in belt.gate] == ["ok", "skipped", "missed"]


def test_plain_handshake_does_not_fire_at_an_edge_that_is_not_ready() -> None:
    belt = Belt(entries=0)
    belt.edge.status(False, False, True)
    belt.plc.arrives()
    assert belt.after(5) == []
    assert belt.to_the_gate().why == "skipped"


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(["arrive", "scan", "look", "answer"]), st.integers(1, 12)), max_size=80))
def test_no_trigger_is_lost_or_doubled_between_plc_and_poll(steps: list[tuple[str, int]]) -> None:
    """However scans, polls and answers fall, the watch sees every trigger once and in order."""
    belt = Belt(waits_for_room=True)
    watch, seen, answered = CommandWatch(16), list[int](), 0
    for what, count in steps:
        if what == "arrive":
            for _ in range(count):
                belt.plc.arrives()
        elif what == "scan":
            belt.after(0.01)
        elif what == "look":
            found = watch.look(belt.command)
            assert found.missed == 0
            seen += [sequence for sequence, _ in found.triggers]
        else:
            for sequence in seen[answered : answered + count]:
                belt.edge.tell(Told(sequence, "OK", "no-defect"))
            answered = min(len(seen), answered + count)
    belt.after(0.01)
    seen += [sequence for sequence, _ in watch.look(belt.command).triggers]
    assert seen == list(range(1, belt.plc.counts.triggers + 1))
    assert belt.plc.counts.mismatched == 0
