"""What ends a request: its deadline, and `stop`. No call that hangs holds its caller.

1. A connection that another thread waits on is shut down under it (`Guard`), from the first packet of its handshake on.
2. What nothing can end, a resolver or a share that is gone, is waited for in a thread of its own (`apart`), which is
   left behind: it ends when the kernel lets it go, and what it finds then is thrown away.

    ends = Ends(stop, until_s)
    found = apart(lambda: socket.getaddrinfo(host, port), ends)
    with Guard(ends) as guard:
        guard.watch(connection)
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

LOOK_EVERY_S = 0.1
T = TypeVar("T")


class Ended(TimeoutError):
    """`str()` is why: `stopped` or `deadline`."""


@dataclass(frozen=True, slots=True)
class Ends:
    """until_s: moment of time.monotonic()."""

    stop: threading.Event
    until_s: float

    def why(self) -> str:
        """`stopped`, `deadline`; empty while it may go on."""
        return "stopped" if self.stop.is_set() else "deadline" if time.monotonic() > self.until_s else ""


def apart(work: Callable[[], T], ends: Ends, *, most_s: float = threading.TIMEOUT_MAX) -> T:
    """What `work` returns or raises (OSError, ValueError). Raises Ended, and TimeoutError after `most_s`."""
    found: list[T] = []
    failed: list[OSError | ValueError] = []

    def run() -> None:
        try:
            found.append(work())
        except (OSError, ValueError) as err:
            failed.append(err)

    if why := ends.why():
        raise Ended(why)
    thread = threading.Thread(target=run, name="fetch-apart", daemon=True)
    thread.start()
    late_s = time.monotonic() + most_s
    while True:
        thread.join(LOOK_EVERY_S)
        if not thread.is_alive():
            break
        if why := ends.why():
            raise Ended(why)
        if time.monotonic() > late_s:
            raise TimeoutError(f"no answer within {most_s:g} s")
    if failed:
        raise failed[0]
    return found[0]


class Guard:
    """Ends a connection that is in use by another thread."""

    def __init__(self, ends: Ends) -> None:
        self.why = ""
        """Why it was ended; empty while it was not."""
        self.ends = ends
        self._done = threading.Event()
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, name="fetch-guard", daemon=True)

    def __enter__(self) -> Guard:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def watch(self, end: socket.socket) -> None:
        """Before it is connected, and once more when it is. Raises Ended."""
        self._socket = end
        if self.why:
            raise Ended(self.why)

    def _run(self) -> None:
        while not self._done.wait(LOOK_EVERY_S):
            self.why = self.why or self.ends.why()
            if self.why and self._socket is not None:  # again and again: before `connect` there is nothing to shut down
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # below TLS: its state is not ours
