"""What the blocks mean, without a network."""

from __future__ import annotations

import pytest

from edge_inspect.line import modbus_map as at
from edge_inspect.line.modbus_map import Command
from edge_inspect.line.modbus_words import CommandWatch, EdgeWords, Told, read_result


def head(command: int = 0, sequence: int = 0, encoder: int = 0, rejects: int = 0) -> list[int]:
    return [command, *at.split(sequence, False), *at.split(encoder, False), rejects, 0, 0]


def with_ring(newest: int, *, upto: int = 16, encoders: int = 1000) -> list[int]:
    words = head(Command.TRIGGER, newest) + [0] * (16 * at.TRIGGER_WORDS)
    for sequence in range(max(0, newest - upto + 1), newest + 1):
        start = at.TRIGGER_RING + sequence % 16 * at.TRIGGER_WORDS
        words[start : start + 4] = [*at.split(sequence, False), *at.split(encoders + sequence, False)]
    return words


@pytest.mark.parametrize("entries", [0, 1, 16])
def test_result_is_read_only_under_its_own_sequence_number(entries: int) -> None:
    edge = EdgeWords(entries)
    edge.begin(70_000)
    edge.tell(Told(70_000, "OK", "no-defect"))
    assert read_result(edge.words, 70_000, entries) == Told(70_000, "OK", "no-defect")
    assert read_result(edge.words, 70_001, entries) is None
    assert read_result(edge.words, 70_016, entries) is None


@pytest.mark.parametrize("entries", [0, 16])
def test_trigger_takes_the_old_result_of_the_same_number_away(entries: int) -> None:
    edge = EdgeWords(entries)
    edge.tell(Told(1, "OK", "no-defect"))
    edge.begin(1)
    assert read_result(edge.words, 1, entries) is None


@pytest.mark.parametrize("torn_at", range(1, at.RESULT_WORDS))
def test_half_written_entry_is_never_read(torn_at: int) -> None:
    """Whatever part of the new entry lies over the old one, in either direction: not OK with the wrong number."""
    old, new = EdgeWords(1), EdgeWords(1)
    old.tell(Told(0x0001_0002, "OK", "no-defect"))
    new.tell(Told(0x0003_0004, "NG", "defect"))
    start = at.RESULT_RING
    for first, second in ((new, old), (old, new)):
        mixed = list(second.words)
        mixed[start : start + torn_at] = first.words[start : start + torn_at]
        for sequence in (0x0001_0002, 0x0003_0004, 0x0001_0004, 0x0003_0002):
            result = read_result(mixed, sequence, 1)
            assert result is None or result in (Told(0x0001_0002, "OK", "no-defect"), Told(0x0003_0004, "NG", "defect"))


@pytest.mark.parametrize("bits", [0b0001, 0b0111, 0b1011, 0b1111, 0b10001])
def test_bits_that_make_no_sense_are_unknown(bits: int) -> None:
    edge = EdgeWords(1)
    edge.tell(Told(5, "OK", "no-defect"))
    edge.words[at.RESULT_RING + 2] = bits
    result = read_result(edge.words, 5, 1)
    assert result is not None and result.kind == "UNKNOWN"


def test_fail_safe_leaves_no_result_and_no_ready() -> None:
    edge = EdgeWords(16)
    edge.status(True, True, False)
    for sequence in range(40):
        edge.tell(Told(sequence, "OK", "no-defect"))
    edge.fail_safe()
    assert edge.discrete_inputs()[:6] == [False] * 6
    assert all(read_result(edge.words, sequence, 16) is None for sequence in range(40))


def test_rising_edge_fires_once_and_again_with_the_same_number() -> None:
    watch = CommandWatch()
    assert watch.look(head(Command.TRIGGER, 7, 55)).triggers == [(7, 55)]
    assert watch.look(head(Command.TRIGGER, 7, 60)).triggers == []
    assert watch.look(head(0, 7)).triggers == []
    assert watch.look(head(Command.TRIGGER, 7)).triggers == [(7, 0)]


def test_new_number_fires_while_the_bit_stays_set_and_not_without_it() -> None:
    watch = CommandWatch()
    assert watch.look(head(0, 3)).triggers == []
    assert watch.look(head(Command.TRIGGER, 3)).triggers == [(3, 0)]
    assert watch.look(head(Command.TRIGGER, 4)).triggers == [(4, 0)]
    assert watch.look(head(0, 5)).triggers == []


def test_what_stands_there_at_the_first_look_after_a_connection_is_old() -> None:
    watch = CommandWatch(first_look_fires=False)
    assert watch.look(head(Command.TRIGGER, 9)).triggers == []
    assert watch.look(head(Command.TRIGGER, 10)).triggers == [(10, 0)]


def test_ring_brings_every_trigger_since_the_last_look_in_order() -> None:
    watch = CommandWatch(16)
    watch.look(with_ring(20))
    seen = watch.look(with_ring(29))
    assert [sequence for sequence, _ in seen.triggers] == list(range(21, 30))
    assert seen.triggers[0] == (21, 1021)
    assert seen.missed == 0


def test_ring_is_fetched_only_when_more_than_one_trigger_came() -> None:
    watch = CommandWatch(16)
    fetched: list[int] = []

    def fetch(newest: int) -> list[int]:
        fetched.append(newest)
        return with_ring(newest)

    for newest in (20, 21, 21, 24):
        seen = watch.look(with_ring(newest)[: at.COMMAND_HEAD_WORDS], lambda newest=newest: fetch(newest))  # type: ignore[misc]
    assert [sequence for sequence, _ in seen.triggers] == [22, 23, 24]
    assert fetched == [20, 24]


def test_triggers_beyond_the_ring_are_counted_as_missed() -> None:
    watch = CommandWatch(16)
    watch.look(with_ring(20))
    seen = watch.look(with_ring(56))
    assert [sequence for sequence, _ in seen.triggers] == list(range(41, 57))
    assert seen.missed == 20


def test_number_that_wraps_and_number_that_begins_anew() -> None:
    watch = CommandWatch()
    watch.look(head(Command.TRIGGER, 2**32 - 1))
    seen = watch.look(head(Command.TRIGGER, 0))
    assert seen.triggers == [(0, 0)] and seen.missed == 0
    watch.look(head(Command.TRIGGER, 5000))
    seen = watch.look(head(Command.TRIGGER, 1))
    assert seen.triggers == [(1, 0)] and seen.missed == 0


def test_confirmed_rejects_by_bit_and_by_count() -> None:
    watch = CommandWatch()
    assert watch.look(head(Command.REJECT_CONFIRM)).confirmed_rejects == 1
    assert watch.look(head(Command.REJECT_CONFIRM)).confirmed_rejects == 0
    assert watch.look(head(rejects=3)).confirmed_rejects == 3
    watch.look(head(rejects=0xFFFF))
    assert watch.look(head(rejects=1)).confirmed_rejects == 2
