"""Ends the process when a thread stands still: what hangs in a driver or a disk cannot be freed from inside.

1. A heart that did not move for its `patience_s` ends the process: one line that names the thread, every thread's
   stack, exit code 1. systemd (or whatever supervises us) starts it anew.
2. All of it on the monotonic clock, and only while this process was awake: after SIGSTOP, or a machine that was
   suspended, everybody gets their patience anew.
3. The end comes even when nobody reads the log: END_ANYWAY_S after the decision, written or not.

    patience = Patience(hearts)
    while not stop.is_set():
        patience.look()                     # ten times a second, by the main thread
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

import structlog

from edge_inspect.health.notify import Heart
from edge_inspect.printing import Printer

log = structlog.get_logger()

ASLEEP_S = 2.0
"""Looks come ten times a second; if none came for so long, it was this process that did not run."""
END_ANYWAY_S = 2.0
"""With the longest patience, 12 s, the end is there within 15 s."""


class Patience:
    """Looks at `hearts`; calls `end` with those that stand still, the longest first, when one's patience is over."""

    def __init__(
        self,
        hearts: Sequence[Heart],
        *,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        end: Callable[[Sequence[Heart]], None] | None = None,
    ) -> None:
        self._hearts = hearts
        self._clock_ns = clock_ns
        self._end = end or end_process
        self._looked_ns = clock_ns()
        self._awake_since_ns = self._looked_ns

    def awake_since_ns(self) -> int:
        """Since when this process has been running without a stop, CLOCK_MONOTONIC in ns, as of the last look."""
        return self._awake_since_ns

    def look(self) -> None:
        now_ns = self._clock_ns()
        if now_ns - self._looked_ns > ASLEEP_S * 1e9:
            self._awake_since_ns = now_ns
        self._looked_ns = now_ns
        if any(heart.age_s(now_ns, self._awake_since_ns) > heart.patience_s for heart in self._hearts):
            ages = {heart.name: heart.age_s(now_ns, self._awake_since_ns) for heart in self._hearts}
            still = [heart for heart in self._hearts if ages[heart.name] > heart.max_age_s]
            self._end(sorted(still, key=lambda heart: -ages[heart.name]))


def end_process(still: Sequence[Heart], printer: Printer | None = None) -> NoReturn:
    """Say which threads hang, write every stack, end at once. Nothing here waits for a lock that a thread may hold.

    printer: has what was logged before, and prints this as well.
    """
    threading.Thread(target=_end_anyway, daemon=True).start()
    # The stacks are faulthandler's: it reads no source file from a disk that may be what hangs. It knows numbers only.
    stacks = {thread.name: f"0x{thread.ident or 0:016x}" for thread in threading.enumerate()}
    log.critical(
        "thread.hangs", thread=still[0].name, for_s=still[0].patience_s,
        others=[heart.name for heart in still[1:]], stacks=stacks, then="the process ends",
    )  # fmt: skip
    stacks_of_all = _dump()
    if printer is None:
        sys.stderr.write(stacks_of_all)
        sys.stderr.flush()
    else:
        printer.hand_over(lambda: stacks_of_all)
        printer.flush(END_ANYWAY_S)
    os._exit(1)


def _dump() -> str:
    """Every thread's stack. By way of memory: faulthandler lets nobody run while it writes, `_end_anyway` neither."""
    with os.fdopen(os.memfd_create("stacks"), "w+b") as memory:
        faulthandler.dump_traceback(file=memory, all_threads=True)
        memory.seek(0)
        return memory.read().decode(errors="replace")


def _end_anyway() -> None:
    time.sleep(END_ANYWAY_S)
    os._exit(1)
