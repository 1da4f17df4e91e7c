"""How sure a share of counted parts is: exact bounds of a binomial proportion, and of the difference of two.

1. Conservative: the true share lies below `lower` (above `upper`) with a probability of at most `alpha`, whatever it is
   and however few parts were counted.
2. Nothing counted says nothing: from 0 to 1.

    lower(3, 3, alpha=0.001)        # 0.1: three of three, and yet no more than a tenth is sure

Clopper and Pearson, Biometrika 26 (1934) 404, in its form by the beta distribution: `lower` is the alpha quantile of
Beta(count, of - count + 1). The incomplete beta function by its continued fraction, DLMF 8.17.22, evaluated after Lentz
(Press et al., Numerical Recipes, 6.4). The difference: the squares of the two distances added (Zou and Donner, Statist.
Med. 27 (2008) 1693, MOVER).
"""

from __future__ import annotations

import math

_TINY = 1e-300
_CLOSE = 1e-12
_MOST_STEPS = 10_000


def lower(count: int, of: int, *, alpha: float) -> float:
    """The share is at least this, but for a probability of `alpha`."""
    if count <= 0:
        return 0.0
    low, high = 0.0, 1.0
    while high - low > 1e-9:  # P(X >= count | share) = I_share(count, of - count + 1) grows with the share
        middle = (low + high) / 2
        if _incomplete_beta(middle, count, of - count + 1) < alpha:
            low = middle
        else:
            high = middle
    return low


def upper(count: int, of: int, *, alpha: float) -> float:
    """The share is at most this, but for a probability of `alpha`."""
    return 1.0 - lower(of - count, of, alpha=alpha) if of else 1.0


def least_excess(count: int, of: int, base: int, base_of: int, *, alpha: float) -> float:
    """By how much the share `count / of` is above `base / base_of` at least, but for a probability of about `alpha`."""
    if not of:
        return -1.0
    share, expected = count / of, base / base_of if base_of else 0.0
    below = share - lower(count, of, alpha=alpha)
    above = upper(base, base_of, alpha=alpha) - expected if base_of else 0.0
    return share - expected - math.hypot(below, above)


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised I_x(a, b)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    return front * _fraction(x, a, b) / a


def _fraction(x: float, a: float, b: float) -> float:
    c, d = 1.0, 1 / _not_zero(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, _MOST_STEPS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / _not_zero(1 + term * d)
            c = _not_zero(1 + term / c)
            value *= c * d
        if abs(c * d - 1) < _CLOSE:
            break
    return value


def _not_zero(number: float) -> float:
    return number if abs(number) > _TINY else _TINY
