"""The first load of an unknown model, in a process of its own that may crash, hang or eat memory: the daemon does not.

1. Whatever the candidate does to its process, the answer is `Probed` or a BadModel with a code, within `seconds`.
2. The process has limits on address space, CPU time, files, tasks and file size, no core dump, an empty environment, no
   network where the kernel lets an ordinary user cut it, and dies with all its descendants (`probe_family`).
3. Its answer is read as a stranger's: what is not exactly in order is a crash (`probe_answer`).
4. Where systemd runs edge-inspect-probe.socket, the probing is done by that service instead, which has no network, no
   devices and no file to write; a GPU probe needs devices and stays a child of the daemon. What that service cannot
   see, or does not answer, is no word about the model: a child does it then, too, and the log and `Probed.remark` say
   so. Only what it says of its own child counts.
5. `stop` ends it at once, and everything that it started.

    probe(package.dir, golden_of=active.dir, model=Request(..., provider="cpu"), limits=ProbeLimits())

What is asked of the candidate: `examine`.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog

from edge_inspect.errors import Ending
from edge_inspect.update.examine import Probed, Request, as_facts, request_from
from edge_inspect.update.probe_answer import (
    ANSWER_BYTES,
    Answer,
    Refused,
    Unseen,
    answer_of,
    probed_or_raise,
    read_reply,
)
from edge_inspect.update.probe_child import GPU
from edge_inspect.update.probe_family import end_all, resident_bytes
from edge_wire.manifest import MANIFEST_NAME

log = structlog.get_logger()

CHILD = (sys.executable, "-I", "-B", "-m", "edge_inspect.update.probe_child")
STATE_OF_UNITS = Path("/var/lib/edge-inspect")
"""StateDirectory= of edge-inspect.service; that of edge-inspect@NAME.service is NAME in it."""
LOOK_S = 0.1
SERVICE_MORE_S = 30.0
"""Beyond its own seconds: systemd starts it, and the machine may be busy."""
LEFT_TO_GROUP_BYTES = 384 << 20
"""Of the memory that systemd gives our service the probe leaves so much: beyond it the kernel would end us as well."""
LEAST_ADDRESSES_BYTES = 1 << 30
RUNTIME_BYTES = 512 << 20
"""What Python and a runtime take before there is a model; the limit on addresses counts from there exactly."""
KEPT_FOR_GPU = ("LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "CUDA_MODULE_LOADING")
"""The only words of the environment that a child gets, and only for a GPU."""


@dataclass(frozen=True)
class ProbeLimits:
    seconds: float = 60.0
    """Wall time, from start to answer."""
    memory_bytes: int = 4 << 30
    """Address space and resident memory beyond what the runtime itself takes."""
    addresses_bytes: int | None = None
    """Of address space alone, where it is another number (a GPU's driver: not limited at all)."""


def probe(
    package_dir: Path,
    *,
    model: Request | None = None,
    golden_of: Path | None = None,
    limits: ProbeLimits | None = None,
    service: Path | None = None,
    command: Sequence[str] = CHILD,
    stop: threading.Event | None = None,
) -> Probed:
    """Load and examine the package in `package_dir`.

    model: as what it shall run; its `package` and `golden_of` are those given here.
    golden_of: the package that judges now, whose golden pictures are asked too.
    service: the socket of edge-inspect-probe; without, or where it can say nothing, a child of this process does it.
        A provider that is to be a GPU is asked for by its name: `auto` there would mean what the service has.
    stop: when it is set, the probe ends and nothing is known.
    Raises BadModel: probe-crash, probe-hang, probe-memory, and what `examine` raises; Ending.
    """
    request = replace(model or Request(package_dir), package=package_dir, golden_of=golden_of)
    limits = limits or ProbeLimits()
    gone = stop.is_set if stop is not None else _never
    answer, remark = None, ""
    if service is not None and request.provider not in GPU:
        answer, remark = _ask_service(service, request, limits, gone)
    probed = probed_or_raise(answer or run_child(request, limits, command, gone), package_dir)
    return replace(probed, remark="; ".join(filter(None, (probed.remark, remark))))


def service_of(state_dir: Path) -> Path:
    """The socket of the unit beside the daemon's: edge-inspect-probe, of an instance edge-inspect-probe@NAME."""
    name = f"@{state_dir.name}" if state_dir.parent == STATE_OF_UNITS else ""
    return Path(f"/run/edge-inspect-probe{name}/socket")


def _never() -> bool:
    return False


def run_child(
    request: Request, limits: ProbeLimits, command: Sequence[str] = CHILD, gone: Callable[[], bool] = _never
) -> Answer:
    """The child's answer, or one in its place when it could give none; never raises for what the child does.

    gone: nobody wants to know any more. Raises Ending.
    """
    room = room_in_group_bytes()
    addresses = limits.addresses_bytes or min(limits.memory_bytes, max(room - RUNTIME_BYTES, LEAST_ADDRESSES_BYTES))
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
            verdict = _watch(child, heard, limits.seconds, resident, gone)
        finally:
            end_all(child.pid)  # before the one that keeps them together
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
            if not (line := stream.readline(ANSWER_BYTES)):
                return  # whoever asked did not wait
            asked = json.loads(line)
            limits = ProbeLimits(float(asked["seconds"]), int(asked["address_space_bytes"]))
            request = request_from(asked["request"])
            try:
                answer = _unseen(request) or run_child(request, limits, command, lambda: _hung_up(connection))
            except Ending:
                return
            stream.write(answer.model_dump_json().encode() + b"\n")


def _unseen(request: Request) -> Unseen | None:
    """Where this process lives most folders are hidden; without the model that judges there is nothing to compare."""
    folders = [folder for folder in (request.package, request.golden_of) if folder is not None]
    unseen = [str(folder) for folder in folders if not os.access(folder / MANIFEST_NAME, os.R_OK)]
    return Unseen(unseen=", ".join(unseen)) if unseen else None


def _hung_up(connection: socket.socket) -> bool:
    """Whoever asked has closed its end: after the request it says nothing more."""
    watch = select.poll()
    watch.register(connection, select.POLLRDHUP)
    return bool(watch.poll(0))


class _NoWord(Exception):
    """The service says nothing about the model: it cannot be reached, does not answer, or does not see it."""


def _ask_service(
    service: Path, request: Request, limits: ProbeLimits, gone: Callable[[], bool]
) -> tuple[Answer | None, str]:
    """Its answer about the model; None where it has none, and why, unless there is no such service at all."""
    asked = {"request": as_facts(request), "seconds": limits.seconds, "address_space_bytes": limits.memory_bytes}
    try:
        with _reached(service) as connection:
            reply = _reply(connection, asked, limits.seconds + SERVICE_MORE_S, gone)
    except FileNotFoundError:
        return None, ""
    except _NoWord as err:
        why = f"{service} {err}; a child of this process examined it"
        log.warning("probe.service_not_used", why=why)
        return None, why
    return reply, ""


@contextlib.contextmanager
def _reached(service: Path) -> Iterator[socket.socket]:
    """Raises FileNotFoundError, _NoWord."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(SERVICE_MORE_S)
        try:
            connection.connect(str(service))
        except FileNotFoundError:
            raise
        except ConnectionRefusedError as err:  # systemd has given it up: StartLimitBurst=
            raise _NoWord("has nobody who listens: see `systemctl status` of its .socket, restart that") from err
        except OSError as err:
            raise _NoWord(f"cannot be asked: {err.strerror or err}") from err
        yield connection


def _reply(connection: socket.socket, asked: dict[str, Any], seconds: float, gone: Callable[[], bool]) -> Answer:
    """The service minds its child's time itself: one that is not heard in `seconds` does not work. Raises _NoWord."""
    said, until_s = b"", time.monotonic() + seconds
    try:
        connection.sendall(json.dumps(asked).encode() + b"\n")
        connection.settimeout(LOOK_S)
        while b"\n" not in said and len(said) < ANSWER_BYTES:
            _go_on(gone)
            if time.monotonic() > until_s:
                raise _NoWord(f"gave no answer within {seconds:g} s")
            with contextlib.suppress(TimeoutError):
                if not (more := connection.recv(1 << 16)):
                    break
                said += more
    except OSError as err:
        raise _NoWord(f"gave no answer: {err.strerror or err}") from err
    reply = read_reply(said)
    if isinstance(reply, Unseen):
        raise _NoWord(f"does not see {reply.unseen} (BindReadOnlyPaths= in a drop-in: docs/model-packages.md)")
    if reply is None:
        raise _NoWord("gave an answer that is none" if said else "ended without an answer")
    return reply


def _go_on(gone: Callable[[], bool]) -> None:
    if gone():
        raise Ending("nobody waits for the probe any more: it is ended, and can be asked again")


def _watch(
    child: subprocess.Popen[bytes], heard: _Heard, seconds: float, most_bytes: int, gone: Callable[[], bool]
) -> Answer | None:
    """Until it ends by itself (None), or the answer for what it does not stop doing."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(LOOK_S)
            return None
        heard.drain()
        _go_on(gone)
        if resident_bytes(child.pid) > most_bytes:
            return Refused(code="probe-memory", message=f"more than {most_bytes >> 20} MiB of memory in all")
        if time.monotonic() > deadline:
            return Refused(code="probe-hang", message=f"no answer within {seconds:g} s")


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


def _environment(provider: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in KEPT_FOR_GPU if name in os.environ} if provider != "cpu" else {}
    return {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/nonexistent", "MALLOC_ARENA_MAX": "2"} | kept
