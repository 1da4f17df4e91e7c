"""Lets any thread cut short another thread's wait in poll or select; waking never waits and never fails."""

from __future__ import annotations

import contextlib
import socket


class Waker:
    """Register `fileno()` for reading, `drain` after each wait. `wake` from any thread, any number of times."""

    def __init__(self) -> None:
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)

    def wake(self) -> None:
        with contextlib.suppress(OSError):  # full: it will wake anyway; closed: nobody is waiting any more
            self._write.send(b"w")

    def fileno(self) -> int:
        return self._read.fileno()

    def drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._read.recv(65536)

    def close(self) -> None:
        self._read.close()
        self._write.close()
