"""Cutting a driver's call short: what a thread cannot do for itself once it waits in the kernel.

1. A signal to the waiting thread makes an interruptible call end with EINTR; whoever made the call sees that it took
   too long and gives it up. What waits uninterruptibly is not freed by this: only the end of the process helps then.
2. Without `ready_to_cut_short` (not the main thread, not our process) a cut does nothing, harmlessly.

    with ready_to_cut_short():                  # main thread
        cut_short(thread_ident)
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

CUT = signal.SIGURG
"""Ignored by default: a stray one ends nobody."""
GIVEN_UP_AFTER_S = 2.0
"""An interrupted call that had lasted this long was cut short on purpose; a younger one is simply made again."""


@contextmanager
def ready_to_cut_short() -> Iterator[None]:
    """A signal that is ignored interrupts nothing: for that it needs a handler, be it an empty one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(CUT, _nothing)
    try:
        yield
    finally:
        signal.signal(CUT, before)


def cut_short(thread_ident: int) -> None:
    """Interrupt what that thread, which must be alive, waits for."""
    signal.pthread_kill(thread_ident, CUT)


def _nothing(number: int, frame: object) -> None:
    """The interruption itself is all that is wanted."""
