"""Sequence numbers: remembered as long as said, and no longer than there is room."""

from __future__ import annotations

from edge_inspect.line.numbers import MOST_REMEMBERED, REMEMBERED_NS, Numbers
from edge_inspect.line.protocol import Answer, Trigger

MS = 1_000_000


def answered(numbers: Numbers, sequence: int, at_ns: int, source: str = "test") -> Answer:
    trigger = Trigger(sequence, at_ns, source)
    numbers.skipped_before(trigger)
    answer = Answer(sequence, "NG", "defect", sequence, trigger, at_ns, at_ns + 50 * MS)
    numbers.remember(answer)
    return answer


def test_a_number_is_forgotten_after_its_time_but_for_the_newest() -> None:
    numbers = Numbers()
    first, second = answered(numbers, 1, 0), answered(numbers, 2, 0)
    assert numbers.known(first.trigger, REMEMBERED_NS) == first
    assert numbers.known(first.trigger, REMEMBERED_NS + 1) is None
    assert numbers.known(second.trigger, 10**18) == second


def test_sources_have_numbers_of_their_own() -> None:
    numbers = Numbers()
    answered(numbers, 1, 0, "gpio")
    assert numbers.known(Trigger(1, 0, "socket"), 0) is None


def test_memory_is_bounded_and_a_silent_source_is_not_forgotten() -> None:
    numbers = Numbers()
    quiet = answered(numbers, 7, 0, "quiet")
    for sequence in range(3 * MOST_REMEMBERED):
        answered(numbers, sequence, sequence)
    assert len(numbers._answers) <= MOST_REMEMBERED + 1
    assert numbers.known(quiet.trigger, 10**18) == quiet
    assert numbers.known(Trigger(0, 0, "test"), 0) is None


def test_gaps_are_counted_across_the_end_of_the_numbers() -> None:
    numbers = Numbers()
    came = [5, 6, 9, 2**32 - 1, 0, 1, 0]
    gaps = [numbers.skipped_before(Trigger(sequence, 0, "test")) for sequence in came]
    assert gaps == [0, 0, 2, 1, 0, 0, 1], "9 -> the last number is a step back: the outside began anew"
