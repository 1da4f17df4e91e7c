"""The first load of an unknown model, in a process of its own that may crash, hang or eat memory: the daemon does not.

1. Whatever the candidate does to its process, the answer is `Probed` or a BadModel with a code, within `seconds`.
2. The process has limits on address space, CPU time, files, tasks and file size, no core dump, an empty environment, no
   network where the kernel lets an ordinary user cut it, and dies with all its children.
3. Where systemd runs edge-inspect-probe.socket, the probing is done by that service instead, which has no network, no
   devices and no file to write; a GPU probe needs devices and stays a child of the daemon.

    probe(package.dir, golden_of=active.dir, model=Request(..., provider="cpu"), limits=ProbeLimits())

What is asked of the candidate: `examine`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edge_inspect.errors import BadModel
from edge_inspect.update.examine import Probed, Request, as_facts, probed_from, request_from
from edge_inspect.update.probe_child import GPU, lacks_memory

CHILD = (sys.executable, "-I", "-B", "-m", "edge_inspect.update.probe_child")
SERVICE = Path("/run/edge-inspect-probe/socket")
LOOK_S = 0.05
LEFT_TO_GROUP_BYTES = 384 << 20
"""Of the memory that systemd gives our service the probe leaves so much: beyond it the kernel would end us as well."""
LEAST_ADDRESSES_BYTES = 1 << 30
RUNTIME_BYTES = 512 << 20
"""What Python and a runtime take before there is a model; the limit on addresses counts from there exactly."""
ANSWER_BYTES = 1 << 20
KEPT_FOR_GPU = ("LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "CUDA_MODULE_LOADING")
"""The only words of the environment that a child gets, and only for a GPU."""


@dataclass(frozen=True)
class ProbeLimits:
    seconds: float = 60.0
    """Wall time, from start to answer."""
    memory_bytes: int = 4 << 30
    """Address space and resident memory beyond what the runtime itself takes."""


def probe(
    package_dir: Path,
    *,
    model: Request | None = None,
    golden_of: Path | None = None,
    limits: ProbeLimits | None = None,
    service: Path | None = None,
    command: Sequence[str] = CHILD,
) -> Probed:
    """Load and examine the package in `package_dir`.

    model: as what it shall run; its `package` and `golden_of` are those given here.
    golden_of: the package that judges now, whose golden pictures are asked too.
    service: the socket of edge-inspect-probe; without, or where nobody listens, a child of this process does it.
    Raises BadModel: probe-crash, probe-hang, probe-memory, and what `examine` raises.
    """
    request = replace(model or Request(package_dir), package=package_dir, golden_of=golden_of)
    limits = limits or ProbeLimits()
    answer = None
    if service is not None and request.provider not in GPU:
        answer = _ask_service(service, request, limits)
    return _read(request, answer or run_child(request, limits, command))


def run_child(request: Request, limits: ProbeLimits, command: Sequence[str] = CHILD) -> dict[str, Any]:
    """The child's answer, or one in its place when it could give none; never raises for what the child does."""
    room = room_in_group_bytes()
    addresses = min(limits.memory_bytes, max(room - RUNTIME_BYTES, LEAST_ADDRESSES_BYTES))
    resident = min(RUNTIME_BYTES + limits.memory_bytes, max(room, LEFT_TO_GROUP_BYTES))
    asked = {"request": as_facts(request), "seconds": limits.seconds, "address_space_bytes": addresses}
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_environment(request.provider),
        cwd="/",
        start_new_session=True,
        close_fds=True,
    ) as child:
        heard = _Heard(child)
        try:
            assert child.stdin is not None
            with contextlib.suppress(BrokenPipeError), child.stdin:
                child.stdin.write(json.dumps(asked).encode() + b"\n")
            verdict = _watch(child, heard, limits.seconds, resident)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        heard.drain()
    return verdict or answer_of(child.returncode, heard.said, heard.complained.decode(errors="replace"))


class _Heard:
    """What the child prints, taken as it comes so that it never waits for us; of complaints only the end is kept."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        assert child.stdout is not None and child.stderr is not None
        self._fds = child.stdout.fileno(), child.stderr.fileno()
        self.said = self.complained = b""
        for fd in self._fds:
            os.set_blocking(fd, False)

    def drain(self) -> None:
        self.said = (self.said + _available(self._fds[0]))[:ANSWER_BYTES]
        self.complained = (self.complained + _available(self._fds[1]))[-ANSWER_BYTES:]


def _available(fd: int) -> bytes:
    """At most a pipeful."""
    with contextlib.suppress(BlockingIOError):
        return os.read(fd, ANSWER_BYTES)
    return b""


def serve(listener: socket.socket, command: Sequence[str] = CHILD) -> None:
    """Answer one request on a socket that systemd listens on, then end: the next one gets a new process."""
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(10)
        with connection.makefile("rwb") as stream:
            asked = json.loads(stream.readline(ANSWER_BYTES))
            limits = ProbeLimits(float(asked["seconds"]), int(asked["address_space_bytes"]))
            answer = run_child(request_from(asked["request"]), limits, command)
            stream.write(json.dumps(answer).encode() + b"\n")


def _ask_service(service: Path, request: Request, limits: ProbeLimits) -> dict[str, Any] | None:
    """None where nobody listens."""
    asked = {"request": as_facts(request), "seconds": limits.seconds, "address_space_bytes": limits.memory_bytes}
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with connection:
        connection.settimeout(limits.seconds + 30)
        try:
            connection.connect(str(service))
        except OSError:
            return None
        try:
            connection.sendall(json.dumps(asked).encode() + b"\n")
            with connection.makefile("rb") as stream:
                line = stream.readline(ANSWER_BYTES)
        except TimeoutError:
            return _refused("probe-hang", f"{service}: no answer within {limits.seconds + 30:g} s")
        except OSError as err:
            return _refused("probe-crash", f"{service}: {err.strerror}")
    return _parsed(line) or _refused("probe-crash", f"{service}: the probe ended without an answer")


def _watch(child: subprocess.Popen[bytes], heard: _Heard, seconds: float, resident_bytes: int) -> dict[str, Any] | None:
    """Until it ends by itself (None), or the answer for what it does not stop doing."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(LOOK_S)
            return None
        heard.drain()
        if _resident_bytes(child.pid) > resident_bytes:
            return _refused("probe-memory", f"more than {resident_bytes >> 20} MiB of memory in all")
        if time.monotonic() > deadline:
            return _refused("probe-hang", f"no answer within {seconds:g} s")


def room_in_group_bytes(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """What our control group (version 2) may still take, less what is left to it; endless where nothing limits it."""
    room = 1 << 62
    try:
        group = root / own.read_text().strip().rpartition("::/")[2]
        for folder in (group, *group.parents):
            if folder == root or not folder.is_relative_to(root):
                break
            most = (folder / "memory.max").read_text().strip()
            if most != "max":
                room = min(room, int(most) - int((folder / "memory.current").read_text()) - LEFT_TO_GROUP_BYTES)
    except (OSError, ValueError):
        return room
    return room


def answer_of(returncode: int, said: bytes, complained: str) -> dict[str, Any]:
    """What the child said, or what its end says in its place."""
    answer = _parsed((said.strip().splitlines() or [b""])[-1])
    if answer is not None and returncode == 0:
        return answer
    last = (complained.strip().splitlines() or ["it said nothing"])[-1][:200]
    if lacks_memory(complained):
        return _refused("probe-memory", f"more memory than it may have: {last}")
    if returncode == -signal.SIGXCPU:
        return _refused("probe-hang", "more CPU time than it may have")
    how = f"killed by {signal.Signals(-returncode).name}" if returncode < 0 else f"exit code {returncode}"
    return _refused("probe-crash", f"the process that loaded it was {how}: {last}")


def _refused(code: str, message: str) -> dict[str, Any]:
    return {"ok": False, "code": code, "message": message}


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        answer = json.loads(line)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) and isinstance(answer.get("ok"), bool) else None


def _read(request: Request, answer: dict[str, Any]) -> Probed:
    if answer.pop("ok"):
        return probed_from(answer)
    message = " ".join(str(answer["message"]).split())
    where = "" if str(request.package) in message else f"{request.package}: "
    raise BadModel(str(answer["code"]), where + message)


def _environment(provider: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in KEPT_FOR_GPU if name in os.environ} if provider != "cpu" else {}
    return {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/nonexistent", "MALLOC_ARENA_MAX": "2"} | kept


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0
