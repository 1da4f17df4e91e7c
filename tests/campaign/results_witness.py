"""Counts what really reached the ingester: reads the MQTT 5 packets that pass the proxy in front of it, on its own.

1. It shares no code with device, broker or ingester, and asks none of them: a report's number is read from the bytes of
   its PUBLISH, and that the ingester is done with it from the bytes of the PUBACK.
2. A PUBLISH counts once it was written to the ingester's connection. One whose PUBACK never came (the ingester was
   killed, the line was cut) may or may not be in the database: so the number of repeats lies between two bounds.

    witness = Witness()
    ChaosProxy(port, new_watch=witness.connection)
    witness.repeats, witness.sure_repeats, witness.ids
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

PUBLISH, PUBACK = 3, 4
QOS = 0b0110
Id = tuple[str, int]


class Witness:
    """Of all connections together."""

    def __init__(self) -> None:
        self.arrivals = 0
        """Reports that were written to an ingester's connection, each time anew."""
        self.ids: Counter[Id] = Counter()
        """(epoch, seq) -> arrivals"""
        self.answered: Counter[Id] = Counter()
        """(epoch, seq) -> arrivals that the ingester released, which it does after the commit"""

    @property
    def repeats(self) -> int:
        """Arrivals beyond the first of their number."""
        return self.arrivals - len(self.ids)

    @property
    def sure_repeats(self) -> int:
        """Of these, those of which it is certain that the database was asked."""
        return self.answered.total() - len(self.answered)

    def connection(self) -> WatchedConnection:
        return WatchedConnection(self)


class WatchedConnection:
    """`down`: what the broker sends; `up`: what the ingester sends."""

    def __init__(self, witness: Witness) -> None:
        self._witness = witness
        self._buffers = {"down": bytearray(), "up": bytearray()}
        self._under_way: dict[int, Id] = {}

    def down(self, data: bytes) -> None:
        for kind, body in self._packets("down", data):
            if kind >> 4 == PUBLISH and kind & QOS:
                self._arrived(body)

    def up(self, data: bytes) -> None:
        for kind, body in self._packets("up", data):
            number = int.from_bytes(body[:2], "big")
            if kind >> 4 == PUBACK and (found := self._under_way.pop(number, None)) is not None:
                self._witness.answered[found] += 1

    def _arrived(self, body: bytes) -> None:
        end = 2 + int.from_bytes(body[:2], "big")
        if not body[2:end].endswith(b"/defect"):
            return
        number = int.from_bytes(body[end : end + 2], "big")
        properties_bytes, at = _varint(body, end + 2)
        report = json.loads(body[at + properties_bytes :])
        self._under_way[number] = found = report["epoch"], report["seq"]
        self._witness.arrivals += 1
        self._witness.ids[found] += 1

    def _packets(self, way: str, data: bytes) -> Iterator[tuple[int, bytes]]:
        """(first byte, what follows the length) of each packet that is whole by now."""
        buffer = self._buffers[way]
        buffer += data
        while len(buffer) >= 2:
            try:
                length, at = _varint(buffer, 1)
            except IndexError:
                return
            if len(buffer) < at + length:
                return
            yield buffer[0], bytes(buffer[at : at + length])
            del buffer[: at + length]


def _varint(content: bytes | bytearray, at: int) -> tuple[int, int]:
    """MQTT 5.0, 1.5.5: the number and where it ends. Raises IndexError when more must come first."""
    value = shift = 0
    while True:
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, at
        shift += 7
