"""What is asked of a V4L2 camera and what it really gives: size, pixel format, rate, exposure, gain, white balance.

1. Everything reported was read back from the driver after it was set.
2. A driver that lacks a control or cannot hold a value is reported in the notes; it never stops inspection.
3. Pixel format `auto` takes YUYV where it reaches the size and rate asked for (no compression, 10x cheaper to
   convert), else MJPG.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from fractions import Fraction
from typing import Literal, NamedTuple

from linuxpy.video import raw

from edge_inspect.capture import v4l2_node
from edge_inspect.capture.v4l2_node import CAPTURE, Node, fourcc_name, fourcc_number
from edge_inspect.errors import BadSource

PixelFormat = Literal["auto", "MJPG", "YUYV"]

_COMPRESSED = ("MJPG", "JPEG")
_READABLE = ("YUYV", *_COMPRESSED)
_RATE_WORTH_YUYV = 15.0
_REFUSED = (errno.ERANGE, errno.EACCES, errno.EPERM, errno.EBUSY, errno.EIO, errno.EPIPE, errno.ETIMEDOUT)
"""Answers of drivers to a control that they have but will not set or read now."""
_FALLBACK_SIZE_PX = (1280, 720)


class Picture(NamedTuple):
    """The format that the driver holds."""

    width_px: int
    height_px: int
    fourcc: str
    stride_bytes: int
    size_bytes: int
    interlaced: bool
    fps: float | None

    @property
    def compressed(self) -> bool:
        return self.fourcc in _COMPRESSED

    def __str__(self) -> str:
        return f"{self.width_px}x{self.height_px} {self.fourcc}"


class Asked(NamedTuple):
    width_px: int | None
    height_px: int | None
    fps: float | None
    pixel_format: PixelFormat


def negotiate(node: Node, asked: Asked) -> Picture:
    """Set the format nearest to what is asked. Raises OSError (busy, unplugged), BadSource when there is none."""
    offered = node.pixel_formats()
    wanted = _READABLE if asked.pixel_format == "auto" else (asked.pixel_format,)
    tried = [fourcc for fourcc in wanted if fourcc in offered] if offered else list(wanted)
    given: list[Picture] = []
    for fourcc in tried:
        picture = _set_format(node, asked, fourcc)
        if picture is None:
            continue
        given.append(picture)
        if _shortfall(asked, picture) == (0, 0.0):
            return picture
    if not given:
        raise BadSource(
            f"{node.path}: the camera offers {', '.join(offered) or 'none of the pixel formats'}; "
            f"{' or '.join(wanted)} is needed (other formats: a gst: source)"
        )
    best = min(given, key=lambda picture: _shortfall(asked, picture))
    return best if best is given[-1] else _set_format(node, asked, best.fourcc) or best


def _shortfall(asked: Asked, picture: Picture) -> tuple[int, float]:
    """How far from what was asked: size first, then rate; an unknown rate counts as good."""
    width, height = asked.width_px or picture.width_px, asked.height_px or picture.height_px
    size = abs(width - picture.width_px) + abs(height - picture.height_px)
    rate = asked.fps or _RATE_WORTH_YUYV
    missing = 0.0 if picture.fps is None else max(0.0, 0.95 * rate - picture.fps)
    return size, missing


def _set_format(node: Node, asked: Asked, fourcc: str) -> Picture | None:
    now = read_format(node)
    size = (now.width_px, now.height_px) if now is not None and now.width_px else _FALLBACK_SIZE_PX
    wanted = raw.v4l2_format()
    wanted.type = CAPTURE
    pix = wanted.fmt.pix
    pix.width, pix.height = asked.width_px or size[0], asked.height_px or size[1]
    pix.pixelformat, pix.field = fourcc_number(fourcc), int(raw.Field.NONE)
    if not node.has(v4l2_node.S_FMT, wanted) or fourcc_name(pix.pixelformat) != fourcc:
        return None
    return _picture(pix)._replace(fps=_set_rate(node, asked.fps))


def differences(asked: Asked, picture: Picture) -> list[str]:
    """One note for each property of the picture that is not as asked."""
    notes = ["the driver delivers interlaced pictures"] if picture.interlaced else []
    for name, wanted, given in (
        ("width", asked.width_px, picture.width_px),
        ("height", asked.height_px, picture.height_px),
        ("fps", asked.fps, picture.fps),
    ):
        if wanted is not None and given is not None and abs(wanted - given) > 0.01 * wanted:
            notes.append(f"{name}: asked {wanted:g}, the driver holds {given:g}")
    return notes


def read_format(node: Node) -> Picture | None:
    """What the driver holds now (without the rate); None when it cannot say."""
    told = raw.v4l2_format()
    told.type = CAPTURE
    return _picture(told.fmt.pix) if node.has(v4l2_node.G_FMT, told) else None


def _picture(pix: raw.v4l2_pix_format) -> Picture:
    fourcc = fourcc_name(pix.pixelformat)
    stride = max(int(pix.bytesperline), pix.width * 2) if fourcc == "YUYV" else 0
    interlaced = pix.field not in (raw.Field.ANY, raw.Field.NONE)
    return Picture(pix.width, pix.height, fourcc, stride, pix.sizeimage, interlaced, None)


def _set_rate(node: Node, fps: float | None) -> float | None:
    """Ask for a rate; the one that the driver then holds, None when it cannot say."""
    told = raw.v4l2_streamparm()
    told.type = CAPTURE
    rate = told.parm.capture.timeperframe
    was_set = False
    if fps is not None:
        interval = (1 / Fraction(fps)).limit_denominator(100_000)
        rate.numerator, rate.denominator = interval.numerator, interval.denominator
        was_set = node.has(v4l2_node.S_PARM, told)
    if not (node.has(v4l2_node.G_PARM, told) or was_set):
        return None
    return rate.denominator / rate.numerator if rate.numerator and rate.denominator else None


class Lock(NamedTuple):
    """One property to hold still: its automatic switched off first, then the value set."""

    name: str
    automatic: tuple[tuple[raw.ControlID, int], ...]
    value: raw.ControlID
    unit: int
    """How many of our units are one of the driver's (exposure: 100 us)."""


_LOCKS = (
    Lock(
        "exposure_us",
        (
            (raw.ControlID.EXPOSURE_AUTO, int(raw.ExposureAutoType.MANUAL)),
            (raw.ControlID.EXPOSURE_AUTO_PRIORITY, 0),
        ),
        raw.ControlID.EXPOSURE_ABSOLUTE,
        100,
    ),
    Lock("gain", ((raw.ControlID.AUTOGAIN, 0),), raw.ControlID.GAIN, 1),
    Lock(
        "white_balance_k",
        ((raw.ControlID.AUTO_WHITE_BALANCE, 0),),
        raw.ControlID.WHITE_BALANCE_TEMPERATURE,
        1,
    ),
)


def lock(node: Node, asked: Mapping[str, int | None]) -> None:
    """Set each property that is asked for; what the driver makes of it, `held` reads. Raises OSError (unplugged)."""
    for locked in _LOCKS:
        value = asked.get(locked.name)
        if value is None:
            continue
        for control, off in locked.automatic:
            _set_control(node, control, off)
        _set_control(node, locked.value, round(value / locked.unit))


def held(node: Node, asked: Mapping[str, int | None]) -> tuple[dict[str, int | None], list[str]]:
    """({property: what the driver holds, None when it cannot say}, [one note for each that is not as asked])."""
    values: dict[str, int | None] = {}
    notes: list[str] = []
    for locked in _LOCKS:
        told = _read_control(node, locked.value)
        values[locked.name] = None if told is None else told * locked.unit
        wanted = asked.get(locked.name)
        if wanted is not None:
            notes += _difference(node, locked, wanted, told)
    return values, notes


def _difference(node: Node, locked: Lock, wanted: int, told: int | None) -> list[str]:
    asked = f"{locked.name}: asked {wanted}"
    if told is None:
        return [f"{asked}, this driver has no such control"]
    if abs(told * locked.unit - wanted) >= locked.unit:
        return [f"{asked}, the driver holds {told * locked.unit}"]
    control, off = locked.automatic[0]
    if _read_control(node, control) not in (off, None):
        return [f"{asked}, but the driver keeps its automatic on"]
    return []


def _set_control(node: Node, control: raw.ControlID, value: int) -> None:
    told = raw.v4l2_control()
    told.id, told.value = int(control), value
    try:
        node.has(v4l2_node.S_CTRL, told)
    except OSError as err:
        if err.errno not in _REFUSED:
            raise


def _read_control(node: Node, control: raw.ControlID) -> int | None:
    told = raw.v4l2_control()
    told.id = int(control)
    try:
        return int(told.value) if node.has(v4l2_node.G_CTRL, told) else None
    except OSError as err:
        if err.errno not in _REFUSED:
            raise
        return None
