"""Short-lived processes under strace: forked from one that has imported everything, traced from a chosen point on.

`traced(work, *options)` forks, lets strace take hold of the child, lets it go, and waits for its end. The calls of
starting Python are not counted then, and a run takes tens of milliseconds. A child ends by `os._exit`: nothing of the
parent's is closed or flushed in it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

STRACE = shutil.which("strace")
TIMEOUT_S = 120.0
SIGKILLED = -signal.SIGKILL


def reason_not_to() -> str:
    """Why nothing can be traced here; empty if it can."""
    if STRACE is None:
        return "strace is not installed"
    try:
        code, _ = traced(
            lambda: os.getppid() and None, "-e", "trace=getppid", "-e", "inject=getppid:signal=KILL:when=1"
        )
    except (OSError, RuntimeError) as err:
        return f"strace cannot trace here: {err}"
    return "" if code == SIGKILLED else "strace injects nothing here"


def forked(work: Callable[[], None]) -> int:
    """Run `work` in a child of its own; its exit status, negative for a signal."""
    return _wait(_fork(work, None))


def start(work: Callable[[], None]) -> int:
    """Run `work` in a child that the caller ends and waits for; its process id."""
    return _fork(work, None, limit_s=0)


def traced(work: Callable[[], None], *options: str) -> tuple[int, str]:
    """Run `work` in a child under strace with `options`; its exit status and the trace. Raises RuntimeError."""
    assert STRACE is not None
    gate, let_go = os.pipe()
    child = _fork(work, gate)
    os.close(gate)
    with tempfile.NamedTemporaryFile(mode="r", dir="/dev/shm") as trace:
        with subprocess.Popen(
            [STRACE, "-f", "-o", trace.name, *options, "-p", str(child)], stderr=subprocess.PIPE, text=True
        ) as strace:
            assert strace.stderr is not None
            said = strace.stderr.readline()  # "Process N attached"
            if "attached" not in said:
                os.kill(child, signal.SIGKILL)
                _wait(child)
                raise RuntimeError(said.strip() or "no answer")
            os.write(let_go, b"!")
            os.close(let_go)
            status = _wait(child)
            strace.communicate(timeout=TIMEOUT_S)
        return status, Path(trace.name).read_text(errors="replace")


def _fork(work: Callable[[], None], gate: int | None, limit_s: float = TIMEOUT_S) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        signal.alarm(round(limit_s))
        if gate is not None:
            os.read(gate, 1)
        work()
        status = 0
    except BaseException:  # noqa: BLE001  whatever it is: the child must not go on in the parent's code
        traceback.print_exc()
    finally:
        os._exit(status)


def _wait(child: int) -> int:
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)
