"""Carries reports from the outbox to the broker, in order, for as long as it takes.

1. One thread owns the connection and all state here; others only call `wake`, `announce` and `publish_vitals`.
2. What is under way is always the oldest `window` reports that are not acked, sent in order. After any loss of the
   connection they are sent again: the receiver drops repeats by their number, none is left out.
3. A report leaves the outbox's window when the broker has confirmed it (ack "broker"), or when the plant has said on
   the `ack` topic that its database has it (ack "ingester"). Only the second survives a broker that loses its memory.
4. The device's state is retained: `online` after every connection, `offline` as the last will and at a clean end.
5. Connections are tried for ever with back-off and jitter (0.5 to 30 s): one line when it breaks, one when the reason
   changes, one when it is back. Every failure is counted by its code.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Literal

import structlog

from edge_inspect.backoff import Backoff
from edge_inspect.delivery.broker import Broker
from edge_inspect.delivery.link import UNHEARD, Confirmed, Link, Received, Will
from edge_inspect.delivery.link_errors import LinkLost
from edge_inspect.delivery.outbox import Outbox, Row
from edge_inspect.delivery.outbox_file import SENT
from edge_inspect.errors import StorageFailing
from edge_inspect.waker import Waker
from edge_wire.messages import Ack, BadMessage, DeviceState, LinkVitals, Vitals
from edge_wire.topics import Topics

log = structlog.get_logger(__name__)

WINDOW = 50
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
STEADY_S = 10.0
"""A connection that held this long starts the back-off anew."""
IDLE_S = 0.25
"""How often `stop` is looked at while nothing happens."""
DRAIN_S = 3.0
LONGEST_CONNECT_S = 60.0
"""Name resolution waits for as many dead name servers as the box has: slow, but no hang."""
RESEND_S = 30.0
SESSION_S = 3600
STORAGE_WAIT_S = 1.0


class Courier:
    """See the module. `run(stop)` is the thread; give it its own `stop`, set after the outbox's writer has ended."""

    def __init__(
        self,
        outbox: Outbox,
        broker: Broker,
        topics: Topics,
        *,
        state: DeviceState,
        ack: Literal["broker", "ingester"] = "broker",
        window: int = WINDOW,
        resend_s: float = RESEND_S,
        drain_s: float = DRAIN_S,
        utc_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.connected = False
        self.connects = 0
        self.bytes_sent = 0
        """PUBLISH packets handed to the broker: payload, topic and MQTT header; without TLS and TCP framing."""
        self.reports_sent = 0
        self.unheard = 0
        """Reports the broker took although nobody had subscribed (only MQTT 5 brokers tell)."""
        self.failures: dict[str, int] = {}
        self.beat_ns: int | None = time.monotonic_ns()
        """When the thread last moved; None once it has ended."""
        self._outbox = outbox
        self._broker = broker
        self._topics = topics
        self._state = state
        self._ack = ack
        self._window = window
        self._resend_ns = round(resend_s * 1e9)
        self._drain_s = drain_s
        self._utc_ns = utc_ns
        self._vitals: Vitals | None = None
        self._waker = Waker()
        self._last_failure: LinkLost | None = None
        self._announced: DeviceState | None = None
        self._under_way: dict[int, int] = {}  # message id -> row
        self._confirmed_rows: list[int] = []  # confirmed by the broker, not yet marked in the outbox
        self._storage_ok_from_s = 0.0

    # Called from other threads

    def wake(self) -> None:
        """There is something new in the outbox."""
        self._waker.wake()

    def announce(self, state: DeviceState) -> None:
        """The device's state has changed; it is published now, or as soon as there is a connection."""
        self._state = state
        self._waker.wake()

    def publish_vitals(self, vitals: Vitals) -> None:
        """Publish once if there is a connection; without one, only the newest is kept."""
        self._vitals = vitals
        self._waker.wake()

    def vitals(self) -> LinkVitals:
        return LinkVitals(
            connects=self.connects,
            failures=dict(self.failures),
            bytes_sent=self.bytes_sent,
            reports_sent=self.reports_sent,
            unheard=self.unheard,
        )

    @property
    def failure(self) -> LinkLost | None:
        """Why there is no connection now; None while there is one."""
        return self._last_failure

    # The thread

    def run(self, stop: threading.Event) -> None:
        """Deliver until `stop`; then finish what is under way (at most `drain_s`), say goodbye and end."""
        backoff = Backoff(FIRST_WAIT_S, LONGEST_WAIT_S)
        try:
            while not stop.is_set():
                started_s = time.monotonic()
                try:
                    self._one_connection(stop)
                except LinkLost as err:
                    if self.connected and time.monotonic() - started_s > STEADY_S:
                        backoff.reset()
                    self._went_down(err)
                self._sleep(stop, backoff.next_s())
        finally:
            self.beat_ns = None
            self._mark_confirmed(at_once=True)
            self._waker.close()

    def _one_connection(self, stop: threading.Event) -> None:
        """From CONNECT to the end. Returns after a clean end, raises LinkLost otherwise."""
        will = Will(self._topics.state, self._state.gone("connection-lost", None).to_bytes())
        keep_session = self._ack == "ingester"  # acknowledgements may wait for us at the broker
        link = Link(
            self._broker,
            self._topics.device,
            will=will,
            clean=not keep_session,
            session_s=SESSION_S if keep_session else 0,
        )
        try:
            self._beat(may_take_s=LONGEST_CONNECT_S)
            link.connect()
            self._beat()
            if keep_session:
                link.subscribe(self._topics.ack)
            self._came_up()
            while not stop.is_set():
                self._turn(link, IDLE_S)
            self._end_well(link)
        finally:
            self._under_way.clear()
            link.close()

    def _turn(self, link: Link, timeout_s: float) -> None:
        """Send what may be sent, wait for the network or a wake-up, take what came."""
        self._beat()
        self._publish_state(link)
        if (vitals := self._vitals) is not None:
            self._vitals = None
            link.publish(self._topics.vitals, vitals.to_bytes(), qos=0)
        self._fill_window(link)
        self.bytes_sent += link.take_bytes_sent()
        link.step(timeout_s, self._waker)
        for answer in link.take_confirmed():
            self._take(answer)
        self._mark_confirmed()
        for message in link.take_received():
            self._take_acknowledgement(message)

    def _publish_state(self, link: Link) -> None:
        state = self._state
        if state is not self._announced:
            link.publish(self._topics.state, state.to_bytes(), qos=1, retain=True)
            self._announced = state

    def _fill_window(self, link: Link) -> None:
        if time.monotonic() < self._storage_ok_from_s:
            return
        room = min(self._window, link.window) - len(self._under_way)
        known = {*self._under_way.values(), *self._confirmed_rows}
        try:
            rows = [row for row in self._outbox.window(self._window) if row.number not in known and self._is_due(row)]
            for row in rows[: max(0, room)]:
                self._send(link, row)
        except StorageFailing as err:
            self._storage_trouble(err)

    def _is_due(self, row: Row) -> bool:
        """New rows at once; those the broker has but the plant did not acknowledge later and later."""
        if row.state != SENT or row.sent_ns is None:
            return True
        wait_ns = self._resend_ns * 2 ** min(max(row.sends - 1, 0), 5)
        return not 0 <= self._utc_ns() - row.sent_ns < wait_ns  # a clock that was set back does not hold it up

    def _send(self, link: Link, row: Row) -> None:
        payload = self._outbox.payload(row.number)
        if len(payload) + len(self._topics.defect) + 16 > link.max_packet_bytes:
            payload = self._outbox.payload(row.number, picture=False)
        self._under_way[link.publish(self._topics.defect, payload, qos=1)] = row.number

    def _take(self, answer: Confirmed) -> None:
        row = self._under_way.pop(answer.mid, None)
        if row is None:  # the device's state
            return
        if answer.code >= 0x80:
            raise LinkLost("refused-publish", f"{self._broker.where}: the broker refused a report: {answer.name}")
        self.reports_sent += 1
        self.unheard += answer.code == UNHEARD
        self._confirmed_rows.append(row)

    def _mark_confirmed(self, *, at_once: bool = False) -> None:
        if not self._confirmed_rows or (not at_once and time.monotonic() < self._storage_ok_from_s):
            return
        try:
            if self._ack == "broker":
                self._outbox.ack_rows(self._confirmed_rows)
            else:
                self._outbox.mark_sent(self._confirmed_rows)
        except StorageFailing as err:
            self._storage_trouble(err)
        else:
            self._confirmed_rows.clear()

    def _take_acknowledgement(self, message: Received) -> None:
        try:
            ack = Ack.from_bytes(message.payload)
        except BadMessage:
            self._count("bad-ack")
            return
        if message.retained or ack.device != self._topics.device:
            self._count("bad-ack")
            return
        try:
            self._outbox.ack_ranges(ack.epoch, ack.ranges)
        except StorageFailing as err:  # it is sent again later, and acknowledged again
            self._storage_trouble(err)

    def _end_well(self, link: Link) -> None:
        until_s = time.monotonic() + self._drain_s
        self._turn(link, 0.0)
        while (self._under_way or self._confirmed_rows) and time.monotonic() < until_s:
            self._turn(link, 0.2)
        now = datetime.fromtimestamp(self._utc_ns() / 1e9, tz=timezone.utc)
        farewell = link.publish(self._topics.state, self._state.gone("stopped", now).to_bytes(), qos=1, retain=True)
        until_s = time.monotonic() + 1.0
        while time.monotonic() < until_s:
            link.step(0.2)
            if any(answer.mid == farewell for answer in link.take_confirmed()):
                break
        link.say_goodbye(keep_session=self._ack == "ingester")
        self.connected = False
        log.info("broker.left", broker=self._broker.where)

    def _came_up(self) -> None:
        self.connects += 1
        self.connected = True
        self._announced = None
        self._last_failure = None
        log.info("broker.connected", broker=self._broker.where, tls=self._broker.tls, protocol=self._broker.protocol)

    def _went_down(self, err: LinkLost) -> None:
        before, self._last_failure = self._last_failure, err
        self.connected = False
        self._count(err.code)
        if before is None or before.code != err.code:
            log.warning("broker.lost", code=err.code, why=str(err))

    def _count(self, code: str) -> None:
        self.failures[code] = self.failures.get(code, 0) + 1

    def _storage_trouble(self, err: StorageFailing) -> None:
        """The outbox's writer says what is wrong with the disk; here it is only asked less often."""
        self._count("storage-failing")
        self._storage_ok_from_s = time.monotonic() + STORAGE_WAIT_S
        log.debug("courier.outbox_failing", why=str(err))

    def _beat(self, may_take_s: float = 0) -> None:
        self.beat_ns = time.monotonic_ns() + round(may_take_s * 1e9)

    def _sleep(self, stop: threading.Event, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0 and not stop.wait(min(left_s, 0.5)):
            self._beat()
