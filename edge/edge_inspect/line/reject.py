"""Reject tracking: the gate stands downstream, so a part that must go is remembered until it is there.

1. Every part that was not told as OK goes, once: NG, UNKNOWN, what could not be judged at all, and an OK that could
   not be told in time.
2. Its time is the trigger's + travel, on the clock or in encoder counts; a belt that stops stops the parts on it.
3. Where a sensor sees the reject bin, each drive of the gate is confirmed within its window or it is a miss: a bad part
   is among the good ones. A part that could not be driven out in time is a miss, too.
4. A miss is an alarm (`reject-missed`) that stands for `alarm_ns` after the last one.

    tracker = RejectTracker([gpio], travel_ns=800_000_000, pulse_ms=100.0)
    tracker.tell(answer); tracker.encoder(counts); tracker.confirmed(1)         any thread
    tracker.run(stop)                                                           its own
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from edge_inspect.line.protocol import Answer

MS = 1_000_000
WRAP = 1 << 32
"""Encoders count in 32 bits at least; where they are apart by less than half of that, they can be compared."""
MOST_ON_THE_WAY = 10_000
REMEMBERED_PARTS = 4_096
LOOK_EVERY_S = 0.1


@runtime_checkable
class RejectGate(Protocol):
    """An adapter that can drive the gate."""

    def reject(self, pulse_ms: float) -> None:
        """Any thread; never waits. Drive the gate from now on for so long."""


class _Going(NamedTuple):
    """A part on its way to the gate; `due` in ns, or in encoder counts."""

    part: int
    due: int


@dataclass(slots=True)
class RejectCounts:
    rejected: int = 0
    """Parts for which the gate was due, those that were missed too."""
    confirmed: int = 0
    missed: int = 0
    unexpected: int = 0
    """Confirmations that belong to no part: something else fell into the bin."""


class RejectTracker:
    """Hears answers. Exactly one of `travel_ns` and `travel_counts`; without `confirm_ns` there is no sensor.

    gates: may be empty where the PLC drives the gate itself; then only the confirmations are watched.
    """

    def __init__(
        self,
        gates: Sequence[RejectGate],
        *,
        travel_ns: int | None = None,
        travel_counts: int | None = None,
        pulse_ms: float = 100.0,
        confirm_ns: int | None = None,
        alarm_ns: int = 300_000 * MS,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        if (travel_ns is None) == (travel_counts is None):
            raise ValueError("exactly one of travel_ns and travel_counts")
        self.beat_ns: int | None = None
        self.counts = RejectCounts()
        self._gates = tuple(gates)
        self._travel_ns = travel_ns
        self._travel_counts = travel_counts
        self._pulse_ms = pulse_ms
        self._confirm_ns = confirm_ns
        self._alarm_ns = alarm_ns
        self._clock_ns = clock_ns
        self._changed = threading.Condition()
        self._changes = self._changes_seen = 0
        self._now_counts: int | None = None
        self._going: list[_Going] = []
        self._unconfirmed: deque[int] = deque()
        """When each drive of the gate must be confirmed at the latest."""
        self._known: dict[int, bool] = {}
        """Part -> whether it goes, oldest first."""
        self._missed_ns: int | None = None

    # --- any thread -----------------------------------------------------------------------------------------------

    def tell(self, answer: Answer) -> None:
        """A part that is not OK goes, also one that was OK until now; an answer told again is the same part."""
        with self._changed:
            goes = answer.kind != "OK"
            if self._known.get(answer.part, False) or (not goes and answer.part in self._known):
                return
            self._known[answer.part] = goes
            if len(self._known) > REMEMBERED_PARTS:
                del self._known[next(iter(self._known))]
            if goes:
                self._send_off(answer)
                self._note_change()

    def status(self, ready: bool, busy: bool) -> None:
        """Says nothing about parts that are on their way."""

    def encoder(self, counts: int) -> None:
        """Where the belt is now."""
        if counts == self._now_counts:
            return
        with self._changed:
            self._now_counts = counts
            if self._travel_counts is not None and self._going:
                self._note_change()

    def confirmed(self, count: int = 1) -> None:
        """The sensor in the bin has seen `count` parts since it last said so."""
        with self._changed:
            self._give_up_late(self._clock_ns())
            for _ in range(count):
                if self._unconfirmed:
                    self._unconfirmed.popleft()
                    self.counts.confirmed += 1
                else:
                    self.counts.unexpected += 1

    @property
    def alarm(self) -> str:
        """`reject-missed` while it stands, else empty."""
        missed_ns = self._missed_ns
        return "" if missed_ns is None or self._clock_ns() - missed_ns > self._alarm_ns else "reject-missed"

    # --- its own thread -------------------------------------------------------------------------------------------

    def run(self, stop: threading.Event) -> None:
        """Drive the gate until `stop`. What the gate shows afterwards is its adapter's fail-safe state."""
        while not stop.is_set():
            self.beat_ns = self._clock_ns()
            wait_s = self.step()
            with self._changed:
                if self._changes == self._changes_seen:
                    self._changed.wait(wait_s)
        self.beat_ns = None

    def step(self) -> float:
        """Drive out what is due; returns the seconds until something may be due again."""
        with self._changed:
            self._changes_seen = self._changes
            now_ns = self._clock_ns()
            self._give_up_late(now_ns)
            drives = sum(self._arrive(going, now_ns) for going in self._take_due(now_ns))
            wait_s = LOOK_EVERY_S
            if self._travel_ns is not None and self._going:
                wait_s = min(wait_s, max(0.0, (self._going[0].due - now_ns) / 1e9))
        for _ in range(drives):
            for gate in self._gates:
                gate.reject(self._pulse_ms)
        return wait_s

    # --- under the lock -------------------------------------------------------------------------------------------

    def _note_change(self) -> None:
        self._changes += 1
        self._changed.notify_all()

    def _send_off(self, answer: Answer) -> None:
        if self._travel_ns is not None:
            due = answer.trigger.at_ns + self._travel_ns
        elif answer.trigger.encoder is not None and self._travel_counts is not None:
            due = answer.trigger.encoder + self._travel_counts
        else:  # nobody can say when it will be at the gate
            self.counts.rejected += 1
            self._miss()
            return
        place = len(self._going)
        while place and _is_before(due, self._going[place - 1].due, self._travel_counts):
            place -= 1
        self._going.insert(place, _Going(answer.part, due))
        if len(self._going) > MOST_ON_THE_WAY:  # an encoder that stands still for ever
            del self._going[0]
            self.counts.rejected += 1
            self._miss()

    def _take_due(self, now_ns: int) -> list[_Going]:
        now = now_ns if self._travel_counts is None else self._now_counts
        due = []
        while now is not None and self._going and not _is_before(now, self._going[0].due, self._travel_counts):
            due.append(self._going.pop(0))
        return due

    def _arrive(self, going: _Going, now_ns: int) -> bool:
        """It is at the gate; False when it is past it already."""
        self.counts.rejected += 1
        if self._travel_counts is None and now_ns - going.due > self._pulse_ms * MS / 2:
            self._miss()
            return False
        if self._confirm_ns is not None:
            self._unconfirmed.append(now_ns + int(self._pulse_ms * MS) + self._confirm_ns)
        return True

    def _give_up_late(self, now_ns: int) -> None:
        while self._unconfirmed and self._unconfirmed[0] < now_ns:
            self._unconfirmed.popleft()
            self._miss()

    def _miss(self) -> None:
        self.counts.missed += 1
        self._missed_ns = self._clock_ns()


def _is_before(one: int, other: int, counts: int | None) -> bool:
    """In time, or for encoder counts (`counts` is not None) on a scale that may wrap around."""
    return one < other if counts is None else 0 < (other - one) % WRAP < WRAP // 2
