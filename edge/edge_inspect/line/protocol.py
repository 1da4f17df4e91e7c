"""What the line and the daemon say to each other: triggers in, answers out, and what an adapter must be.

1. One trigger is one part and gets exactly one answer, with the trigger's own sequence number. What an adapter could
   not put out in time it puts out as UNKNOWN, and says so (`changed`): that is the answer then.
2. Only OK is ever driven actively; everything else (no answer, a dead adapter, a cut wire) means "do not pass".
3. `tell` and `status` never wait: they hand over to the adapter's own thread or to memory.

Whoever is told answers `Hears`; an `Adapter` also has a thread and may bring triggers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol

AnswerKind = Literal["OK", "NG", "UNKNOWN"]

MOST_SEQUENCE = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Trigger:
    """A part is in front of the camera."""

    sequence: int
    """The outside's number, echoed in the answer; 0..MOST_SEQUENCE."""
    at_ns: int
    """CLOCK_MONOTONIC when it reached us."""
    source: str
    """Which adapter brought it: `modbus-server`, `gpio`, ..."""
    encoder: int | None = None
    """Encoder counts at the trigger, where the line gives them."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the line is told of one trigger."""

    sequence: int
    kind: AnswerKind
    reason: str
    """A stable short code: `no-defect`, `defect`, `deadline`, `overrun`, `camera-lost`, ..."""
    part: int
    """The camera lane's part number, as in the report."""
    trigger: Trigger
    answered_ns: int
    """CLOCK_MONOTONIC."""
    deadline_ns: int
    """CLOCK_MONOTONIC; only an UNKNOWN may be answered at or after it."""

    def is_late(self, now_ns: int) -> bool:
        """Its time is over."""
        return now_ns >= self.deadline_ns

    def as_of(self, now_ns: int) -> Answer:
        """What may be put on the wire at `now_ns`: itself, or UNKNOWN `deadline` when its time is over by then."""
        if self.kind == "UNKNOWN" or not self.is_late(now_ns):
            return self
        return replace(self, kind="UNKNOWN", reason="deadline", answered_ns=now_ns)


class Hears(Protocol):
    """Whoever is told answers: an adapter, the reject tracker."""

    def tell(self, answer: Answer) -> None:
        """Any thread; never waits: hands to the adapter's own thread or to memory."""

    def status(self, ready: bool, busy: bool) -> None:
        """Any thread; never waits. Ready: a trigger would be judged. Busy: one is being judged."""


LATE = "late"
"""Of `Adapter.counts`: answers that could not be put out before their part's deadline, all of them UNKNOWN in the end:
one that is found to have been late only when it is out is replaced."""

Changed = Callable[[Answer, int], None]
"""Hears an answer as it was told, and the CLOCK_MONOTONIC ns at which it was put out as UNKNOWN `deadline` instead, or
was lost on its way to the line that waits for it. Any thread; never waits."""


def nobody_hears(answer: Answer, at_ns: int) -> None:
    """For an adapter on its own."""


class Adapter(Hears, Protocol):
    """One connection to the outside, both ways; its thread is `line-<line>-<name>`.

    Adapters derive from it: what has a body or a value here is for those that have nothing to say about it.
    """

    name: str
    beat_ns: int | None = None
    """CLOCK_MONOTONIC of its last sign of life; None while it is allowed to stand still."""
    trouble: str = ""
    """Why the outside cannot be reached right now, in one line; empty while it can."""
    changed: Changed = staticmethod(nobody_hears)
    """Whoever must know that the line heard something else than was told; to be called without a lock."""

    def alarm(self, on: bool) -> None:
        """Any thread; never waits. Somebody must come and look: shown where there is a place for it."""
        return

    def counts(self) -> Mapping[str, int]:
        """What went otherwise than it should since the start, by short name, LATE among them; each only goes up."""
        return {}

    def run(self, stop: threading.Event, fire: Callable[[Trigger], None] | None = None) -> None:
        """Serve until `stop`, reconnect for ever by itself; on any end: the fail-safe state.

        Without `fire` it takes no triggers. `fire` never waits.
        """
