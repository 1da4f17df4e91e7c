"""A number that comes again is no second part, and one that stands still passes nobody."""

from __future__ import annotations

import pytest

from tests.edge.line.desks import DEADLINE, DELAY, MS, Clock, Output, clock, desk_with, fire, kinds, output

__all__ = ["clock", "output"]


def test_a_repeated_number_is_no_second_part_and_gets_the_same_answer(clock: Clock, output: Output) -> None:
    desk = desk_with(clock, output)
    fire(desk, clock, 1)
    fire(desk, clock, 1)
    part = desk.due(clock.now_ns + DELAY)
    assert part is not None and output.told == []
    answer = desk.answer(part, "OK", "no-defect")
    fire(desk, clock, 1)
    assert output.told == [answer, answer] and desk.counts.repeated == 2
    assert desk.unseen() == [] and desk.counts.ok == 1


@pytest.mark.parametrize("later_ns", [DEADLINE, 3_600_000 * MS])
def test_an_ok_is_not_repeated_after_its_deadline(clock: Clock, output: Output, later_ns: int) -> None:
    """A counter that stands still must not pass one part after the other."""
    desk = desk_with(clock, output)
    fire(desk, clock, 0)
    part = desk.due(clock.now_ns + DELAY)
    assert part is not None
    desk.answer(part, "OK", "no-defect")
    clock.now_ns += later_ns
    fire(desk, clock, 0)
    assert kinds(output)[1:] == [(0, "UNKNOWN", "repeated")]


@pytest.mark.parametrize("kind", ["OK", "NG", "UNKNOWN"])
def test_each_part_on_a_counter_that_stands_still_is_one_of_its_own(clock: Clock, output: Output, kind: str) -> None:
    """Five of them: one judged, four that nobody can vouch for, each reported and each for the reject gate."""
    desk = desk_with(clock, output)
    fire(desk, clock, 7)
    part = desk.due(clock.now_ns + DELAY)
    assert part is not None
    desk.answer(part, kind, "whatever")  # type: ignore[arg-type]
    for _ in range(4):
        clock.now_ns += 2 * DEADLINE
        fire(desk, clock, 7)
    assert kinds(output) == [(7, kind, "whatever")] + 4 * [(7, "UNKNOWN", "repeated")]
    assert [answer.part for answer in output.told] == [0, 1, 2, 3, 4]
    assert not any(answer.is_late(answer.answered_ns) for answer in output.told)
    assert desk.unseen() == [(part, "repeated") for part in (1, 2, 3, 4)]
    assert desk.counts.repeated == desk.counts.unknown["repeated"] == 4


def test_an_outside_that_began_anew_is_judged(clock: Clock, output: Output) -> None:
    desk = desk_with(clock, output)
    for sequence in (1, 2, 3):
        fire(desk, clock, sequence)
        part = desk.due(clock.now_ns + DELAY)
        assert part is not None
        desk.answer(part, "OK", "no-defect")
        clock.now_ns += DELAY + MS
    clock.now_ns += 6_000 * MS
    fire(desk, clock, 1)
    assert len(output.told) == 3 and desk.busy


def test_skipped_numbers_are_counted_and_answered(clock: Clock, output: Output) -> None:
    desk = desk_with(clock, output, queue=9)
    for sequence in (2**32 - 2, 2**32 - 1, 0, 1, 5, 2):
        fire(desk, clock, sequence)
    assert desk.counts.skipped == 3 + 1
    clock.now_ns += DEADLINE
    desk.step()
    assert sorted(answer.sequence for answer in output.told) == sorted((2**32 - 2, 2**32 - 1, 0, 1, 5, 2))
