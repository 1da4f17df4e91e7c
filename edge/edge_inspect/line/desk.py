"""The desk between a line and the inspect thread: every trigger is one part and gets exactly one answer.

1. A trigger becomes a part with a number of its own, and that part is answered once: by its verdict, by the deadline
   thread, or at once when nothing can be begun with it (`overrun`, `camera-lost`, `not-ready`, ...).
2. OK and NG are told only before the deadline less the margin, which is the outputs' time to write them: what is
   reported is what could still be told. Whatever comes later is UNKNOWN `deadline`.
3. A part's picture is the first frame captured at or after its trigger + delay, and no later than the window allows.
   A frame that would be the first for two triggers is the newer one's; the older one's picture was never taken.
4. A sequence number that comes again before its deadline is no second part: it gets the same answer again. Later it
   is a part of its own, UNKNOWN `repeated`, for a counter that stands still must not pass parts.
5. Telling happens outside the lock, in the thread that answered; `status` is told by the deadline thread alone, so that
   the last word is always the true one.
6. Every part is handed to the inspect thread once, to be reported: from `due` or from `unseen`, never from both.
   An OK that an adapter could not put out in time is UNKNOWN `deadline` from then on, and comes from `withdrawn`.

    desk = Desk(deadline_ns=50_000_000, outputs=[modbus])
    desk.fire(trigger)                      any thread
    desk.run(stop)                          the deadline thread
    part = desk.due(captured_ns)            the inspect thread: whose picture is this?
    told = desk.answer(part, "OK", "no-defect")
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge_inspect.counts import LineCounts
from edge_inspect.line.numbers import REPEATED, Numbers
from edge_inspect.line.protocol import Answer, AnswerKind, Hears, Trigger
from edge_inspect.line.withdrawals import Withdrawals

CAMERA_LOST = "camera-lost"
DEADLINE = "deadline"
NO_FRAME = "no-frame"
NOT_READY = "not-ready"
OVERRUN = "overrun"

LOOK_EVERY_S = 0.05
"""How soon a change of readiness is told."""


@dataclass(slots=True)
class _Open:
    """A part between its trigger and its answer."""

    trigger: Trigger
    part: int
    frame_from_ns: int
    deadline_ns: int


class Desk:
    """One line's triggers. All times are CLOCK_MONOTONIC in ns; `clock_ns` is that clock.

    deadline_ns: after the trigger. margin_ns: so long before the deadline the deadline thread speaks.
    delay_ns, window_ns: a part's picture is taken at `trigger + delay`, at most `window` later.
    queue: triggers that may wait while one is being judged.
    trouble: why nothing can be judged right now, or ""; asked from any thread, must not wait.
    news: called when `unseen` has something; from any thread, outside the lock.
    """

    def __init__(
        self,
        deadline_ns: int,
        outputs: Sequence[Hears],
        *,
        margin_ns: int = 0,
        delay_ns: int = 0,
        window_ns: int = 1 << 62,
        queue: int = 0,
        trouble: Callable[[], str] = lambda: "",
        news: Callable[[], None] = lambda: None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.counts = LineCounts()
        self.note: Callable[[Answer], None] = lambda answer: None
        """Hears every answer before the line does; must not wait."""
        self.beat_ns: int | None = None
        self.deadline_ns = deadline_ns
        self.outputs = tuple(outputs)
        self._margin_ns = margin_ns
        self._delay_ns = delay_ns
        self._window_ns = window_ns
        self._most_open = 1 + queue
        self._trouble = trouble
        self._news = news
        self._clock_ns = clock_ns
        self._changed = threading.Condition()
        self._changes = self._changes_seen = 0
        """A change that the deadline thread has not seen keeps it from going to sleep."""
        self._held = ""
        self._ends = False
        self._parts = 0
        self._open: dict[int, _Open] = {}
        self._looking: set[int] = set()
        """In the inspect thread's hands, whether or not the line has been answered meanwhile."""
        self._told: dict[int, Answer] = {}
        """Answered by somebody else than the inspect thread, which has yet to report them."""
        self._unseen: deque[int] = deque()
        self._passed_ns = -1
        """Captured time of the newest frame that the inspect thread has been through."""
        self._numbers = Numbers()
        self._withdrawals = Withdrawals(self.counts)
        self._status: tuple[bool, bool] | None = None

    # --- any thread -----------------------------------------------------------------------------------------------

    def fire(self, trigger: Trigger) -> None:
        """A part is in front of the camera. Never waits."""
        trouble = self._trouble()
        with self._changed:
            now_ns = self._clock_ns()
            self.counts.triggers += 1
            is_open = self._is_open(trigger)  # then it will be answered with the first one
            answer = None if is_open else self._numbers.known(trigger, now_ns)
            if is_open or answer is not None:
                self.counts.repeated += 1
                if answer is not None and self._numbers.is_spent(answer, now_ns):
                    answer = self._begin(trigger, REPEATED, now_ns)
            else:
                self.counts.skipped += self._numbers.skipped_before(trigger)
                answer = self._begin(trigger, self._held or (NOT_READY if self._ends else trouble), now_ns)
            self._note_change()
        self._tell([answer] if answer else [])

    @property
    def busy(self) -> bool:
        """A part waits for its answer, or is still being looked at although its time is over."""
        return bool(self._open) or bool(self._looking)

    @property
    def ready(self) -> bool:
        """A trigger would be judged."""
        trouble = self._trouble()
        with self._changed:
            return not trouble and not self._held and not self._ends and self._occupied() < self._most_open

    def has_news(self) -> bool:
        """`unseen` or `withdrawn` has something."""
        return bool(self._unseen) or self._withdrawals.waiting

    def withdraw(self, answer: Answer, at_ns: int) -> Answer | None:
        """It could be put out only as UNKNOWN `deadline`: that, from now on, is what the line was told.

        None when it has been known before, by another adapter, or when it was UNKNOWN anyway.
        """
        with self._changed:
            withdrawn = self._withdrawals.withdraw(answer, at_ns)
            if withdrawn is not None:
                self._numbers.correct(withdrawn)
                if answer.kind == "OK":  # else it has its report
                    self.note(withdrawn)
                self._note_change()
        if withdrawn is not None and answer.kind == "OK":
            self._news()
        return withdrawn

    def hold(self, reason: str) -> None:
        """From now on nothing is judged any more: open parts and coming triggers are UNKNOWN `reason`."""
        with self._changed:
            self._held = reason
            answers = [self._close(entry, "UNKNOWN", reason) for entry in list(self._open.values())]
            self._note_change()
        self._tell(answers)

    def wind_down(self) -> None:
        """No longer ready: open parts may still get their verdict, coming triggers are UNKNOWN `not-ready`."""
        with self._changed:
            self._ends = True
            self._note_change()

    # --- the inspect thread ---------------------------------------------------------------------------------------

    def due(self, captured_ns: int) -> int | None:
        """The part whose picture this frame is, to be answered by `answer`; None when it is nobody's."""
        found = None
        with self._changed:
            self._pass(captured_ns)
            waiting = self._waiting_for(captured_ns)
            answers = [self._close(entry, "UNKNOWN", NO_FRAME) for entry in waiting[:-1]]
            for entry in waiting[-1:]:
                if captured_ns - entry.frame_from_ns > self._window_ns:
                    answers.append(self._close(entry, "UNKNOWN", NO_FRAME))
                else:
                    found = entry.part
                    self._looking.add(found)
        self._tell(answers)
        return found

    def blind(self, reason: str, at_ns: int) -> None:
        """Nothing could be seen at `at_ns`: whose picture that would have been cannot be judged."""
        with self._changed:
            self._pass(at_ns)
            # A lost camera gives no later frame either; whether a trigger after the loss can be judged, `fire` has seen
            lost = [
                entry
                for entry in self._open.values()
                if entry.part not in self._looking and reason == CAMERA_LOST and entry.trigger.at_ns <= at_ns
            ]
            answers = [self._close(entry, "UNKNOWN", reason) for entry in lost]
            answers += [self._close(entry, "UNKNOWN", reason) for entry in self._waiting_for(at_ns)]
        self._tell(answers)

    def answer(self, part: int, kind: AnswerKind, reason: str, captured_ns: int = 0) -> Answer:
        """The verdict on a part from `due` or `unseen`; tells the line unless it has been told. Returns what was told.

        To be called once for each part that they gave. `captured_ns` says nothing new to a desk.
        """
        with self._changed:
            told = self._told.pop(part, None)
            if told is not None:
                self.counts.late_verdicts += part in self._looking
                self._looking.discard(part)
                self._note_change()
                return told
            answer = self._close(self._open[part], kind, reason)
            self.counts.late_verdicts += answer.reason == DEADLINE
            self._looking.remove(part)
            del self._told[part]
        self._tell([answer])
        return answer

    def unseen(self, most: int = 16) -> list[tuple[int, str]]:
        """(part, reason) of parts that were answered without a picture and are not reported yet, oldest first."""
        with self._changed:
            parts = [self._unseen.popleft() for _ in range(min(most, len(self._unseen)))]
            return [(part, self._told[part].reason) for part in parts]

    def withdrawn(self) -> list[Answer]:
        """What parts that were answered OK have turned into since the last call, oldest first; not reported yet."""
        return self._withdrawals.take()

    # --- the deadline thread --------------------------------------------------------------------------------------

    def run(self, stop: threading.Event) -> None:
        """Answer what has no verdict in time, and tell the outputs whether we are ready and busy, until `stop`."""
        while not stop.is_set():
            self.beat_ns = self._clock_ns()
            wait_s = self.step()
            with self._changed:
                if self._changes == self._changes_seen:
                    self._changed.wait(wait_s)
        self.hold(NOT_READY)
        self._show((False, False))
        self.beat_ns = None

    def step(self) -> float:
        """What the deadline thread does each time it wakes. Returns the seconds until it has to look again."""
        with self._changed:
            self._changes_seen = self._changes
            now_ns = self._clock_ns()
            over = [entry for entry in self._open.values() if entry.deadline_ns - self._margin_ns <= now_ns]
            answers = [self._close(entry, "UNKNOWN", DEADLINE) for entry in over]
            soonest_ns = min((entry.deadline_ns - self._margin_ns for entry in self._open.values()), default=None)
        self._tell(answers)
        self._show((self.ready, self.busy))
        return LOOK_EVERY_S if soonest_ns is None else max(0.0, min(LOOK_EVERY_S, (soonest_ns - now_ns) / 1e9))

    def _show(self, status: tuple[bool, bool]) -> None:
        if status != self._status:
            self._status = status
            for output in self.outputs:
                output.status(*status)

    # --- under the lock -------------------------------------------------------------------------------------------

    def _begin(self, trigger: Trigger, reason: str, now_ns: int) -> Answer | None:
        """A new part: open, or answered at once, for `reason` if there is one."""
        at_ns = min(trigger.at_ns, now_ns)
        entry = _Open(trigger, self._parts, at_ns + self._delay_ns, at_ns + self.deadline_ns)
        self._parts += 1
        self._open[entry.part] = entry
        if not reason and self._occupied() > self._most_open:
            reason = OVERRUN
        if not reason and entry.deadline_ns - self._margin_ns <= now_ns:
            reason = DEADLINE
        if not reason and entry.frame_from_ns <= self._passed_ns:
            reason = NO_FRAME
        return self._close(entry, "UNKNOWN", reason) if reason else None

    def _occupied(self) -> int:
        """Parts that are open, and those that are still looked at although they have been answered."""
        return len(self._open) + sum(part not in self._open for part in self._looking)

    def _close(self, entry: _Open, kind: AnswerKind, reason: str) -> Answer:
        """The one place where a part gets its answer."""
        del self._open[entry.part]
        now_ns = self._clock_ns()
        if kind != "UNKNOWN" and now_ns >= entry.deadline_ns - self._margin_ns:
            kind, reason = "UNKNOWN", DEADLINE
        answer = Answer(entry.trigger.sequence, kind, reason, entry.part, entry.trigger, now_ns, entry.deadline_ns)
        self.counts.count(kind, reason, max(0, now_ns - entry.trigger.at_ns))
        self.counts.missed_deadlines += reason == DEADLINE
        self._told[entry.part] = answer
        if entry.part not in self._looking:
            self._unseen.append(entry.part)
        self._numbers.remember(answer)
        self.note(answer)
        self._note_change()
        return answer

    def _waiting_for(self, captured_ns: int) -> list[_Open]:
        """Parts without a picture whose time had come when this frame was captured, the newest last."""
        waiting = (
            entry
            for entry in self._open.values()
            if entry.part not in self._looking and entry.frame_from_ns <= captured_ns
        )
        return sorted(waiting, key=lambda entry: entry.frame_from_ns)

    def _pass(self, captured_ns: int) -> None:
        """Frames until then are gone. A camera whose time stamps lie in the future must not make every trigger late."""
        self._passed_ns = max(self._passed_ns, min(captured_ns, self._clock_ns()))

    def _is_open(self, trigger: Trigger) -> bool:
        key = (trigger.source, trigger.sequence)
        return any((entry.trigger.source, entry.trigger.sequence) == key for entry in self._open.values())

    def _note_change(self) -> None:
        self._changes += 1
        self._changed.notify_all()

    # --- outside the lock -----------------------------------------------------------------------------------------

    def _tell(self, answers: Sequence[Answer]) -> None:
        if not answers:
            return
        for answer in answers:
            for output in self.outputs:
                output.tell(answer)
        if self._unseen:
            self._news()
