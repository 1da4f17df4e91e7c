"""One kept picture: a JPEG that carries its own record, so that no index is needed to know what it shows.

1. The record is JSON in the JPEG's comment segment: every viewer shows the picture, and `read_picture` tells whether it
   is still, byte for byte, the one that was stored.
2. A file appears under its name whole or not at all, also when the process is killed: it is written beside it and
   renamed. Nothing is synced: a power cut may take the newest pictures, and only pictures.
3. File names are `<day>/<UTC>_<id>_<verdict>_<what>.jpg` of letters, digits, `.`, `_` and `-`; `is_safe` says whether a
   name that comes out of an index is one.

The standard's place for comments: ITU-T T.81, B.2.4.5 (COM); it follows the JFIF header.
"""

from __future__ import annotations

import hashlib
import os
import re
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_inspect.delivery.picture_pool import PixelBox
from edge_inspect.errors import StorageFailing
from edge_wire.fields import BIG, Code, Digest, Name

TEMPORARY = ".part"
MOST_MARKS = 200
"""Defects in a record: more than that do not fit a comment segment, and no person would look at them."""
_COMMENT_BYTES = 65_533
_NAME = re.compile(r"\d{4}-\d{2}-\d{2}/[A-Za-z0-9][A-Za-z0-9._-]{0,150}\.jpg")
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

Box = tuple[float, float, float, float]
VerdictName = Literal["OK", "NG", "UNKNOWN"]
What = Literal["frame", "crop"]


class Mark(NamedTuple):
    """One defect on a picture; the box in px of the frame."""

    cls: str
    confidence: float
    box_px: Box
    severity: str


class Other(NamedTuple):
    """What another model said of the same part."""

    model: str
    model_digest: str
    verdict: VerdictName
    reason: str
    defects: tuple[Mark, ...] = ()


class Record(BaseModel):
    """What a picture shows. A newer program's fields are ignored."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)

    evidence: Literal[1] = 1
    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,80}$")]
    """Of the part: run, camera and part number. A run is one life of the daemon."""
    camera: Name
    part: Annotated[int, Field(ge=0, le=BIG)]
    """As in the report: `part.number`."""
    sequence: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    """The line's number of its trigger, where one asked for this part."""
    verdict: VerdictName
    reason: Code
    defects: Annotated[tuple[Mark, ...], Field(max_length=MOST_MARKS)] = ()
    what: What
    crop_px: PixelBox
    """Which part of the frame the picture is: x0, y0, x1, y1."""
    part_px: PixelBox | None
    """Where the part is in the frame."""
    frame_px: tuple[int, int]
    """Width and height of the frame."""
    captured_utc_ns: int
    captured_ns: int
    """CLOCK_MONOTONIC; as in the report: `frame.captured_ns`."""
    model: str
    model_digest: Digest
    recipe: str
    recipe_digest: Digest
    beside: Other | None = None
    """Kept because two models disagreed on the part (`reason` is `disagreement`): the one that did not answer the line.
    `model`, `verdict` and `defects` are of the one that did."""
    jpeg_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Of the picture without this record."""

    @property
    def captured_utc(self) -> datetime:
        """Clamped to what a date can hold: a clock may say anything."""
        most_s = 253_402_300_799  # 9999-12-31T23:59:59Z
        return _EPOCH + timedelta(microseconds=max(0, min(self.captured_utc_ns // 1000, most_s * 1_000_000)))

    @property
    def file(self) -> str:
        """Its name below the folder of the evidence."""
        moment = self.captured_utc
        stamp = f"{moment:%Y%m%dT%H%M%S}.{moment.microsecond // 1000:03d}Z"
        return f"{moment:%Y-%m-%d}/{stamp}_{self.id}_{self.verdict}_{self.what}.jpg"


class Damaged(Exception):
    """A file that is not, or no longer, a picture of ours."""


def is_safe(file: str) -> bool:
    """Whether this is a name that we would give: it leads nowhere else."""
    return _NAME.fullmatch(file) is not None


def join(jpeg: bytes, record: Record) -> bytes:
    """The picture with its record inside. Raises ValueError if it is no JFIF file or the record is too long."""
    told = record.model_dump_json().encode()
    if len(told) > _COMMENT_BYTES:
        raise ValueError(f"a record of {len(told)} bytes does not fit into a comment")
    at = _after_jfif_header(jpeg)
    return b"".join((jpeg[:at], b"\xff\xfe", (len(told) + 2).to_bytes(2, "big"), told, jpeg[at:]))


def split(stored: bytes) -> tuple[bytes, Record]:
    """The picture without its record, and the record; checked against each other. Raises Damaged."""
    try:
        at = _after_jfif_header(stored)
        if stored[at : at + 2] != b"\xff\xfe":
            raise Damaged("no record inside")
        end = at + 2 + int.from_bytes(stored[at + 2 : at + 4], "big")
        record = Record.model_validate_json(stored[at + 4 : end])
    except (ValueError, ValidationError) as err:
        raise Damaged("its record cannot be read") from err
    jpeg = stored[:at] + stored[end:]
    if hashlib.sha256(jpeg).hexdigest() != record.jpeg_sha256:
        raise Damaged("the picture is not the one that was stored")
    return jpeg, record


def _after_jfif_header(jpeg: bytes) -> int:
    if jpeg[:4] != b"\xff\xd8\xff\xe0":
        raise ValueError("not a JFIF file")
    return 4 + int.from_bytes(jpeg[4:6], "big")


def write_picture(folder: Path, file: str, stored: bytes) -> None:
    """Write it under a temporary name and rename it. Raises StorageFailing; nothing is left then, if that can be."""
    path = folder / file
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(stored)
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as err:
        raise StorageFailing(f"{err.filename or path}: {err.strerror or err}") from err


def read_picture(folder: Path, file: str) -> tuple[bytes, Record]:
    """A stored file's bytes and its record, checked. Raises Damaged, or FileNotFoundError when it is pruned by now."""
    if not is_safe(file):
        raise Damaged("not a name that we would give")
    try:
        stored = (folder / file).read_bytes()
    except FileNotFoundError:
        raise
    except OSError as err:
        raise Damaged(err.strerror or str(err)) from err
    _, record = split(stored)
    return stored, record


def remove_picture(folder: Path, file: str) -> None:
    """Raises StorageFailing; a file that is not there is as good as removed."""
    try:
        (folder / file).unlink(missing_ok=True)
    except OSError as err:
        raise StorageFailing(f"{folder / file}: {err.strerror or err}") from err


def free_bytes(folder: Path) -> int:
    """What an ordinary user may still write there. Raises StorageFailing."""
    try:
        disk = os.statvfs(folder)
    except OSError as err:
        raise StorageFailing(f"{folder}: {err.strerror or err}") from err
    return disk.f_bavail * disk.f_frsize
