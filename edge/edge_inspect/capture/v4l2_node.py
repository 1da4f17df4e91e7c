"""One open V4L2 node, and which nodes there are.

1. Only `os.open`, `fcntl.ioctl` and `os.close` touch a device: no stat, no listing of /dev, no epoll.
2. Every ioctl that a driver may lack is optional here: absent means None or an empty list, never an error.
3. Structures and ioctl numbers come from linuxpy's raw bindings; errors of the system stay OSError until `explain`
   turns them into ours.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from linuxpy.video import raw

from edge_inspect.capture.cut_short import GIVEN_UP_AFTER_S
from edge_inspect.errors import BadSource, CameraLost, InspectError

CAPTURE = int(raw.BufType.VIDEO_CAPTURE)
MMAP = int(raw.Memory.MMAP)

# fcntl.ioctl takes the number as unsigned; linuxpy's are signed.
QUERYCAP, ENUM_FMT, G_FMT, S_FMT, G_PARM, S_PARM, REQBUFS, QUERYBUF, QBUF, DQBUF, STREAMON, STREAMOFF = (
    int(raw.IOC[name]) & 0xFFFFFFFF
    for name in (
        "QUERYCAP", "ENUM_FMT", "G_FMT", "S_FMT", "G_PARM", "S_PARM", "REQBUFS", "QUERYBUF", "QBUF", "DQBUF",
        "STREAMON", "STREAMOFF",
    )
)  # fmt: skip
QUERYCTRL, G_CTRL, S_CTRL, ENUM_FRAMESIZES, SUBSCRIBE_EVENT, DQEVENT = (
    int(raw.IOC[name]) & 0xFFFFFFFF
    for name in ("QUERYCTRL", "G_CTRL", "S_CTRL", "ENUM_FRAMESIZES", "SUBSCRIBE_EVENT", "DQEVENT")
)

_NAMES = {int(request) & 0xFFFFFFFF: f"VIDIOC_{request.name}" for request in raw.IOC}

_NOT_THERE = (errno.ENOENT, errno.ENXIO, errno.ENODEV)
_NO_SUCH_IOCTL = (errno.ENOTTY, errno.EINVAL, errno.ENODATA, errno.ENOSYS, errno.EOPNOTSUPP)
_SCANNED = 64
_STABLE_FOLDERS = (Path("/dev/v4l/by-id"), Path("/dev/v4l/by-path"))


class Identity(NamedTuple):
    """What a camera says of itself; the same after it was unplugged and came back under another number."""

    card: str
    bus_info: str
    driver: str

    def is_same_camera(self, other: Identity) -> bool:
        return self.card == other.card and self.bus_info == other.bus_info

    def __str__(self) -> str:
        return f"{self.card or 'a camera without a name'} on {self.bus_info or 'an unnamed bus'}"


class Node:
    """An open device file. Raises OSError when it cannot be opened; whoever makes one closes it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def call(self, request: int, argument: Any) -> None:
        """One ioctl, again when a signal came in between, unless it took too long already. Raises OSError."""
        begun = time.monotonic()
        while True:
            try:
                fcntl.ioctl(self.fd, request, argument)
            except InterruptedError as err:
                if time.monotonic() - begun > GIVEN_UP_AFTER_S:
                    why = "the driver did not answer, its call was cut short"
                    raise OSError(errno.ETIMEDOUT, why, _NAMES.get(request)) from err
                continue
            except OSError as err:
                err.filename = _NAMES.get(request)
                raise
            return

    def has(self, request: int, argument: Any) -> bool:
        """One ioctl that the driver may lack. Raises OSError only for other troubles (unplugged, busy)."""
        try:
            self.call(request, argument)
        except OSError as err:
            if err.errno in _NO_SUCH_IOCTL:
                return False
            raise
        return True

    def close(self) -> None:
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            with contextlib.suppress(OSError):
                os.close(fd)

    def capability(self) -> tuple[Identity, int]:
        """Who this is and what this very node can do (bits of `raw.Capability`). Raises OSError."""
        told = raw.v4l2_capability()
        self.call(QUERYCAP, told)
        able = told.device_caps if told.capabilities & raw.Capability.DEVICE_CAPS else told.capabilities
        return Identity(_text(told.card), _text(told.bus_info), _text(told.driver)), int(able)

    def pixel_formats(self) -> list[str]:
        """Four-character codes that the driver lists; empty when it cannot list them."""
        found: list[str] = []
        entry = raw.v4l2_fmtdesc()
        for index in range(_SCANNED):
            entry.index, entry.type = index, CAPTURE
            if not self.has(ENUM_FMT, entry):
                break
            found.append(fourcc_name(entry.pixelformat))
        return found

    def sizes(self, fourcc: str) -> list[tuple[int, int]]:
        """(width, height) in px that the driver lists; of a range only the least and the largest."""
        found: list[tuple[int, int]] = []
        entry = raw.v4l2_frmsizeenum()
        for index in range(_SCANNED):
            entry.index, entry.pixel_format = index, fourcc_number(fourcc)
            if not self.has(ENUM_FRAMESIZES, entry):
                break
            if entry.type != raw.Frmsizetypes.DISCRETE:
                span = entry.m1.stepwise
                return [(span.min_width, span.min_height), (span.max_width, span.max_height)]
            found.append((entry.m1.discrete.width, entry.m1.discrete.height))
        return found


class Found(NamedTuple):
    path: str
    identity: Identity
    captures: bool
    """True: this node streams pictures; False: metadata, output, a decoder."""


def can_stream(able: int) -> bool:
    return bool(able & raw.Capability.VIDEO_CAPTURE) and bool(able & raw.Capability.STREAMING)


def nodes(without: str = "") -> Iterator[Found]:
    """Every /dev/video* but `without` that can be opened and is a V4L2 device, in order of its number."""
    for number in range(_SCANNED):
        path = f"/dev/video{number}"
        if path == without:
            continue
        try:
            node = Node(path)
        except OSError:
            continue
        try:
            identity, able = node.capability()
        except OSError:
            continue
        finally:
            node.close()
        yield Found(path, identity, can_stream(able))


def stable_names(path: str) -> list[str]:
    """Names under /dev/v4l that udev keeps for the camera at `path`, whatever number it gets."""
    name = path.rpartition("/")[2]
    found = []
    for folder in _STABLE_FOLDERS:
        try:
            links = sorted(folder.iterdir())
        except OSError:
            continue
        found += [str(link) for link in links if _points_to(link, name)]
    return found


def _points_to(link: Path, name: str) -> bool:
    try:
        return link.readlink().name == name
    except OSError:
        return False


def explain(path: str, err: OSError, *, was_there: bool = False) -> InspectError:
    """The one line for an error of the system; `was_there`: this camera has given pictures before."""
    code, said = err.errno, os.strerror(err.errno or 0)
    if code in _NOT_THERE:
        return CameraLost(f"{path}: camera is not there ({said}); cameras found: {_cameras_found()}")
    if code == errno.EBUSY:
        return CameraLost(f"{path}: camera is busy: another program holds it ({said})")
    if code in (errno.EACCES, errno.EPERM):
        line = f"{path}: no permission ({said}); add the user to the group `video`: sudo usermod -aG video $USER"
        # After a replug the node belongs to root for a moment, until udev has set its group.
        return CameraLost(line) if was_there else BadSource(line)
    if code in (errno.ENOTTY, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP) and not was_there:
        return BadSource(f"{path}: not a video device ({said}); cameras found: {_cameras_found()}")
    return CameraLost(f"{path}: {err.strerror or said} ({err.filename or 'open'})")


def _cameras_found() -> str:
    return ", ".join(f"{found.path} ({found.identity.card})" for found in nodes() if found.captures) or "none"


def fourcc_number(name: str) -> int:
    return int.from_bytes(name.encode("ascii"), "little")


def fourcc_name(number: int) -> str:
    """`MJPG` for 0x47504A4D; what cannot be printed becomes `?`."""
    letters = (number & 0x7FFFFFFF).to_bytes(4, "little")
    return "".join(chr(byte) if 32 < byte < 127 else "?" for byte in letters).rstrip("?")


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "replace").strip()
