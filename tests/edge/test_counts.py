"""Percentiles from buckets are never too low and at most one bucket too high."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from edge_inspect.counts import BUCKET_RATIO, Durations

durations_ns = st.lists(st.integers(min_value=1_000, max_value=200_000_000_000), min_size=1, max_size=300)


@given(durations_ns, st.sampled_from([1.0, 50.0, 99.0, 99.9, 100.0]))
def test_a_percentile_is_within_one_bucket_of_the_true_one(values: list[int], percent: float) -> None:
    counted = Durations()
    for value in values:
        counted.add(value)
    true_ms = sorted(values)[math.ceil(len(values) * percent / 100) - 1] / 1e6
    found_ms = counted.percentile_ms(percent)
    assert found_ms is not None
    assert true_ms * 0.999999 <= found_ms <= true_ms * BUCKET_RATIO * 1.000001
    assert counted.max_ms == max(values) / 1e6


@given(durations_ns, durations_ns)
def test_two_counts_together_are_what_one_would_have_counted(one: list[int], other: list[int]) -> None:
    apart, also, together = Durations(), Durations(), Durations()
    for value in one:
        apart.add(value)
        together.add(value)
    for value in other:
        also.add(value)
        together.add(value)
    apart.include(also)
    assert apart.summary(50, 99, 99.9) == together.summary(50, 99, 99.9)
    assert (apart.count, apart.max_ns, apart.total_ns) == (together.count, together.max_ns, together.total_ns)


def test_nothing_counted_has_no_percentile() -> None:
    assert Durations().summary(50, 99.9) == {"p50": None, "p999": None}
    assert Durations().max_ms is None


def test_counts_at_or_below_a_limit_are_never_too_many_and_belong_together() -> None:
    durations = Durations()
    for ms in (0.5, 2, 2, 9, 40, 700):
        durations.add(int(ms * 1e6))
    assert durations.at_most([0.001, 0.01, 0.1, 0.5]) == [1, 4, 5, 5, 6]
    assert durations.at_most([0.002]) == [1, 6], "2 ms lies in a bucket that reaches beyond 2 ms"
    assert Durations().at_most([0.1]) == [0, 0]
