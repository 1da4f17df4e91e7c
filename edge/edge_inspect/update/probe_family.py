"""A process that may be lost, and all that it starts: none of them outlives it, whatever they do.

1. `guard` splits the process: a small one stays behind and adopts every orphan among its descendants (a process that
   has left its group and its session, too); the one that goes on loads the candidate.
2. When that one has ended, the one behind ends what is left of its family, and then itself in the same way.
3. Should whoever started it be killed, it ends its family, too.

    guard()                                     # in the child, while there is one thread
    end_all(child.pid); child.kill()            # from outside

Only the standard library, and nothing of it that is large: it is imported before the network is cut off.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import time
from pathlib import Path
from typing import NoReturn

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
END_S = 5.0
"""How long ending a family may take; what the kernel itself does not let go of is left to it."""
PAUSE_S = 0.01


def guard() -> None:
    """Returns in the process that may be lost; the one that called ends as that one does, and all others with it."""
    libc = ctypes.CDLL(None, use_errno=True)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, lambda number, frame: _end_with_all())
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    lost = os.fork()
    if lost == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        return
    while True:
        pid, status = os.wait()
        if pid == lost:
            break
    end_all(os.getpid())
    _end_as(os.waitstatus_to_exitcode(status))


def _end_as(code: int) -> NoReturn:
    """With that exit code, or by that signal."""
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _end_with_all() -> NoReturn:
    end_all(os.getpid())
    os._exit(128 + signal.SIGTERM)


def end_all(pid: int) -> None:
    """Kill all descendants of a process, not itself; again and again until none is left: one may just have forked."""
    until_s = time.monotonic() + END_S
    while (found := descendants(pid)) and time.monotonic() < until_s:
        for each in found:
            try:
                os.kill(each, signal.SIGKILL)
            except OSError:
                continue  # it has ended
        time.sleep(PAUSE_S)


def descendants(pid: int, proc: Path = Path("/proc")) -> list[int]:
    """Children, their children and so on; not those that have ended and wait to be reaped. One that ends while this
    looks may still be named as the parent of others: those are found through it."""
    children: dict[int, list[int]] = {}
    ended = set()
    for process in proc.glob("[0-9]*"):
        try:
            state, parent = (process / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue  # it has ended
        children.setdefault(int(parent), []).append(int(process.name))
        if state in "ZX":
            ended.add(int(process.name))
    found, open_ones = [], [pid]
    while open_ones:
        of_one = children.get(open_ones.pop(), [])
        found += of_one
        open_ones += of_one
    return [each for each in found if each not in ended]


def resident_bytes(pid: int) -> int:
    """Of a process and its descendants; what they share counts for each of them."""
    return sum(_resident_bytes(each) for each in (pid, *descendants(pid)))


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0
