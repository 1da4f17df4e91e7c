"""One connection to an MQTT broker, from the first packet to the last, driven by the one thread that owns it.

1. A link is opened once and never again; after any failure it is closed and a new one is made, with certificates and
   password read anew.
2. Everything that ends it is a `LinkLost` with a stable code (`refused-auth`, `wrong-host`, `certificate-expired`,
   `name-resolution` ...) and one line for a person. Nothing is retried in here.
3. `connect` waits for the name servers (see `dial`), then a few times `connect_timeout_s`, and calls `alive` meanwhile;
   no other call waits longer than the `timeout_s` it is given.
4. A peer that went silent is noticed within 1.5 times the keep-alive, whether it still takes our bytes or not. One that
   is only slow is not silent: while what we sent before is seen to leave, we wait.

What arrives is fetched with `take_confirmed` and `take_received` by whoever calls `step`.
"""

from __future__ import annotations

import contextlib
import fcntl
import select
import ssl
import struct
import termios
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_inspect.delivery.broker import Broker
from edge_inspect.delivery.certificate_dates import dates_of
from edge_inspect.delivery.dial import Dialer
from edge_inspect.delivery.link_errors import LinkLost, from_connack, from_disconnect, from_exception
from edge_inspect.delivery.paho_client import Confirmed, Heard, Received, Will, new_client, packet_bytes
from edge_inspect.waker import Waker

RECEIVE_BYTES = 300 * 1024
"""MQTT 5: what we let the broker send us; all messages of ours are smaller."""
ANSWER_TIMES = 10
"""So many times `connect_timeout_s` a broker may take to answer our CONNECT: 30 s for a line with 10 s of delay."""


class Link:
    """See the module. `connect` first, then `step` over and over, `close` at the end whatever happened."""

    def __init__(
        self,
        broker: Broker,
        client_id: str,
        *,
        will: Will | None = None,
        clean: bool = True,
        session_s: int = 0,
        dialer: Dialer | None = None,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        self._broker = broker
        self._alive = alive
        self._clean = clean
        self._session_s = session_s
        self._bytes_sent = 0
        self._heard = Heard()
        self._last_heard_s = time.monotonic()
        self._unsent_before = 0
        self._client = new_client(broker, client_id, clean, will, self._heard)
        self._client.dialer = dialer or Dialer(alive=alive)

    @property
    def subscribed(self) -> bool:
        return self._heard.subscribed

    @property
    def window(self) -> int:
        """How many unconfirmed QoS 1 messages the broker wants at most."""
        return self._heard.window

    @property
    def max_packet_bytes(self) -> int:
        """The largest packet the broker takes; only MQTT 5 brokers tell."""
        return self._heard.max_packet_bytes

    @property
    def denied(self) -> bool:
        """Whether a subscription we can do without was refused."""
        return bool(self._heard.denied)

    @property
    def broker_certificate_ends(self) -> datetime | None:
        """Until when the broker's certificate is valid; None without TLS."""
        connection = self._client.socket()
        if not isinstance(connection, ssl.SSLSocket) or not (certificate := connection.getpeercert()):
            return None
        return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(certificate["notAfter"])), tz=timezone.utc)

    def unsent_bytes(self) -> int:
        """What the peer's kernel has not taken yet; 1 at least while a packet waits for room in ours."""
        connection = self._client.socket()
        if connection is None:
            return 0
        waiting = bytearray(4)
        try:
            fcntl.ioctl(connection, termios.TIOCOUTQ, waiting)
        except OSError:  # the connection is gone; the next step says why
            return 0
        return int(struct.unpack("i", waiting)[0]) + self._client.want_write()

    @property
    def resumed(self) -> bool:
        """The broker kept our session: what came for us meanwhile is on its way."""
        return self._heard.resumed

    def connect(self) -> None:
        """Connect and wait for the broker's answer. Raises LinkLost."""
        broker = self._broker
        try:
            if broker.username is not None:
                self._client.username_pw_set(broker.username, broker.password())
            if broker.tls:
                self._client.tls_set_context(broker.tls_context())
            self._client.connect(broker.host, broker.port, broker.keepalive_s, **self._session())
        except (OSError, ValueError, LinkLost) as err:  # ssl.SSLError and socket.gaierror are OSErrors
            raise _explained(from_exception(err, broker.where), broker) from err
        self._last_heard_s = time.monotonic()
        until_s = self._last_heard_s + ANSWER_TIMES * broker.connect_timeout_s
        while not self._heard.accepted:
            self._alive()
            if time.monotonic() > until_s:
                old = "; an old broker may want MQTT 3.1.1" if broker.protocol == 5 else ""
                raise LinkLost("timeout", f"{broker.where}: took the connection but did not answer{old}")
            self.step(0.5)

    def _session(self) -> dict[str, Any]:
        if self._broker.protocol != 5:
            return {}
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = self._session_s
        properties.MaximumPacketSize = RECEIVE_BYTES
        return {"clean_start": self._clean, "properties": properties}

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> int:
        """Send a message; its number, which `take_confirmed` names once the broker has it. Raises LinkLost."""
        info = self._client.publish(topic, payload, qos=qos, retain=retain)
        self._bytes_sent += packet_bytes(topic, payload, qos, protocol=self._broker.protocol)
        self._check(info.rc)
        self._unsent_before = self.unsent_bytes()
        return info.mid

    def subscribe(self, topic_filter: str, *, needed: bool = True) -> None:
        """Ask for QoS 1; `subscribed` becomes true once granted, refusal ends the link if it is `needed`, else it sets
        `denied`. Raises LinkLost."""
        code, mid = self._client.subscribe(topic_filter, qos=1)
        if not needed and mid is not None:
            self._heard.optional.add(mid)
        self._check(code)

    def take_bytes_sent(self) -> int:
        """PUBLISH packets handed to the socket since the last call: payload, topic and MQTT header."""
        taken, self._bytes_sent = self._bytes_sent, 0
        return taken

    def take_confirmed(self) -> list[Confirmed]:
        """The broker's answers since the last call, in their order."""
        taken, self._heard.confirmed = self._heard.confirmed, []
        return taken

    def take_received(self) -> list[Received]:
        """What arrived since the last call, in its order."""
        taken, self._heard.received = self._heard.received, []
        return taken

    def step(self, timeout_s: float, waker: Waker | None = None) -> None:
        """Wait at most `timeout_s` for the network (or the waker) and handle what came. Raises LinkLost."""
        connection = self._client.socket()
        if connection is None:
            raise self._why()
        poller = select.poll()
        poller.register(connection, select.POLLIN | (select.POLLOUT if self._client.want_write() else 0))
        if waker is not None:
            poller.register(waker, select.POLLIN)
        decrypted = isinstance(connection, ssl.SSLSocket) and connection.pending() > 0
        events = dict(poller.poll(0 if decrypted else timeout_s * 1000)).get(connection.fileno(), 0)
        if waker is not None:
            waker.drain()
        if decrypted or events & ~select.POLLOUT:
            self._last_heard_s = time.monotonic()
            self._check(self._client.loop_read())
        if events & select.POLLOUT:
            self._check(self._client.loop_write())
        if self._heard.accepted:
            self._keep_alive()

    def _keep_alive(self) -> None:
        """Ping when it is time; raise LinkLost when the peer has been silent for too long."""
        unsent, now_s = self.unsent_bytes(), time.monotonic()
        if 0 < unsent < self._unsent_before:  # a slow line: a ping would wait behind what is already queued
            self._last_heard_s = now_s
        self._unsent_before = unsent
        if unsent == 0:
            self._check(self._client.loop_misc())
        if now_s - self._last_heard_s > 1.5 * self._client.keepalive:
            raise LinkLost("silent", f"{self._broker.where}: said nothing for 1.5 times the keep-alive")

    def say_goodbye(self, *, keep_session: bool = False, timeout_s: float = 1.0) -> None:
        """Tell the broker that we leave on purpose: no last will is sent."""
        if self._broker.protocol == 5 and not keep_session:
            properties = Properties(PacketTypes.DISCONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = 0
            self._client.disconnect(properties=properties)
        else:
            self._client.disconnect()
        until_s = time.monotonic() + timeout_s
        while (connection := self._client.socket()) is not None and time.monotonic() < until_s:
            select.select([], [connection], [], 0.1)
            self._client.loop_write()

    def close(self) -> None:
        """Let go of the socket. May be called twice; never raises."""
        if (connection := self._client.socket()) is not None:
            connection.close()

    def _check(self, rc: MQTTErrorCode) -> None:
        if rc != MQTTErrorCode.MQTT_ERR_SUCCESS or self._heard.refused or self._heard.ended:
            raise self._why()

    def _why(self) -> LinkLost:
        heard, where = self._heard, self._broker.where
        if heard.refused is not None:
            return from_connack(*heard.refused, where)
        code, name = heard.ended or (None, "")
        return _explained(from_disconnect(code, name, heard.last_error, heard.accepted, where), self._broker)


def try_tls(broker: Broker, dialer: Dialer) -> None:
    """Whether broker and certificates would accept each other now, without a word of MQTT. Raises LinkLost."""
    try:
        context = broker.tls_context()
        with contextlib.closing(dialer.dial(broker.host, broker.port, broker.connect_timeout_s)) as connection:
            context.wrap_socket(connection, server_hostname=broker.host).close()
    except (OSError, ValueError, LinkLost) as err:
        raise _explained(from_exception(err, broker.where), broker) from err


def _explained(lost: LinkLost, broker: Broker) -> LinkLost:
    """TLS has no word for a certificate that is not valid yet: look into our own."""
    if lost.code != "client-certificate-refused" or broker.cert is None or (dates := dates_of(broker.cert)) is None:
        return lost
    if dates.begins <= datetime.now(timezone.utc):
        return lost
    return LinkLost(
        "client-certificate-not-yet-valid",
        f"{broker.where}: our certificate {broker.cert} is valid from {dates.begins:%Y-%m-%d %H:%M} UTC only; is this "
        "box's clock right?",
    )
