"""The probe's child with a runtime that goes wrong while it loads the candidate: `faulty_child.py FAULT`.

Only tests start it; the program has no such switch. The model that judges is loaded as ever.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from edge_inspect.update import probe_child
from edge_inspect.update.probe_family import guard


def hog() -> None:
    kept = []
    while True:
        kept.append(bytearray(16 << 20))


def resident_hog() -> None:
    """Past a limit of addresses that is not there, as on a GPU."""
    kept = []
    for _ in range(64):
        kept.append(b"x" * (16 << 20))
    signal.pause()


def grandchild() -> None:
    """Starts a process that goes on after it has crashed."""
    if os.fork() == 0:
        signal.pause()
    os.abort()


def left_alone() -> None:
    """The same with one that has left its group and its session, and has a child of its own there."""
    if os.fork() == 0:
        os.setsid()
        os.fork()
        signal.pause()
    time.sleep(0.5)  # until it has left
    os.abort()


def hog_elsewhere() -> None:
    """The memory is a grandchild's."""
    if os.fork() == 0:
        os.setsid()
        resident_hog()
    signal.pause()


def hang_with_family() -> None:
    """Says so, then hangs, with a grandchild of another session."""
    if os.fork() == 0:
        os.setsid()
        signal.pause()
    Path(sys.argv[2]).touch()
    signal.pause()


def say(answer: dict[str, Any]) -> None:
    """In place of what it has found out."""
    print(json.dumps(answer), flush=True)
    os._exit(0)


def write() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    Path(sys.argv[2]).write_bytes(b"something")


def connect() -> None:
    with socket.create_connection(("127.0.0.1", int(sys.argv[2])), timeout=5):
        raise AssertionError("there is a network")


FAULTS: dict[str, Any] = {
    "segv": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "hang": signal.pause,
    "hog": hog,
    "resident-hog": resident_hog,
    "grandchild": grandchild,
    "left-alone": left_alone,
    "hog-elsewhere": hog_elsewhere,
    "hang-with-family": hang_with_family,
    "say": lambda: say(json.loads(sys.argv[2])),
    "write": write,
    "connect": connect,
    "silent": lambda: os._exit(0),
}


def main() -> None:
    guard()
    probe_child.cut_network()  # as there: before anything that starts threads is imported
    from edge_inspect.inference import engine

    really = engine.open_binding

    def open_binding(model: bytes, *rest: Any) -> Any:
        if b"candidate" in model:
            FAULTS[sys.argv[1]]()
        return really(model, *rest)

    engine.open_binding = open_binding
    probe_child.answer()


if __name__ == "__main__":
    main()
