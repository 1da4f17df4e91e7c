"""The line over MQTT with a real mosquitto; the other side is mosquitto's own tools."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from edge_inspect.delivery.broker import Broker
from edge_inspect.delivery.link import Link
from edge_inspect.line.mqtt import MqttLine
from edge_inspect.line.protocol import Answer, AnswerKind, Trigger
from tests.mosquitto import Listener, Mosquitto

TRIGGERS, ANSWERS = "plant/press-4/trigger", "plant/press-4/answer"
FAR_NS = 600 * 10**9


def answer(trigger: Trigger, kind: AnswerKind = "OK", *, deadline_in_ns: int = FAR_NS) -> Answer:
    now_ns = time.monotonic_ns()
    return Answer(trigger.sequence, kind, "no-defect", 3, trigger, now_ns, now_ns + deadline_in_ns)


class Lined:
    """An MqttLine at work that answers every trigger; `triggers` are those that came."""

    def __init__(self, url: str, *, takes_triggers: bool, **settings: Any) -> None:
        broker = Broker(url, keepalive_s=5)
        self.line = MqttLine(lambda: Link(broker, "line"), trigger_topic=TRIGGERS, answer_topic=ANSWERS, **settings)
        self.triggers: list[Trigger] = []
        self.stop = threading.Event()
        self.died: list[BaseException] = []
        self._fire_or_none = self._fire if takes_triggers else None
        self.thread = threading.Thread(target=self._run, name="line-mqtt")
        self.thread.start()

    def _run(self) -> None:
        try:
            self.line.run(self.stop, self._fire_or_none)
        except BaseException as err:
            self.died.append(err)
            raise

    def _fire(self, trigger: Trigger) -> None:
        self.triggers.append(trigger)
        self.line.tell(answer(trigger))


@contextmanager
def lined(broker: Mosquitto, *, takes_triggers: bool = True, connects: bool = True, **settings: Any) -> Iterator[Lined]:
    line = Lined(broker.url, takes_triggers=takes_triggers, **settings)
    try:
        if connects:
            until(lambda: not line.line.trouble)
        yield line
    finally:
        line.stop.set()
        line.thread.join(timeout=30)
        assert not line.thread.is_alive() and not line.died


@contextmanager
def listening(broker: Mosquitto) -> Iterator[Listener]:
    listener = Listener(broker, ANSWERS)
    try:
        yield listener
    finally:
        listener.close()


def until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)


def send(broker: Mosquitto, payload: str, *options: str) -> None:
    where = ["-h", "127.0.0.1", "-p", str(broker.port), "-t", TRIGGERS, "-q", "1"]
    subprocess.run(["mosquitto_pub", *where, "-m", payload, *options], check=True, timeout=30)


def numbers(listener: Listener) -> list[int]:
    return [json.loads(payload)["seq"] for payload in listener.payloads()]


@pytest.mark.parametrize("qos", [0, 1])
def test_trigger_is_answered_with_its_own_number(mosquitto: Mosquitto, qos: int) -> None:
    with listening(mosquitto) as listener, lined(mosquitto, qos=qos) as line:
        send(mosquitto, '{"seq": 7, "encoder": 1200}')
        send(mosquitto, "8")
        heard = [json.loads(payload) for payload in listener.wait_for(2)]
        assert [(one["seq"], one["verdict"], one["part"]) for one in heard] == [(7, "OK", 3), (8, "OK", 3)]
        assert listener.heard[0]["qos"] == qos and not listener.heard[0]["retain"]
        assert [(t.sequence, t.encoder, t.source) for t in line.triggers] == [(7, 1200, "mqtt"), (8, None, "mqtt")]


def test_retained_trigger_does_not_fire(mosquitto: Mosquitto) -> None:
    send(mosquitto, "1", "-r")
    with listening(mosquitto) as listener, lined(mosquitto) as line:
        until(lambda: line.line.retained == 1)
        send(mosquitto, "2")
        listener.wait_for(1)
        assert numbers(listener) == [2] and [t.sequence for t in line.triggers] == [2]


def test_number_that_comes_twice_is_one_part(mosquitto: Mosquitto) -> None:
    with listening(mosquitto) as listener, lined(mosquitto, repeat_s=600.0) as line:
        for payload in ("5", "6", "5", "6", "7"):
            send(mosquitto, payload)
        listener.wait_for(3)
        until(lambda: line.line.repeated == 2)
        assert numbers(listener) == [5, 6, 7]


def test_number_may_come_again_later() -> None:
    line = MqttLine(lambda: pytest.fail("not needed"), trigger_topic=TRIGGERS, answer_topic=ANSWERS)
    try:
        assert not line._is_repeat(Trigger(1, 0, "mqtt"))
        assert line._is_repeat(Trigger(1, 9_000_000_000, "mqtt"))
        assert not line._is_repeat(Trigger(1, 11_000_000_000, "mqtt"))
        for sequence in range(2, 10_000):
            assert not line._is_repeat(Trigger(sequence, 11_000_000_001, "mqtt"))
        assert len(line._heard) <= 4096
    finally:
        line._waker.close()


@pytest.mark.parametrize("payload", ["", "go", "{}", "[7]", "-1", "4294967296", "true", "1.5", '{"seq": 1, "x": 2}'])
def test_garbage_is_counted_and_the_line_goes_on(mosquitto: Mosquitto, payload: str) -> None:
    with listening(mosquitto) as listener, lined(mosquitto) as line:
        send(mosquitto, payload) if payload else send(mosquitto, "9" * 2000)
        send(mosquitto, "3")
        listener.wait_for(1)
        assert numbers(listener) == [3] and line.line.unreadable == 1


def test_broker_killed_and_back_is_found_again(mosquitto: Mosquitto) -> None:
    with listening(mosquitto) as listener, lined(mosquitto) as line:
        send(mosquitto, "1")
        listener.wait_for(1)
        mosquitto.kill()
        until(lambda: bool(line.line.trouble))
        mosquitto.start()
        until(lambda: not line.line.trouble)
        send(mosquitto, "2")
        listener.wait_for(2)
        assert numbers(listener) == [1, 2] and line.line.lost >= 1


def test_trigger_sent_while_we_were_away_never_fires(mosquitto: Mosquitto) -> None:
    with lined(mosquitto) as line:
        send(mosquitto, "1")
        until(lambda: len(line.triggers) == 1)
    send(mosquitto, "2")
    with lined(mosquitto) as line:
        send(mosquitto, "3")
        until(lambda: bool(line.triggers))
        assert [t.sequence for t in line.triggers] == [3]


def test_answers_wait_for_the_broker_and_are_never_ok_past_their_deadline(mosquitto: Mosquitto) -> None:
    with listening(mosquitto) as listener, lined(mosquitto, takes_triggers=False) as line:
        mosquitto.stop()
        until(lambda: bool(line.line.trouble))
        for number, kind, deadline_in_ns in ((1, "OK", -1), (2, "NG", FAR_NS), (3, "UNKNOWN", -1), (4, "OK", FAR_NS)):
            trigger = Trigger(number, time.monotonic_ns(), "gpio")
            line.line.tell(answer(trigger, kind, deadline_in_ns=deadline_in_ns))  # type: ignore[arg-type]
        mosquitto.start()
        heard = [json.loads(payload) for payload in listener.wait_for(4)]
        assert [(one["seq"], one["verdict"]) for one in heard] == [(1, "UNKNOWN"), (2, "NG"), (3, "UNKNOWN"), (4, "OK")]
        assert heard[0]["reason"] == "deadline" and line.line.counts()["late"] == 2


def test_telling_without_a_broker_waits_for_nothing_and_is_bounded(mosquitto: Mosquitto) -> None:
    mosquitto.stop()
    with lined(mosquitto, connects=False) as line:
        for number in range(10_000):
            line.line.tell(answer(Trigger(number, 0, "gpio")))
        assert len(line.line._told) <= 4096


def test_silent_broker_is_noticed_and_the_line_comes_back(mosquitto: Mosquitto) -> None:
    with lined(mosquitto) as line:
        mosquitto.freeze()
        try:
            until(lambda: bool(line.line.trouble))
        finally:
            mosquitto.thaw()
        until(lambda: not line.line.trouble)
        send(mosquitto, "4")
        until(lambda: [t.sequence for t in line.triggers] == [4])
