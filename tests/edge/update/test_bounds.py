"""Bounds against published values and against plain sums."""

from __future__ import annotations

from math import comb

import pytest

from edge_inspect.update.bounds import least_excess, lower, upper


def tail(count: int, of: int, share: float) -> float:
    """P(X >= count)."""
    return sum(comb(of, k) * share**k * (1 - share) ** (of - k) for k in range(count, of + 1))


@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.3])
@pytest.mark.parametrize(("count", "of"), [(1, 1), (3, 3), (1, 200), (10, 200), (199, 200), (500, 1000)])
def test_lower_bound_is_where_chance_explains_the_count_with_probability_alpha(
    count: int, of: int, alpha: float
) -> None:
    assert tail(count, of, lower(count, of, alpha=alpha)) == pytest.approx(alpha, rel=1e-4)


def test_bounds_are_the_published_ones() -> None:
    # Clopper-Pearson 95 % two-sided for 15 of 148: 0.0578, 0.1617 (Newcombe, Statist. Med. 17 (1998) 857, table I)
    assert lower(15, 148, alpha=0.025) == pytest.approx(0.0578, abs=1e-4)
    assert upper(15, 148, alpha=0.025) == pytest.approx(0.1617, abs=1e-4)
    assert upper(0, 100, alpha=0.05) == pytest.approx(0.0295, abs=1e-4), "the rule of three: 3 / N"


def test_nothing_counted_says_nothing() -> None:
    assert (lower(0, 0, alpha=0.05), upper(0, 0, alpha=0.05)) == (0.0, 1.0)
    assert least_excess(0, 0, 5, 10, alpha=0.05) == -1.0


def test_large_counts_are_no_harder() -> None:
    assert lower(50_000, 1_000_000, alpha=0.001) == pytest.approx(0.0493, abs=1e-4)
    assert upper(50_000, 1_000_000, alpha=0.001) == pytest.approx(0.0507, abs=1e-4)


def test_excess_needs_both_sides_to_be_sure() -> None:
    assert least_excess(40, 100, 0, 1000, alpha=0.001) > 0.2
    assert least_excess(40, 100, 0, 3, alpha=0.001) < 0, "three parts before prove nothing"
    assert least_excess(40, 100, 400, 1000, alpha=0.001) < 0
