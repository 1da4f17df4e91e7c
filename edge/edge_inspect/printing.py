"""Prints for those who must not wait: a thread for each stream takes their lines.

1. `hand_over` never waits: not for a disk, nor a terminal that was stopped, a journal that stands still or a pipe that
   nobody reads. Lines are made, too, by the thread that prints them.
2. MOST_WAITING lines may wait. What comes beyond is dropped and counted, and one line says how many were lost, as soon
   as the stream goes on.
3. Lines come out whole and in their order. Whoever has stopped reading for good ends nothing: his lines are lost.
4. The thread asks for room before it writes, and writes past the stream's buffer. So `flush` and `close` return in
   time, and the end of the process finds no lock that a stuck write holds.

    printer = Printer("log", lambda: sys.stderr)
    printer.start()
    printer.hand_over(lambda: "camera.lost\\n")
    printer.close(1.0)

Why not logging's QueueHandler and QueueListener: on a full queue the one prints a traceback to the very stream that is
stuck, and to stop the other waits for it for ever.
"""

from __future__ import annotations

import io
import os
import select
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from queue import SimpleQueue
from typing import TextIO

MOST_WAITING = 2048
FLUSH_S = 1.0
"""What still waits at the end is given so long."""
ROOM_BYTES = 4096
"""A pipe that has room takes this much at once (PIPE_BUF), without a wait in the middle."""
LOOK_S = 0.05

Line = Callable[[], str]
"""Makes the line, its end of line included; called once, by the thread that prints."""


def say_lost(lines: int) -> str:
    return f"({lines} lines were not printed: nobody took them)\n"


class Printer:
    """`stream` is asked for at each line: whoever replaces sys.stderr gets the lines from then on.

    lost: makes the line about so many lost ones.
    """

    def __init__(
        self, name: str, stream: Callable[[], TextIO | None], *, lost: Callable[[int], str] = say_lost
    ) -> None:
        self.lost = 0
        """Lines that were dropped, or could not be written."""
        self.stream = stream
        self._say_lost = lost
        self._lost_said = 0
        self._counting = threading.RLock()
        self._waiting: SimpleQueue[Line | None] = SimpleQueue()  # its `put` takes no lock: signal handlers may log
        self._gives_up = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"print-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def hand_over(self, line: Line) -> None:
        """Any thread. Never waits."""
        if self._closed or self._waiting.qsize() >= MOST_WAITING:
            self._count_lost()
        else:
            self._waiting.put(line)

    def flush(self, within_s: float) -> bool:
        """Whether all that was handed over is out; waits at most so long."""
        done = threading.Event()
        self._waiting.put(partial(_come_to, done))
        return done.wait(within_s)

    def close(self, within_s: float) -> bool:
        """Print what waits, for at most so long. False where the stream does not take it, or would take no more."""
        self._closed = True
        took_all = self.flush(within_s)
        self._gives_up.set()
        self._waiting.put(None)
        self._thread.join(10 * LOOK_S)
        descriptor = _descriptor(self.stream())
        return descriptor is None or (took_all and _has_room(descriptor, 0.0))

    # --- the thread that prints -----------------------------------------------------------------------------------

    def _run(self) -> None:
        while (line := self._waiting.get()) is not None:
            self._print(line)
            if self.lost != self._lost_said and self._waiting.qsize() < MOST_WAITING // 2:
                self._tell_lost(self.lost)

    def _print(self, line: Line) -> None:
        try:
            text = line()
        except Exception as err:  # noqa: BLE001 - a line that cannot be made is said in its place
            text = f"a line could not be made: {err!r}\n"
        if text and not self._write(text):
            self._count_lost()

    def _tell_lost(self, lost: int) -> None:
        if self._write(self._say_lost(lost - self._lost_said)):
            self._lost_said = lost

    def _write(self, text: str) -> bool:
        """False when the stream does not take it: it is gone, or we are to end."""
        stream = self.stream()
        descriptor = _descriptor(stream)
        try:
            if stream is None:
                return False
            if descriptor is None:  # in memory, of a test
                stream.write(text)
                stream.flush()
                return True
            left = memoryview(text.encode(stream.encoding or "utf-8", "backslashreplace"))
            while left:
                if self._gives_up.is_set():
                    return False
                if _has_room(descriptor, LOOK_S):
                    left = left[os.write(descriptor, left[:ROOM_BYTES]) :]
        except (OSError, ValueError):  # its reader is gone, its disk is full; it is closed
            return False
        return True

    def _count_lost(self) -> None:
        with self._counting:
            self.lost += 1


def close_all(printers: Iterable[Printer], within_s: float = FLUSH_S) -> bool:
    """Whether every one of them is read."""
    until_s = time.monotonic() + within_s
    are_read = True
    for printer in printers:
        are_read &= printer.close(max(LOOK_S, until_s - time.monotonic()))
    return are_read


def _come_to(done: threading.Event) -> str:
    done.set()
    return ""


def _descriptor(stream: TextIO | None) -> int | None:
    try:
        return None if stream is None else stream.fileno()
    except (io.UnsupportedOperation, ValueError):
        return None


def _has_room(descriptor: int, wait_s: float) -> bool:
    """Whether a write would not wait. A reader that is gone, or a closed stream, is for the write to find out."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(wait_s * 1000))
