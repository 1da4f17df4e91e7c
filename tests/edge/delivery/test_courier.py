"""What was put arrives: everything, in order, exactly once after de-duplication, whatever the broker goes through."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.edge.delivery.reports import DEVICE, TOPICS, part_numbers, report, state, without_repeats
from tests.mosquitto import Listener, Mosquitto

from edge_inspect.delivery.broker import Broker
from edge_inspect.delivery.courier import Courier
from edge_inspect.delivery.outbox import Outbox
from edge_wire.messages import DeviceState


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    box = Outbox(tmp_path / "state" / "outbox.sqlite3", device=DEVICE)
    yield box
    box.close()


@contextmanager
def running(outbox: Outbox, url: str, **settings: Any) -> Iterator[Courier]:
    """A courier at work in its thread; stopped cleanly at the end, and whatever it died of is raised."""
    broker = Broker(url, **settings.pop("broker", {}))
    courier = Courier(outbox, broker, TOPICS, state=state(), **settings)
    stop = threading.Event()
    died: list[BaseException] = []

    def body() -> None:
        try:
            courier.run(stop)
        except BaseException as err:
            died.append(err)
            raise

    thread = threading.Thread(target=body, name="courier")
    thread.start()
    try:
        yield courier
    finally:
        stop.set()
        thread.join(timeout=20)
        assert not thread.is_alive() and not died


def until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)


@contextmanager
def listening(broker: Mosquitto, topic: str) -> Iterator[Listener]:
    listener = Listener(broker, topic)
    try:
        yield listener
    finally:
        listener.close()


@pytest.mark.parametrize("protocol", [5, 311])
def test_what_was_put_arrives_in_order_and_nothing_else(mosquitto: Mosquitto, outbox: Outbox, protocol: int) -> None:
    with listening(mosquitto, "inspect/v1/plant/press-4/edge-1/defect") as listener:
        outbox.put_many([report(number, picture_bytes=2000) for number in range(1, 31)])
        with running(outbox, mosquitto.url, broker={"protocol": protocol}) as courier:
            listener.wait_for(30)
            for number in range(31, 61):
                outbox.put(report(number, picture_bytes=2000))
                courier.wake()
            listener.wait_for(60)
            until(lambda: outbox.stats().depth == 0)
        assert part_numbers(listener.payloads()) == list(range(1, 61))
        assert all(message["retain"] == 0 and message["qos"] == 1 for message in listener.heard)
    assert outbox.stats().acked == 60


def test_order_and_every_report_survive_a_broker_killed_in_the_middle(mosquitto: Mosquitto, outbox: Outbox) -> None:
    with listening(mosquitto, TOPICS.defect) as listener, running(outbox, mosquitto.url) as courier:
        for number in range(1, 401):
            outbox.put(report(number, picture_bytes=500))
            courier.wake()
            if number == 200:
                listener.wait_for(100)
                mosquitto.restart(kill=True)
        until(lambda: outbox.stats().depth == 0)
        until(lambda: len(without_repeats(listener.payloads())) >= 400)
        assert without_repeats(listener.payloads()) == list(range(1, 401))
        assert courier.connects == 2


def test_state_is_retained_online_then_offline_after_a_clean_end(mosquitto: Mosquitto, outbox: Outbox) -> None:
    with running(outbox, mosquitto.url) as courier:
        until(lambda: courier.connected)
        with listening(mosquitto, TOPICS.state) as listener:
            (online,) = listener.wait_for(1)
            assert DeviceState.from_bytes(online).status == "online"
    with listening(mosquitto, TOPICS.state) as listener:
        (offline,) = listener.wait_for(1)
        said = DeviceState.from_bytes(offline)
        assert (said.status, said.reason) == ("offline", "stopped")
        assert listener.heard[0]["retain"] == 1
