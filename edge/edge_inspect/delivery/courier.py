"""Carries reports from the outbox to the broker for as long as it takes.

1. One thread owns the connection and all state here; others only call `wake`, `announce` and `publish_vitals`.
2. What goes next, how fast and when again is the Sender's; what the plant says is the Plant's. After any loss of the
   connection what was under way is sent again: the receiver drops repeats by their number, none is left out.
3. A report leaves the outbox's window when the broker has confirmed it (ack "broker"), or when the plant has said on
   the `ack` topic that its database has it (ack "ingester"). Only the second survives a broker that loses its memory.
4. The device's state is retained: `online` after every connection, `offline` as the last will and at a clean end.
5. Connections are tried for ever with back-off and jitter (see `retry`): one line when it breaks, one when the reason
   changes, one when it is back. Every failure is counted by its code.
6. Renewed certificates and passwords are used as soon as they lie on the disk, whether there is a connection or not.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone

import structlog

from edge_inspect.delivery.broker import Broker
from edge_inspect.delivery.dial import Dialer
from edge_inspect.delivery.link import Link
from edge_inspect.delivery.link_errors import LinkLost
from edge_inspect.delivery.outages import Down, Outages
from edge_inspect.delivery.outbox import Outbox
from edge_inspect.delivery.paho_client import Confirmed, Received, Will
from edge_inspect.delivery.plant import Plant
from edge_inspect.delivery.renewal import SETTLE_S, Renewal
from edge_inspect.delivery.retry import RENEWED, TAKEN_OVER, Retry, Waits
from edge_inspect.delivery.sender import DRAIN_PER_S, RESEND_S, WINDOW, AckBy, Sender
from edge_inspect.delivery.twin import Twin
from edge_inspect.errors import StorageFailing
from edge_inspect.waker import Waker
from edge_wire.messages import Degraded, Desired, DeviceState, LinkVitals, Vitals
from edge_wire.topics import Topics

log = structlog.get_logger(__name__)

IDLE_S = 0.25
"""How often `stop` is looked at while nothing happens."""
LISTEN_S = 0.3
DRAIN_S = 3.0
SESSION_S = 3600
STORAGE_WAIT_S = 1.0
PLANT_SILENT_S = 300.0
STOPPED = "stopped"


class Courier:
    """See the module. `run(stop)` is the thread; give it its own `stop`, set after the outbox's writer has ended."""

    def __init__(
        self,
        outbox: Outbox,
        broker: Broker,
        topics: Topics,
        *,
        state: DeviceState,
        ack: AckBy = "broker",
        window: int = WINDOW,
        resend_s: float = RESEND_S,
        drain_per_s: float = DRAIN_PER_S,
        max_packet_bytes: int | None = None,
        desired: Callable[[Desired], None] | None = None,
        drain_s: float = DRAIN_S,
        settle_s: float = SETTLE_S,
        waits: Waits | None = None,
        utc_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.connected = False
        self.connects = 0
        self.bytes_sent = 0
        """PUBLISH packets handed to the broker: payload, topic and MQTT header; without TLS and TCP framing."""
        self.failures: dict[str, int] = {}
        self.beat_ns: int | None = time.monotonic_ns()
        """When the thread last moved; None once it has ended."""
        self._outbox = outbox
        self._broker = broker
        self._topics = topics
        self._state = state
        self._ack = ack
        self._drain_s = drain_s
        self._utc_ns = utc_ns
        self._vitals: Vitals | None = None
        self._waker = Waker()
        self._last_failure: LinkLost | None = None
        self._announced: DeviceState | None = None
        self._storage_ok_from_s = 0.0
        self._stop = threading.Event()
        self._dialer = Dialer(alive=self._alive)
        self._retry = Retry(waits)
        self._outages = Outages(utc_ns=utc_ns)
        self._twin = Twin()
        self._announcing: tuple[int, DeviceState] | None = None  # message id, what it says
        self._renewal = Renewal(broker, self._dialer, settle_s=settle_s)
        self._desired = desired
        self._plant = Plant(outbox, topics, count=self._count, resend_s=resend_s, desired=desired)
        self._sender = Sender(
            outbox, topics.defect, ack=ack, window=window, resend_s=resend_s, drain_per_s=drain_per_s,
            max_packet_bytes=max_packet_bytes, device=topics.device, utc_ns=utc_ns,
        )  # fmt: skip

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
            resent=self._sender.resent,
            resynced=self._plant.resynced,
            gone=self._plant.gone,
            pictures_left=self._sender.pictures_left + self._outbox.pictures_left,
            outage_s=self._outages.total_s,
            last_outage=self._outages.last,
        )

    def alarms(self) -> list[Degraded]:
        """What is wrong with delivering reports, for the device's state; texts change only when something happens."""
        found = [*self._outages.alarms(), *self._renewal.alarms()]
        if self._sender.plant_silent_s > PLANT_SILENT_S:
            minutes = round(PLANT_SILENT_S / 60)
            detail = f"the plant has acknowledged nothing for more than {minutes} minutes"
            found.append(Degraded(code="plant-silent", detail=detail))
        if self._sender.too_large:
            detail = f"{self._sender.too_large} reports wait because the broker takes none so large"
            found.append(Degraded(code="reports-too-large", detail=detail))
        return found

    @property
    def reports_sent(self) -> int:
        return self._sender.sent

    @property
    def unheard(self) -> int:
        """Reports the broker took although nobody had subscribed (only MQTT 5 brokers tell)."""
        return self._sender.unheard

    @property
    def failure(self) -> LinkLost | None:
        """Why there is no connection now; None while there is one, or before the first try."""
        return self._last_failure

    @property
    def down(self) -> Down | None:
        """Since when there is no connection and why; None while there is one."""
        return self._outages.down

    # The thread

    def run(self, stop: threading.Event) -> None:
        """Deliver until `stop`; then finish what is under way (at most `drain_s`), say goodbye and end."""
        self._stop = stop
        try:
            while not stop.is_set():
                started_s = time.monotonic()
                try:
                    self._one_connection(stop)
                except LinkLost as err:
                    if err.code == STOPPED:
                        break
                    if err.code == "closed" and self._twin.about:
                        err = LinkLost(TAKEN_OVER, f"{self._broker.where}: closed, after another one used our name")
                    held_s = time.monotonic() - started_s if self.connected else 0.0
                    self._went_down(err)
                    self._stay_away(stop, self._retry.wait_s(err.code, held_s))
        finally:
            self.beat_ns = None
            self._storage_ok_from_s = 0.0
            self._without_storage_trouble(self._sender.mark)
            self._waker.close()

    def _one_connection(self, stop: threading.Event) -> None:
        """From CONNECT to the end. Returns after a clean end, raises LinkLost otherwise."""
        will = Will(self._topics.state, self._state.gone("connection-lost", None).to_bytes())
        keep_session = self._ack == "ingester"  # acknowledgements may wait for us at the broker
        link = Link(
            self._broker, self._topics.device, will=will, clean=not keep_session,
            session_s=SESSION_S if keep_session else 0, dialer=self._dialer, alive=self._alive,
        )  # fmt: skip
        try:
            self._beat()
            self._renewal.connecting()
            link.connect()
            if keep_session:
                link.subscribe(self._topics.ack)
            link.subscribe(self._topics.resync, needed=False)
            if self._desired is not None:
                link.subscribe(self._topics.desired, needed=False)
            link.subscribe(self._topics.state, needed=False)  # before our own is published: what is kept there now?
            self._came_up(link)
            self._listen_first(link, stop)
            while not stop.is_set():
                self._turn(link, min(IDLE_S, self._sender.wait_s()))
                if self._renewal.changed() and self._renewal.usable():
                    self._leave_for_renewal(link)
            self._end_well(link)
        finally:
            self._sender.end()
            self._plant.end()
            link.close()

    def _listen_first(self, link: Link, stop: threading.Event) -> None:
        """Acknowledgements that waited for us at the broker: what they confirm need not be sent again."""
        until_s = time.monotonic() + (LISTEN_S if link.resumed else 0.0)
        while not stop.is_set() and time.monotonic() < until_s:
            self._turn(link, LISTEN_S / 3, fill=False)

    def _turn(self, link: Link, timeout_s: float, *, fill: bool = True) -> None:
        """Send what may be sent, wait for the network or a wake-up, take what came."""
        self._beat()
        self._publish_state(link)
        if (vitals := self._vitals) is not None:
            self._vitals = None
            link.publish(self._topics.vitals, vitals.to_bytes(), qos=0)
        if fill:
            self._without_storage_trouble(lambda: self._sender.fill(link))
            self._without_storage_trouble(lambda: self._plant.step(link))
        self.bytes_sent += link.take_bytes_sent()
        link.step(timeout_s, self._waker)
        for answer in link.take_confirmed():
            self._plant.answered(answer.mid, answer.code)
            self._state_answered(answer)
            self._sender.take(answer, self._broker.where)
        self._without_storage_trouble(self._sender.mark)
        for message in link.take_received():
            if message.topic == self._topics.state:
                self._look_for_twin(message)
                continue
            try:
                news = self._plant.take(message)
                if news is not None:
                    self._sender.plant_heard(news)
            except StorageFailing as err:  # it is sent again later, and acknowledged again
                self._storage_trouble(err)

    def _publish_state(self, link: Link) -> None:
        state = self._state
        if state is not self._announced:
            mid = link.publish(self._topics.state, state.to_bytes(), qos=1, retain=True)
            self._announcing = (mid, state)
            self._announced = state

    def _state_answered(self, answer: Confirmed) -> None:
        if self._announcing is not None and answer.mid == self._announcing[0]:
            self._twin.announced(self._announcing[1])
            self._announcing = None

    def _look_for_twin(self, message: Received) -> None:
        if self._twin.betrayed_by(message):
            self._count(TAKEN_OVER)
            self._outages.taken_over()
            log.warning("broker.twin", why="another device has used our name at the broker")

    def _drain(self, link: Link, *, fill: bool) -> None:
        """Let what is under way arrive, for at most `drain_s`."""
        until_s = time.monotonic() + self._drain_s
        self._turn(link, 0.0, fill=fill)
        while self._sender.busy and time.monotonic() < until_s:
            self._turn(link, 0.2, fill=fill)

    def _leave_for_renewal(self, link: Link) -> None:
        """New files work: let go of this connection in good order. Raises LinkLost with RENEWED."""
        self._drain(link, fill=False)
        link.say_goodbye(keep_session=self._ack == "ingester")
        raise LinkLost(RENEWED, f"{self._broker.where}: certificate or password is new, connecting with it")

    def _end_well(self, link: Link) -> None:
        self._drain(link, fill=True)
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

    def _came_up(self, link: Link) -> None:
        self.connects += 1
        self.connected = True
        self._announced = self._announcing = None
        self._last_failure = None
        self._outages.came_up()
        self._renewal.connected(link.broker_certificate_ends)
        self._sender.begin(link)
        log.info("broker.connected", broker=self._broker.where, tls=self._broker.tls, protocol=self._broker.protocol)

    def _went_down(self, err: LinkLost) -> None:
        before, self._last_failure = self._last_failure, err
        self.connected = False
        self._count(err.code)
        self._outages.went_down(err.code, str(err))
        if before is None or before.code != err.code:
            log.warning("broker.lost", code=err.code, why=str(err))

    def _count(self, code: str) -> None:
        self.failures[code] = self.failures.get(code, 0) + 1

    def _without_storage_trouble(self, work: Callable[[], None]) -> None:
        """Nothing is asked of an outbox that failed a moment ago."""
        if time.monotonic() < self._storage_ok_from_s:
            return
        try:
            work()
        except StorageFailing as err:
            self._storage_trouble(err)

    def _storage_trouble(self, err: StorageFailing) -> None:
        """The outbox's writer says what is wrong with the disk; here it is only asked less often."""
        self._count("storage-failing")
        self._storage_ok_from_s = time.monotonic() + STORAGE_WAIT_S
        log.debug("courier.outbox_failing", why=str(err))

    def _beat(self) -> None:
        self.beat_ns = time.monotonic_ns()

    def _alive(self) -> None:
        """Called while a connection is being made. Raises LinkLost when it is not wanted any more."""
        self._beat()
        if self._stop.is_set():
            raise LinkLost(STOPPED, f"{self._broker.where}: stopped while connecting")

    def _stay_away(self, stop: threading.Event, seconds: float) -> None:
        """Wait, but not longer than until there are new files to try."""
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0 and not stop.wait(min(left_s, 0.5)):
            self._beat()
            if self._renewal.changed():
                return
