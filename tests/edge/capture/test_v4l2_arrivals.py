"""Time and number of V4L2 buffers: which stamp counts, what is stale, what is missing."""

from __future__ import annotations

import pytest

from edge_inspect.capture.v4l2_arrivals import Arrivals

S = 1_000_000_000
MS = 1_000_000
START = 100 * S


def arrivals() -> Arrivals:
    return Arrivals(START, max_age_ns=S // 2, buffers=4)


@pytest.mark.parametrize(
    ("kernel_ns", "captured_ns"),
    [
        (START + 30 * MS, START + 30 * MS),
        (START + 45 * MS, START + 40 * MS),  # a little in the future: clocks are read at different moments
        (START + 90 * MS, START + 40 * MS),
        (0, START + 40 * MS),
        (1_700_000_000 * S, START + 40 * MS),  # the wall clock
        (5 * S, START + 40 * MS),  # seconds since something else
        (START - 3 * S, START + 40 * MS),  # before the stream: not our clock
        (START - 100 * MS, START + 40 * MS),  # exposure began before the stream: fine, but time never goes back
    ],
)
def test_the_kernels_stamp_counts_where_it_can_be_true(kernel_ns: int, captured_ns: int) -> None:
    clock = arrivals()
    assert clock.take(START + 40 * MS, kernel_ns, 0) is False
    assert clock.captured_ns == captured_ns


def test_a_foreign_clock_makes_no_picture_stale() -> None:
    clock = arrivals()
    for number in range(100):
        now = START + number * 40 * MS
        assert clock.take(now, 7 * S + number * 40 * MS, number) is False
        assert clock.captured_ns == now


def test_once_proved_the_kernels_clock_makes_any_old_picture_stale() -> None:
    clock = arrivals()
    assert clock.take(START + S, START + S - MS, 0) is False
    assert clock.take(START + 2 * S, START + S, 1) is True
    assert clock.take(START + 9 * S, START - 50 * S, 2) is True
    assert clock.take(START + 9 * S, START + 9 * S - MS, 3) is False
    assert clock.missed() == 2


def test_a_stamp_that_stands_still_is_replaced_by_the_arrival() -> None:
    clock = arrivals()
    for number in range(50):
        now = START + number * 40 * MS
        assert clock.take(now, START, number) is False
        assert clock.captured_ns == now


def test_stamps_never_go_back() -> None:
    clock = arrivals()
    clock.take(START + 100 * MS, START + 99 * MS, 0)
    clock.take(START + 140 * MS, START + 60 * MS, 1)
    assert clock.captured_ns == START + 140 * MS


def test_without_a_clock_all_that_lies_ready_after_a_pause_is_stale() -> None:
    clock = arrivals()
    clock.come_back(START + MS)
    assert clock.take(START + MS, 0, 0) is False
    clock.leave(START + MS)
    clock.come_back(START + S)
    assert clock.doubtful
    assert [clock.take(START + S, 0, 0) for _ in range(5)] == [True] * 4 + [False]
    assert clock.missed() == 4


def test_without_a_clock_what_comes_after_an_empty_queue_is_new() -> None:
    clock = arrivals()
    clock.come_back(START + S)
    assert clock.take(START + S, 0, 0) is True
    clock.was_empty()
    assert clock.take(START + S, 0, 0) is False


@pytest.mark.parametrize(
    ("sequences", "numbers", "missed"),
    [
        ([0, 1, 2, 3], [0, 1, 2, 3], 0),
        ([5, 6, 9], [5, 6, 9], 2),
        ([0, 0, 0], [0, 1, 2], 0),
        ([7, 8, 0, 1], [7, 8, 9, 10], 0),
        ([0xFFFFFFFE, 0xFFFFFFFF, 0, 2], [0xFFFFFFFE, 0xFFFFFFFF, 0x100000000, 0x100000002], 1),
    ],
)
def test_numbers_go_on_whatever_the_driver_counts(sequences: list[int], numbers: list[int], missed: int) -> None:
    clock = arrivals()
    seen = []
    for step, sequence in enumerate(sequences):
        clock.take(START + step * MS, 0, sequence)
        seen.append(clock.number)
    assert seen == numbers
    assert clock.missed() == missed
    assert clock.missed() == 0
