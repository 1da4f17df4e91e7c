"""pymodbus's server where it is more lenient than Modbus, or loses what it was sent.

1. Requests that arrive together are answered one after the other; the library answers the first and forgets the rest.
2. What is no Modbus TCP ends its connection, and only that; the library waits for ever for the rest of it.
3. A coil is set by 0xFF00 and cleared by 0x0000; any other value is refused. The library takes it for "on".
4. A peer that vanished without a word is found out and its connection ended.
5. A unit that is not here is refused in one line of the protocol, not in a stack trace of the log.
"""

from __future__ import annotations

import socket
from typing import Any

from pymodbus.constants import ExcCodes
from pymodbus.datastore import ModbusServerContext
from pymodbus.pdu import ExceptionResponse, ModbusPDU
from pymodbus.pdu.bit_message import WriteSingleCoilRequest
from pymodbus.server import ModbusTcpServer
from pymodbus.server.requesthandler import ServerRequestHandler

LIBRARY_LOG = "pymodbus.logging"
"""Silenced: it tells each refused request with a stack trace; what matters of it is told by us, once."""
HEAD_BYTES = 6
LONGEST_BYTES = 260
"""Of a whole request, by the specification: 7 bytes of header and 253 of PDU."""
SHORTEST_BYTES = 8

VANISHED = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 10_000),
)
"""A PLC whose cable was pulled is gone after 10 s or a little more, although it never said so."""

Values = list[int] | list[bool]


class StrictServer(ModbusTcpServer):
    """A ModbusTcpServer with the promises above."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options, custom_pdu=[_StrictCoil])

    def callback_new_connection(self) -> OneByOne:
        return OneByOne(self, self.trace_packet, self.trace_pdu, self.trace_connect)


class OneByOne(ServerRequestHandler):
    """One connection: hands the library one whole request at a time, the next when the last was answered."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)  # type: ignore[no-untyped-call]
        self._inbox = b""
        self._answering = False

    def connection_made(self, transport: Any) -> None:
        connection = transport.get_extra_info("socket")
        for level, option, value in VANISHED:
            connection.setsockopt(level, option, value)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._inbox += data
        self._next()

    def server_send(self, pdu: ModbusPDU | None, addr: tuple[Any, ...] | None) -> None:
        super().server_send(pdu, addr)  # type: ignore[no-untyped-call]
        self._answering = False
        self.loop.call_soon(self._next)

    def _next(self) -> None:
        while not self._answering and len(self._inbox) >= HEAD_BYTES and self.transport:
            protocol, length = int.from_bytes(self._inbox[2:4], "big"), int.from_bytes(self._inbox[4:6], "big")
            whole = HEAD_BYTES + length
            if protocol or not SHORTEST_BYTES <= whole <= LONGEST_BYTES:
                self._inbox = b""
                self.close()
                return
            if len(self._inbox) < whole:
                return
            request, self._inbox = self._inbox[:whole], self._inbox[whole:]
            self._answering = True
            super().data_received(request)
            if not self.last_pdu:  # nothing that could be decoded: answered already, or never
                self._answering = False


class _StrictCoil(WriteSingleCoilRequest):
    _makes_sense = True

    def decode(self, data: bytes) -> None:
        super().decode(data)
        self._makes_sense = data[2:4] in (b"\xff\x00", b"\x00\x00")

    async def datastore_update(self, context: ModbusServerContext, device_id: int) -> ModbusPDU:
        if not self._makes_sense:
            return ExceptionResponse(self.function_code, ExcCodes.ILLEGAL_VALUE)
        return await super().datastore_update(context, device_id)


async def no_such_unit(
    function: int, start: int, address: int, count: int, registers: list[int], values: Values | None
) -> ExcCodes | None:
    """The action of a device that stands for all units that are not here."""
    return ExcCodes.GATEWAY_NO_RESPONSE


def port_of(server: ModbusTcpServer) -> int:
    """Where a listening server can be reached; tells what a port of 0 became."""
    sockets = list(getattr(server.transport, "sockets", ()))
    return int(sockets[0].getsockname()[1])
