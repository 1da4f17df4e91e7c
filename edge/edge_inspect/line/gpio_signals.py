"""What the output wires show at a moment: pulses, gaps, levels. No wires here, and time is an argument.

1. OK is on only while an OK is shown in time: one that comes to its turn after its deadline is shown as NG, and one
   whose wire was found to have gone on too late (`too_late`) becomes NG at once.
2. Every answer is an edge of its own: between two there is a gap, even where the earlier pulse must be cut for it.
3. Nothing is shown of what was to be told while the wires were away.

    signals = Signals(output="pulse", pulse_ms=50)
    signals.answer(answer)
    levels, next_ns = signals.levels(now_ns), signals.next_ns(now_ns)
"""

from __future__ import annotations

from collections import deque
from dataclasses import astuple, dataclass
from typing import Literal

from edge_inspect.line.protocol import Answer

MOST_UNTOLD = 64
REST_AFTER_NS = 200_000_000
"""Neither ready nor busy for so long: nobody judges. Between two parts it may be so for a moment."""
GAP_SHARE = 4
"""A gap, and the least that is left of a pulse, is this part of `pulse_ms`."""


@dataclass(frozen=True, slots=True)
class Levels:
    """True: the wire says "on"; whether that is high or low is the wire's matter."""

    ok: bool = False
    ng: bool = False
    busy: bool = False
    ready: bool = False
    reject: bool = False
    heartbeat: bool = False


@dataclass(frozen=True, slots=True)
class Wires:
    """Which line of the chip is what; None is not there."""

    trigger: int | None = None
    encoder: int | None = None
    confirm: int | None = None
    ok: int | None = None
    ng: int | None = None
    busy: int | None = None
    ready: int | None = None
    reject: int | None = None
    heartbeat: int | None = None

    def outputs(self, levels: Levels) -> dict[int, bool]:
        """Line -> level, for those that are there."""
        named = {
            self.ok: levels.ok,
            self.ng: levels.ng,
            self.busy: levels.busy,
            self.ready: levels.ready,
            self.reject: levels.reject,
            self.heartbeat: levels.heartbeat,
        }
        return {line: level for line, level in named.items() if line is not None}

    def __post_init__(self) -> None:
        used = [line for line in astuple(self) if line is not None]
        if len(used) != len(set(used)):
            raise ValueError(f"a GPIO line is given twice: {sorted(used)}")


class Signals:
    """For one thread, which hands in everything that happens and asks for `levels` at `next_ns`.

    output: `pulse`: OK and NG for `pulse_ms`; `latch`: until the next trigger or answer.
    rejects_at_rest: the reject wire is on while nobody judges.
    heartbeat_ms: how often the heartbeat changes.
    """

    def __init__(
        self,
        *,
        output: Literal["pulse", "latch"] = "pulse",
        pulse_ms: float = 50.0,
        rejects_at_rest: bool = False,
        heartbeat_ms: float = 250.0,
    ) -> None:
        self.cut = 0
        """Pulses that were shortened because the next answer was there."""
        self.untold = 0
        """Answers that were never shown: too many at once, or the wires were away."""
        self.late = 0
        """Answers whose turn came at or after their deadline: shown as NG."""
        self.changed: list[Answer] = []
        """Those that were shown as NG for it; for the caller to tell on, and to clear."""
        self.lost: list[Answer] = []
        """Those that were never shown; for the caller, too."""
        self.rest = Levels(reject=rejects_at_rest)
        """While nobody judges: at the start, at the end, and while neither ready nor busy."""
        self._latches = output == "latch"
        self._pulse_ns = round(pulse_ms * 1e6)
        self._gap_ns = self._pulse_ns // GAP_SHARE
        self._heartbeat_ns = round(heartbeat_ms * 1e6)
        self._answers: deque[Answer] = deque()
        self._shown: Literal["OK", "NG"] | None = None
        self._fresh: Answer | None = None
        """Its OK is on since the last look at `levels`."""
        self._since_ns = 0
        self._free_at_ns = 0
        self._reject_until_ns = 0
        self._ready = self._busy = False
        self._nobody_since_ns: int | None = -REST_AFTER_NS

    def answer(self, answer: Answer) -> None:
        if len(self._answers) >= MOST_UNTOLD:
            self.lost.append(self._answers.popleft())
            self.untold += 1
        self._answers.append(answer)

    def trigger(self, now_ns: int) -> None:
        """A new part is there: a latched answer to the one before ends."""
        if self._latches and self._shown is not None:
            self._clear(now_ns)

    def status(self, ready: bool, busy: bool) -> None:
        self._ready, self._busy = ready, busy

    def reject(self, now_ns: int, pulse_ms: float) -> None:
        """Drive the gate for so long; two parts in a row are one long pulse."""
        self._reject_until_ns = max(self._reject_until_ns, now_ns + round(pulse_ms * 1e6))

    def forget(self) -> None:
        """The wires were away: what was to be told is over."""
        self.untold += len(self._answers)
        self.lost += self._answers
        self._answers.clear()
        self._shown = None
        self._reject_until_ns = 0

    def too_late(self, now_ns: int) -> bool:
        """The wires show what `levels` said; True if an OK among it was late by now, and they must show NG instead."""
        fresh, self._fresh = self._fresh, None
        if fresh is None or not fresh.is_late(now_ns):
            return False
        self.late += 1
        self.changed.append(fresh)
        self._shown = "NG"
        return True

    def levels(self, now_ns: int, *, alive: bool = True) -> Levels:
        """What the wires have to show now; `alive` False stops the heartbeat."""
        self._advance(now_ns)
        if self._ready or self._busy:
            self._nobody_since_ns = None
        elif self._nobody_since_ns is None:
            self._nobody_since_ns = now_ns
        nobody = self._nobody_since_ns is not None and now_ns - self._nobody_since_ns >= REST_AFTER_NS
        return Levels(
            ok=self._shown == "OK",
            ng=self._shown == "NG",
            busy=self._busy,
            ready=self._ready,
            reject=now_ns < self._reject_until_ns or (self.rest.reject and nobody),
            heartbeat=alive and bool(now_ns // self._heartbeat_ns % 2),
        )

    def next_ns(self, now_ns: int) -> int:
        """When something changes by itself."""
        moments = [(now_ns // self._heartbeat_ns + 1) * self._heartbeat_ns]
        if self._shown is not None and (self._answers or not self._latches):
            moments.append(self._since_ns + (self._gap_ns if self._answers else self._pulse_ns))
        elif self._answers:
            moments.append(self._free_at_ns)
        if now_ns < self._reject_until_ns:
            moments.append(self._reject_until_ns)
        if self._nobody_since_ns is not None and now_ns < self._nobody_since_ns + REST_AFTER_NS:
            moments.append(self._nobody_since_ns + REST_AFTER_NS)
        return max(now_ns, min(moments))

    def _advance(self, now_ns: int) -> None:
        if self._shown is not None:
            shown_ns = now_ns - self._since_ns
            if self._answers and shown_ns >= self._gap_ns:
                self.cut += not self._latches and shown_ns < self._pulse_ns
                self._clear(now_ns)
            elif not self._latches and shown_ns >= self._pulse_ns:
                self._clear(now_ns)
        if self._shown is None and self._answers and now_ns >= self._free_at_ns:
            answer = self._answers.popleft()
            self.late += answer.is_late(now_ns)
            shown = answer.as_of(now_ns)
            if shown.kind != answer.kind:
                self.changed.append(answer)
            self._shown = "OK" if shown.kind == "OK" else "NG"
            self._fresh = answer if self._shown == "OK" else None
            self._since_ns = now_ns

    def _clear(self, now_ns: int) -> None:
        self._shown = None
        self._free_at_ns = now_ns + self._gap_ns
