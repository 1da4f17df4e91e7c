"""The probe's child with a runtime that goes wrong while it loads the candidate: `faulty_child.py FAULT`.

Only tests start it; the program has no such switch. The model that judges is loaded as ever.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from edge_inspect.update import probe_child


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
    "write": write,
    "connect": connect,
    "silent": lambda: os._exit(0),
}


def main() -> None:
    probe_child.cut_network()  # as there: before anything that starts threads is imported
    from edge_inspect.inference import engine

    really = engine.open_binding

    def open_binding(model: bytes, *rest: Any) -> Any:
        if b"candidate" in model:
            FAULTS[sys.argv[1]]()
        return really(model, *rest)

    engine.open_binding = open_binding
    probe_child.main()


if __name__ == "__main__":
    main()
