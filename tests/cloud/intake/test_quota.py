"""One device that floods, or fills the quarantine, is bounded and counted; its neighbours notice nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timezone
from pathlib import Path

import aiomqtt
import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from sqlalchemy import Engine, select

from cloud_inspect.db import tables
from cloud_inspect.db.engine import open_engine, transaction
from cloud_inspect.db.upgrade import upgrade
from cloud_inspect.intake import devices
from cloud_inspect.intake.keep import keep
from cloud_inspect.intake.quota import MOST_DEVICES, Quarantine, Rates
from cloud_inspect.intake.reading import KEPT_BYTES, read
from cloud_inspect.intake.session import MOST_UNASKED, Session
from cloud_inspect.settings import DatabaseSettings, MqttSettings
from edge_inspect.delivery.outbox import Outbox
from edge_wire.messages import MAX_PAYLOAD_BYTES
from edge_wire.topics import Topics
from tests.cloud.ingesters import IngesterProcess
from tests.edge.delivery.couriers import listening, running, until
from tests.edge.delivery.reports import DEVICE, TOPICS, report, state
from tests.mosquitto import Mosquitto

NOW = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
EPOCH = "000000000001-00000000000000aa"
OTHER = Topics("plant", "press-5", "edge-9")
SOON_S = 60.0
FLOOD = 6_000


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    opened = open_engine(DatabaseSettings(url=database_url))
    upgrade(opened)
    yield opened
    opened.dispose()


def newer(seq: int, topics: Topics = TOPICS) -> tuple[str, bytes]:
    """A report that our schema refuses and whose id can be read."""
    payload = report(seq, device=topics.device).numbered(EPOCH, seq).to_bytes()
    return topics.defect, payload.replace(b"inspect.defect/1", b"inspect.defect/7")


def aside(engine: Engine) -> dict[str | None, int]:
    table, found = tables.quarantine, {}
    with transaction(engine, reads=True) as connection:
        for device in connection.execute(select(table.c.device)).scalars():
            found[device] = found.get(device, 0) + 1
    return found


def test_what_finds_no_room_in_quarantine_is_not_acknowledged_and_others_have_theirs(engine: Engine) -> None:
    quota = Quarantine(rows=5)
    first = keep(engine, [read(*newer(seq)) for seq in range(1, 4)], NOW, quota)
    more = [read(*newer(seq)) for seq in range(1, 9)] + [read(*newer(1, OTHER))]
    second = keep(engine, more, NOW, quota)
    assert first.acks == {TOPICS: {EPOCH: {1, 2, 3}}}
    told = second.acks[TOPICS][EPOCH]
    assert len(told) == 5 and told > {1, 2, 3} and second.acks[OTHER] == {EPOCH: {1}}
    assert aside(engine) == {DEVICE: 5, "edge-9": 1} and len(second.refused) == 3
    # Room again, and the device sends what it still has.
    with transaction(engine) as connection:
        connection.execute(tables.quarantine.delete())
    left = {1, 2, 3, 4, 5, 6, 7, 8} - told
    assert keep(engine, [read(*newer(seq)) for seq in left], NOW, quota).acks == {TOPICS: {EPOCH: left}}


def test_a_full_quarantine_holds_up_no_report_and_a_conflict_waits_for_room_at_its_device(engine: Engine) -> None:
    none = Quarantine(rows=0)
    good = [read(TOPICS.defect, report(seq).numbered(EPOCH, seq).to_bytes()) for seq in (1, 2)]
    junk = [read(TOPICS.defect, b"junk"), read("nonsense/defect", b"x"), read(*newer(3))]
    conflict = read(TOPICS.defect, report(77).numbered(EPOCH, 1).to_bytes())
    outcome = keep(engine, [*good, *junk, conflict], NOW, none)
    assert outcome.new == 2 and aside(engine) == {} and len(outcome.refused) == 4
    # A number names both reports: as long as one of them lies nowhere, it must not be taken for delivered.
    assert outcome.acks == {TOPICS: {EPOCH: {2}}}
    online = [devices.Statement(TOPICS, state().model_copy(update={"epoch": EPOCH}))]
    assert devices.reminders(engine, online, none) == []
    again = keep(engine, [conflict], NOW, Quarantine(rows=1))
    assert again.acks == {TOPICS: {EPOCH: {1}}} and aside(engine) == {DEVICE: 1}


def test_no_reminder_where_a_number_stands_for_two_reports(engine: Engine) -> None:
    keep(engine, [read(TOPICS.defect, report(seq).numbered(EPOCH, seq).to_bytes()) for seq in (1, 2)], NOW)
    online = [devices.Statement(TOPICS, state().model_copy(update={"epoch": EPOCH}))]
    assert devices.reminders(engine, online) == [(TOPICS, EPOCH, [1, 2])]
    keep(engine, [read(TOPICS.defect, report(77).numbered(EPOCH, 1).to_bytes())], NOW)
    assert devices.reminders(engine, online) == []


def test_quarantine_is_bounded_by_bytes_as_they_are_stored(engine: Engine) -> None:
    same = b"x" * MAX_PAYLOAD_BYTES  # and only what comes behind the kept part differs
    large = [read(TOPICS.defect, same + bytes([65 + number])) for number in range(4)]
    outcome = keep(engine, large, NOW, Quarantine(size_bytes=2 * KEPT_BYTES + 10))
    assert aside(engine) == {DEVICE: 2} and len(outcome.refused) == 2
    with transaction(engine, reads=True) as connection:
        rows = connection.execute(select(tables.quarantine.c.payload, tables.quarantine.c.size_bytes)).all()
    assert [(bytes(payload), size) for payload, size in rows] == [(b"x" * KEPT_BYTES, MAX_PAYLOAD_BYTES + 1)] * 2


def test_a_device_may_send_so_much_whatever_others_send_and_whatever_its_line() -> None:
    now_s = [100.0]
    rates = Rates(10.0, monotonic_s=lambda: now_s[0])
    flood = [f"inspect/v1/plant/line-{number}/edge-9/defect" for number in range(1000)]
    assert sum(map(rates.may, flood)) == 20
    assert all(rates.may(TOPICS.defect) for _ in range(20)) and not rates.may(TOPICS.vitals)
    now_s[0] += 1.0
    assert sum(map(rates.may, flood)) == 10
    now_s[0] += 3600.0
    assert sum(map(rates.may, flood)) == 20


def test_names_that_somebody_makes_up_take_no_memory_without_end() -> None:
    rates = Rates(10.0, monotonic_s=lambda: 1.0)
    for number in range(3 * MOST_DEVICES):
        assert rates.may(f"inspect/v1/plant/line/d{number}/defect")
    assert len(rates._left) <= MOST_DEVICES


@contextmanager
def flooding(broker: Mosquitto, messages: Callable[[int], tuple[str, bytes]]) -> Iterator[None]:
    """Another program sends FLOOD messages as fast as it can, at QoS 0; all are out at the end."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()

    def send() -> None:
        for number in range(FLOOD):
            client.publish(*messages(number)).wait_for_publish(SOON_S)

    thread = threading.Thread(target=send, name="flood")
    thread.start()
    try:
        yield
    finally:
        thread.join(SOON_S)
        client.disconnect()
        client.loop_stop()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_while_one_device_floods_another_ones_reports_arrive_and_the_quarantine_stays_small(
    mosquitto: Mosquitto,
    tmp_path: Path,
    query: Callable[[str, str], list[list[str]]],
    new_ingester: Callable[..., IngesterProcess],
) -> None:
    database_url = f"sqlite:///{tmp_path}/inspect.sqlite3"
    settings = tmp_path / "cloud.toml"
    settings.write_text("[ingest]\ndevice_per_s = 100\nquarantine_rows = 30\n")
    ingester = new_ingester(mosquitto.url, database_url, "--config", str(settings))
    ingester.wait_for("ingest.connected")
    good = report(1, device=OTHER.device)

    def flood(number: int) -> tuple[str, bytes]:
        if number % 2:
            return OTHER.defect, b"junk %d" % number
        return OTHER.defect, good.numbered(EPOCH, number + 1).to_bytes()

    with closing(Outbox(tmp_path / "device" / "outbox.sqlite3", device=DEVICE)) as outbox:
        outbox.put_many([report(number) for number in range(1, 201)])
        with (
            listening(mosquitto, OTHER.ack) as other,
            flooding(mosquitto, flood),
            running(outbox, mosquitto.url, ack="ingester", resend_s=2.0),
        ):
            until(lambda: outbox.stats().depth == 0, 120)
        until(lambda: len(other.heard) > 0, SOON_S)  # within its share the flooding device is served as well
    assert query(database_url, f"SELECT count(*) FROM report WHERE device = '{DEVICE}'") == [["200"]]
    counts = ingester.stop()
    assert query(database_url, "SELECT count(*) FROM quarantine") == [["30"]]
    assert counts["over_rate"] > 0 and counts["quarantine_full"] > 0 and "Traceback" not in ingester.log()
    for event in ("ingest.over_rate", "ingest.quarantine_full"):
        lines = [line for line in ingester.events() if line["event"] == event]
        assert lines and "edge-9" in lines[0]["topic"] and len(lines) < 10


def test_a_flood_at_qos_0_is_dropped_and_counted_and_no_report_at_qos_1(mosquitto: Mosquitto) -> None:
    async def flooded() -> tuple[int, int]:
        async with Session(MqttSettings(url=mosquitto.url), "ingest-a", in_flight=10) as session:
            await session.take_part()
            sender = mqtt.Client(CallbackAPIVersion.VERSION2)
            sender.connect("127.0.0.1", mosquitto.port)
            sender.loop_start()
            for _ in range(MOST_UNASKED + 500):
                sender.publish(OTHER.vitals, b"flood", qos=0)
            sender.publish(OTHER.defect, b"last", qos=1).wait_for_publish(SOON_S)
            sender.disconnect()
            sender.loop_stop()
            kept: list[aiomqtt.Message] = []
            while not session.overflowed:
                await asyncio.sleep(0.01)
            while not kept or kept[-1].payload != b"last":
                kept += await session.batch(MOST_UNASKED, SOON_S, asyncio.get_running_loop().create_future())
            session.release(kept)
            return len(kept), session.overflowed

    kept, overflowed = asyncio.run(asyncio.wait_for(flooded(), 60))
    assert overflowed > 0 and kept + overflowed <= MOST_UNASKED + 501  # and what came at QoS 1 is among what is kept
