"""The ingester's connection to the broker: nothing is confirmed to the broker before `release`.

1. The broker sends at most `in_flight` QoS 1 messages that were not released (MQTT 5 receive maximum). That bounds our
   memory, and it is how the broker learns that the database is slow or gone. What comes at QoS 0 obeys no such number:
   of it at most MOST_UNASKED wait here, the rest is dropped and counted in `overflowed`. A message that is larger than
   any of ours may be waits here as its first KiB; one above MAX_PACKET_BYTES the broker keeps from us, unseen.
2. The session is kept by the broker for `session_s` after the connection is lost; what was not released comes again.
3. A session object is one connection. Everything that ends it is a BrokerGone with one line.

aiomqtt 2 confirms on receipt; its paho client can leave that to us (`manual_ack_set`). That client, and the queue from
which a whole batch can be taken at once, are reached here and nowhere else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from typing_extensions import Self

from cloud_inspect.errors import BrokerGone
from cloud_inspect.intake.reading import Cut, cut
from cloud_inspect.settings import MqttSettings
from edge_wire.topics import subscription

GROUP = "ingest"
CONNECT_S = 3.0
ANSWER_S = 5.0
MAX_PACKET_BYTES = 8 << 20
"""No message of ours comes near it. One at a time lies whole in memory."""
SUBSCRIPTIONS = (
    (f"$share/{GROUP}/{subscription('defect')}", 1),
    (f"$share/{GROUP}/{subscription('gone')}", 1),
    (f"$share/{GROUP}/{subscription('vitals')}", 0),
    (subscription("state"), 1),  # not shared: only so does the broker send what it retains
)
MOST_UNASKED = 2000
TAKEN_OVER, NOBODY = 0x8E, 0x10
UNSAID = 0x80
"""What paho calls a connection that just ended. Some brokers end it so when a second client comes with our name."""


class CutMessage(aiomqtt.Message):
    """One that was too large; `payload` is its head."""

    cut: Cut


def _shortened(message: aiomqtt.Message) -> aiomqtt.Message:
    large = cut(message.payload) if isinstance(message.payload, (bytes, bytearray)) else None
    if large is None:
        return message
    kept = CutMessage(message.topic, large.head, message.qos, message.retain, message.mid, message.properties)
    kept.cut = large
    return kept


class _Inbox(asyncio.Queue[aiomqtt.Message]):
    """What has arrived and nobody took yet. The broker itself holds back QoS 1; QoS 0 has to end somewhere."""

    overflowed = 0

    def put_nowait(self, item: aiomqtt.Message) -> None:
        if item.qos == 0 and self.qsize() >= MOST_UNASKED:
            self.overflowed += 1
        else:
            super().put_nowait(_shortened(item))


class Session(aiomqtt.Client):
    """See the module. `async with Session(...) as session`; raises BrokerGone from every call."""

    def __init__(self, settings: MqttSettings, name: str, *, in_flight: int = 1, session_s: int = 0) -> None:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = session_s
        properties.ReceiveMaximum = in_flight
        properties.MaximumPacketSize = MAX_PACKET_BYTES
        super().__init__(
            settings.host,
            settings.port,
            username=settings.username,
            password=settings.password(),
            identifier=name,
            protocol=aiomqtt.ProtocolVersion.V5,
            timeout=ANSWER_S,
            keepalive=settings.keepalive_s,
            clean_start=session_s == 0,
            properties=properties,
            tls_context=settings.tls(),
            queue_type=_Inbox,
        )
        self.pending_calls_threshold = 1 << 16
        self.refused = 0
        """Messages of ours that the broker did not take."""
        self._where = f"{settings.host}:{settings.port}"
        self._client.manual_ack_set(True)
        self._client.connect_timeout = CONNECT_S
        self._first: asyncio.Task[aiomqtt.Message] | None = None
        self._answers: dict[int, ReasonCode] = {}

    async def __aenter__(self) -> Self:
        try:
            return await super().__aenter__()
        except (aiomqtt.MqttError, ValueError) as err:
            raise self._gone(err) from err

    async def __aexit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._first is not None:
            self._first.cancel()
            await asyncio.gather(self._first, return_exceptions=True)
        try:
            await super().__aexit__(kind, err, trace)
        except aiomqtt.MqttError as failure:
            if err is None:
                raise self._gone(failure) from failure
        finally:
            if self._disconnected.done() and not self._disconnected.cancelled():
                self._disconnected.exception()  # told above, or on the way out anyway: asyncio need not say it again
            if (connection := self._client.socket()) is not None:  # the broker went silent: nobody else closes it
                self._loop.remove_reader(connection.fileno())
                self._loop.remove_writer(connection.fileno())
                connection.close()

    @property
    def overflowed(self) -> int:
        """Messages at QoS 0 that this connection dropped because too many waited."""
        assert isinstance(self._queue, _Inbox)
        return self._queue.overflowed

    async def take_part(self) -> None:
        """Subscribe to what an ingester reads."""
        try:
            answers = await self.subscribe(list(SUBSCRIPTIONS))
        except aiomqtt.MqttError as err:
            raise self._gone(err) from err
        granted: list[ReasonCode | int] = list(answers)
        for (topic, _), answer in zip(SUBSCRIPTIONS, granted, strict=True):
            if (answer.value if isinstance(answer, ReasonCode) else answer) >= 0x80:
                raise BrokerGone(f"{self._where}: we may not subscribe to {topic}: {answer}")

    async def batch(self, limit: int, timeout_s: float, stop: asyncio.Future[Any]) -> list[aiomqtt.Message]:
        """What has arrived, at most `limit`; waits for the first one, `timeout_s` or `stop`."""
        if self._first is None:
            self._first = asyncio.ensure_future(anext(self.messages))
        done, _ = await asyncio.wait({self._first, stop}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if self._first not in done:
            return []
        first, self._first = self._first, None
        if first.exception() is not None:
            self.check()
        found = [first.result()]
        while len(found) < limit and not self._queue.empty():
            found.append(self._queue.get_nowait())
        return found

    async def tell(self, messages: Sequence[tuple[str, bytes]], *, retain: bool = False) -> int:
        """Publish (topic, payload) at QoS 1 and wait for the broker; how many reached a subscriber or its session."""
        try:
            heard = await asyncio.gather(*(self._tell_one(topic, payload, retain) for topic, payload in messages))
        except aiomqtt.MqttError as err:
            raise self._gone(err) from err
        return sum(heard)

    def release(self, messages: Iterable[aiomqtt.Message]) -> None:
        """These are taken care of: the broker may forget them and send others."""
        for message in messages:
            if message.qos:
                self._client.ack(message.mid, message.qos)

    def check(self) -> None:
        """Raise BrokerGone if the connection has ended."""
        if self._disconnected.done():
            raise self._gone(self._disconnected.exception() or aiomqtt.MqttError("the connection was closed"))

    async def _tell_one(self, topic: str, payload: bytes, retain: bool) -> bool:
        info = self._client.publish(topic, payload, qos=1, retain=retain)
        if info.rc:
            raise aiomqtt.MqttError(f"could not publish: {info.rc}")
        arrived = asyncio.Event()
        with self._pending_call(info.mid, arrived, self._pending_publishes):
            if not info.is_published():
                await self._wait_for(arrived.wait(), timeout=None)
        code = self._answers.pop(info.mid, None)
        self.refused += code is not None and code.value >= 0x80
        return code is None or (code.value < 0x80 and code.value != NOBODY)

    def _on_publish(
        self, client: Any, userdata: Any, mid: int, reason_code: ReasonCode, properties: Properties
    ) -> None:
        self._answers[mid] = reason_code
        super()._on_publish(client, userdata, mid, reason_code, properties)

    def _gone(self, err: BaseException) -> BrokerGone:
        code = getattr(err, "rc", None)
        value = code.value if isinstance(code, ReasonCode) else code
        if value == TAKEN_OVER:
            return BrokerGone(f"{self._where}: another program uses the name {self.identifier}; each needs its own")
        why = " ".join(str(code if isinstance(code, ReasonCode) else err).split())
        if value == UNSAID:
            why = f"closed without a reason; does another program use the name {self.identifier}?"
        return BrokerGone(f"{self._where}: {why or type(err).__name__}")
