"""What one device may take of what all devices share, so that one that floods or lies hinders nobody else.

1. Rate: of a device's messages beyond `per_s` (with twice that at once) nothing is read, stored or acknowledged. They
   are confirmed to the broker at once, so that its queue moves on; a device of ours still holds them and sends them
   again.
2. Quarantine: at most `rows` messages and `size_bytes` of each device. What comes beyond is refused and not
   acknowledged: a report stays in its device's outbox, junk is gone. What was set aside before is never given up for
   it. Each of several ingesters may exceed it by a batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from cloud_inspect.db import tables
from cloud_inspect.intake.reading import Reading
from edge_wire.messages import MAX_PAYLOAD_BYTES

MOST_DEVICES = 10_000
"""Remembered at once; more than that can only be names that somebody makes up."""


@dataclass(frozen=True, slots=True)
class Quarantine:
    """What may lie in quarantine of one device."""

    rows: int = 1000
    size_bytes: int = 16 << 20

    def choose(self, connection: Connection, readings: Sequence[Reading]) -> tuple[list[Reading], list[Reading]]:
        """Those there is room for, or that lie there already; and the others. None comes twice."""
        kept, refused = [], []
        distinct = {reading.digest: reading for reading in readings}
        known = self._known(connection, list(distinct))
        left: dict[str | None, tuple[int, int]] = {}
        for digest, reading in distinct.items():
            device = reading.topics.device if reading.topics is not None else None
            if digest in known:
                kept.append(reading)
                continue
            if device not in left:
                left[device] = self._left(connection, device)
            rows, size_bytes = left[device]
            stored_bytes = len(reading.payload)
            if rows < 1 or size_bytes < stored_bytes:
                refused.append(reading)
                continue
            left[device] = rows - 1, size_bytes - stored_bytes
            kept.append(reading)
        return kept, refused

    def may_have_refused(self, connection: Connection, device: str, epoch: str) -> bool:
        """Whether a report of this epoch may have come that lies nowhere, though its number is in the database."""
        rows, size_bytes = self._left(connection, device)
        if rows < 1 or size_bytes < MAX_PAYLOAD_BYTES:
            return True
        table = tables.quarantine
        conflict = select(table.c.id).where(
            table.c.device == device, table.c.epoch == epoch, table.c.reason == "conflict"
        )
        return connection.execute(conflict.limit(1)).first() is not None

    def _known(self, connection: Connection, digests: list[str]) -> set[str]:
        if not digests:
            return set()
        table = tables.quarantine
        return set(connection.execute(select(table.c.digest).where(table.c.digest.in_(digests))).scalars())

    def _left(self, connection: Connection, device: str | None) -> tuple[int, int]:
        table = tables.quarantine
        query = select(func.count(), func.coalesce(func.sum(func.length(table.c.payload)), 0)).where(
            table.c.device.is_not_distinct_from(device)
        )
        rows, size_bytes = connection.execute(query).one()
        return self.rows - int(rows), self.size_bytes - int(size_bytes)


class Rates:
    """How many messages of each device are taken."""

    def __init__(self, per_s: float, *, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._most = 2 * per_s
        self._monotonic_s = monotonic_s
        self._left: dict[str, tuple[float, float]] = {}  # device -> how many may come, as of when

    def may(self, topic: str) -> bool:
        """Whether this message is within what its device may send; it counts then."""
        levels = topic.split("/", 5)
        device = levels[4] if len(levels) > 4 else ""
        now_s = self._monotonic_s()
        left, since_s = self._left.get(device, (self._most, now_s))
        left = min(self._most, left + (now_s - since_s) * self._per_s)
        if device not in self._left and len(self._left) >= MOST_DEVICES:
            self._forget_the_quiet(now_s)
        self._left[device] = (left - 1 if left >= 1 else left), now_s
        return left >= 1

    def _forget_the_quiet(self, now_s: float) -> None:
        """Those that may send all again; if there are none, everybody."""
        self._left = {
            device: (left, since_s)
            for device, (left, since_s) in self._left.items()
            if left + (now_s - since_s) * self._per_s < self._most
        }
        if len(self._left) >= MOST_DEVICES:
            self._left.clear()
