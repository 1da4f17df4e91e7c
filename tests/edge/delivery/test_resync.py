"""The plant asks for reports again: what is there comes, what is gone is said, and no request costs much."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from edge_inspect.delivery.outbox import Outbox
from edge_inspect.delivery.paho_client import Received
from edge_inspect.delivery.plant import MOST_RANGES, STEP_REPORTS, STEP_S, Plant
from edge_wire.fields import BIG
from edge_wire.messages import Ack, Gone, Resync
from tests.edge.delivery.couriers import listening, running, until
from tests.edge.delivery.reports import DEVICE, TOPICS, part_numbers, report, without_repeats
from tests.mosquitto import Mosquitto

OTHER_EPOCH = "0123456789ab-0123456789abcdef"


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s

    def utc_ns(self) -> int:
        return round(self.now_s * 1e9)


class Answers:
    """Where Gone messages go."""

    def __init__(self) -> None:
        self.gone: list[Gone] = []

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> int:
        assert (topic, qos, retain) == (TOPICS.gone, 1, False)
        self.gone.append(Gone.from_bytes(payload))
        return len(self.gone)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def outbox(tmp_path: Path, clock: Clock) -> Iterator[Outbox]:
    box = Outbox(tmp_path / "outbox.sqlite3", device=DEVICE, utc_ns=clock.utc_ns, retain_s=3600)
    yield box
    box.close()


@pytest.fixture
def counted() -> dict[str, int]:
    return {}


@pytest.fixture
def plant(outbox: Outbox, clock: Clock, counted: dict[str, int]) -> Plant:
    def count(code: str) -> None:
        counted[code] = counted.get(code, 0) + 1

    return Plant(outbox, TOPICS, count=count, resend_s=30.0, monotonic_s=clock)


def acked(outbox: Outbox, first: int, last: int) -> None:
    outbox.put_many([report(number) for number in range(first, last + 1)])
    assert outbox.epoch is not None
    outbox.ack_ranges(outbox.epoch, [(first, last)])


def ask(
    plant: Plant, epoch: str | None, *ranges: tuple[int, int], device: str = DEVICE, retained: bool = False
) -> None:
    assert epoch is not None
    message = Resync(device=device, epoch=epoch, ranges=ranges)
    plant.take(Received(TOPICS.resync, message.to_bytes(), retained))


def steps(plant: Plant, clock: Clock, answers: Answers, count: int = 1) -> None:
    for _ in range(count):
        clock.now_s += STEP_S
        plant.step(answers)


def test_acknowledged_reports_are_sent_again_on_request(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """As after the plant's database was restored from yesterday's backup, over a real broker."""
    outbox = Outbox(tmp_path / "real.sqlite3", device=DEVICE)
    try:
        acked(outbox, 1, 100)
        assert outbox.epoch is not None
        request = Resync(device=DEVICE, epoch=outbox.epoch, ranges=((11, 40), (99, 120)))
        with (
            listening(mosquitto, TOPICS.defect) as listener,
            listening(mosquitto, TOPICS.gone) as answers,
            running(outbox, mosquitto.url) as courier,
        ):
            until(lambda: courier.connected)
            mosquitto.wait_for_log(f"{TOPICS.resync} (QoS 1)")
            publish = ["mosquitto_pub", "-p", str(mosquitto.port), "-q", "1", "-t", TOPICS.resync, "-m"]
            subprocess.run([*publish, request.to_bytes().decode()], check=True, timeout=20)
            listener.wait_for(32)
            (answer,) = answers.wait_for(1)
            until(lambda: outbox.stats().depth == 0)
            assert courier.vitals().resynced == 32 and courier.vitals().gone == 0
        assert part_numbers(listener.payloads()) == [*range(11, 41), 99, 100]
        gone = Gone.from_bytes(answer)
        assert (gone.device, gone.epoch, gone.last_seq, gone.ranges) == (DEVICE, outbox.epoch, 100, ((101, 120),))
    finally:
        outbox.close()


def test_a_plant_that_lost_its_database_gets_everything_again(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """Ack "ingester": acknowledged, lost by the plant, asked for, sent, acknowledged."""
    outbox = Outbox(tmp_path / "real.sqlite3", device=DEVICE)
    heard: list[bytes] = []
    plant = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="plant")

    def take(client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage) -> None:
        heard.append(bytes(message.payload))
        assert outbox.epoch is not None
        seq = part_numbers(heard)[-1]
        client.publish(TOPICS.ack, Ack(device=DEVICE, epoch=outbox.epoch, ranges=((seq, seq),)).to_bytes(), qos=1)

    plant.on_message = take
    try:
        acked(outbox, 1, 60)
        assert outbox.epoch is not None
        with running(outbox, mosquitto.url, ack="ingester") as courier:
            until(lambda: courier.connected)
            mosquitto.wait_for_log(f"{TOPICS.resync} (QoS 1)")
            plant.connect("127.0.0.1", mosquitto.port)
            plant.subscribe(TOPICS.defect, qos=1)
            plant.loop_start()
            plant.publish(
                TOPICS.resync, Resync(device=DEVICE, epoch=outbox.epoch, ranges=((1, BIG),)).to_bytes(), qos=1
            )
            until(lambda: courier.vitals().resynced == 60)
            until(lambda: outbox.stats().depth == 0)
        assert sorted(without_repeats(heard)) == list(range(1, 61)) and len(heard) == 60
    finally:
        plant.disconnect()
        plant.loop_stop()
        outbox.close()


def test_a_resync_that_the_broker_does_not_let_us_hear_ends_nothing(
    new_mosquitto: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    rights = tmp_path / "acl"
    rights.write_text(f"topic write {TOPICS.base}/#\ntopic read {TOPICS.ack}\n")
    broker = new_mosquitto(f"acl_file {rights}").start()
    outbox = Outbox(tmp_path / "real.sqlite3", device=DEVICE)
    try:
        outbox.put(report(1))
        with running(outbox, broker.url) as courier:
            until(lambda: outbox.stats().depth == 0)
            assert courier.connects == 1 and not courier.failures
    finally:
        outbox.close()


def test_what_was_pruned_is_answered_as_gone(outbox: Outbox, plant: Plant, clock: Clock) -> None:
    acked(outbox, 1, 10)
    clock.now_s += 7200
    acked(outbox, 11, 20)
    outbox.prune()
    answers = Answers()
    ask(plant, outbox.epoch, (5, 15))
    steps(plant, clock, answers)
    (gone,) = answers.gone
    assert gone.ranges == ((5, 10),) and gone.last_seq == 20
    assert (plant.resynced, plant.gone) == (5, 6)
    assert [row.number for row in outbox.window(100)] == [11, 12, 13, 14, 15]


def test_an_epoch_we_do_not_know_is_gone_as_a_whole(outbox: Outbox, plant: Plant, clock: Clock) -> None:
    acked(outbox, 1, 10)
    answers = Answers()
    ask(plant, OTHER_EPOCH, (1, BIG))
    steps(plant, clock, answers)
    (gone,) = answers.gone
    assert (gone.epoch, gone.last_seq, gone.ranges) == (OTHER_EPOCH, None, ((1, BIG),))
    assert outbox.stats().depth == 0 and plant.gone == 0


def test_what_is_on_its_way_is_not_sent_twice(outbox: Outbox, plant: Plant, clock: Clock) -> None:
    outbox.put_many([report(1), report(2)])
    outbox.mark_sent([1])
    answers = Answers()
    clock.now_s += 10
    ask(plant, outbox.epoch, (1, 2))
    steps(plant, clock, answers)
    assert [row.state for row in outbox.window(10)] == [1, 0] and plant.resynced == 0 and not answers.gone
    clock.now_s += 30
    ask(plant, outbox.epoch, (1, 2))
    steps(plant, clock, answers)
    assert [row.state for row in outbox.window(10)] == [0, 0] and plant.resynced == 1


def test_a_clock_that_was_set_back_does_not_hold_a_resync_up(outbox: Outbox, plant: Plant, clock: Clock) -> None:
    outbox.put(report(1))
    outbox.mark_sent([1])
    clock.now_s -= 500_000
    ask(plant, outbox.epoch, (1, 1))
    steps(plant, clock, Answers(), 2)
    assert plant.resynced == 1


def test_the_largest_range_is_worked_off_in_small_steps(outbox: Outbox, plant: Plant, clock: Clock) -> None:
    acked(outbox, 1, 1000)
    answers = Answers()
    ask(plant, outbox.epoch, (1, BIG))
    plant.step(answers)
    plant.step(answers)  # not before it is time
    assert plant.resynced == STEP_REPORTS
    steps(plant, clock, answers, 5)
    assert plant.resynced == 1000 and plant.ranges_waiting == 0
    assert [gone.ranges for gone in answers.gone] == [((1001, BIG),)]


def test_every_other_report_gone_fits_into_the_answers(outbox: Outbox, plant: Plant, clock: Clock) -> None:
    acked(outbox, 1, 1200)
    assert outbox.epoch is not None
    with closing(sqlite3.connect(outbox.path)) as db, db:
        db.execute("DELETE FROM report WHERE seq % 2 = 0")
    answers = Answers()
    ask(plant, outbox.epoch, (1, 1200))
    steps(plant, clock, answers, 20)
    assert [pair for gone in answers.gone for pair in gone.ranges] == [(seq, seq) for seq in range(2, 1201, 2)]
    assert (plant.resynced, plant.gone) == (600, 600)


def test_ten_thousand_hostile_requests_cost_a_bounded_amount_of_work(
    outbox: Outbox, plant: Plant, clock: Clock, counted: dict[str, int]
) -> None:
    acked(outbox, 1, 500)
    answers = Answers()
    assert outbox.epoch is not None
    for number in range(10_000):
        ask(plant, outbox.epoch, (1, BIG))  # the same over and over: once
        ask(plant, OTHER_EPOCH, (number + 1, number + 1))
    assert plant.ranges_waiting == MOST_RANGES
    assert counted == {"resync-overflow": 10_000 - (MOST_RANGES - 1)}
    before = outbox.stats()
    steps(plant, clock, answers)
    assert outbox.stats().pending - before.pending <= STEP_REPORTS
    steps(plant, clock, answers, 20)
    assert plant.ranges_waiting == 0 and plant.resynced == 500
    assert len(answers.gone) <= 20 and sum(len(gone.ranges) for gone in answers.gone) == MOST_RANGES


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"garbage",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"type":"inspect.resync/1","device":"edge-1","epoch":"0123456789ab-0123456789abcdef","ranges":[]}',
        b'{"type":"inspect.resync/1","device":"edge-1","epoch":"0123456789ab-0123456789abcdef","ranges":[[2,1]]}',
        b'{"type":"inspect.resync/1","device":"edge-1","epoch":"0123456789ab-0123456789abcdef","ranges":[[0,1]]}',
        b'{"type":"inspect.resync/1","device":"edge-1","epoch":"0123456789ab-0123456789abcdef","ranges":[[1,1e300]]}',
        b'{"type":"inspect.resync/1","device":"edge-1","epoch":"0123456789ab-0123456789abcdef","ranges":['
        + b",".join([b"[1,1]"] * 1001)
        + b"]}",
        b'{"type":"inspect.resync/2","device":"edge-1","epoch":"0123456789ab-0123456789abcdef","ranges":[[1,1]]}',
        b" " * 300_000,
    ],
    ids=range(11),
)
def test_what_is_no_resync_is_counted_and_ignored(plant: Plant, counted: dict[str, int], payload: bytes) -> None:
    plant.take(Received(TOPICS.resync, payload, False))
    assert counted == {"bad-resync": 1} and plant.ranges_waiting == 0


def test_a_retained_resync_and_one_for_another_device_are_counted_and_ignored(
    outbox: Outbox, plant: Plant, counted: dict[str, int]
) -> None:
    acked(outbox, 1, 3)
    ask(plant, outbox.epoch, (1, 3), retained=True)
    ask(plant, outbox.epoch, (1, 3), device="edge-2")
    assert counted == {"bad-resync": 2} and plant.ranges_waiting == 0


def test_a_flood_of_resyncs_over_a_real_broker_leaves_new_reports_their_way(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    outbox = Outbox(tmp_path / "real.sqlite3", device=DEVICE)
    flood = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="flood")
    flood.max_queued_messages_set(0)
    try:
        acked(outbox, 1, 300)
        with listening(mosquitto, TOPICS.defect) as listener, running(outbox, mosquitto.url, drain_per_s=20) as courier:
            until(lambda: courier.connected)
            mosquitto.wait_for_log(f"{TOPICS.resync} (QoS 1)")
            flood.connect("127.0.0.1", mosquitto.port)
            flood.loop_start()
            for number in range(1500):
                wanted = Resync(device=DEVICE, epoch=OTHER_EPOCH, ranges=((number + 1, number + 1),))
                flood.publish(TOPICS.resync, wanted.to_bytes(), qos=0)
                if number % 100 == 0 and outbox.epoch is not None:
                    wanted = Resync(device=DEVICE, epoch=outbox.epoch, ranges=((1, BIG),))
                    flood.publish(TOPICS.resync, wanted.to_bytes(), qos=0)
            outbox.put(report(1000))
            courier.wake()
            until(lambda: 1000 in without_repeats(listener.payloads()))
            assert courier.connects == 1
    finally:
        flood.disconnect()
        flood.loop_stop()
        outbox.close()
