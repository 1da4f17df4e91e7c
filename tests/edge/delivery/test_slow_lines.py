"""A thin line, a long one, and one that is reset all the time: everything arrives, in order, and little of it twice.

Short figures by default; EDGE_INSPECT_LONG=1 runs 1 kB/s, 10 s of delay each way and 200 chances of a reset (about
6 minutes).
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edge_inspect.delivery.courier import Courier
from edge_inspect.delivery.outbox import Outbox
from edge_inspect.delivery.retry import Waits
from edge_inspect.delivery.sender import UNSENT_BYTES, WINDOW
from edge_wire.messages import Ack, DefectReport
from tests.edge.delivery.couriers import listening, running, until
from tests.edge.delivery.reports import DEVICE, TOPICS, report, without_repeats
from tests.mosquitto import Mosquitto
from tests.sim.chaos import ChaosProxy

LONG = bool(os.environ.get("EDGE_INSPECT_LONG"))
SOON = Waits(network=(0.05, 0.3, 10.0), says_no=(0.05, 0.3, 10.0), taken_over=(0.5, 2.0, 3600.0))
KERNEL_BYTES = 64 * 1024
"""What sockets of this machine and the proxy may hold of what has left the courier."""

pytestmark = pytest.mark.timeout(900 if LONG else 120)


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    with closing(Outbox(tmp_path / "outbox.sqlite3", device=DEVICE)) as box:
        yield box


@contextmanager
def plant(broker: Mosquitto) -> Iterator[list[bytes]]:
    """Acknowledges every report as an ingester would; what it heard, repeats and all."""
    heard: list[bytes] = []

    def hear(client: mqtt.Client, _: object, message: mqtt.MQTTMessage) -> None:
        heard.append(message.payload)
        found = DefectReport.from_bytes(message.payload)
        ack = Ack(device=DEVICE, epoch=found.epoch, ranges=((found.seq, found.seq),))
        client.publish(TOPICS.ack, ack.to_bytes(), qos=1)

    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="plant", protocol=MQTTProtocolVersion.MQTTv5)
    client.on_message = hear
    client.connect("127.0.0.1", broker.port)
    client.subscribe(TOPICS.defect, qos=1)
    client.loop_start()
    try:
        broker.wait_for_log("Sending SUBACK to plant")
        yield heard
    finally:
        client.disconnect()
        client.loop_stop()


def most_held(courier: Courier, outbox: Outbox, timeout_s: float) -> tuple[int, int]:
    """The most reports, and the most bytes of them, that were in memory at once until the outbox was empty."""
    reports = size_bytes = 0

    def all_gone() -> bool:
        nonlocal reports, size_bytes
        held = list(courier._sender._under_way.copy().values())
        reports, size_bytes = max(reports, len(held)), max(size_bytes, sum(size for _, size in held))
        return outbox.stats().depth == 0

    until(all_gone, timeout_s)
    return reports, size_bytes


@pytest.mark.slow
def test_a_thin_line_gets_everything_in_order_and_holds_no_more_than_it_can_take(
    mosquitto: Mosquitto, outbox: Outbox
) -> None:
    """Pictures travel with their reports: none is overtaken by the small ones behind it."""
    rate_bytes_s, count = (1000.0, 100) if LONG else (40_000.0, 60)
    pictures = {5: 6000, 6: 30_000, 7: 20_000}
    with listening(mosquitto, TOPICS.defect) as listener, ChaosProxy(mosquitto.port, narrow=True) as net:
        net.up_rate_bytes_s = rate_bytes_s
        outbox.put_many([report(number, picture_bytes=pictures.get(number, 0)) for number in range(1, count + 1)])
        with running(outbox, f"mqtt://127.0.0.1:{net.port}", drain_per_s=10_000) as courier:
            most, most_bytes = most_held(courier, outbox, 800 if LONG else 90)
            assert courier.connects == 1 and not courier.failures
        payloads = listener.wait_for(count)
    assert without_repeats(payloads) == list(range(1, count + 1)) and len(payloads) == count
    assert 1 < most <= WINDOW and most_bytes < UNSENT_BYTES + KERNEL_BYTES + max(map(len, payloads))


@pytest.mark.slow
def test_a_long_line_is_not_taken_for_a_dead_one_and_nothing_is_sent_over_and_over(
    mosquitto: Mosquitto, outbox: Outbox
) -> None:
    """Each way takes half a keep-alive and a third of the time after which a report is sent again."""
    delay_s, count = (10.0, 200) if LONG else (0.4, 60)
    with plant(mosquitto) as heard, ChaosProxy(mosquitto.port) as net:
        net.delay_s = delay_s
        outbox.put_many([report(number) for number in range(1, count + 1)])
        settings = {"broker": {"keepalive_s": 20 if LONG else 8}, "resend_s": 30.0 if LONG else 8.0}
        with running(outbox, f"mqtt://127.0.0.1:{net.port}", ack="ingester", drain_s=0.0, **settings) as courier:
            most, _ = most_held(courier, outbox, 600 if LONG else 60)
            assert courier.connects == 1 and not courier.failures
        assert most <= WINDOW + WINDOW // 5
        assert set(without_repeats(heard)) == set(range(1, count + 1))
        assert len(heard) - count <= count // 50


@pytest.mark.slow
def test_a_line_that_is_reset_three_times_in_ten_repeats_no_more_than_what_was_under_way(
    mosquitto: Mosquitto, outbox: Outbox
) -> None:
    rng, batches, resets = random.Random(3), 200 if LONG else 20, 0
    with plant(mosquitto) as heard, ChaosProxy(mosquitto.port) as net:
        net.delay_s = 0.02
        with running(outbox, f"mqtt://127.0.0.1:{net.port}", ack="ingester", waits=SOON) as courier:
            for batch in range(batches):
                outbox.put_many([report(batch * 10 + number) for number in range(1, 11)])
                courier.wake()
                until(lambda: courier._sender.busy)
                if rng.random() < 0.3:
                    connects, resets = courier.connects, resets + 1
                    net.reset()
                    until(lambda connects=connects: courier.connects > connects)  # type: ignore[misc]
            until(lambda: outbox.stats().depth == 0, 90)
        assert set(without_repeats(heard)) == set(range(1, batches * 10 + 1))
        assert resets >= batches // 5 and len(heard) - batches * 10 <= WINDOW * resets
