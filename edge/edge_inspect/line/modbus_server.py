"""The PLC polls us: a Modbus TCP server whose registers are the line's handshake (`modbus_map`).

1. `tell` writes the registers directly: an answer can be read from that moment on, whatever this thread is doing.
   A verdict that is read for the first time at or after its deadline is read as UNKNOWN `deadline`; one that was read
   in time stays as it was, until the next trigger or Ack.
2. A trigger is taken in the very request that writes it; when the PLC has its confirmation, the old result is gone.
3. A write that makes no sense is refused with a Modbus error code and changes nothing.
4. The heartbeat counts only while `alive()`; after a stop there is no result and no Ready, after a crash no server.

    server = ModbusServer("0.0.0.0", 1502)
    server.run(stop, desk.fire)                 # the thread `line-modbus-server`
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import structlog
from pymodbus.constants import ExcCodes
from pymodbus.simulator import DataType, SimData, SimDevice

from edge_inspect.backoff import Backoff
from edge_inspect.errors import World
from edge_inspect.line import modbus_map as at
from edge_inspect.line.modbus_map import Command
from edge_inspect.line.modbus_strict import LIBRARY_LOG, StrictServer, Values, no_such_unit, port_of
from edge_inspect.line.modbus_words import CommandWatch, EdgeWords, Seen, told
from edge_inspect.line.protocol import LATE, Adapter, Answer, Trigger

log = structlog.get_logger()

LAST_WORDS_S = 0.25
"""After a stop the fail-safe registers can still be read for so long."""
LOOK_S = 0.05
NOBODY = "not connected"
"""The trouble of a server that nobody has connected to."""
_COIL_READ, _COIL_WRITES, _INPUTS_READ, _INPUT_READ, _REGISTER_READ = 1, (5, 15), 2, 4, 3
_REGISTER_READS = (_REGISTER_READ, _INPUT_READ, 23)


class CannotListen(World):
    """The address is not free (yet), or not ours."""


def nobody_fires(trigger: Trigger) -> None:
    """For an adapter that is only told answers."""


class ModbusServer(Adapter):
    """host, port: where to listen. base: address of the first register. ring: results kept for a PLC that fires before
    it has read. alive: the application's watchdog. confirmed: hears how many rejects the PLC has just confirmed.
    encoder: hears the encoder whenever the PLC writes it.
    """

    name = "modbus-server"

    def __init__(
        self,
        host: str,
        port: int,
        *,
        unit_id: int = 1,
        base: int = 0,
        ring: int = at.MOST_ENTRIES,
        low_word_first: bool = False,
        heartbeat_ms: float = 200.0,
        alive: Callable[[], bool] = lambda: True,
        confirmed: Callable[[int], None] = lambda count: None,
        encoder: Callable[[int], None] = lambda counts: None,
    ) -> None:
        self.beat_ns = None
        self.masters = 0
        self.refused = 0
        """Requests that made no sense."""
        self.late = 0
        self.trouble = NOBODY
        self.listening = threading.Event()
        self._address = (host, port)
        self._unit_id, self._base, self._heartbeat_s = unit_id, base, heartbeat_ms / 1000
        self._alive, self._confirmed, self._encoder = alive, confirmed, encoder
        self._lock = threading.Lock()
        self._edge = EdgeWords(ring, low_word_first=low_word_first)
        self._edge.fail_safe()
        self._command = [0] * at.COMMAND_HEAD_WORDS
        self._watch = CommandWatch(low_word_first=low_word_first)
        self._ready = self._busy = self._alarm = False
        self._fire: Callable[[Trigger], None] = nobody_fires
        self._unread: dict[int, Answer] = {}
        """Verdicts that nobody has read yet, by sequence number; each stands in the registers."""

    @property
    def port(self) -> int:
        """The port listened on; a port of 0 becomes a real one once `listening` is set."""
        return self._address[1]

    # --- told by others, any thread -------------------------------------------------------------------------------

    def tell(self, answer: Answer) -> None:
        with self._lock:
            now_ns = time.monotonic_ns()
            self.late += answer.is_late(now_ns)
            result = told(answer, now_ns)
            self._edge.tell(result)
            self._unread.pop(answer.sequence, None)
            if len(self._unread) > at.MOST_ENTRIES:
                self._unread = {number: unread for number, unread in self._unread.items() if self._edge.places(number)}
            if result.kind != "UNKNOWN":
                self._unread[answer.sequence] = answer
        if result.kind != answer.kind:
            self.changed(answer, now_ns)

    def status(self, ready: bool, busy: bool) -> None:
        with self._lock:
            self._ready, self._busy = ready, busy
            self._show_status()

    def alarm(self, on: bool) -> None:
        """Somebody must come and look; Ready may still be set."""
        with self._lock:
            self._alarm = on
            self._show_status()

    def counts(self) -> Mapping[str, int]:
        return {LATE: self.late, "refused": self.refused}

    # --- the adapter's thread -------------------------------------------------------------------------------------

    def run(self, stop: threading.Event, fire: Callable[[Trigger], None] | None = None) -> None:
        """Serve until `stop`; an address that is not free (yet) is tried for ever."""
        self._fire = fire or nobody_fires
        logging.getLogger(LIBRARY_LOG).setLevel(logging.CRITICAL + 1)
        backoff = Backoff(0.5, 10.0)
        self.beat_ns = time.monotonic_ns()
        while not stop.is_set():
            try:
                asyncio.run(self._serve(stop, backoff.reset))
            except (OSError, CannotListen) as err:
                if str(err) != self.trouble:
                    log.warning("modbus.cannot_listen", address="{}:{}".format(*self._address), why=str(err))
                self.trouble = str(err)
                self.beat_ns = None  # waiting is no hanging
                stop.wait(backoff.next_s())
                self.beat_ns = time.monotonic_ns()
        self.beat_ns = None

    async def _serve(self, stop: threading.Event, works: Callable[[], None]) -> None:
        server = StrictServer(self._devices(), address=self._address, trace_connect=self._count_masters)
        try:
            await self._listen(server)
            self._address = (self._address[0], port_of(server))
            with self._lock:
                self._show_status()
            self.trouble = NOBODY
            works()
            self.listening.set()
            log.info("modbus.listens", address="{}:{}".format(*self._address), unit=self._unit_id)
            await self._beat_until(stop)
        finally:
            with self._lock:
                self._ready = self._busy = False
                self._edge.fail_safe()
            self.listening.clear()
            if self.masters:
                await asyncio.sleep(LAST_WORDS_S)
            await server.shutdown()  # type: ignore[no-untyped-call]
            await asyncio.sleep(0)

    @staticmethod
    async def _listen(server: StrictServer) -> None:
        try:
            await server.serve_forever(background=True)
        except RuntimeError as err:  # the library's word for an address that is not free
            raise CannotListen(str(err)) from err

    async def _beat_until(self, stop: threading.Event) -> None:
        next_beat_s = time.monotonic()
        while not stop.is_set():
            now_s = time.monotonic()
            self.beat_ns = time.monotonic_ns()
            if now_s >= next_beat_s:
                next_beat_s = now_s + self._heartbeat_s
                with self._lock:
                    self._show_status()
                    if self._alive():
                        self._edge.beat()
            await asyncio.sleep(min(LOOK_S, self._heartbeat_s / 2))

    def _show_status(self) -> None:
        ready = self._ready and self._alive()
        self._edge.status(ready, self._busy, self._alarm or not ready)

    def _count_masters(self, connected: bool) -> None:
        self.masters += 1 if connected else -1
        self.trouble = "" if self.masters else NOBODY
        log.info("plc.connected" if connected else "plc.disconnected", adapter=self.name, connections=self.masters)

    # --- requests -------------------------------------------------------------------------------------------------

    def _devices(self) -> list[SimDevice]:
        """Our unit, and one that answers for all others that they are not here."""
        if self._unit_id == 0:
            return [self._device()]
        return [self._device(), SimDevice(0, SimData(0, values=0, datatype=DataType.REGISTERS), action=no_such_unit)]

    def _device(self) -> SimDevice:
        """pymodbus keeps the registers and refuses what lies outside of them; `_request` gives them their meaning."""
        base, registers = self._base, DataType.REGISTERS
        edge_words = [0] * at.EDGE_WORDS
        holding = [
            SimData(base, values=[0] * at.COMMAND_HEAD_WORDS, datatype=registers),
            SimData(base + at.EDGE, values=list(edge_words), datatype=registers, readonly=True),
        ]
        inputs = [SimData(base + at.EDGE, values=list(edge_words), datatype=registers, readonly=True)]
        coils = [SimData(base, values=[False] * 16, datatype=DataType.BITS)]
        bits = [SimData(base, values=[False] * 16, datatype=DataType.BITS, readonly=True)]
        return SimDevice(self._unit_id, simdata=(coils, bits, holding, inputs), action=self._request)

    async def _request(
        self, function: int, start: int, address: int, count: int, registers: list[int], values: Values | None
    ) -> ExcCodes | None:
        """pymodbus calls it for each request, before it answers from `registers`."""
        if values is None:
            with self._lock:
                late = self._is_read(function, address - self._base, count, time.monotonic_ns())
                self._fill(function, start, registers)
            for answer, at_ns in late:
                self.changed(answer, at_ns)
            return None
        if function in _COIL_WRITES:
            seen = self._write_coils(address - self._base, values)
        else:
            seen = self._write_registers(address - self._base, values)
        if isinstance(seen, ExcCodes):
            self.refused += 1
            return seen
        with self._lock:
            self._fill(_COIL_READ if function in _COIL_WRITES else _REGISTER_READ, start, registers)
        self._act(seen)
        return None

    def _is_read(self, function: int, first: int, count: int, now_ns: int) -> list[tuple[Answer, int]]:
        """Verdicts that this is the first to read: they stay, or are replaced and returned because they are late."""
        late = []
        for answer in list(self._unread.values()):
            places = self._edge.places(answer.sequence)
            if not places:  # taken away by the next trigger, or by Ack
                del self._unread[answer.sequence]
            elif _reads(function, first, count, places):
                del self._unread[answer.sequence]
                if answer.is_late(now_ns):
                    self._edge.replace(told(answer, now_ns))
                    self.late += 1
                    late.append((answer, now_ns))
        return late

    def _fill(self, function: int, start: int, registers: list[int]) -> None:
        """Everything that the function can read, as it is at this moment; `start`: the address of registers[0]."""
        if function in (_COIL_READ, *_COIL_WRITES, _INPUTS_READ):
            word = self._command[at.COMMAND]
            on_coils = [bool(word & (1 << bit)) for bit in range(len(at.COILS))]
            inputs = function == _INPUTS_READ
            for bit, on in enumerate(self._edge.discrete_inputs() if inputs else on_coils):
                register, place = divmod(self._base + bit, 16)
                mask = 1 << place
                registers[register - start] = registers[register - start] & ~mask | (mask if on else 0)
            return
        if function != _INPUT_READ:
            offset = self._base - start
            registers[offset : offset + len(self._command)] = self._command
        offset = self._base + at.EDGE - start
        registers[offset : offset + at.EDGE_WORDS] = self._edge.words

    def _write_coils(self, first: int, values: Values) -> Seen | ExcCodes:
        if not 0 <= first <= first + len(values) <= len(at.COILS):
            return ExcCodes.ILLEGAL_ADDRESS
        with self._lock:
            word = self._command[at.COMMAND]
            for bit, on in enumerate(values, first):
                word = word | (1 << bit) if on else word & ~(1 << bit)
            self._command[at.COMMAND] = word
            return self._look()

    def _write_registers(self, first: int, values: Values) -> Seen | ExcCodes:
        if not 0 <= first <= first + len(values) <= at.COMMAND_HEAD_WORDS:
            return ExcCodes.ILLEGAL_ADDRESS
        with self._lock:
            words = list(self._command)
            words[first : first + len(values)] = values
            if words[at.COMMAND] & ~at.ALL_COMMANDS:
                return ExcCodes.ILLEGAL_VALUE
            half = (at.TRIGGER_SEQ in range(first, first + len(values))) != (
                at.TRIGGER_SEQ + 1 in range(first, first + len(values))
            )
            if half and words[at.COMMAND] & Command.TRIGGER:
                return ExcCodes.ILLEGAL_VALUE  # a number half old and half new would be somebody else's part
            self._command = words
            return self._look()

    def _look(self) -> Seen:
        seen = self._watch.look(self._command)
        if seen.acknowledged:
            self._edge.acknowledge()
        for sequence, _ in seen.triggers:
            self._edge.begin(sequence)
        return seen

    def _act(self, seen: Seen) -> None:
        """Tell the others; without the lock, because they may tell us something at once."""
        now_ns = time.monotonic_ns()
        if seen.confirmed_rejects:
            self._confirmed(seen.confirmed_rejects)
        self._encoder(seen.encoder)
        for sequence, encoder in seen.triggers:
            self._fire(Trigger(sequence, now_ns, self.name, encoder))


def _reads(function: int, first: int, count: int, places: Sequence[int]) -> bool:
    """The request reads what one of these result entries says; the discrete inputs show the newest result."""
    if function == _INPUTS_READ:
        return at.NEWEST in places
    word = first - at.EDGE
    return function in _REGISTER_READS and any(word <= start + 2 < word + count for start in places)
