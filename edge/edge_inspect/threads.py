"""The threads of the daemon, and how they end.

1. Each is one `run(stop)` whose owner moves its own heart (`beat_ns`).
2. One that dies keeps its error for the main thread and sets `end`, which ends everything.

    thread = Thread("courier", courier.run, stop, end)
    join([thread], time.monotonic() + 2.0, stop)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

log = structlog.get_logger()

REST_STEP_S = 0.25


class HasBeat(Protocol):
    beat_ns: int | None
    """When its thread last moved, CLOCK_MONOTONIC in ns; None when it may stand still."""


Running = tuple[str, HasBeat, Callable[[threading.Event], None]]
"""A thread's name, who has its heart, and its body."""


class Thread(threading.Thread):
    """Runs `body(stop)`; if it dies, keeps the error for the main thread and sets `end`."""

    def __init__(
        self, name: str, body: Callable[[threading.Event], None], stop: threading.Event, end: threading.Event
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.error: BaseException | None = None
        self.stop = stop
        self._body = body
        self._end_all = end

    def run(self) -> None:
        try:
            self._body(self.stop)
        except BaseException as err:  # noqa: BLE001 - a thread's top: the main thread raises it again
            self.error = err
            self._end_all.set()


def rest(owner: HasBeat, seconds: float, stop: threading.Event) -> None:
    """Wait so long, or until `stop`, while the owner's heart goes on moving."""
    until_s = time.monotonic() + seconds
    while (left_s := until_s - time.monotonic()) > 0 and not stop.wait(min(left_s, REST_STEP_S)):
        owner.beat_ns = time.monotonic_ns()


def join(threads: Sequence[Thread], until: float, stop: threading.Event | None = None) -> None:
    """Wait for threads (after `stop`, if given) until a moment of time.monotonic(); who does not end is named."""
    if stop is not None:
        stop.set()
    for thread in threads:
        thread.join(timeout=max(0.0, until - time.monotonic()))
        if stop is not None and thread.is_alive():
            log.error("thread.does_not_end", thread=thread.name)
