"""So many a second and no more, without a clock of its own."""

from __future__ import annotations


class Pace:
    """A bucket that fills with `per_s` and holds so many seconds' worth, at least one."""

    def __init__(self, per_s: float, now_s: float, *, holds_s: float = 0.5) -> None:
        self._per_s = per_s
        self._most = max(1.0, per_s * holds_s)
        self._have = self._most
        self._at_s = now_s

    def may(self, now_s: float) -> bool:
        """Whether one more may go now."""
        self._have = min(self._most, self._have + max(0.0, now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        return self._have >= 1.0

    def took(self) -> None:
        self._have -= 1.0

    def wait_s(self) -> float:
        """Until the next may go, as of the last `may`."""
        return max(0.0, (1.0 - self._have) / self._per_s)
