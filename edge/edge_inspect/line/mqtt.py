"""The line over MQTT: a trigger topic in, an answer topic out, both JSON; for lines that can wait for a network.

    trigger topic   {"seq": 7}  or  {"seq": 7, "encoder": 1200}  or just  7
    answer topic    {"seq": 7, "verdict": "OK", "reason": "no-defect", "part": 3, "latency_ms": 8.4}

1. A trigger counts from the moment it reached us. How long broker and network took before is unknown to us, and how
   long they take with the answer, too: the line needs its own deadline, and silence means "do not pass".
2. Nothing old fires: no session is kept while we are away, retained triggers are refused, and so is a sequence number
   that was heard less than `repeat_s` ago (QoS 1 may deliver twice). All of it is counted.
3. `tell` never waits. An OK or NG that could not be handed to the connection before its deadline goes out as UNKNOWN
   `deadline`; one that was late when it had been handed over is followed by that.
4. A lost connection is tried again for ever; while it is away there is no answer, and that is the fail-safe state.

The connection itself (TLS, passwords, keep-alive) is handed in: `open_link` makes a `delivery.link.Link`.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import structlog

from edge_inspect.backoff import Backoff
from edge_inspect.errors import BrokerGone
from edge_inspect.line.json_form import answer_fields, parsed, trigger_from
from edge_inspect.line.protocol import LATE, Adapter, Answer, Trigger
from edge_inspect.threads import rest
from edge_inspect.waker import Waker

log = structlog.get_logger(__name__)

MOST_TRIGGER_BYTES = 1024
MOST_UNTOLD = 4096
REPEAT_S = 10.0
MOST_REMEMBERED = 4096
IDLE_S = 0.5
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 5.0
ALLOWED = '{"seq": SEQ}, {"seq": SEQ, "encoder": N} or SEQ'

Fire = Callable[[Trigger], None]


class Message(Protocol):
    @property
    def payload(self) -> bytes: ...
    @property
    def retained(self) -> bool: ...


class Link(Protocol):
    """What we need of `delivery.link.Link`; its errors are BrokerGone."""

    def connect(self) -> None: ...
    def subscribe(self, topic_filter: str) -> None: ...
    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> int: ...
    def step(self, timeout_s: float, waker: Waker | None = None) -> None: ...
    def take_received(self) -> Sequence[Message]: ...
    def take_confirmed(self) -> Sequence[object]: ...
    def say_goodbye(self) -> None: ...
    def close(self) -> None: ...
    @property
    def subscribed(self) -> bool: ...


class MqttLine(Adapter):
    """`run` once.

    open_link: makes a new, clean connection object (no kept session) at each try.
    qos: of the answers. Triggers are taken with QoS 1, if that is what they are sent with.
    """

    name = "mqtt"

    def __init__(
        self,
        open_link: Callable[[], Link],
        *,
        trigger_topic: str,
        answer_topic: str,
        qos: Literal[0, 1] = 1,
        repeat_s: float = REPEAT_S,
    ) -> None:
        self.beat_ns = None
        self.trouble = "not connected yet"
        self.lost = 0
        """Connections that ended or could not be made."""
        self.unreadable = 0
        self.retained = 0
        self.repeated = 0
        self.late = 0
        """Answers that could not be published before their deadline."""
        self._open_link = open_link
        self._trigger_topic = trigger_topic
        self._answer_topic = answer_topic
        self._qos = qos
        self._repeat_ns = round(repeat_s * 1e9)
        self._told: deque[Answer] = deque(maxlen=MOST_UNTOLD)
        self._heard: dict[int, int] = {}
        """Sequence number -> when, oldest first."""
        self._waker = Waker()

    def tell(self, answer: Answer) -> None:
        self._told.append(answer)
        self._waker.wake()

    def status(self, ready: bool, busy: bool) -> None:
        """Nothing to do: whether the device is there and well is told in its own `state` topic."""

    def counts(self) -> Mapping[str, int]:
        return {
            LATE: self.late, "lost": self.lost, "unreadable": self.unreadable, "retained": self.retained,
            "repeated": self.repeated,
        }  # fmt: skip

    def run(self, stop: threading.Event, fire: Fire | None = None) -> None:
        """Serve until `stop`; without `fire` no trigger is taken."""
        backoff = Backoff(FIRST_WAIT_S, LONGEST_WAIT_S)
        try:
            while not stop.is_set():
                link = self._open_link()
                try:
                    self._serve(link, stop, fire, backoff.reset)
                except BrokerGone as err:
                    self._say_lost(str(err))
                finally:
                    link.close()
                rest(self, backoff.next_s(), stop)
        finally:
            self._waker.close()
            self.trouble, self.beat_ns = "stopped", None

    def _serve(self, link: Link, stop: threading.Event, fire: Fire | None, works: Callable[[], None]) -> None:
        """One connection from its beginning to its end. Raises BrokerGone."""
        self.beat_ns = None  # connecting may take long
        link.connect()
        if fire is not None:
            link.subscribe(self._trigger_topic)
        while not stop.is_set():
            self.beat_ns = time.monotonic_ns()
            if self.trouble and (fire is None or link.subscribed):
                self.trouble = ""
                works()
                log.info("line.broker_connected", triggers=self._trigger_topic, answers=self._answer_topic)
            self._publish(link)
            link.step(IDLE_S, self._waker)
            for message in link.take_received():
                self._take(message, fire)
            link.take_confirmed()
        self._publish(link)
        link.say_goodbye()

    def _publish(self, link: Link) -> None:
        while self._told:
            verdict = self._told.popleft()
            now_ns = time.monotonic_ns()
            answer = verdict.as_of(now_ns)
            self._say(link, answer)
            done_ns = time.monotonic_ns()
            if verdict.is_late(done_ns):
                self.late += 1
                if answer.kind != "UNKNOWN":
                    self._say(link, verdict.as_of(done_ns))
                if verdict.trigger.source == self.name:  # else it is told to onlookers here
                    self.changed(verdict, done_ns)

    def _say(self, link: Link, answer: Answer) -> None:
        link.publish(self._answer_topic, json.dumps(answer_fields(answer)).encode(), qos=self._qos)

    def _take(self, message: Message, fire: Fire | None) -> None:
        at_ns = time.monotonic_ns()
        if message.retained:
            self.retained += 1
            self._say_refused(self.retained, "it is retained, so nobody knows how old it is")
            return
        try:
            trigger = self._trigger(message.payload, at_ns)
        except ValueError as err:
            self.unreadable += 1
            self._say_refused(self.unreadable, str(err))
            return
        if self._is_repeat(trigger):
            self.repeated += 1
            self._say_refused(self.repeated, f"number {trigger.sequence} was heard just now")
        elif fire is not None:
            fire(trigger)

    @staticmethod
    def _say_refused(times: int, why: str) -> None:
        """The 1st, 2nd, 4th, 8th ... time: a sender that does it always must not fill the log."""
        if times & (times - 1) == 0:
            log.warning("line.trigger_refused", why=why, times=times)

    def _trigger(self, payload: bytes, at_ns: int) -> Trigger:
        """Raises ValueError."""
        if len(payload) > MOST_TRIGGER_BYTES:
            raise ValueError(f"{len(payload)} bytes; allowed: at most {MOST_TRIGGER_BYTES}")
        said: Any = parsed(payload, ALLOWED)
        if not isinstance(said, dict):
            said = {"seq": said}
        if not said.keys() <= {"seq", "encoder"}:
            raise ValueError(f"unknown fields; allowed: {ALLOWED}")
        return trigger_from(said.get("seq"), said.get("encoder"), at_ns=at_ns, source=self.name)

    def _is_repeat(self, trigger: Trigger) -> bool:
        oldest_ns = trigger.at_ns - self._repeat_ns
        while self._heard:
            sequence, heard_ns = next(iter(self._heard.items()))
            if heard_ns >= oldest_ns and len(self._heard) < MOST_REMEMBERED:
                break
            del self._heard[sequence]
        if trigger.sequence in self._heard:
            return True
        self._heard[trigger.sequence] = trigger.at_ns
        return False

    def _say_lost(self, why: str) -> None:
        """One line when it goes, and one when the reason changes."""
        self.lost += 1
        if why != self.trouble:
            log.warning("line.broker_lost", why=why)
        self.trouble = why
