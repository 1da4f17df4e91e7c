"""A program's stdout that is no reason for a traceback; see `edge_wire.program`.

1. A failed write is StdoutLost, once; what is still in buffers after that goes nowhere, so that the end of the process
   finds nothing to complain about.
2. A letter that stdout has no code for is printed as its escape. A stdout that was closed takes everything.

    sys.stdout = guarded(sys.stdout)
"""

from __future__ import annotations

import io
import os
import select
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

READER_GONE = 141
"""As shells tell of a tool that SIGPIPE ended."""
STDOUT_FAILS = 74
"""EX_IOERR of sysexits.h"""


class StdoutLost(Exception):
    """stdout takes no more: `errno` is that of the write."""

    def __init__(self, err: OSError) -> None:
        super().__init__(f"stdout: {err.strerror}; what was to be printed is lost [stdout]")
        self.is_reader_gone = isinstance(err, BrokenPipeError)
        self.exit_code = READER_GONE if self.is_reader_gone else STDOUT_FAILS


class Stdout(io.FileIO):
    """Raises StdoutLost, once."""

    lost = False

    def write(self, data: ReadableBuffer, /) -> int:
        size = memoryview(data).nbytes
        while not self.lost:
            try:
                written: int | None = super().write(data)
            except OSError as err:
                self.lost = True
                raise StdoutLost(err) from err
            if written is not None:
                return written
            select.select([], [self], [])  # it does not block, and is full
        return size


def guarded(stdout: TextIO | None) -> TextIO:
    """The same descriptor and encoding, with the promises above."""
    if stdout is None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), encoding="utf-8")
    stdout.flush()
    raw = Stdout(stdout.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=stdout.encoding, errors="backslashreplace", line_buffering=raw.isatty()
    )


def takes_all_letters(stream: TextIO) -> bool:
    """Whether no letter needs an escape there, which JSON would write in another way."""
    return (stream.encoding or "utf-8").lower().replace("-", "").startswith("utf")
