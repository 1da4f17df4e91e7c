"""The small types that every message is made of, and the strict block that holds them.

1. A block is strict (no number in a string, no 1.0 for 1), closed (no unknown key), unchangeable, and holds neither NaN
   nor Infinity. Every text, list and number is bounded.
2. Numbers are rounded as they come in to what they are worth: 0.1 px, 0.001 mm, 0.001 ms, 0.0001 of confidence.
3. Times for people are UTC, on the wire always `2026-11-22T08:26:00.000000Z`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from datetime import datetime, timedelta, timezone
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer, WithJsonSchema

from edge_wire.topics import NAME_PATTERN

MAX_THUMBNAIL_BYTES = 64 * 1024
"""Largest JPEG in a report, before base64."""
BIG = 2**53 - 1
"""Largest whole number that every JSON reader keeps exactly."""


def _utc(moment: datetime) -> datetime:
    if moment.utcoffset() != timedelta(0):
        raise ValueError("must be UTC (end in Z)")
    return moment.astimezone(timezone.utc)


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _rounded(digits: int) -> AfterValidator:
    return AfterValidator(lambda value: round(value, digits) + 0.0)  # + 0.0: no "-0.0" on the wire


def _ordered(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    if box[0] > box[2] or box[1] > box[3]:
        raise ValueError("a box is x1, y1, x2, y2 with x1 <= x2 and y1 <= y2")
    return box


def _base64(text: str) -> str:
    try:
        size = len(base64.b64decode(text, validate=True))
    except binascii.Error as err:
        raise ValueError("not base64") from err
    if size > MAX_THUMBNAIL_BYTES:
        raise ValueError(f"a thumbnail has at most {MAX_THUMBNAIL_BYTES} bytes")
    return text


def _first_to_last(pair: tuple[int, int]) -> tuple[int, int]:
    if pair[0] > pair[1]:
        raise ValueError("a range is first, last with first <= last")
    return pair


Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Code = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
"""A stable short word for machines, e.g. a reason."""
Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._+-]{0,63}$")]
"""A model or recipe name, or a version."""
OneLine = Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
"""One line for people."""
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Epoch = Annotated[str, Field(pattern=r"^[0-9a-f]{12}-[0-9a-f]{16}$")]
Count = Annotated[int, Field(ge=0, le=BIG)]
MonotonicNs = Annotated[int, Field(ge=0, le=2**63 - 1)]
UtcTime = Annotated[
    datetime,
    AfterValidator(_utc),
    PlainSerializer(_iso, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time", "pattern": "Z$"}),
]
Milliseconds = Annotated[float, Field(ge=0, le=1e12), _rounded(3)]
Millimetres = Annotated[float, Field(ge=0, le=1e6), _rounded(3)]
Tenths = Annotated[float, Field(ge=-1e12, le=1e12), _rounded(1)]
Confidence = Annotated[float, Field(ge=0, le=1), _rounded(4)]
_FramePx = Annotated[float, Field(ge=0, le=65535), _rounded(1)]
_PartPx = Annotated[float, Field(ge=-65535, le=65535), _rounded(1)]
FrameBox = Annotated[tuple[_FramePx, _FramePx, _FramePx, _FramePx], AfterValidator(_ordered)]
"""x1, y1, x2, y2 in pixels of the frame."""
PartBox = Annotated[tuple[_PartPx, _PartPx, _PartPx, _PartPx], AfterValidator(_ordered)]
"""x1, y1, x2, y2 in pixels from the part's upper left corner."""
Seq = Annotated[int, Field(ge=1, le=BIG)]
SeqRange = Annotated[tuple[Seq, Seq], AfterValidator(_first_to_last)]
"""First and last seq, both included."""


JpegBase64 = Annotated[
    str,
    Field(max_length=4 * ((MAX_THUMBNAIL_BYTES + 2) // 3), json_schema_extra={"contentEncoding": "base64"}),
    AfterValidator(_base64),
]


class Block(BaseModel):
    """Strict, closed and unchangeable: the base of everything on the wire."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


def utc_from_ns(utc_ns: int) -> datetime:
    """Nanoseconds since 1970 as an aware UTC datetime, rounded down to a microsecond."""
    return datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=utc_ns // 1000)


def digest_of(facts: Any) -> str:
    """`sha256:...` of anything JSON can say, whatever its key order. Raises ValueError (NaN), TypeError (an object)."""
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
