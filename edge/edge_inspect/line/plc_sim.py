"""A PLC to try the line with: a Modbus TCP server or client with a scan cycle around `PlcProgram`.

1. As server it is polled by our `modbus_client`; as client it polls our `modbus_server`. The program is the same.
2. Its memory is what a real one's is: whatever is written to it lies there until somebody writes something else.
3. A lost connection is tried again at each scan; until it is back, parts are rejected.

    plc = PlcAsServer(PlcProgram(deadline_ms=100), port=1502)
    plc.run(stop)                       # a thread of its own
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable

from pymodbus.client import ModbusTcpClient
from pymodbus.constants import ExcCodes
from pymodbus.exceptions import ModbusException
from pymodbus.simulator import DataType, SimData, SimDevice

from edge_inspect.line import modbus_map as at
from edge_inspect.line.modbus_strict import LIBRARY_LOG, StrictServer, Values, port_of
from edge_inspect.line.plc_program import PlcProgram

SCAN_MS = 5.0


class PlcAsServer:
    """The PLC holds the registers: command block at 0, edge block at `at.EDGE`. Port 0 takes a free one.

    written: hears every write to the edge block: monotonic ns, first word, words.
    """

    def __init__(
        self,
        program: PlcProgram,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        unit_id: int = 1,
        scan_ms: float = SCAN_MS,
        written: Callable[[int, int, list[int]], None] = lambda at_ns, first, words: None,
    ) -> None:
        self.program = program
        self.listening = threading.Event()
        self.command = [0] * at.COMMAND_WORDS
        self.edge = [0] * at.EDGE_WORDS
        self.scans = 0
        self._address, self._unit_id, self._scan_s = (host, port), unit_id, scan_ms / 1000
        self._written = written

    @property
    def port(self) -> int:
        return self._address[1]

    def run(self, stop: threading.Event) -> None:
        """Scan until `stop`. Raises OSError when the address is not free."""
        logging.getLogger(LIBRARY_LOG).setLevel(logging.CRITICAL + 1)
        asyncio.run(self._run(stop))

    async def _run(self, stop: threading.Event) -> None:
        registers = DataType.REGISTERS
        device = SimDevice(
            self._unit_id,
            simdata=[
                SimData(0, values=[0] * at.COMMAND_WORDS, datatype=registers, readonly=True),
                SimData(at.EDGE, values=[0] * at.EDGE_WORDS, datatype=registers),
            ],
            action=self._request,
        )
        server = StrictServer(device, address=self._address)
        try:
            await server.serve_forever(background=True)
        except RuntimeError as err:
            raise OSError(f"{self._address[0]}:{self._address[1]} cannot be listened on") from err
        self._address = (self._address[0], port_of(server))
        self.listening.set()
        try:
            while not stop.is_set():
                self.program.scan(time.monotonic_ns(), self.edge, self.command)
                self.scans += 1
                await asyncio.sleep(self._scan_s)
        finally:
            self.listening.clear()
            await server.shutdown()  # type: ignore[no-untyped-call]
            await asyncio.sleep(0)

    async def _request(
        self, function: int, start: int, address: int, count: int, registers: list[int], values: Values | None
    ) -> ExcCodes | None:
        if values is not None:
            first, now_ns = address - at.EDGE, time.monotonic_ns()
            words = [int(value) for value in values]
            self.edge[first : first + len(words)] = words
            self._written(now_ns, first, words)
            self.program.take_answers(now_ns, self.edge)
        registers[: at.COMMAND_WORDS] = self.command
        registers[at.EDGE : at.EDGE + at.EDGE_WORDS] = self.edge
        return None


class PlcAsClient:
    """The PLC asks: each scan writes the command block's head if it changed, and reads the edge block."""

    def __init__(
        self,
        program: PlcProgram,
        host: str = "127.0.0.1",
        port: int = 1502,
        *,
        unit_id: int = 1,
        base: int = 0,
        scan_ms: float = SCAN_MS,
        timeout_s: float = 0.5,
    ) -> None:
        self.program = program
        self.connected = threading.Event()
        self.command = [0] * at.COMMAND_WORDS
        self.edge = [0] * at.EDGE_WORDS
        self.scans = 0
        self._where, self._unit_id, self._base = (host, port), unit_id, base
        self._scan_s, self._timeout_s = scan_ms / 1000, timeout_s
        self._written: list[int] | None = None

    def run(self, stop: threading.Event) -> None:
        """Scan until `stop`; connects again at each scan while there is no connection."""
        logging.getLogger(LIBRARY_LOG).setLevel(logging.CRITICAL + 1)
        host, port = self._where
        client = ModbusTcpClient(host, port=port, timeout=self._timeout_s, retries=0)
        try:
            while not stop.is_set():
                started = time.monotonic()
                self._cycle(client)
                self.scans += 1
                stop.wait(max(0.0, self._scan_s - (time.monotonic() - started)))
        finally:
            client.close()  # type: ignore[no-untyped-call]

    def _cycle(self, client: ModbusTcpClient) -> None:
        """Read, scan, write; without a connection the scan still decides at the gate."""
        read = self._connected(client) and self._read(client)
        self.program.scan(time.monotonic_ns(), self.edge, self.command)
        head = self.command[: at.COMMAND_HEAD_WORDS]
        if read and (head == self._written or self._write(client, head)):
            self._written = head
            self.connected.set()
        else:
            client.close()  # type: ignore[no-untyped-call]
            self._written = None
            self.connected.clear()

    @staticmethod
    def _connected(client: ModbusTcpClient) -> bool:
        return bool(client.connect())  # type: ignore[no-untyped-call]

    def _read(self, client: ModbusTcpClient) -> bool:
        try:
            reply = client.read_input_registers(self._base + at.EDGE, count=at.EDGE_WORDS, device_id=self._unit_id)
        except (ModbusException, OSError):
            return False
        if reply.isError():
            return False
        self.edge = list(reply.registers)
        return True

    def _write(self, client: ModbusTcpClient, head: list[int]) -> bool:
        try:
            return not client.write_registers(self._base, head, device_id=self._unit_id).isError()
        except (ModbusException, OSError):
            return False
