"""Hears what devices report: each defect report once, in the order of its arrival, through lost connections.

1. A lost connection is tried again for ever; with MQTT 5 the broker keeps what comes meanwhile.
2. Repeats are dropped by (device, epoch, seq), over the last `REMEMBERED` reports.
3. What is not a report we can read is counted and said, never handed on.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator

from edge_inspect.backoff import Backoff
from edge_inspect.delivery.broker import Broker
from edge_inspect.delivery.link import Link
from edge_inspect.delivery.link_errors import LinkLost
from edge_wire.messages import BadMessage, DefectReport, ReportId

REMEMBERED = 100_000
SESSION_S = 300
STEP_S = 0.2
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 5.0


class Subscriber:
    """`tell` gets one line at every change: listening, lost and why, unreadable payloads."""

    def __init__(self, broker: Broker, topic_filter: str, *, tell: Callable[[str], None]) -> None:
        self.listened = False
        """Whether a broker has ever taken our subscription."""
        self.repeats = 0
        self.unreadable = 0
        self._broker = broker
        self._filter = topic_filter
        self._tell = tell
        self._name = f"edge-inspect-watch-{secrets.token_hex(4)}"
        self._seen: OrderedDict[ReportId, None] = OrderedDict()

    def reports(self, stop: threading.Event) -> Iterator[DefectReport | None]:
        """Every new report as it comes; None about five times a second, so that the caller can look at the clock."""
        backoff = Backoff(FIRST_WAIT_S, LONGEST_WAIT_S)
        why = ""
        while not stop.is_set():
            # Never a clean start with MQTT 5: mosquitto 2.0 does not save such a session, and our name is new anyway.
            link = Link(self._broker, self._name, clean=self._broker.protocol != 5, session_s=SESSION_S)
            try:
                link.connect()
                link.subscribe(self._filter)
                why = ""
                backoff.reset()
                yield from self._listen(link, stop)
                link.say_goodbye()
            except LinkLost as err:
                if err.code != why:
                    self._tell(f"no broker: {err}")
                why = err.code
            finally:
                link.close()
            yield from self._wait(backoff.next_s(), stop)

    def _listen(self, link: Link, stop: threading.Event) -> Iterator[DefectReport | None]:
        told = False
        while not stop.is_set():
            link.step(STEP_S)
            if link.subscribed and not told:
                self.listened = True
                self._tell(f"listening to {self._filter} on {self._broker.where}")
                told = True
            for message in link.take_received():
                report = self._read(message.payload)
                if report is not None:
                    yield report
            yield None

    def _read(self, payload: bytes) -> DefectReport | None:
        try:
            report = DefectReport.from_bytes(payload)
        except BadMessage as err:
            self.unreadable += 1
            self._tell(f"unreadable: {err}")
            return None
        if report.id in self._seen:
            self.repeats += 1
            return None
        self._seen[report.id] = None
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return report

    def _wait(self, seconds: float, stop: threading.Event) -> Iterator[None]:
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0 and not stop.wait(min(left_s, STEP_S)):
            yield None
