"""Which report goes next, how fast, and when one goes again.

1. Never more than `window` reports are handed to the broker and not confirmed: only these are in memory, however many
   wait on the disk. With ack "ingester" the plant never has more than that to acknowledge, and a fifth more of new
   ones.
2. As long as no more than `window` reports wait, they go at once and in order. When more wait, they have become a
   backlog: it is sent in its own order, at most `drain_per_s`. A fifth of the window is for reports put after that:
   they go before it, in their order, without that limit. When they pile up in turn, they join the backlog's end, once
   the plant listens. Whatever goes a second time goes at the backlog's pace.
3. What the plant does not acknowledge is sent again after `resend_s`, then after twice as long, up to 8 times, +-25 %
   by a number that differs from device to device. A plant that acknowledges anything starts that anew. What it leaves
   unacknowledged PICTURE_SENDS times while it acknowledges others goes without its picture: something may drop it.
   After STUBBORN_SENDS times it no longer stands in the way of others, and is tried beside them, for ever.
   On a new connection nothing goes a second time before the plant has had the time to say what it has (GRACE_S, or
   SETTLE_S from its first word on): acknowledgements are lost with a broker's memory, and repeated on every `online`.
4. A report that the broker does not take with its picture goes without; one that it does not take at all waits in the
   outbox for a broker that does, counted, and nothing waits behind it.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from typing import Literal, Protocol

from edge_inspect.delivery.link_errors import from_puback
from edge_inspect.delivery.outbox import Outbox, Row
from edge_inspect.delivery.outbox_file import SENT
from edge_inspect.delivery.pace import Pace
from edge_inspect.delivery.paho_client import TOO_LARGE, UNHEARD, Confirmed
from edge_wire.fields import BIG
from edge_wire.messages import MAX_PAYLOAD_BYTES

WINDOW = 50
RESEND_S = 30.0
DRAIN_PER_S = 100.0
DOUBLINGS = 3
PICTURE_SENDS = 3
STUBBORN_SENDS, STUBBORN = 5, 5
"""What a plant that listens has left unacknowledged so often takes no place in the window any more: so many of them are
sent again beside it, oldest first."""
SILENT_S = 2.0
"""A plant that was sent something so long ago and has answered nothing since is not listening now."""
GRACE_S, SETTLE_S = 5.0, 0.5
RECOUNT_S = 30.0
LEAST_WAIT_S = 0.05
UNSENT_BYTES = 64 * 1024
"""No further report is handed over while more than this waits to leave: a slow line holds little in memory."""
HEAD_BYTES = 16
"""More than an MQTT PUBLISH takes beside topic and payload."""

AckBy = Literal["broker", "ingester"]


class Way(Protocol):
    """What of a Link is needed here."""

    @property
    def window(self) -> int: ...
    @property
    def max_packet_bytes(self) -> int: ...
    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> int: ...
    def unsent_bytes(self) -> int: ...


class Sender:
    """One thread's; `begin` at each connection, then `fill` and `take` over and over, `mark` when it suits."""

    def __init__(
        self,
        outbox: Outbox,
        topic: str,
        *,
        ack: AckBy,
        window: int = WINDOW,
        resend_s: float = RESEND_S,
        drain_per_s: float = DRAIN_PER_S,
        max_packet_bytes: int | None = None,
        device: str = "",
        utc_ns: Callable[[], int] = time.time_ns,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.sent = 0
        """Reports that the broker confirmed."""
        self.unheard = 0
        self.resent = 0
        self.pictures_left = 0
        self.too_large = 0
        """Reports that wait because this broker does not take them, even without their picture."""
        self._outbox = outbox
        self._topic = topic
        self._ack = ack
        self._window = window
        self._resend_ns = round(resend_s * 1e9)
        self._configured_bytes = max_packet_bytes or 1 << 28
        self._packet_bytes = self._configured_bytes
        self._device = device
        self._utc_ns = utc_ns
        self._monotonic_s = monotonic_s
        self._pace = Pace(drain_per_s, monotonic_s())
        self._live_from = 0  # reports from this number on go first
        self._under_way: dict[int, tuple[Row, int]] = {}  # message id -> row, payload bytes
        self._confirmed: list[int] = []  # confirmed by the broker, not yet marked in the outbox
        self._without_picture: set[int] = set()  # the broker has refused these with it
        self._heard_plant_s = monotonic_s()
        self._silent_since_s: float | None = None
        self._held_back = False
        self._again_from_s = monotonic_s()
        self._recount_s = 0.0
        outbox.payload_limit_bytes = self._payload_limit()

    # What others want to know

    @property
    def busy(self) -> bool:
        """Whether something is under way to the broker, or confirmed by it and not yet marked."""
        return bool(self._under_way or self._confirmed)

    @property
    def plant_silent_s(self) -> float:
        """For how long the plant has acknowledged nothing although it has reports to acknowledge."""
        since_s = self._silent_since_s  # read once: others ask too
        return 0.0 if since_s is None else self._monotonic_s() - since_s

    def wait_s(self) -> float:
        """How long there is nothing to do here for want of time alone."""
        return max(LEAST_WAIT_S, self._pace.wait_s()) if self._held_back else 3600.0

    # One connection

    def begin(self, way: Way) -> None:
        """A new connection: nothing is under way on it. Raises StorageFailing."""
        self.end()
        self._again_from_s = self._monotonic_s() + GRACE_S
        self._packet_bytes = min(way.max_packet_bytes, self._configured_bytes)
        self._outbox.payload_limit_bytes = self._payload_limit()
        self._recount_s = 0.0

    def end(self) -> None:
        """The connection is gone: what was under way goes again at the next."""
        self._under_way.clear()
        self._without_picture.clear()

    def fill(self, way: Way) -> None:
        """Hand over what may go now. Raises StorageFailing, LinkLost."""
        window = max(1, min(self._window, way.window))
        room = window - len(self._under_way)
        known = {row.number for row, _ in self._under_way.values()} | set(self._confirmed)
        self._held_back = False
        self._count_too_large()
        for row in self._next(window, known):
            if room <= 0 or way.unsent_bytes() > UNSENT_BYTES:
                return
            if row.number in known or not self._is_due(row):
                continue
            hurried = row.number >= self._live_from and row.sends == 0
            if not hurried and not self._pace.may(self._monotonic_s()):
                self._held_back = True
                continue
            self._send(way, row)
            room -= 1
            if not hurried:
                self._pace.took()

    def take(self, answer: Confirmed, where: str) -> None:
        """The broker's answer to something that was published. Raises LinkLost if it refuses reports."""
        if answer.mid not in self._under_way:  # not a report
            return
        row, size_bytes = self._under_way.pop(answer.mid)
        if answer.code == TOO_LARGE:
            self._refused_for_its_size(row, size_bytes)
            return
        if answer.code >= 0x80:
            raise from_puback(answer.code, answer.name, where)
        self.sent += 1
        self.unheard += answer.code == UNHEARD
        self._confirmed.append(row.number)

    def mark(self) -> None:
        """Write down what the broker confirmed. Raises StorageFailing: call again later."""
        if not self._confirmed:
            return
        if self._ack == "broker":
            self._outbox.ack_rows(self._confirmed)
        else:
            self._outbox.mark_sent(self._confirmed)
            if self._silent_since_s is None:
                self._silent_since_s = self._monotonic_s()
        self._without_picture.difference_update(self._confirmed)
        self._confirmed.clear()

    def plant_heard(self, news: int = 1) -> None:
        """The plant acknowledges: it is there, and has acknowledged `news` reports that it had not before."""
        self._again_from_s = min(self._again_from_s, self._monotonic_s() + SETTLE_S)
        if not news:
            return
        self._heard_plant_s = self._monotonic_s()
        self._silent_since_s = None

    # Choosing

    def _next(self, window: int, known: set[int]) -> list[Row]:
        """Newer reports first, then the backlog; at most `window` together."""
        largest, box = self._payload_limit(), self._outbox
        listens = self.plant_silent_s < SILENT_S
        aside = listens and self._ack == "ingester"
        often = STUBBORN_SENDS if aside else BIG
        backlog: list[Row] = []
        if self._live_from:
            backlog = box.window(window, last=self._live_from - 1, max_bytes=largest, sent_less_than=often)
        live = box.window(2 * window + 1, first=self._live_from, max_bytes=largest, sent_less_than=often)
        stubborn: list[Row] = []
        if aside:  # nothing behind what goes next was ever sent: do not search all that waits
            behind = (backlog or live)[-1].number if backlog or live else BIG
            stubborn = box.window(STUBBORN, last=behind, max_bytes=largest, sent_at_least=often)
        waiting = sum(row.state != SENT and row.number not in known for row in live)
        if waiting > window and listens:
            self._live_from = self._outbox.newest() + 1
            return self._next(window, known)
        new = min(len(live), max(1, window // 5, window - len(backlog)))
        return [*live[:new], *backlog[: window - new], *stubborn]

    def _is_due(self, row: Row) -> bool:
        if row.state != SENT or row.sent_ns is None:
            return True
        if self._monotonic_s() < self._again_from_s:
            return False
        since_ns = self._utc_ns() - row.sent_ns
        return not 0 <= since_ns < self._wait_ns(row)  # a clock that was set back does not hold it up

    def _wait_ns(self, row: Row) -> int:
        silent = self._monotonic_s() - self._heard_plant_s > self._resend_ns / 1e9
        doubled = 2 ** min(max(row.sends - 1, 0), DOUBLINGS) if silent else 1
        dice = zlib.crc32(f"{self._device}/{row.number}/{row.sends}".encode()) / 2**32
        return round(self._resend_ns * doubled * (0.75 + 0.5 * dice))

    # Sending

    def _send(self, way: Way, row: Row) -> None:
        payload = self._outbox.payload(row.number)
        doubtful = row.number in self._without_picture or (
            row.sends >= PICTURE_SENDS and self.plant_silent_s < SILENT_S
        )
        if doubtful or len(payload) > self._payload_limit():
            bare = self._outbox.payload(row.number, picture=False)
            self.pictures_left += len(bare) < len(payload)
            payload = bare
        self._under_way[way.publish(self._topic, payload, qos=1)] = (row, len(payload))
        self.resent += row.state == SENT

    def _refused_for_its_size(self, row: Row, size_bytes: int) -> None:
        if row.number not in self._without_picture:
            self._without_picture.add(row.number)
            return
        self._packet_bytes = size_bytes + len(self._topic)  # less than it took: nothing of this size is tried again
        self._recount_s = 0.0

    def _count_too_large(self) -> None:
        limit = self._payload_limit()
        if limit < MAX_PAYLOAD_BYTES and self._monotonic_s() >= self._recount_s:
            self.too_large = self._outbox.larger_than(limit)
            self._recount_s = self._monotonic_s() + RECOUNT_S
        elif limit == MAX_PAYLOAD_BYTES:
            self.too_large = 0

    def _payload_limit(self) -> int:
        return min(MAX_PAYLOAD_BYTES, self._packet_bytes - len(self._topic) - HEAD_BYTES)
