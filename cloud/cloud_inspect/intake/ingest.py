"""Takes what devices report from the broker into the database, and tells them what is safe.

1. A report is acknowledged (topic `ack`) only after the transaction that holds it was committed; and only then does the
   broker get its PUBACK. Killed anywhere between, the report comes again and is found to be there.
2. What cannot be taken as a report is kept in quarantine with its reason; it never stops what follows. No device gets
   more of either than its share (`quota`).
3. While the database is gone nothing is taken: the broker holds what comes beyond `in_flight` reports, devices hold the
   rest. It is tried for ever, as the broker is; one line when either goes, one when it is back.
4. Any number of ingesters share the work (`$share/ingest/...`); each needs a name of its own.

    asyncio.run(Ingester(settings, engine).run(stop))
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from typing import Any, TypeVar

import aiomqtt
import structlog
from sqlalchemy import Engine

from cloud_inspect.db.upgrade import upgrade
from cloud_inspect.errors import BrokerGone, DatabaseGone
from cloud_inspect.intake import devices, gaps
from cloud_inspect.intake.keep import Outcome, keep
from cloud_inspect.intake.quota import Quarantine, Rates
from cloud_inspect.intake.reading import Reading, read
from cloud_inspect.intake.session import CutMessage, Session
from cloud_inspect.settings import Settings
from edge_wire.messages import Ack, BadMessage
from edge_wire.topics import Topics

log = structlog.get_logger(__name__)
Result = TypeVar("Result")

FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 10.0
STEADY_S = 10.0
"""A connection that held this long starts the back-off anew."""
LOOK_AT_GAPS_S = 30.0
SAY_AGAIN_S = 60.0
"""The same kind of trouble with messages is one line in this time."""
MAX_RANGES = 1000


class Stopped(Exception):
    """`run` is to end; what is in hand stays with the broker."""


class Ingester:
    """See the module. `counts` may be read at any time."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        *,
        utc_now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    ) -> None:
        self.counts = {"new": 0, "repeats": 0, "quarantined": 0, "unreadable": 0, "qos0": 0, "asked_again": 0}
        self.counts |= {"over_rate": 0, "quarantine_full": 0, "overflowed": 0}
        self._settings = settings
        self._engine = engine
        self._rates = Rates(settings.ingest.device_per_s)
        self._quarantine = Quarantine(settings.ingest.quarantine_rows, settings.ingest.quarantine_mib << 20)
        self._utc_now = utc_now
        self._stop: asyncio.Future[None] | None = None
        self._database_failure = ""
        self._broker_failure = ""
        self._said: dict[str, tuple[float, int]] = {}  # kind of trouble -> when it was said, how many since
        self._look_at_s = 0.0
        self._worker = ThreadPoolExecutor(1, "database")

    async def run(self, stop: asyncio.Future[None]) -> None:
        """Work until `stop` is done. Raises BadDatabase at once; the world's troubles never."""
        self._stop = stop
        wait_s = FIRST_WAIT_S
        try:
            before, now = await self._insist(upgrade, self._engine)
            log.info("ingest.database_ready", upgraded_from=before if before != now else None, revision=now)
            while not stop.done():
                since_s = time.monotonic()
                try:
                    await self._one_connection()
                except BrokerGone as err:
                    self._broker_lost(err)
                    wait_s = FIRST_WAIT_S if time.monotonic() - since_s > STEADY_S else wait_s
                    await self._pause(wait_s)
                    wait_s = min(2 * wait_s, LONGEST_WAIT_S)
        except Stopped:
            pass
        finally:
            self._worker.shutdown(wait=False, cancel_futures=True)
            log.info("ingest.stopped", **self.counts)

    async def _one_connection(self) -> None:
        mqtt, own = self._settings.mqtt, self._settings.ingest
        async with Session(mqtt, own.name, in_flight=own.in_flight, session_s=mqtt.session_s) as session:
            await session.take_part()
            self._broker_failure = ""
            log.info("ingest.connected", broker=f"{mqtt.host}:{mqtt.port}", name=own.name)
            look_every_s = min(LOOK_AT_GAPS_S, own.gap_wait_s / 2)
            assert self._stop is not None
            overflowed = 0
            while not self._stop.done():
                if session.overflowed > overflowed:
                    self.counts["overflowed"] += session.overflowed - overflowed
                    overflowed = session.overflowed
                    self._say("overflowed", "more comes at QoS 0 than can be looked at", dropped=overflowed)
                left_s = self._look_at_s - time.monotonic()
                if messages := await session.batch(own.in_flight, max(0.0, left_s), self._stop):
                    await self._take(session, messages)
                if time.monotonic() >= self._look_at_s:
                    await self._look_at_gaps(session)
                    self._look_at_s = time.monotonic() + look_every_s

    async def _take(self, session: Session, messages: Sequence[aiomqtt.Message]) -> None:
        """Read, commit, acknowledge, release: in this order."""
        readings, statements = self._sort(messages)
        if readings:
            outcome = await self._insist(
                keep, self._engine, readings, self._utc_now(), self._quarantine, session=session
            )
            self._count(outcome)
            await session.tell(_acknowledgements(outcome.acks))
            if session.refused:
                self._say("ack-refused", "the broker does not let us acknowledge", refused=session.refused)
        if statements:
            await self._insist(devices.note, self._engine, statements, self._utc_now(), session=session)
            online = await self._insist(devices.reminders, self._engine, statements, self._quarantine, session=session)
            await session.tell(_acknowledgements({topics: {epoch: set(seqs)} for topics, epoch, seqs in online}))
        session.release(messages)

    def _sort(self, messages: Sequence[aiomqtt.Message]) -> tuple[list[Reading], list[devices.Statement]]:
        readings, statements = [], []
        for message in messages:
            topic, payload = str(message.topic), _bytes(message.payload)
            if not self._rates.may(topic):
                self.counts["over_rate"] += 1
                self._say("over_rate", "this device sends more than device_per_s", topic=topic)
                continue
            if topic.endswith("/defect"):
                readings.append(read(topic, message.cut if isinstance(message, CutMessage) else payload))
                if message.qos == 0:
                    self.counts["qos0"] += 1
                    self._say("qos0", "reports come at QoS 0: the network may lose them", topic=topic)
                continue
            try:
                statements.append(devices.understand(topic, payload))
            except BadMessage as err:
                self.counts["unreadable"] += 1
                if payload:  # an empty one only clears what the broker retained
                    self._say("unreadable", str(err), topic=topic)
        return readings, statements

    async def _look_at_gaps(self, session: Session) -> None:
        own = self._settings.ingest

        def look() -> list[gaps.Request]:
            return gaps.watch(self._engine, self._utc_now(), wait_s=own.gap_wait_s, tries=own.gap_tries)

        requests = await self._insist(look, session=session)
        for request in requests:
            self.counts["asked_again"] += sum(last - first + 1 for first, last in request.message.ranges)
            heard = await session.tell([(request.topics.resync, request.message.to_bytes())])
            log.warning(
                "ingest.asked_again",
                device=request.topics.device,
                epoch=request.message.epoch,
                ranges=list(request.message.ranges[:10]),
                heard=bool(heard),
            )

    async def _insist(self, work: Callable[..., Result], *args: Any, session: Session | None = None) -> Result:
        """Do the database's work, again and again while it is gone. Raises Stopped, BrokerGone."""
        wait_s = FIRST_WAIT_S
        while True:
            try:
                result = await asyncio.get_running_loop().run_in_executor(self._worker, work, *args)
            except DatabaseGone as err:
                self._database_lost(err)
            else:
                if self._database_failure:
                    log.warning("ingest.database_back")
                self._database_failure = ""
                return result
            await self._pause(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)
            if session is not None:
                session.check()

    async def _pause(self, seconds: float) -> None:
        assert self._stop is not None
        await asyncio.wait({self._stop}, timeout=seconds * random.uniform(0.7, 1.3))
        if self._stop.done():
            raise Stopped

    def _count(self, outcome: Outcome) -> None:
        self.counts["new"] += outcome.new
        self.counts["repeats"] += outcome.repeats
        self.counts["quarantined"] += len(outcome.set_aside)
        self.counts["quarantine_full"] += len(outcome.refused)
        for reading in outcome.refused:
            self._say(
                "quarantine_full", "no more of this device is set aside", topic=reading.topic, reason=reading.reason
            )
        for reading in outcome.set_aside:
            self._say(f"quarantined-{reading.reason}", reading.detail, topic=reading.topic, reason=reading.reason)

    def _say(self, kind: str, why: str, **facts: Any) -> None:
        """One line for each kind of trouble in SAY_AGAIN_S; the next one says how many there were between."""
        said_s, since = self._said.get(kind, (-math.inf, 0))
        if time.monotonic() - said_s < SAY_AGAIN_S:
            self._said[kind] = (said_s, since + 1)
            return
        self._said[kind] = (time.monotonic(), 0)
        log.warning(f"ingest.{kind.partition('-')[0]}", why=why, unsaid=since, **facts)

    def _database_lost(self, err: DatabaseGone) -> None:
        if not self._database_failure:
            log.error("ingest.database_lost", why=str(err))
        self._database_failure = str(err)

    def _broker_lost(self, err: BrokerGone) -> None:
        if str(err) != self._broker_failure:
            log.warning("ingest.broker_lost", why=str(err))
        self._broker_failure = str(err)


def _bytes(payload: Any) -> bytes:
    return bytes(payload) if isinstance(payload, (bytes, bytearray)) else b""


def _acknowledgements(acks: Mapping[Topics, Mapping[str, set[int]]]) -> Sequence[tuple[str, bytes]]:
    """(topic, payload), as few as they can be."""
    found = []
    for topics, epochs in acks.items():
        for epoch, seqs in epochs.items():
            ranges = as_ranges(sorted(seqs))
            for start in range(0, len(ranges), MAX_RANGES):
                ack = Ack(device=topics.device, epoch=epoch, ranges=tuple(ranges[start : start + MAX_RANGES]))
                found.append((topics.ack, ack.to_bytes()))
    return found


def as_ranges(seqs: Sequence[int]) -> list[tuple[int, int]]:
    """[1, 2, 3, 7] -> [(1, 3), (7, 7)]; in order and without repeats."""
    ranges: list[tuple[int, int]] = []
    for seq in seqs:
        if ranges and seq == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], seq)
        else:
            ranges.append((seq, seq))
    return ranges
