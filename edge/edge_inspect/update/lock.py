"""One process at a time has the state of updates open; whoever comes second is told which.

lock = hold(folder, wait_s=5.0)         # until it is closed, or the process is gone
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path

from edge_inspect.durable import translated
from edge_inspect.errors import InUse

LOCK_NAME = "lock"


def hold(folder: Path, wait_s: float = 0.0) -> int:
    """The descriptor. Raises InUse after `wait_s`, StorageFailing."""
    path, until_s = folder / LOCK_NAME, time.monotonic() + wait_s
    with translated(path):
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            if time.monotonic() >= until_s:
                owner = os.pread(lock, 20, 0).decode(errors="replace").strip()
                os.close(lock)
                who = f"another process ({owner or '?'})"
                raise InUse(f"{path}: {who} has it: a daemon that runs, or another command") from err
        else:
            with contextlib.suppress(OSError):  # only so that a second one can name us; the lock itself is held
                os.pwrite(lock, f"{os.getpid():<19}\n".encode(), 0)
            return lock
        time.sleep(0.05)


def insist_on_nobody(folder: Path) -> None:
    """Raises InUse where a process has it open, StorageFailing."""
    os.close(hold(folder))
