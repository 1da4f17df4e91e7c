"""What a PLC's program does with us: fires a trigger for each part, reads the answer, and throws out what is not OK.

1. A part passes the gate only on a valid OK with its own sequence number, in time, from an edge whose heartbeat counts.
   Everything else is rejected: NG, UNKNOWN, no answer, a late one, another part's, a dead heartbeat.
2. Parts reach the gate in the order in which they were triggered; each is decided once and confirmed when rejected.
3. No I/O and no clock in here: a scan gets the time, the edge block as it is, and the command block to change.

    plc = PlcProgram(deadline_ms=100, gate_ms=400)
    plc.arrives()                       # the light barrier, any thread
    plc.scan(now_ns, edge, command)     # every few milliseconds
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, MutableSequence, Sequence
from dataclasses import dataclass
from typing import Literal

from edge_inspect.counts import Durations
from edge_inspect.line import modbus_map as at
from edge_inspect.line.modbus_map import Command, Result, Status
from edge_inspect.line.modbus_words import Told, read_result
from edge_inspect.line.protocol import MOST_SEQUENCE, AnswerKind

Why = Literal["", "ok", "ng", "unknown", "late", "missed", "mismatched", "skipped", "heartbeat"]


@dataclass(slots=True)
class PlcPart:
    """One part as the PLC knows it. All times are CLOCK_MONOTONIC nanoseconds."""

    sequence: int
    tag: int | None
    """Which part it really is, for whoever plays the line; the PLC does not look at it."""
    fired_ns: int
    answered_ns: int | None = None
    kind: AnswerKind | None = None
    reason: str = ""
    passed: bool | None = None
    """At the gate; None while it is still on its way."""
    why: Why = ""
    """Why it passed or was rejected."""
    decided_ns: int | None = None
    closed: bool = False


@dataclass(slots=True)
class PlcCounts:
    """What the PLC has counted since its start."""

    triggers: int = 0
    answers: int = 0
    ok: int = 0
    ng: int = 0
    unknown: int = 0
    missed_deadlines: int = 0
    """No answer by the deadline, or one after it."""
    mismatched: int = 0
    """A valid result stood where ours belongs, with another sequence number."""
    skipped: int = 0
    """Parts that came before the handshake was free: no trigger, rejected."""
    passed: int = 0
    rejected: int = 0
    heartbeat_losses: int = 0


class PlcProgram:
    """entries: length of the trigger and result rings; 0: one trigger at a time with Ready, Busy, ResultValid, Ack.

    deadline_ms: from trigger to answer. gate_ms: from trigger to the reject gate. heartbeat_ms: an edge whose counter
    stands still for longer is dead. fires_per_scan: most triggers of one scan (a PLC that is Modbus client writes one a
    request). stops_at_gate: the belt stands until the part at the gate is answered or overdue. waits_for_room: True
    holds a part back while the ring is full, instead of skipping it (stress tests).
    decided: hears each part at the gate.
    """

    def __init__(
        self,
        *,
        deadline_ms: float = 100.0,
        gate_ms: float = 400.0,
        heartbeat_ms: float = 1000.0,
        entries: int = at.MOST_ENTRIES,
        low_word_first: bool = False,
        first_sequence: int = 1,
        fires_per_scan: int = at.MOST_ENTRIES,
        stops_at_gate: bool = False,
        waits_for_room: bool = False,
        confirms: bool = True,
        decided: Callable[[PlcPart], None] = lambda part: None,
    ) -> None:
        self.counts = PlcCounts()
        self.latency = Durations()
        """Trigger raised -> answer in the PLC's memory."""
        self.alive = self.ready = False
        """The heartbeat counts; and it says that a trigger would be judged."""
        self._deadline_ns, self._gate_ns = int(deadline_ms * 1e6), int(gate_ms * 1e6)
        self._heartbeat_ns = int(heartbeat_ms * 1e6)
        self._entries, self._low_first = entries, low_word_first
        self._fires_per_scan, self._waits, self._confirms = fires_per_scan, waits_for_room, confirms
        self._stops = stops_at_gate
        self._decided = decided
        self._next = first_sequence
        self._arrivals: deque[int | None] = deque()
        self._belt: deque[PlcPart] = deque()
        self._open: dict[int, PlcPart] = {}
        self._heartbeat: tuple[int, int] | None = None

    def arrives(self, tag: int | None = None) -> None:
        """A part is in front of the camera; any thread."""
        self._arrivals.append(tag)

    @property
    def idle(self) -> bool:
        """Nothing is on the belt and nothing waits."""
        return not (self._belt or self._arrivals or self._open)

    def scan(self, now_ns: int, edge: MutableSequence[int], command: MutableSequence[int]) -> None:
        """One cycle: look at the edge block, decide at the gate, write the command block.

        `edge` is the PLC's own memory (or what it has just read): a result is cleared there before its trigger.
        """
        self._watch_heartbeat(now_ns, edge)
        self.take_answers(now_ns, edge)
        self._close_overdue(now_ns)
        self._gate(now_ns, command)
        if self._entries:
            self._fire_ring(now_ns, edge, command)
        else:
            self._handshake(now_ns, edge, command)

    # --- answers --------------------------------------------------------------------------------------------------

    def take_answers(self, now_ns: int, edge: Sequence[int]) -> None:
        """Stamp the answers that are there; called for each write too, so that latency does not end in a scan."""
        for part in list(self._open.values()):
            result = read_result(edge, part.sequence, self._entries, low_word_first=self._low_first)
            if result is not None:
                self._take(part, result, now_ns)
            elif part.why != "mismatched" and self._other_stands_there(edge, part):
                part.why = "mismatched"
                self.counts.mismatched += 1

    def _other_stands_there(self, edge: Sequence[int], part: PlcPart) -> bool:
        start = at.RESULT_RING + part.sequence % self._entries * at.RESULT_WORDS if self._entries else at.NEWEST
        entry = edge[start : start + at.RESULT_WORDS]
        return bool(entry[2] & Result.VALID) and list(entry[:2]) == list(entry[4:])

    def _take(self, part: PlcPart, result: Told, now_ns: int) -> None:
        part.answered_ns, part.kind, part.reason = now_ns, result.kind, result.reason
        self.counts.answers += 1
        self.counts.ok += result.kind == "OK"
        self.counts.ng += result.kind == "NG"
        self.counts.unknown += result.kind == "UNKNOWN"
        self.latency.add(now_ns - part.fired_ns)
        late = now_ns - part.fired_ns > self._deadline_ns
        self.counts.missed_deadlines += late
        words: dict[AnswerKind, Why] = {"OK": "ok", "NG": "ng", "UNKNOWN": "unknown"}
        part.why = "late" if late else words[result.kind]
        self._close(part)

    def _close_overdue(self, now_ns: int) -> None:
        for part in list(self._open.values()):
            if now_ns - part.fired_ns > self._deadline_ns:
                self.counts.missed_deadlines += 1
                part.why = part.why or "missed"
                self._close(part)

    def _close(self, part: PlcPart) -> None:
        part.closed = True
        self._open.pop(part.sequence, None)

    def _watch_heartbeat(self, now_ns: int, edge: Sequence[int]) -> None:
        count = edge[at.HEARTBEAT]
        if self._heartbeat is None or edge[at.VERSION] != at.MAP_VERSION:
            self._heartbeat = (count, now_ns - self._heartbeat_ns - 1)
        elif count != self._heartbeat[0]:
            self._heartbeat = (count, now_ns)
        was, self.alive = self.alive, now_ns - self._heartbeat[1] <= self._heartbeat_ns
        self.ready = self.alive and bool(edge[at.STATUS] & Status.READY)
        self.counts.heartbeat_losses += was and not self.alive

    # --- the gate -------------------------------------------------------------------------------------------------

    def _gate(self, now_ns: int, command: MutableSequence[int]) -> None:
        while self._belt and now_ns - self._belt[0].fired_ns >= self._gate_ns:
            if self._stops and not self._belt[0].closed:
                return
            part = self._belt.popleft()
            if not part.closed:
                self.counts.missed_deadlines += 1
                part.why = part.why or "missed"
                self._close(part)
            elif part.why == "ok" and not self.alive:
                part.why = "heartbeat"
            part.passed, part.decided_ns = part.why == "ok", now_ns
            self.counts.passed += part.passed
            self.counts.rejected += not part.passed
            if not part.passed and self._confirms:
                command[at.REJECT_COUNT] = (command[at.REJECT_COUNT] + 1) & 0xFFFF
            self._decided(part)

    # --- triggers -------------------------------------------------------------------------------------------------

    def _fire_ring(self, now_ns: int, edge: MutableSequence[int], command: MutableSequence[int]) -> None:
        for _ in range(self._fires_per_scan):
            if not self._arrivals:
                return
            if self._has_room():
                self._raise(self._on_the_belt(now_ns, self._arrivals.popleft()), edge, command)
            elif self._waits:
                return
            else:
                self._skip(now_ns, self._arrivals.popleft())

    def _has_room(self) -> bool:
        oldest = min(self._open, default=self._next)
        return len(self._open) < self._entries and 0 <= self._next - oldest < self._entries

    def _handshake(self, now_ns: int, edge: MutableSequence[int], command: MutableSequence[int]) -> None:
        """Ready -> Trigger -> Busy -> ResultValid -> Ack -> Ready, one part at a time."""
        bits, valid = Command(command[at.COMMAND]), bool(edge[at.NEWEST + 2] & Result.VALID)
        if Command.TRIGGER in bits and not self._open:
            bits = bits & ~Command.TRIGGER | Command.ACK
        elif Command.ACK in bits and not valid:
            bits &= ~Command.ACK
        command[at.COMMAND] = int(bits)
        if not self._arrivals:
            return
        free = not bits & (Command.TRIGGER | Command.ACK) and not valid
        if free and edge[at.STATUS] & Status.READY and not edge[at.STATUS] & Status.BUSY:
            self._raise(self._on_the_belt(now_ns, self._arrivals.popleft()), edge, command)
        elif not self._waits:
            self._skip(now_ns, self._arrivals.popleft())

    def _on_the_belt(self, now_ns: int, tag: int | None) -> PlcPart:
        part = PlcPart(self._next, tag, now_ns)
        self._next = 0 if self._next == MOST_SEQUENCE else self._next + 1
        self._belt.append(part)
        return part

    def _raise(self, part: PlcPart, edge: MutableSequence[int], command: MutableSequence[int]) -> None:
        start = at.RESULT_RING + part.sequence % self._entries * at.RESULT_WORDS if self._entries else at.NEWEST
        edge[start : start + at.RESULT_WORDS] = [0] * at.RESULT_WORDS
        number = at.split(part.sequence, self._low_first)
        if self._entries:
            start = at.TRIGGER_RING + part.sequence % self._entries * at.TRIGGER_WORDS
            command[start : start + at.TRIGGER_WORDS] = [*number, *command[at.ENCODER : at.ENCODER + 2]]
        command[at.TRIGGER_SEQ : at.TRIGGER_SEQ + 2] = list(number)
        command[at.COMMAND] = int(Command(command[at.COMMAND]) | Command.TRIGGER)
        self._open[part.sequence] = part
        self.counts.triggers += 1

    def _skip(self, now_ns: int, tag: int | None) -> None:
        part = self._on_the_belt(now_ns, tag)
        part.why, part.closed = "skipped", True
        self.counts.skipped += 1
