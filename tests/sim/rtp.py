"""A filter for `ChaosProxy` that understands RTP inside an RTSP connection."""

from __future__ import annotations

import threading


class LoseRtp:
    """Takes each `every`th RTP packet of the video out of an interleaved RTSP connection, while `active`."""

    def __init__(self, every: int) -> None:
        self._every = every
        self._count = 0
        self._rest = b""
        self.active = threading.Event()

    def __call__(self, data: bytes) -> bytes:
        data = self._rest + data
        out = bytearray()
        while data:
            if data[:1] != b"$":
                cut = data.find(b"$") if b"$" in data else len(data)
                out += data[:cut]
                data = data[cut:]
                continue
            size = 4 + int.from_bytes(data[2:4], "big")
            if len(data) < max(4, size):
                break
            packet, data = data[:size], data[size:]
            if packet[1] == 0 and self.active.is_set():
                self._count += 1
                if self._count % self._every == 0:
                    continue
            out += packet
        self._rest = data
        return bytes(out)
