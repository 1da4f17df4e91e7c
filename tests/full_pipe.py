"""A pipe that is full and that nobody reads: `| less`, a terminal stopped with Ctrl-S, a journal that stands still."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


class Pipe:
    """came: what was read behind what it was filled with."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        self.filled = 0
        self.came = b""
        self._is_open = True

    def fill(self) -> None:
        os.set_blocking(self.write_end, False)
        try:
            for size in (4096, 1):
                try:
                    while True:
                        self.filled += os.write(self.write_end, b"\n" * size)
                except BlockingIOError:
                    pass
        finally:
            os.set_blocking(self.write_end, True)

    def close_write_end(self) -> None:
        if self._is_open:
            self._is_open = False
            os.close(self.write_end)


@contextmanager
def full_pipe(*, fill: bool = True) -> Iterator[Pipe]:
    pipe = Pipe()
    if fill:
        pipe.fill()
    try:
        yield pipe
    finally:
        pipe.close_write_end()
        os.close(pipe.read_end)


def read_all(pipe: Pipe) -> None:
    """Until the last writer has closed it."""
    left = pipe.filled
    while read := os.read(pipe.read_end, 65536):
        pipe.came += read[left:]
        left = max(0, left - len(read))
