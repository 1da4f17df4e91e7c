"""Does the box let us work: cameras, state directory, memory that can be locked, a clock that is right?"""

from __future__ import annotations

import ctypes
import errno
import grp
import os
import re
import resource
import shutil
import socket
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from edge_inspect.capture.v4l2_node import nodes
from edge_inspect.config import CameraConfig
from edge_inspect.health.findings import Finding, fail, ok, warn

MEMORY_FILE_SYSTEMS = ("tmpfs", "ramfs", "overlay", "squashfs")
SLOW_FSYNC_MS = 200.0
LEAST_FREE_BYTES = 200 << 20
CONNECT_TIMEOUT_S = 5.0
CAP_IPC_LOCK = 14
"""capabilities(7): may lock any amount of memory."""
TIME_ERROR = 5
"""adjtimex(2): the clock is not synchronized."""


def check_cameras_there() -> Finding:
    """For a box that has no configuration yet: which cameras it could have."""
    found = [f"{node.path} ({node.identity})" for node in nodes() if node.captures]
    if not found:
        return warn(
            "cameras", "no V4L2 camera is there or may be opened", "plug one in; group video; or use rtsp:// or sim"
        )
    return ok("cameras", ", ".join(found))


def check_camera(camera: CameraConfig) -> Finding:
    """Whether the source can be had; a device is opened and let go, no picture is taken."""
    name = f"camera {camera.name}"
    if camera.source.isdecimal() or camera.source.startswith("/dev/"):
        return _check_device(name, f"/dev/video{camera.source}" if camera.source.isdecimal() else camera.source)
    if camera.source.lower().startswith(("rtsp://", "rtsps://")):
        return _check_host(name, camera.source)
    return ok(name, f"{camera.source[:80]}: nothing to check before it runs")


def _check_device(name: str, device: str) -> Finding:
    try:
        os.close(os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as err:
        mend = {
            errno.ENOENT: "plug it in; `edge-inspect camera list` shows what is there; prefer /dev/v4l/by-path/...",
            errno.EACCES: f"let this user into the group that owns it: usermod -aG {_group_of(device)} {_user()}",
            errno.EPERM: "the service's DeviceAllow= does not name it (systemd/edge-inspect.service)",
            errno.EBUSY: "another program has it: `fuser -v` names it",
        }.get(err.errno or 0, "see `dmesg`")
        return fail(name, f"{device}: {err.strerror}", mend)
    return ok(name, f"{device} can be opened")


def _check_host(name: str, url: str) -> Finding:
    parts = urlsplit(url)
    port = parts.port or (322 if parts.scheme.lower() == "rtsps" else 554)
    try:
        socket.create_connection((parts.hostname or "", port), CONNECT_TIMEOUT_S).close()
    except OSError as err:
        return fail(name, f"{parts.hostname}:{port}: {err.strerror or err}", "check cable, address and firewall")
    return ok(name, f"{parts.hostname}:{port} answers")


def _group_of(path: str) -> str:
    try:
        return grp.getgrgid(Path(path).stat().st_gid).gr_name
    except (OSError, KeyError):
        return "video"


def _user() -> str:
    return os.environ.get("USER") or str(os.getuid())


def check_state_dir(folder: Path, cap_bytes: int, mountinfo: str) -> Iterator[Finding]:
    """Writable, on a disk that survives a power cut, room for the outbox, fsync that works; leaves nothing behind."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as probe:
            probe.write(bytes(4096))
            probe.flush()
            begin = time.perf_counter()
            os.fsync(probe.fileno())
            fsync_ms = (time.perf_counter() - begin) * 1e3
    except OSError as err:
        yield fail(
            "state", f"{folder}: {err.strerror}", f"make it writable: chown {_user()} {folder}, or set state_dir"
        )
        return
    kind = file_system_of(folder, mountinfo)
    if kind in MEMORY_FILE_SYSTEMS:
        mend = "set state_dir to a folder on a disk (in a container: a volume)"
        yield warn("state", f"{folder} lies on {kind}: reports do not survive a restart of the box", mend)
    elif fsync_ms > SLOW_FSYNC_MS:
        yield warn(
            "state", f"{folder}: fsync took {fsync_ms:.0f} ms", "a worn or busy disk: `smartctl -a`, `iostat -x 1`"
        )
    else:
        yield ok("state", f"{folder} on {kind or 'an unknown file system'}, fsync {fsync_ms:.1f} ms")
    yield _check_free(folder, cap_bytes)
    yield _check_sqlite(folder)


def _check_free(folder: Path, cap_bytes: int) -> Finding:
    free = shutil.disk_usage(folder).free
    told = f"{free / 1e9:.1f} GB free, the outbox may take {cap_bytes / 1e9:.1f} GB"
    if free < LEAST_FREE_BYTES:
        return fail("disk", told, "free some space, or set state_dir to a larger disk")
    if free < cap_bytes:
        return warn("disk", told, "lower outbox.cap_bytes or free some space: a long outage would fill the disk")
    return ok("disk", told)


def _check_sqlite(folder: Path) -> Finding:
    """The outbox needs WAL and synchronous=FULL; a file system that cannot do WAL (network ones) answers `delete`."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".doctor-") as inside:
        try:
            database = sqlite3.connect(Path(inside) / "probe.sqlite3")
            try:
                journal = database.execute("PRAGMA journal_mode=WAL").fetchone()[0]
                database.execute("PRAGMA synchronous=FULL")
                synchronous = database.execute("PRAGMA synchronous").fetchone()[0]
            finally:
                database.close()
        except sqlite3.Error as err:
            return fail("sqlite", f"{sqlite3.sqlite_version}: {err}", "set state_dir to a local disk")
    if journal != "wal" or synchronous != 2:
        told = f"{sqlite3.sqlite_version}: journal {journal}, synchronous {synchronous}; needs wal and 2 (FULL)"
        return fail("sqlite", told, "set state_dir to a local disk")
    return ok("sqlite", f"{sqlite3.sqlite_version}, WAL, synchronous FULL")


def file_system_of(folder: Path, mountinfo: str) -> str:
    """Type of the file system that `folder` lies on, from the text of /proc/self/mountinfo; "" when it does not say."""
    kind, longest = "", -1
    here = folder.resolve()
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, kinds = left.split(), right.split()
        if len(fields) < 5 or not kinds:
            continue
        point = Path(fields[4].encode().decode("unicode_escape"))
        if (here == point or point in here.parents) and len(point.parts) > longest:
            kind, longest = kinds[0], len(point.parts)
    return kind


def check_mlock(cameras: Sequence[CameraConfig], limit_bytes: int, status: str) -> Finding:
    """The rings are locked in memory so that no frame waits for the swap; without the right they are not.

    limit_bytes: RLIMIT_MEMLOCK, -1 for none. status: the text of /proc/self/status.
    """
    needed = sum((c.slots + 1) * (c.width or 1920) * (c.height or 1080) * 3 for c in cameras)
    capabilities = re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.MULTILINE)
    unlimited = capabilities is not None and int(capabilities.group(1), 16) >> CAP_IPC_LOCK & 1
    if unlimited or limit_bytes == resource.RLIM_INFINITY or limit_bytes >= needed:
        return ok("memory lock", f"{needed / 1e6:.0f} MB of frames may be locked")
    told = f"only {limit_bytes / 1e6:.0f} of {needed / 1e6:.0f} MB of frames may be locked"
    return warn("memory lock", told, "LimitMEMLOCK=512M in the unit (it is in ours), or `ulimit -l`")


def check_clock() -> Finding:
    """A wrong clock spoils no verdict (those use the monotonic clock), but the time in every report."""
    state = _adjtimex()
    if state is None:
        return ok("clock", "whether it is synchronized cannot be asked here")
    if state == TIME_ERROR:
        mend = "timedatectl set-ntp true, or install chrony: until then the times in reports are this box's own"
        return warn("clock", "is not synchronized", mend)
    return ok("clock", "is synchronized")


def _adjtimex() -> int | None:
    """State of the kernel's clock; None where the kernel does not say."""
    libc = ctypes.CDLL(None, use_errno=True)
    timex = (ctypes.c_char * 512)()  # all zero, so `modes` is 0: only asked, nothing is changed
    state = int(libc.adjtimex(timex))
    return None if state < 0 else state
