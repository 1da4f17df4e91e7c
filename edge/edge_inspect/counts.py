"""Counting without allocating: what a camera's lane has seen, and how long it took.

Counters are plain ints owned by one thread and read by others (a torn read is impossible under the GIL; a read that is
one frame old does no harm). Durations go into log-spaced buckets of constant size, so months of frames need the same
8 kB as one minute. A percentile is a bucket's upper edge: at most 2 % too high, never too low; `max_ms` is exact.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from dataclasses import dataclass, field

BUCKET_RATIO = 1.02
FIRST_BUCKET_NS = 1_000
BUCKETS = 1_024
_LOG_RATIO = math.log(BUCKET_RATIO)


class Durations:
    """A histogram of durations from 1 us to about 10 minutes."""

    __slots__ = ("_counts", "count", "max_ns", "total_ns")

    def __init__(self) -> None:
        self._counts = array("Q", bytes(8 * BUCKETS))
        self.count = 0
        self.max_ns = 0
        self.total_ns = 0

    def add(self, duration_ns: int) -> None:
        bucket = 0 if duration_ns <= FIRST_BUCKET_NS else 1 + int(math.log(duration_ns / FIRST_BUCKET_NS) / _LOG_RATIO)
        self._counts[min(bucket, BUCKETS - 1)] += 1
        self.count += 1
        self.total_ns += duration_ns
        self.max_ns = max(self.max_ns, duration_ns)

    def include(self, other: Durations) -> None:
        """Add everything that `other` has counted."""
        for bucket, count in enumerate(other._counts):
            self._counts[bucket] += count
        self.count += other.count
        self.total_ns += other.total_ns
        self.max_ns = max(self.max_ns, other.max_ns)

    def percentile_ms(self, percent: float) -> float | None:
        """The duration that `percent` of all are at or below, in ms; None when nothing was counted."""
        if not self.count:
            return None
        rank = math.ceil(self.count * percent / 100)
        seen = 0
        for bucket, count in enumerate(self._counts):
            seen += count
            if seen >= rank:
                return min(FIRST_BUCKET_NS * BUCKET_RATIO**bucket, self.max_ns) / 1e6
        raise AssertionError("counts do not add up")

    @property
    def max_ms(self) -> float | None:
        return self.max_ns / 1e6 if self.count else None

    def summary(self, *percents: float) -> dict[str, float | None]:
        """`{"p50": ..., "p999": ...}` in ms, rounded to the microsecond."""
        return {
            f"p{percent:g}".replace(".", ""): None if (ms := self.percentile_ms(percent)) is None else round(ms, 3)
            for percent in percents
        }


@dataclass(slots=True)
class LaneCounts:
    """What happened on one camera's lane since the start. The grab thread owns the first block, inspect the second."""

    reconnects: int = 0
    camera_missed: int = 0

    frames: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    inferences: int = 0
    parts: int = 0
    ok: int = 0
    ng: int = 0
    unknown: Counter[str] = field(default_factory=Counter)
    latency: Durations = field(default_factory=Durations)
    """Frame captured -> verdict told."""
    own: Durations = field(default_factory=Durations)
    """Our own work on an inspected frame: everything from taking it to the report's hand-over, but the runtime."""
    inference: Durations = field(default_factory=Durations)

    @property
    def unknown_total(self) -> int:
        return sum(self.unknown.values())
