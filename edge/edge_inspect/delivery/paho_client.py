"""paho's client as a Link needs it: bare of threads, of name look-ups and of opinions about broken packets.

1. What its callbacks hear is left behind in a `Heard`, for whoever drives it; nothing here decides anything.
2. No reference leads from a client back to its Link: a link that is let go closes its socket.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import Any, Literal

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge_inspect.delivery.broker import Broker
from edge_inspect.delivery.dial import Dialer

UNHEARD = 0x10
"""MQTT 5: the broker took a message for which nobody had subscribed."""
TOO_LARGE = 0x95
"""MQTT 5: the broker does not take packets of that size; mosquitto's `message_size_limit` says so in the PUBACK."""


@dataclass(frozen=True, slots=True)
class Will:
    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Received:
    topic: str
    payload: bytes
    retained: bool


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The broker's answer to a QoS 1 message."""

    mid: int
    code: int
    """MQTT 5 reason code: below 0x80 taken, UNHEARD taken for nobody."""
    name: str


@dataclass(slots=True)
class Heard:
    """What paho's callbacks leave behind; fetched from here by its Link."""

    confirmed: list[Confirmed] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    accepted: bool = False
    resumed: bool = False
    subscribed: bool = False
    denied: set[int] = field(default_factory=set)
    optional: set[int] = field(default_factory=set)
    refused: tuple[int, str] | None = None
    ended: tuple[int | None, str] | None = None
    last_error: str = ""
    window: int = 65535
    max_packet_bytes: int = 1 << 28

    def on_connect(
        self, _c: Any, _u: Any, flags: mqtt.ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        if reason.is_failure:
            self.refused = (reason.value, str(reason))
            return
        self.accepted = True
        self.resumed = flags.session_present
        self.window = getattr(properties, "ReceiveMaximum", self.window)
        self.max_packet_bytes = getattr(properties, "MaximumPacketSize", self.max_packet_bytes)

    def on_disconnect(self, _c: Any, _u: Any, flags: mqtt.DisconnectFlags, reason: ReasonCode, _p: Any) -> None:
        if self.ended is None:  # paho calls twice when the broker said why: for its packet, then for the closed socket
            self.ended = (reason.value if flags.is_disconnect_packet_from_server else None, str(reason))

    def on_publish(self, client: Any, _u: Any, mid: int, reason: ReasonCode, _p: Any) -> None:
        if mid in client.too_large:
            client.too_large.discard(mid)
            self.confirmed.append(Confirmed(mid, TOO_LARGE, "Packet too large"))
        else:
            self.confirmed.append(Confirmed(mid, reason.value, str(reason)))

    def on_subscribe(self, _c: Any, _u: Any, mid: int, reasons: list[ReasonCode], _p: Any) -> None:
        if any(reason.is_failure for reason in reasons):
            if mid in self.optional:
                self.denied.add(mid)
            else:
                self.refused = (0x87, "not allowed to subscribe")
        else:
            self.subscribed = True

    def on_message(self, _c: Any, _u: Any, message: mqtt.MQTTMessage) -> None:
        self.received.append(Received(message.topic, bytes(message.payload), message.retain))

    def on_log(self, _c: Any, _u: Any, level: int, text: str) -> None:
        if level == mqtt.MQTT_LOG_ERR:
            self.last_error = text.removeprefix("failed to receive on socket: ")


class Client(mqtt.Client):
    """paho resolves names by itself and without limit; a Dialer does it for us. And it ends the connection when
    mosquitto 2.0 answers a report above its `message_size_limit` with a code that PUBACK should not have (0x95)."""

    dialer: Dialer

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.too_large: set[int] = set()

    def _handle_pubackcomp(self, cmd: Literal["PUBACK", "PUBCOMP"]) -> MQTTErrorCode:
        packet = self._in_packet["packet"]
        if len(packet) > 2 and packet[2] == TOO_LARGE:
            self.too_large.add(int.from_bytes(packet[:2], "big"))
            self._in_packet["packet"] = packet[:2] + bytes([0x80]) + packet[3:]  # "unspecified error"
        return super()._handle_pubackcomp(cmd)

    def _create_socket_connection(self) -> socket.socket:
        return self.dialer.dial(self.host, self.port, self.connect_timeout)


def packet_bytes(topic: str, payload: bytes, qos: int, *, protocol: int) -> int:
    """Size of a PUBLISH packet on the wire (MQTT 5.0, 3.3): header, topic, packet id, empty properties, payload."""
    remaining = 2 + len(topic.encode()) + (2 if qos else 0) + (1 if protocol == 5 else 0) + len(payload)
    length_bytes = 1 + (remaining > 127) + (remaining > 16_383) + (remaining > 2_097_151)
    return 1 + length_bytes + remaining


def new_client(broker: Broker, client_id: str, clean: bool, will: Will | None, heard: Heard) -> Client:
    client = Client(
        CallbackAPIVersion.VERSION2,
        client_id=client_id,
        clean_session=None if broker.protocol == 5 else clean,
        protocol=MQTTProtocolVersion.MQTTv5 if broker.protocol == 5 else MQTTProtocolVersion.MQTTv311,
        reconnect_on_failure=False,
    )
    client.connect_timeout = broker.connect_timeout_s
    client.max_inflight_messages = 0  # no limit in paho: the window is kept by whoever publishes
    if will is not None:
        client.will_set(will.topic, will.payload, qos=1, retain=True)
    client.on_connect = heard.on_connect
    client.on_disconnect = heard.on_disconnect
    client.on_publish = heard.on_publish
    client.on_subscribe = heard.on_subscribe
    client.on_message = heard.on_message
    client.on_log = heard.on_log
    client.on_socket_open = _set_socket_options
    return client


def _set_socket_options(_client: mqtt.Client, _userdata: Any, connection: Any) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # No TCP_USER_TIMEOUT: it ends connections to peers that are alive and slow (their window stays closed for long).
    # `_keep_alive` finds the same dead ones by what leaves and what comes.
