"""The process that may be lost: cuts itself off, limits itself, loads the candidate, prints one JSON line.

    {"ok": true, "provider": "cpu", ...}  or  {"ok": false, "code": "known-answer", "message": "..."}
    {"unread": "..."}       the disk did not give the bytes

1. A small process stays behind and ends whatever this one leaves running (`probe_family`).
2. The network goes first, while there is one thread (libraries start more as they are imported); then everything ours
   is imported and the provider chosen; then the limits; only then a byte of the candidate is read.
3. Only `probe` starts it: request on stdin, answer on stdout, both one JSON object. Nothing is written to any file.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edge_inspect.errors import BadModel, InspectError, StorageFailing
from edge_inspect.update.probe_family import guard

CLONE_NEWNET, CLONE_NEWUSER = 0x4000_0000, 0x1000_0000
MOST_FILES = 256
MOST_MORE_TASKS = 256
"""Threads and processes beyond those that this user has already: the limit counts them all (and root's not at all)."""
GPU = ("cuda", "tensorrt")
CUT_OFF = "cut off"


def main() -> None:
    guard()
    answer()


def answer() -> None:
    """One request, one answer, exit code 0; whatever else happens is a crash, and the parent's to name."""
    asked = json.loads(sys.stdin.readline())
    network = cut_network()
    from edge_inspect.update.examine import examine, request_from

    try:
        limit(asked["address_space_bytes"], asked["seconds"], gpu=_prepare(asked["request"]["provider"]) in GPU)
        said: dict[str, Any] = {"ok": True} | asdict(examine(request_from(asked["request"]), network))
    except BadModel as err:
        said = {"ok": False, "code": _code(err), "message": str(err).removesuffix(f" [{err.code}]")}
    except MemoryError:
        said = {"ok": False, "code": "probe-memory", "message": "more memory than it may have"}
    except StorageFailing as err:
        said = {"unread": str(err)}
    except InspectError as err:
        said = {"ok": False, "code": "probe-provider", "message": str(err)}
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()
    os._exit(0)  # a runtime's own tidying up must not turn the answer into a crash


def cut_network() -> str:
    """Into a network namespace with nothing in it, where an ordinary user may: "cut off", or why not."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) == 0 or libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0:
        return CUT_OFF
    why = os.strerror(ctypes.get_errno())
    interfaces = {line.partition(":")[0].strip() for line in Path("/proc/self/net/dev").read_text().splitlines()[2:]}
    return CUT_OFF if interfaces <= {"lo"} else f"not cut off: {why}"


def limit(address_space_bytes: int, seconds: float, *, gpu: bool) -> None:
    """From here on. A GPU's driver maps far more addresses than memory, so they are not limited there; the parent
    watches resident memory in both cases."""
    cores = len(os.sched_getaffinity(0))
    cpu_s = int(seconds * cores) + 1
    limits = [
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, MOST_FILES),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_NPROC, _tasks_of_user() + MOST_MORE_TASKS),
    ]
    if not gpu:
        limits.append((resource.RLIMIT_AS, _address_space_bytes() + address_space_bytes))
    for kind, most in limits:
        _, hard = resource.getrlimit(kind)
        lower = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (lower, lower))


def _prepare(provider: str) -> str:
    """Import the runtime now; what it maps is not the candidate's."""
    from edge_inspect.inference.providers import choose, survey

    survey()
    return choose(provider)


def _code(err: BadModel) -> str:
    return "probe-memory" if err.code == "runtime-refuses" and lacks_memory(str(err)) else err.code


def lacks_memory(text: str) -> bool:
    """A runtime that gets no memory says so in its own words."""
    words = (
        "bad_alloc",
        "memoryerror",
        "allocate memory",
        "out of memory",
        "failed to allocate",
        "can't alloc",
        "bad allocation",
    )
    return any(word in text.lower() for word in words)


def _address_space_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def _tasks_of_user() -> int:
    mine, found = os.getuid(), 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.stat().st_uid == mine:
                found += len(list((process / "task").iterdir()))
        except OSError:
            continue  # it has ended
    return found


if __name__ == "__main__":
    main()
