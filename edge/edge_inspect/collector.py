"""When garbage is collected: never between a frame and its verdict.

1. After the first parts, what lives then is taken out of every later collection, and Python's own timing is off.
2. While parts come, young garbage is collected after a verdict is told; all of it only when there was nothing to
   inspect for a while.

    collector = Collector()
    collector.between_parts(lambda: line_waits)
    collector.give_back()                       # Python's own timing again
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

COLLECT_ALL_EVERY_S = 300.0
WARM_UP_PARTS = 20
IDLE_S = 1.0
MANY, MANY_WHILE_A_LINE_WAITS = 5_000, 100_000
"""Objects that came since the last collection."""


class Collector:
    """The inspect thread's; `settle` also a grab thread's, before there are parts."""

    def __init__(self) -> None:
        self._until_settled = WARM_UP_PARTS
        self._idle_since = self._collected_at = time.monotonic()

    def between_parts(self, line_waits: Callable[[], bool]) -> None:
        """A part was told."""
        self._until_settled -= 1
        if self._until_settled == 0:
            self.settle()
        elif self._until_settled < 0 and gc.get_count()[0] > (MANY_WHILE_A_LINE_WAITS if line_waits() else MANY):
            gc.collect(1)

    def settle(self) -> None:
        """What lives now lives for good: up to 90 ms once, so that later collections need not look at it."""
        self._until_settled = -1
        gc.collect()
        gc.freeze()
        gc.disable()

    def worked(self) -> None:
        """Something was inspected, and more may come."""
        self._idle_since = time.monotonic()

    def when_idle(self) -> None:
        """Nobody waits for a verdict: the oldest generation, seldom; what other threads leave, as it comes."""
        now = time.monotonic()
        if now - self._idle_since <= IDLE_S:
            return
        if now - self._collected_at > COLLECT_ALL_EVERY_S:
            gc.collect()
            self._collected_at = now
        elif self._until_settled < 0 and gc.get_count()[0] > MANY:  # adapters, couriers
            gc.collect(1)

    def give_back(self) -> None:
        """To Python's own timing."""
        if self._until_settled < 0:
            gc.unfreeze()
            gc.enable()
