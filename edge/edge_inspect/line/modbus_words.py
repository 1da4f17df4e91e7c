"""The two blocks as memory: what a write of the PLC means, and how a result lies in registers. No I/O, no locks.

1. A trigger is a rising edge of `Trigger`, or a new `TriggerSeq` while `Trigger` stays set.
2. A trigger takes the old result away before anything else can be read: a stale result is never valid.
3. `told` is what every answer goes through on its way into registers: what is late is UNKNOWN `deadline`.
4. What was found to be late only afterwards is replaced (`replace`) wherever it still stands.

    edge = EdgeWords(entries=16)
    edge.begin(7); edge.tell(7, "OK", "no-defect"); read_result(edge.words, 7, 16).kind    # "OK"
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from edge_inspect.line import modbus_map as at
from edge_inspect.line.modbus_map import Command, Result, Status
from edge_inspect.line.protocol import Answer, AnswerKind

_BIT_OF_KIND = {"OK": Result.OK, "NG": Result.NG, "UNKNOWN": Result.UNKNOWN}


class Told(NamedTuple):
    """A result as the PLC reads it."""

    sequence: int
    kind: AnswerKind
    reason: str


def told(answer: Answer, now_ns: int) -> Told:
    """What may still be said of an answer at this moment."""
    answer = answer.as_of(now_ns)
    return Told(answer.sequence, answer.kind, answer.reason)


class EdgeWords:
    """The edge block; `words` is at.EDGE_WORDS registers long. `entries`: results kept in the ring, 0 to 16."""

    def __init__(self, entries: int = at.MOST_ENTRIES, *, low_word_first: bool = False) -> None:
        self.entries = entries
        self.words = [0] * at.EDGE_WORDS
        self.words[at.VERSION], self.words[at.ENTRIES] = at.MAP_VERSION, entries
        self._low_first = low_word_first

    def status(self, ready: bool, busy: bool, alarm: bool) -> None:
        bits = Status(0)
        bits |= Status.READY if ready else 0
        bits |= Status.BUSY if busy else 0
        bits |= Status.ALARM if alarm else 0
        self.words[at.STATUS] = int(bits)

    def beat(self) -> None:
        self.words[at.HEARTBEAT] = (self.words[at.HEARTBEAT] + 1) & 0xFFFF

    def slot(self, sequence: int) -> int:
        """Where the ring keeps this result: the first register within `words`."""
        return at.RESULT_RING + (sequence % self.entries) * at.RESULT_WORDS

    def begin(self, sequence: int) -> None:
        """A trigger: nothing is valid until its own answer."""
        self._clear(at.NEWEST)
        if self.entries:
            self._clear(self.slot(sequence))

    def tell(self, result: Told) -> None:
        first, second = at.split(result.sequence, self._low_first)
        bits = int(Result.VALID | _BIT_OF_KIND[result.kind])
        entry = [first, second, bits, at.reason_code(result.reason), first, second]
        self.words[at.NEWEST : at.NEWEST + at.RESULT_WORDS] = entry
        if self.entries:
            slot = self.slot(result.sequence)
            self.words[slot : slot + at.RESULT_WORDS] = entry

    def places(self, sequence: int) -> list[int]:
        """The first registers of the entries in which a result of this number stands."""
        number = list(at.split(sequence, self._low_first))
        entries = [at.NEWEST, *([self.slot(sequence)] if self.entries else [])]
        return [
            start
            for start in entries
            if self.words[start : start + 2] == number and self.words[start + 2] & Result.VALID
        ]

    def replace(self, result: Told) -> list[int]:
        """Put it where an older result of its number stands, and nowhere else; the first registers of these entries."""
        places = self.places(result.sequence)
        for start in places:
            self.words[start + 2] = int(Result.VALID | _BIT_OF_KIND[result.kind])
            self.words[start + 3] = at.reason_code(result.reason)
        return places

    def acknowledge(self) -> None:
        self._clear(at.NEWEST)

    def fail_safe(self) -> None:
        """Not ready, and no result at all."""
        self.words[at.STATUS] = int(Status.ALARM)
        self.words[at.NEWEST :] = [0] * (at.EDGE_WORDS - at.NEWEST)

    def discrete_inputs(self) -> list[bool]:
        """In the order of at.DISCRETE_INPUTS."""
        status, result = Status(self.words[at.STATUS]), Result(self.words[at.NEWEST + 2])
        return [
            Status.READY in status, Status.BUSY in status,
            Result.VALID in result, Result.OK in result, Result.NG in result, Result.UNKNOWN in result,
            Status.ALARM in status, bool(self.words[at.HEARTBEAT] & 1),
        ]  # fmt: skip

    def _clear(self, first: int) -> None:
        self.words[first : first + at.RESULT_WORDS] = [0] * at.RESULT_WORDS


def read_result(words: Sequence[int], sequence: int, entries: int, *, low_word_first: bool = False) -> Told | None:
    """The PLC's side: the result of `sequence` in an edge block, from the ring, or without one the newest.

    None while there is none, it belongs to another part, or it is half written. Two kinds at once are UNKNOWN.
    """
    start = at.RESULT_RING + (sequence % entries) * at.RESULT_WORDS if entries else at.NEWEST
    first, second, bits, code, first_again, second_again = words[start : start + at.RESULT_WORDS]
    if at.join(first, second, low_word_first) != sequence or (first, second) != (first_again, second_again):
        return None
    if not bits & Result.VALID:
        return None
    kinds: dict[int, AnswerKind] = {int(bit): kind for kind, bit in _BIT_OF_KIND.items()}  # type: ignore[misc]
    return Told(sequence, kinds.get(int(bits & ~Result.VALID), "UNKNOWN"), at.reason_of(code))


@dataclass(slots=True)
class Seen:
    """What a look at the command block brought."""

    triggers: list[tuple[int, int | None]] = field(default_factory=list)
    """(sequence, encoder) of each new trigger, oldest first."""
    missed: int = 0
    """Sequence numbers that went by unseen: the PLC fired more often than the ring holds."""
    acknowledged: bool = False
    confirmed_rejects: int = 0
    encoder: int = 0


class CommandWatch:
    """Compares the command block with how it was at the last look.

    entries: length of the trigger ring in the block; 0: only the newest trigger is there to be seen.
    first_look_fires: False takes what stands there at the first look as old (after a reconnection nobody knows when a
    trigger was raised).
    """

    def __init__(self, entries: int = 0, *, low_word_first: bool = False, first_look_fires: bool = True) -> None:
        self._entries = entries
        self._low_first = low_word_first
        self._last: list[int] | None = [0] * at.COMMAND_HEAD_WORDS if first_look_fires else None

    def look(self, words: Sequence[int], fetch: Callable[[], Sequence[int]] | None = None) -> Seen:
        """`words`: the command block, or its head alone where `fetch` gets the whole when the ring is needed."""
        head = list(words[: at.COMMAND_HEAD_WORDS])
        last, self._last = self._last, head
        seen = Seen(encoder=self._number(head, at.ENCODER))
        if last is None:
            return seen
        was, now = last[at.COMMAND], head[at.COMMAND]
        rising = now & ~was
        seen.acknowledged = bool(rising & Command.ACK)
        seen.confirmed_rejects = (head[at.REJECT_COUNT] - last[at.REJECT_COUNT]) & 0xFFFF
        if rising & Command.REJECT_CONFIRM and not seen.confirmed_rejects:
            seen.confirmed_rejects = 1
        if now & Command.TRIGGER:
            newest, before = self._number(head, at.TRIGGER_SEQ), self._number(last, at.TRIGGER_SEQ)
            if newest != before:
                self._gather(fetch or (lambda: words), before, newest, seen)
                seen.missed *= bool(was & Command.TRIGGER)  # a PLC that begins anew has missed nothing
            elif rising & Command.TRIGGER:
                seen.triggers.append((newest, seen.encoder))
        return seen

    def _gather(self, fetch: Callable[[], Sequence[int]], before: int, newest: int, seen: Seen) -> None:
        """The newest trigger, and those between it and the one seen last that the ring still has."""
        between = (newest - before - 1) & 0xFFFFFFFF
        if between < 1 << 31:
            kept = min(between, max(0, self._entries - 1))
            words = fetch() if kept else ()
            for back in range(kept, 0, -1):
                sequence = (newest - back) & 0xFFFFFFFF
                start = at.TRIGGER_RING + (sequence % self._entries) * at.TRIGGER_WORDS
                if self._number(words, start) == sequence:
                    seen.triggers.append((sequence, self._number(words, start + 2)))
            seen.missed = between - len(seen.triggers)
        seen.triggers.append((newest, seen.encoder))

    def _number(self, words: Sequence[int], offset: int) -> int:
        return at.join(words[offset], words[offset + 1], self._low_first)
