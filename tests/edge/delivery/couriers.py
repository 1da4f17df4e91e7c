"""Couriers at work in tests, and programs that listen to them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from edge_inspect.delivery.broker import Broker
from edge_inspect.delivery.courier import Courier
from edge_inspect.delivery.outbox import Outbox
from tests.edge.delivery.reports import TOPICS, state
from tests.mosquitto import Listener, Mosquitto


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
