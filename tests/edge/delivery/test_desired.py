"""The plant's hint that there is a model: retained at a real broker, heard once, believed by nobody."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_inspect.delivery.outbox import Outbox
from edge_wire.messages import Desired
from tests.edge.delivery.couriers import running, until
from tests.edge.delivery.reports import DEVICE, TOPICS
from tests.mosquitto import Mosquitto

HINT = Desired(product="metal-plate", channel="stable", sequence=7, digest="sha256:" + "ab" * 32)


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    box = Outbox(tmp_path / "outbox.sqlite3", device=DEVICE)
    yield box
    box.close()


def publish(mosquitto: Mosquitto, payload: bytes, *options: str) -> None:
    command = ["mosquitto_pub", "-p", str(mosquitto.port), "-q", "1", "-t", TOPICS.desired, *options, "-s"]
    subprocess.run(command, input=payload, check=True, timeout=20)


def test_a_hint_that_waits_at_the_broker_is_heard(mosquitto: Mosquitto, outbox: Outbox) -> None:
    publish(mosquitto, HINT.to_bytes(), "-r")
    heard: list[Desired] = []
    with running(outbox, mosquitto.url, desired=heard.append):
        until(lambda: heard == [HINT])
        mine = HINT.model_copy(update={"device": DEVICE, "sequence": 8})
        publish(mosquitto, mine.to_bytes())
        until(lambda: heard == [HINT, mine])


def test_what_is_garbage_or_for_another_device_is_counted_and_ignored(mosquitto: Mosquitto, outbox: Outbox) -> None:
    heard: list[Desired] = []
    with running(outbox, mosquitto.url, desired=heard.append) as courier:
        mosquitto.wait_for_log(f"{TOPICS.desired} (QoS 1)")
        publish(mosquitto, b"model, please")
        publish(mosquitto, HINT.model_copy(update={"device": "edge-2"}).to_bytes())
        until(lambda: courier.failures.get("bad-desired") == 2)
        publish(mosquitto, HINT.to_bytes())
        until(lambda: heard == [HINT])


def test_a_device_that_takes_no_models_does_not_listen(mosquitto: Mosquitto, outbox: Outbox) -> None:
    with running(outbox, mosquitto.url) as courier:
        until(lambda: courier.connected)
        mosquitto.wait_for_log(f"{TOPICS.state} (QoS 1)")
        assert TOPICS.desired not in mosquitto.log()
