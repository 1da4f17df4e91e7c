"""Answers that the line did not hear as they were said: an adapter could put them out only as UNKNOWN `deadline`.

1. A part is withdrawn once, however many adapters say so; what was UNKNOWN anyway is not.
2. It is counted as what the line was told in the end.
3. A part that was OK has no report yet, and waits here to be reported as UNKNOWN; an NG has been reported as NG.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from edge_inspect.counts import LineCounts
from edge_inspect.line.protocol import Answer

MOST_REMEMBERED = 4_096


class Withdrawals:
    """`withdraw` under the lock of whose `counts` these are; the rest from any thread."""

    def __init__(self, counts: LineCounts) -> None:
        self._counts = counts
        self._known: dict[int, None] = {}
        self._waiting: deque[Answer] = deque()

    @property
    def waiting(self) -> bool:
        """`take` has something."""
        return bool(self._waiting)

    def withdraw(self, answer: Answer, at_ns: int) -> Answer | None:
        """What the part's answer is from now on; None where nothing has changed by it."""
        if answer.kind == "UNKNOWN" or answer.part in self._known:
            return None
        self._known[answer.part] = None
        if len(self._known) > MOST_REMEMBERED:
            del self._known[next(iter(self._known))]
        withdrawn = replace(answer, kind="UNKNOWN", reason="deadline", answered_ns=at_ns)
        self._counts.withdraw(answer.kind, withdrawn.reason)
        self._counts.missed_deadlines += 1
        if answer.kind == "OK":
            self._waiting.append(withdrawn)
        return withdrawn

    def take(self) -> list[Answer]:
        """What was OK and is to be reported, oldest first."""
        return [self._waiting.popleft() for _ in range(len(self._waiting))]
