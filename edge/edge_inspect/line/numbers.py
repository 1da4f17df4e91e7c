"""The line's sequence numbers: which came again, which never came.

1. A number is known for REMEMBERED_NS after its answer; each source's newest one for ever.
2. Bounded: MOST_REMEMBERED answers, the oldest forgotten first.
3. An answer is good until its deadline: a number that comes later is another part on a counter that stands still, or
   a line that asks in vain. `is_spent` says so, and again each time it comes.
"""

from __future__ import annotations

from edge_inspect.line.protocol import MOST_SEQUENCE, Answer, Trigger

REMEMBERED_NS = 5_000_000_000
MOST_REMEMBERED = 4_096
REPEATED = "repeated"


class Numbers:
    """Answers by (source, sequence number), oldest first. Not thread-safe."""

    def __init__(self) -> None:
        self._answers: dict[tuple[str, int], Answer] = {}
        self._newest: dict[str, int] = {}

    def known(self, trigger: Trigger, now_ns: int) -> Answer | None:
        """The answer to a number that comes again; None for one that is new, or long forgotten."""
        known = self._answers.get((trigger.source, trigger.sequence))
        if known is None:
            return None
        is_newest = self._newest.get(trigger.source) == trigger.sequence
        if not is_newest and now_ns - known.answered_ns > REMEMBERED_NS:
            return None
        return known

    @staticmethod
    def is_spent(known: Answer, now_ns: int) -> bool:
        """It is no answer to a trigger that comes now."""
        return known.reason == REPEATED or known.is_late(now_ns)

    def skipped_before(self, trigger: Trigger) -> int:
        """It came: how many numbers are missing between it and the one before. Backwards counts as one."""
        newest = self._newest.get(trigger.source)
        self._newest[trigger.source] = trigger.sequence
        if newest is None:
            return 0
        ahead = (trigger.sequence - newest - 1) & MOST_SEQUENCE
        return ahead if ahead < 1 << 31 else 1  # the outside began anew

    def correct(self, answer: Answer) -> None:
        """The part's answer is another one now."""
        key = (answer.trigger.source, answer.sequence)
        known = self._answers.get(key)
        if known is not None and known.part == answer.part:
            self._answers[key] = answer

    def remember(self, answer: Answer) -> None:
        key = (answer.trigger.source, answer.sequence)
        self._answers.pop(key, None)
        self._answers[key] = answer
        while True:
            key, oldest = next(iter(self._answers.items()))
            is_old = answer.answered_ns - oldest.answered_ns > REMEMBERED_NS or len(self._answers) > MOST_REMEMBERED
            if not is_old:
                return
            del self._answers[key]
            if self._newest.get(key[0]) == key[1]:  # to the end: a source that has been silent for long
                self._answers[key] = oldest
                return
