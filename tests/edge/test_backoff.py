"""Waits grow to their limit, are spread by chance, and start small again after success."""

from __future__ import annotations

from edge_inspect.backoff import Backoff


def test_waits_double_up_to_the_limit_and_start_again_after_success() -> None:
    backoff = Backoff(0.5, 30.0, random01=lambda: 0.5)
    assert [backoff.next_s() for _ in range(8)] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 20.0, 20.0]
    backoff.reset()
    assert backoff.next_s() == 0.5


def test_waits_are_spread_and_never_beyond_the_limit_even_after_years() -> None:
    backoff = Backoff(0.5, 30.0)
    waits = [backoff.next_s() for _ in range(20_000)]
    assert max(waits) <= 30.0 and min(waits[100:]) >= 10.0
    assert len({round(wait, 3) for wait in waits[100:]}) > 5_000
