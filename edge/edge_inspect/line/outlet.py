"""The way out for parts that the camera finds by itself (recipe modes `barrier` and `frame`): nobody triggers.

1. Every verdict is told, in the order of the parts, in the thread that judged it; its sequence number is the part's.
2. With a deadline, counted from the capture of the frame that decided, what comes later is told as UNKNOWN `deadline`.
3. What an adapter could not put out in time is UNKNOWN `deadline` from then on, and comes from `withdrawn`.
4. A part that never gets a verdict is not known to be one: a line that must hear of every part has to trigger.

    outlet = Outlet([gpio])
    told = outlet.answer(part, "NG", "defect", captured_ns)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from edge_inspect.counts import LineCounts
from edge_inspect.line.desk import DEADLINE, LOOK_EVERY_S, NOT_READY
from edge_inspect.line.protocol import MOST_SEQUENCE, Answer, AnswerKind, Hears, Trigger
from edge_inspect.line.withdrawals import Withdrawals

SOURCE = "camera"
NO_DEADLINE_NS = 1 << 62


class Outlet:
    """Stands where a desk would stand; all times as there."""

    busy = False

    def __init__(
        self,
        outputs: Sequence[Hears],
        *,
        deadline_ns: int | None = None,
        trouble: Callable[[], str] = lambda: "",
        news: Callable[[], None] = lambda: None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.counts = LineCounts()
        self.note: Callable[[Answer], None] = lambda answer: None
        """Hears every answer before the line does; must not wait."""
        self.beat_ns: int | None = None
        self.outputs = tuple(outputs)
        self._allowed_ns = NO_DEADLINE_NS if deadline_ns is None else deadline_ns
        self._trouble = trouble
        self._news = news
        self._clock_ns = clock_ns
        self._held = ""
        self._ends = False
        self._status: tuple[bool, bool] | None = None
        self._counting = threading.Lock()
        self._withdrawals = Withdrawals(self.counts)
        self._wake = threading.Event()

    @property
    def ready(self) -> bool:
        return not self._ends and not self._held and not self._trouble()

    def has_news(self) -> bool:
        """`withdrawn` has something."""
        return self._withdrawals.waiting

    def withdraw(self, answer: Answer, at_ns: int) -> Answer | None:
        """As a desk does."""
        with self._counting:
            withdrawn = self._withdrawals.withdraw(answer, at_ns)
        if withdrawn is not None and answer.kind == "OK":
            self.note(withdrawn)
            self._news()
        return withdrawn

    def withdrawn(self) -> list[Answer]:
        """As a desk does."""
        return self._withdrawals.take()

    def hold(self, reason: str) -> None:
        """From now on every verdict is told as UNKNOWN `reason`."""
        self._held = reason
        self._wake.set()

    def wind_down(self) -> None:
        """No longer ready; what is still judged is told."""
        self._ends = True
        self._wake.set()

    def answer(self, part: int, kind: AnswerKind, reason: str, captured_ns: int) -> Answer:
        """Tell the verdict on a part; returns what was told."""
        now_ns = self._clock_ns()
        deadline_ns = captured_ns + self._allowed_ns
        if self._held:
            kind, reason = "UNKNOWN", self._held
        elif kind != "UNKNOWN" and now_ns >= deadline_ns:
            kind, reason = "UNKNOWN", DEADLINE
            with self._counting:
                self.counts.late_verdicts += 1
                self.counts.missed_deadlines += 1
        sequence = part & MOST_SEQUENCE
        answer = Answer(sequence, kind, reason, part, Trigger(sequence, captured_ns, SOURCE), now_ns, deadline_ns)
        with self._counting:
            self.counts.triggers += 1
            self.counts.count(kind, reason, max(0, now_ns - captured_ns))
        self.note(answer)
        for output in self.outputs:
            output.tell(answer)
        return answer

    def run(self, stop: threading.Event) -> None:
        """Tell the outputs whether we are ready, until `stop`."""
        while not stop.is_set():
            self.beat_ns = self._clock_ns()
            self.step()
            self._wake.wait(LOOK_EVERY_S)
            self._wake.clear()
        self.hold(NOT_READY)
        self.step()
        self.beat_ns = None

    def step(self) -> None:
        status = (self.ready, self.busy)
        if status != self._status:
            self._status = status
            for output in self.outputs:
                output.status(*status)
