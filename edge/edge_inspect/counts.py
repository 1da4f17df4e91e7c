"""Counting without allocating: what a camera's lane has seen, and how long it took.

Counters are plain ints owned by one thread and read by others (a torn read is impossible under the GIL; a read that is
one frame old does no harm). Durations go into log-spaced buckets of constant size, so months of frames need the same
8 kB as one minute. A percentile is a bucket's upper edge: at most 2 % too high, never too low; `max_ms` is exact.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

BUCKET_RATIO = 1.02
FIRST_BUCKET_NS = 1_000
BUCKETS = 1_024
_LOG_RATIO = math.log(BUCKET_RATIO)
_EDGES_NS = [FIRST_BUCKET_NS * BUCKET_RATIO**bucket for bucket in range(BUCKETS)]


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

    def since(self, before: Durations) -> Durations:
        """What was counted after `before`, also while another thread adds; `max_ns` is that of all."""
        passed = Durations()
        passed._counts = array("Q", (now - then for now, then in zip(self._counts[:], before._counts, strict=True)))
        passed.count = sum(passed._counts)
        passed.total_ns, passed.max_ns = self.total_ns - before.total_ns, self.max_ns
        return passed

    def at_most(self, seconds: Sequence[float]) -> list[int]:
        """How many took at most so long, for each of the ascending `seconds`, and at the end how many there were.

        The counts belong together: all of one moment. Rounded as percentiles are: up to 2 % too slow, never too fast.
        """
        sums = [0, *accumulate(self._counts[:])]  # one copy at once: whoever adds goes on meanwhile
        return [sums[bisect_right(_EDGES_NS, limit_s * 1e9)] for limit_s in seconds] + [sums[-1]]

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
    withdrawn: int = 0
    """Parts whose OK an adapter could put out only as UNKNOWN; no longer in `ok`."""
    latency: Durations = field(default_factory=Durations)
    """Frame captured -> verdict told."""
    own: Durations = field(default_factory=Durations)
    """Our own work on an inspected frame: everything from taking it to the report's hand-over, but the runtime."""
    capture: Durations = field(default_factory=Durations)
    """From the camera's time stamp until the inspect thread took the frame: driver, decoding, waiting."""
    letterbox: Durations = field(default_factory=Durations)
    inference: Durations = field(default_factory=Durations)
    decode: Durations = field(default_factory=Durations)
    judging: Durations = field(default_factory=Durations)

    @property
    def unknown_total(self) -> int:
        return sum(self.unknown.values())


@dataclass(slots=True)
class LineCounts:
    """What a line asked and was told since the start; changed only under its desk's lock."""

    triggers: int = 0
    """Triggers that came, repeated ones too."""
    ok: int = 0
    ng: int = 0
    unknown: Counter[str] = field(default_factory=Counter)
    missed_deadlines: int = 0
    """Parts that had no verdict by their deadline."""
    late_verdicts: int = 0
    """Verdicts that came when the line had been told something else already."""
    repeated: int = 0
    """Triggers with a sequence number that was already known."""
    skipped: int = 0
    """Sequence numbers that never came."""
    withdrawn: Counter[str] = field(default_factory=Counter)
    """Verdicts, by kind, that an adapter could put out only as UNKNOWN; no longer in `ok` and `ng`."""
    latency: Durations = field(default_factory=Durations)
    """Trigger -> answer told."""

    @property
    def overruns(self) -> int:
        """Triggers that came while nothing could be begun with them."""
        return self.unknown["overrun"]

    @property
    def unknown_total(self) -> int:
        return sum(self.unknown.values())

    def count(self, kind: str, reason: str, latency_ns: int) -> None:
        """One part was answered."""
        if kind == "OK":
            self.ok += 1
        elif kind == "NG":
            self.ng += 1
        else:
            self.unknown[reason] += 1
        self.latency.add(latency_ns)

    def withdraw(self, kind: str, reason: str) -> None:
        """One part that was counted as `kind`, OK or NG, turned out to have been told as UNKNOWN `reason`."""
        self.withdrawn[kind] += 1
        self.ok -= kind == "OK"
        self.ng -= kind == "NG"
        self.unknown[reason] += 1
