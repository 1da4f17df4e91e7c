"""What the plant says to this device: these reports are in the database; send these again; there is a model for you.

1. Only messages for this device that are whole count, and of those that are retained only the hint that there is a
   model; all others are counted by kind and ignored.
2. A resync is worked off in steps of at most STEP_REPORTS reports every STEP_S, whatever it asks for; at most
   MOST_RANGES ranges wait, the same range only once. What is beyond that is counted and dropped: the plant asks again.
3. What is not here any more is answered with Gone in the same step.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from edge_inspect.delivery.outbox import Outbox
from edge_inspect.delivery.outbox_resync import Again
from edge_inspect.delivery.paho_client import Received
from edge_wire.messages import Ack, BadMessage, Desired, Gone, Resync
from edge_wire.topics import Topics

STEP_REPORTS = 256
STEP_S = 0.2
MOST_RANGES = 1000


class Way(Protocol):
    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> int: ...


class Plant:
    """One thread's: `take` what arrives, `step` over and over while there is a connection."""

    def __init__(
        self,
        outbox: Outbox,
        topics: Topics,
        *,
        count: Callable[[str], None],
        resend_s: float,
        desired: Callable[[Desired], None] | None = None,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.resynced = 0
        """Reports that wait again because they were asked for."""
        self.gone = 0
        """Reports that were asked for and are not here any more."""
        self._outbox = outbox
        self._topics = topics
        self._count = count
        self._resend_s = resend_s
        self._desired = desired
        self._monotonic_s = monotonic_s
        self._wanted: OrderedDict[tuple[str, int, int], None] = OrderedDict()
        self._next_step_s = 0.0
        self._answers: set[int] = set()  # message ids of Gone

    @property
    def ranges_waiting(self) -> int:
        return len(self._wanted)

    def take(self, message: Received) -> int | None:
        """Hear one message; how many reports it acknowledged that were not before, None if it is no acknowledgement.

        Raises StorageFailing.
        """
        if message.topic == self._topics.ack:
            return self._acknowledge(message)
        if message.topic == self._topics.resync:
            self._want(message)
        if message.topic == self._topics.desired and message.payload:
            self._hint(message)
        return None

    def step(self, way: Way) -> None:
        """Work off some of what was asked for, if it is time. Raises StorageFailing, LinkLost."""
        now_s = self._monotonic_s()
        if not self._wanted or now_s < self._next_step_s:
            return
        self._next_step_s = now_s + STEP_S
        room = STEP_REPORTS
        gone: dict[tuple[str, int | None], list[tuple[int, int]]] = {}
        while self._wanted and room > 0:
            epoch, first, last = wanted = next(iter(self._wanted))
            found = self._outbox.send_again(epoch, first, last, limit=room, sent_for_s=self._resend_s)
            del self._wanted[wanted]
            if found.upto < last:  # the rest is next
                self._wanted[epoch, found.upto + 1, last] = None
                self._wanted.move_to_end((epoch, found.upto + 1, last), last=False)
            room -= 1 + self._take_stock(found)
            if found.gone:
                gone.setdefault((epoch, found.last_seq), []).extend(found.gone)
        for (epoch, last_seq), ranges in gone.items():
            answer = Gone(device=self._topics.device, epoch=epoch, last_seq=last_seq, ranges=tuple(ranges))
            self._answers.add(way.publish(self._topics.gone, answer.to_bytes(), qos=1))

    def answered(self, mid: int, code: int) -> None:
        """The broker's answer to something that was published."""
        if mid in self._answers:
            self._answers.discard(mid)
            if code >= 0x80:
                self._count("refused-gone")

    def end(self) -> None:
        """The connection is gone; what was asked for still stands."""
        self._answers.clear()

    def _take_stock(self, found: Again) -> int:
        self.resynced += found.reports
        self.gone += found.lost
        return found.looked_at + len(found.gone)

    def _acknowledge(self, message: Received) -> int | None:
        try:
            ack = Ack.from_bytes(message.payload)
        except BadMessage:
            self._count("bad-ack")
            return None
        if message.retained or ack.device != self._topics.device:
            self._count("bad-ack")
            return None
        return self._outbox.ack_ranges(ack.epoch, ack.ranges)

    def _hint(self, message: Received) -> None:
        """An empty one only removes what was retained."""
        try:
            desired = Desired.from_bytes(message.payload)
        except BadMessage:
            self._count("bad-desired")
            return
        if desired.device not in (None, self._topics.device):
            self._count("bad-desired")
        elif self._desired is not None:
            self._desired(desired)

    def _want(self, message: Received) -> None:
        try:
            resync = Resync.from_bytes(message.payload)
        except BadMessage:
            self._count("bad-resync")
            return
        if message.retained or resync.device != self._topics.device:
            self._count("bad-resync")
            return
        for first, last in resync.ranges:
            wanted = (resync.epoch, first, last)
            if wanted not in self._wanted and len(self._wanted) >= MOST_RANGES:
                self._count("resync-overflow")
                return
            self._wanted[wanted] = None
