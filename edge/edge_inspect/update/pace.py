"""When the next look at the repository is due, and the heart of a thread whose calls may take long.

1. A look every `poll_s`, each pause up to a tenth shorter or longer, so that a fleet does not ask all at once; sooner
   after a hint, but hints are no more than claims: one a minute is heard; later and later, up to a day, while a
   candidate is put off again and again.
2. A heart says beforehand how long a call may take: a moment to come in `beat_ns`. While a thread waits, it moves.

    looks = Looks(600.0)
    if looks.due():
        looks.looked()
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable

from edge_inspect.errors import Ending

MOST_PAUSE_S = 86_400.0
SOONER_S = 2.0
"""After a hint: the repository may be a little behind the broker."""
HINTED_S = 60.0
"""From one hinted look to the next, at least, as long as none of them brings a candidate to its end."""
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
        self._hint_heard_s = -math.inf
        self._put_off = 0
        self._next_s = clock_s() + (self._rng.uniform(0.0, min(poll_s, FIRST_S)) if first_s is None else first_s)

    def hint(self) -> None:
        self._hinted.set()

    def due(self) -> bool:
        now_s = self._clock_s()
        if self._hinted.is_set() and now_s >= self._hint_heard_s + HINTED_S:
            self._hinted.clear()
            self._hint_heard_s = now_s
            self._next_s = min(self._next_s, now_s + SOONER_S)
        return now_s >= self._next_s

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
        self._hint_heard_s = -math.inf


class Interrupt(threading.Event):
    """Set when `stop` is, and from when `wanted` says so on.

    wanted: asked every STEP_S by whichever thread looks, one at a time, while the one that made this waits for it.
    """

    def __init__(self, stop: threading.Event, wanted: Callable[[], bool]) -> None:
        super().__init__()
        self._stop = stop
        self._wanted = wanted
        self._asking = threading.Lock()
        self._next_s = 0.0

    def is_set(self) -> bool:
        if super().is_set() or self._stop.is_set():
            return True
        with self._asking:
            if not super().is_set() and time.monotonic() >= self._next_s:
                self._next_s = time.monotonic() + STEP_S
                if self._wanted():
                    self.set()
        return super().is_set()

    def wait(self, timeout: float | None = None) -> bool:
        until_s = math.inf if timeout is None else time.monotonic() + timeout
        while not self.is_set():
            if (left_s := until_s - time.monotonic()) <= 0:
                return False
            self._stop.wait(min(STEP_S, left_s))
        return True


class Pulse:
    """One thread's heart. `stop` is the thread's, once it runs."""

    def __init__(self) -> None:
        self.beat_ns: int | None = time.monotonic_ns()
        self.progress: float | None = None
        """Of what is being done, 0 to 1; None where nobody can tell."""
        self.counts: dict[str, float | str] | None = None
        """Of the last shadow or trial, for people who watch it."""
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
