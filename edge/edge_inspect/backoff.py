"""How long to wait before the next try: doubling, with jitter, never giving up."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Seconds to wait: about `first_s`, then twice as long each time up to `longest_s`; each +-50 % at random,
    so that a hundred devices do not come back in the same second."""

    def __init__(self, first_s: float, longest_s: float, *, random01: Callable[[], float] = random.random) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._random01 = random01
        self._tries = 0

    def next_s(self) -> float:
        centre_s = min(self._longest_s / 1.5, self._first_s * 2.0 ** min(self._tries, 60))
        self._tries += 1
        return centre_s * (0.5 + self._random01())

    def reset(self) -> None:
        """It worked: start small again next time."""
        self._tries = 0
