"""We poll the PLC: a Modbus TCP client that reads its command block and writes our edge block into it (`modbus_map`).

1. An answer goes out at once: `tell` wakes the thread; it waits for at most one request that is on its way.
2. One result is one write that begins and ends with its sequence number: OK can never be read with another part's.
3. What cannot be written before its deadline, or whose writing is confirmed only after it, is UNKNOWN in the end: the
   one is never written, the other is written over, and `changed` hears of both. Nobody knows whether the PLC has read
   it in between. An answer that gets lost with the connection is told to `changed`, too; after a reconnection nothing
   old is written.
4. A lost connection is tried again for ever. Until then triggers are not seen, the PLC sees our heartbeat stand still,
   and `connected` is False. A trigger raised meanwhile stays unanswered: nobody knows when it was raised.
5. The PLC clears a result by itself (or by Ack); a result is written once and never repeated by the heartbeat.

    client = ModbusClient("192.168.0.10", 502)
    client.run(stop, desk.fire)                 # the thread `line-modbus-client`
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import structlog
from pymodbus.client import ModbusTcpClient
from pymodbus.exceptions import ModbusException
from pymodbus.pdu import ModbusPDU

from edge_inspect.backoff import Backoff
from edge_inspect.errors import World
from edge_inspect.line import modbus_map as at
from edge_inspect.line.modbus_server import nobody_fires
from edge_inspect.line.modbus_strict import LIBRARY_LOG
from edge_inspect.line.modbus_words import CommandWatch, EdgeWords, Seen, told
from edge_inspect.line.protocol import LATE, Adapter, Answer, Trigger

log = structlog.get_logger()

REQUESTS_REMEMBERED = 8
"""The quickest of so many says what a request takes at least."""


class PlcGone(World):
    """The PLC cannot be reached, does not answer in time or refuses our request."""


class ModbusClient(Adapter):
    """inputs_at, outputs_at: first register of the command block and of the edge block in the PLC.
    ring: length of the PLC's trigger ring and result ring; 0 is the plain handshake with one result.
    confirmed, encoder: hear how many rejects the PLC has just confirmed, and its encoder at each poll.
    """

    name = "modbus-client"

    def __init__(
        self,
        host: str,
        port: int = 502,
        *,
        unit_id: int = 1,
        inputs_at: int = 0,
        outputs_at: int = at.EDGE,
        ring: int = 0,
        low_word_first: bool = False,
        poll_ms: float = 2.0,
        timeout_ms: float = 500.0,
        heartbeat_ms: float = 200.0,
        alive: Callable[[], bool] = lambda: True,
        confirmed: Callable[[int], None] = lambda count: None,
        encoder: Callable[[int], None] = lambda counts: None,
    ) -> None:
        self.beat_ns = None
        self.connected = threading.Event()
        self.connections = 0
        self.lost = 0
        """Connections that ended by themselves."""
        self.missed_triggers = 0
        self.late = 0
        self.untold = 0
        """Answers that came while there was no connection, or that it took with it."""
        self.trouble = "not connected yet"
        self._where, self._unit_id = (host, port), unit_id
        self._inputs_at, self._outputs_at, self._ring = inputs_at, outputs_at, ring
        self._low_first = low_word_first
        self._poll_s, self._timeout_s, self._heartbeat_s = poll_ms / 1000, timeout_ms / 1000, heartbeat_ms / 1000
        self._alive, self._confirmed, self._encoder = alive, confirmed, encoder
        self._wake = threading.Condition()
        self._waiting: deque[Answer] = deque()
        self._unconfirmed: list[Answer] = []
        """In a write that the PLC has not confirmed."""
        self._took_ns: deque[int] = deque(maxlen=REQUESTS_REMEMBERED)
        """How long the last requests took."""
        self._ready = self._busy = self._alarm = False
        self._status_changed = True
        self._edge = EdgeWords(ring, low_word_first=low_word_first)
        self._client: ModbusTcpClient | None = None

    # --- told by others, any thread -------------------------------------------------------------------------------

    def tell(self, answer: Answer) -> None:
        with self._wake:
            if self.connected.is_set():
                self._waiting.append(answer)
                self._wake.notify()
                return
        self._lose([answer])

    def status(self, ready: bool, busy: bool) -> None:
        with self._wake:
            self._status_changed |= (ready, busy) != (self._ready, self._busy)
            self._ready, self._busy = ready, busy

    def alarm(self, on: bool) -> None:
        """Somebody must come and look; Ready may still be set."""
        with self._wake:
            self._status_changed |= on != self._alarm
            self._alarm = on

    def counts(self) -> Mapping[str, int]:
        return {
            LATE: self.late, "untold": self.untold, "missed-triggers": self.missed_triggers, "lost": self.lost,
        }  # fmt: skip

    # --- the adapter's thread -------------------------------------------------------------------------------------

    def run(self, stop: threading.Event, fire: Callable[[Trigger], None] | None = None) -> None:
        """Poll until `stop`; connect for ever."""
        logging.getLogger(LIBRARY_LOG).setLevel(logging.CRITICAL + 1)
        backoff = Backoff(0.2, 10.0)
        told_why = ""
        while not stop.is_set():
            try:
                self._connect()
                log.info("plc.connected", adapter=self.name, plc="{}:{}".format(*self._where))
                told_why = ""
                backoff.reset()
                self._serve(stop, fire or nobody_fires)
            except PlcGone as err:
                self.lost += self.connected.is_set()
                if self.connected.is_set() or str(err) != told_why:
                    log.warning("plc.lost", adapter=self.name, plc="{}:{}".format(*self._where), why=str(err))
                told_why = self.trouble = str(err)
            finally:
                self._disconnect()
            self.beat_ns = None  # waiting is no hanging
            stop.wait(0 if stop.is_set() else backoff.next_s())

    def _connect(self) -> None:
        host, port = self._where
        client = ModbusTcpClient(host, port=port, timeout=self._timeout_s, retries=0)
        self._client = client
        self.beat_ns = None  # a name server may take its time: waiting is no hanging
        if not client.connect():  # type: ignore[no-untyped-call]
            raise PlcGone("no connection")
        self._edge.fail_safe()
        self._write(0, self._all_words())

    def _disconnect(self) -> None:
        with self._wake:
            self.connected.clear()
            lost = [*self._unconfirmed, *self._waiting]
            self._waiting.clear()
        self._unconfirmed = []
        self._took_ns.clear()
        self._lose(lost)
        if self._client is not None:
            self._client.close()  # type: ignore[no-untyped-call]
            self._client = None

    def _lose(self, answers: Sequence[Answer]) -> None:
        """To the line that is silence; where it is the line that asked, nobody has told it OK."""
        with self._wake:
            self.untold += len(answers)
        for answer in answers:
            if answer.trigger.source == self.name:
                self.changed(answer, time.monotonic_ns())

    def _serve(self, stop: threading.Event, fire: Callable[[Trigger], None]) -> None:
        watch = CommandWatch(self._ring, low_word_first=self._low_first, first_look_fires=False)
        watch.look(self._read(at.COMMAND_HEAD_WORDS))
        self.connections += 1
        self._status_changed = True
        self.trouble = ""
        self.connected.set()
        next_poll_s = next_beat_s = time.monotonic()
        while not stop.is_set():
            self.beat_ns = time.monotonic_ns()
            self._write_answers()
            now_s = time.monotonic()
            if now_s >= next_poll_s:
                next_poll_s = now_s + self._poll_s
                self._act(watch.look(self._read(at.COMMAND_HEAD_WORDS), self._read_ring), fire)
            beat = now_s >= next_beat_s
            if beat:
                next_beat_s = now_s + self._heartbeat_s
            if beat or self._status_changed:
                self._write_head(beat)
            with self._wake:
                if not self._waiting:
                    self._wake.wait(max(0.0, next_poll_s - time.monotonic()))
        self._edge.fail_safe()
        self._write(0, self._all_words())

    def _act(self, seen: Seen, fire: Callable[[Trigger], None]) -> None:
        if seen.missed:
            self.missed_triggers += seen.missed
            log.warning("line.triggers_missed", adapter=self.name, missed=seen.missed)
        if seen.confirmed_rejects:
            self._confirmed(seen.confirmed_rejects)
        self._encoder(seen.encoder)
        if seen.acknowledged:
            self._edge.acknowledge()
            if not self._ring:
                self._write_slot(at.NEWEST)
        for sequence, encoder in seen.triggers:
            start = self._slot(sequence)
            stale = any(self._edge.words[start : start + at.RESULT_WORDS])
            self._edge.begin(sequence)
            # Each its own moment, though they came in one poll: a picture taken between two belongs to the first.
            fire(Trigger(sequence, time.monotonic_ns(), self.name, encoder))
            if stale and not self._ring:
                self._write_slot(start)

    # --- requests -------------------------------------------------------------------------------------------------

    def _write_answers(self) -> None:
        """Everything that waits; results that lie side by side in the ring go in one write."""
        while True:
            with self._wake:
                answers = self._unconfirmed = list(self._waiting)
                self._waiting.clear()
            if not answers:
                return
            slots, verdicts = [], []
            for answer in answers:
                now_ns = time.monotonic_ns()
                # One that cannot be confirmed in time would only be taken back: it lies in the PLC for nobody's good.
                result = told(answer, now_ns + min(self._took_ns, default=0))
                self._edge.tell(result)
                slots.append(self._slot(result.sequence))
                if result.kind != "UNKNOWN":
                    verdicts.append(answer)
                elif answer.kind != "UNKNOWN":
                    self.changed(answer, now_ns)
                self.late += result.kind != answer.kind or answer.is_late(now_ns)
            # A PLC that does not wait for its ring has given one place to two parts: only one answer fits.
            gone = [answer for answer in answers if not self._edge.places(answer.sequence)]
            self._lose(gone)
            for first, count in _runs(sorted(set(slots))):
                self._write(first, self._edge.words[first : first + count])
            self._take_back([answer for answer in verdicts if answer not in gone], time.monotonic_ns())

    def _take_back(self, written: Sequence[Answer], now_ns: int) -> None:
        """Of verdicts whose writing has just been confirmed: those that were late are written over."""
        late = [answer for answer in written if answer.is_late(now_ns)]
        self.late += len(late)
        for answer in late:
            self.changed(answer, now_ns)
        starts = [start for answer in late for start in self._edge.replace(told(answer, now_ns)) if self._shows(start)]
        for first, count in _runs(sorted(set(starts))):
            self._write(first, self._edge.words[first : first + count])
        self._unconfirmed = []

    def _shows(self, start: int) -> bool:
        """The entry is one that we write into the PLC after the trigger: with a ring, not the newest result."""
        return (start != at.NEWEST) == bool(self._ring)

    def _slot(self, sequence: int) -> int:
        return self._edge.slot(sequence) if self._ring else at.NEWEST

    def _write_slot(self, start: int) -> None:
        self._write(start, self._edge.words[start : start + at.RESULT_WORDS])

    def _write_head(self, beat: bool) -> None:
        with self._wake:
            ready, busy, alarm = self._ready, self._busy, self._alarm
            self._status_changed = False
        alive = self._alive()
        if beat and alive:
            self._edge.beat()
        self._edge.status(ready and alive, busy, alarm or not (ready and alive))
        self._write(0, self._edge.words[: at.EDGE_HEAD_WORDS])

    def _all_words(self) -> list[int]:
        used = at.RESULT_RING + self._ring * at.RESULT_WORDS
        return self._edge.words[:used]

    def _read_ring(self) -> list[int]:
        """More than one trigger since the last poll: the whole command block."""
        return self._read(at.TRIGGER_RING + self._ring * at.TRIGGER_WORDS)

    def _read(self, count: int) -> list[int]:
        assert self._client is not None
        self.beat_ns = time.monotonic_ns()
        try:
            reply = self._client.read_holding_registers(self._inputs_at, count=count, device_id=self._unit_id)
        except (ModbusException, OSError) as err:
            raise PlcGone(_one_line(err)) from err
        self._took_ns.append(time.monotonic_ns() - self.beat_ns)
        _check(reply, f"reading {count} registers at {self._inputs_at}")
        if len(reply.registers) != count:
            raise PlcGone(f"asked for {count} registers, {len(reply.registers)} came")
        return list(reply.registers)

    def _write(self, first: int, words: Sequence[int]) -> None:
        assert self._client is not None
        address = self._outputs_at + first
        self.beat_ns = time.monotonic_ns()
        try:
            reply = self._client.write_registers(address, list(words), device_id=self._unit_id)
        except (ModbusException, OSError) as err:
            raise PlcGone(_one_line(err)) from err
        self._took_ns.append(time.monotonic_ns() - self.beat_ns)
        _check(reply, f"writing {len(words)} registers at {address}")


def _runs(starts: Sequence[int]) -> list[tuple[int, int]]:
    """Result entries at `starts` (ascending) as (first, count) of registers that lie side by side."""
    runs: list[tuple[int, int]] = []
    for start in starts:
        if runs and runs[-1][0] + runs[-1][1] == start:
            runs[-1] = (runs[-1][0], runs[-1][1] + at.RESULT_WORDS)
        else:
            runs.append((start, at.RESULT_WORDS))
    return runs


def _check(reply: ModbusPDU, doing: str) -> None:
    if reply.isError():
        raise PlcGone(f"{doing}: the PLC refuses with exception code {getattr(reply, 'exception_code', '?')}")


def _one_line(err: Exception) -> str:
    return " ".join(str(err).split()) or type(err).__name__
