"""When the next look at the repository is due, and the heart of a thread whose calls may take long.

1. A look every `poll_s`, each pause up to a tenth shorter or longer, so that a fleet does not ask all at once; sooner
   after a hint; later and later, up to a day, while a candidate is put off again and again.
2. A heart says beforehand how long a call may take: a moment to come in `beat_ns`. While a thread waits, it moves.

    looks = Looks(600.0)
    if looks.due():
        looks.looked()
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from edge_inspect.errors import Ending

MOST_PAUSE_S = 86_400.0
SOONER_S = 2.0
"""After a hint: the repository may be a little behind the broker."""
FIRST_S = 60.0
"""After a start, at most: a box that was off for a week should not wait for long."""
STEP_S = 0.25


class Looks:
    """`hint` is for other threads; the rest is one thread's."""

    def __init__(
        self,
        poll_s: float,
        *,
        first_s: float | None = None,
        clock_s: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._poll_s = poll_s
        self._clock_s = clock_s
        self._rng = rng or random.Random()
        self._hinted = threading.Event()
        self._put_off = 0
        self._next_s = clock_s() + (self._rng.uniform(0.0, min(poll_s, FIRST_S)) if first_s is None else first_s)

    def hint(self) -> None:
        self._hinted.set()

    def due(self) -> bool:
        if self._hinted.is_set():
            self._hinted.clear()
            self._next_s = min(self._next_s, self._clock_s() + SOONER_S)
        return self._clock_s() >= self._next_s

    def at_once(self) -> None:
        self._next_s = self._clock_s()

    def looked(self) -> None:
        """Or tried to."""
        pause_s = min(max(MOST_PAUSE_S, self._poll_s), self._poll_s * 2.0 ** min(self._put_off, 32))
        self._next_s = self._clock_s() + pause_s * self._rng.uniform(0.9, 1.1)

    def put_off(self) -> None:
        """A candidate came to nothing for a reason that may pass."""
        self._put_off += 1
        self.looked()

    def settled(self) -> None:
        """A candidate came to its end, good or bad."""
        self._put_off = 0


class Pulse:
    """One thread's heart. `stop` is the thread's, once it runs."""

    def __init__(self) -> None:
        self.beat_ns: int | None = time.monotonic_ns()
        self.progress: float | None = None
        """Of what is being done, 0 to 1; None where nobody can tell."""
        self.stop = threading.Event()

    def allow(self, seconds: float) -> None:
        """A call begins that may take so long."""
        self.beat_ns = time.monotonic_ns() + int(seconds * 1e9)

    def rest(self, seconds: float) -> None:
        """Wait, with a moving heart. Raises Ending."""
        until_s = time.monotonic() + seconds
        while True:
            self.beat_ns = time.monotonic_ns()
            if self.stop.wait(min(STEP_S, max(0.0, until_s - time.monotonic()))):
                raise Ending("the daemon ends; the next start goes on where the state says")
            if time.monotonic() >= until_s:
                return

    def check(self) -> None:
        """Raises Ending."""
        if self.stop.is_set():
            raise Ending("the daemon ends; the next start goes on where the state says")
