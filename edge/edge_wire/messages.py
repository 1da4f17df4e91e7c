"""What travels: the defect report, the device's state, its vitals; acknowledgement and resync between plant and device.

1. Every message says what it is in `type` (`inspect.defect/1`); the number goes up only when an old reader would
   misunderstand. A new field has a default, so that every payload ever sent can still be read.
2. Types are strict, closed and bounded (see `fields`): what does not fit is refused, never guessed.
3. `to_bytes` is deterministic: compact UTF-8 JSON, keys always in the order written here, numbers rounded.
   `from_bytes(to_bytes(m)) == m`.
4. A report is known by (device, epoch, seq): repeats can be dropped and gaps be seen by whoever keeps them.
   An epoch is one life of the device's outbox; seq counts 1, 2, 3 ... within it.
5. Times called `..._ns` are CLOCK_MONOTONIC of that device, good for differences; `..._utc` are for people.

    >>> report = DefectReport.from_bytes(payload)
    >>> report.id, report.verdict, [d.class_name for d in report.defects]
"""

from __future__ import annotations

import base64
from datetime import datetime
from enum import Enum
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from edge_wire.fields import (
    Block,
    Code,
    Confidence,
    Count,
    Digest,
    Epoch,
    FrameBox,
    JpegBase64,
    Label,
    Millimetres,
    Milliseconds,
    MonotonicNs,
    Name,
    OneLine,
    PartBox,
    Seq,
    SeqRange,
    UtcTime,
)
from edge_wire.manifest import ClassName
from edge_wire.message import MAX_PAYLOAD_BYTES as MAX_PAYLOAD_BYTES  # noqa: PLC0414
from edge_wire.message import BadMessage as BadMessage  # noqa: PLC0414
from edge_wire.message import Message as Message  # noqa: PLC0414
from edge_wire.model_ref import ModelRef as ModelRef  # noqa: PLC0414
from edge_wire.updates import Desired as Desired  # noqa: PLC0414
from edge_wire.updates import ModelUpdate
from edge_wire.vitals import CameraVitals as CameraVitals  # noqa: PLC0414
from edge_wire.vitals import EvidenceVitals as EvidenceVitals  # noqa: PLC0414
from edge_wire.vitals import Latency as Latency  # noqa: PLC0414
from edge_wire.vitals import LineVitals as LineVitals  # noqa: PLC0414
from edge_wire.vitals import LinkVitals as LinkVitals  # noqa: PLC0414
from edge_wire.vitals import Outage as Outage  # noqa: PLC0414
from edge_wire.vitals import OutboxVitals as OutboxVitals  # noqa: PLC0414
from edge_wire.vitals import Vitals as Vitals  # noqa: PLC0414

MAX_DEFECTS = 300
DRAFT_EPOCH = "000000000000-0000000000000000"
DRAFT_SEQ = 1
"""What a report carries until the outbox numbers it (`DefectReport.numbered`)."""


class VerdictKind(str, Enum):
    OK = "OK"
    NG = "NG"
    UNKNOWN = "UNKNOWN"


class PartMode(str, Enum):
    FRAME = "frame"
    BARRIER = "barrier"
    TRIGGER = "trigger"


class CameraStatus(str, Enum):
    STARTING = "starting"
    UP = "up"
    LOST = "lost"
    ENDED = "ended"


class ReportId(NamedTuple):
    """What makes a report one of a kind, everywhere and for ever."""

    device: str
    epoch: str
    seq: int

    def __str__(self) -> str:
        return f"{self.device}/{self.epoch}/{self.seq}"


class Part(Block):
    number: Count
    """Counts the parts of this camera since the daemon started."""
    mode: PartMode
    sequence: Annotated[int, Field(ge=0, le=2**32 - 1)] | None = None
    """The line's own number, where it triggered the part; else it is not sent."""

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = serialize(self)
        if self.sequence is None:
            del written["sequence"]
        return written


class Defect(Block):
    class_name: ClassName
    confidence: Confidence
    box_px: FrameBox
    part_box_px: PartBox
    width_mm: Millimetres | None = None
    height_mm: Millimetres | None = None
    severity: Label
    looks: Annotated[int, Field(ge=1, le=10_000)]
    """On how many frames of this part it was seen."""


class RecipeRef(Block):
    name: Label
    version: Label
    digest: Digest


class FrameRef(Block):
    """The frame that the verdict rests on (the last look)."""

    index: Count
    captured_ns: MonotonicNs
    captured_utc: UtcTime
    age_ms: Milliseconds
    """From capture to verdict."""


class StageTimes(Block):
    capture: Milliseconds
    letterbox: Milliseconds
    inference: Milliseconds
    decode: Milliseconds
    judge: Milliseconds


class Thumbnail(Block):
    width_px: Annotated[int, Field(ge=1, le=65535)]
    height_px: Annotated[int, Field(ge=1, le=65535)]
    crop_px: FrameBox
    """What part of the frame it shows."""
    jpeg_base64: JpegBase64 | None
    """None: the picture was given up, because the device's disk was full or the broker takes no report so large."""

    @property
    def jpeg(self) -> bytes | None:
        return None if self.jpeg_base64 is None else base64.b64decode(self.jpeg_base64)


class DefectReport(Message):
    """One part that was NG, or that could not be judged. `thumbnail` stays last: `split` and `join` rest on it."""

    kind: ClassVar[str] = "inspect.defect/1"

    type: Literal["inspect.defect/1"] = "inspect.defect/1"
    device: Name
    epoch: Epoch
    seq: Seq
    site: Name
    line: Name
    camera: Name
    camera_digest: Digest
    """Of the camera's identity, format and settings: another digest, other pictures."""
    part: Part
    verdict: Literal[VerdictKind.NG, VerdictKind.UNKNOWN]
    reason: Code
    defects: Annotated[tuple[Defect, ...], Field(max_length=MAX_DEFECTS)] = ()
    model: ModelRef
    recipe: RecipeRef
    verdict_ns: MonotonicNs
    verdict_utc: UtcTime
    frame: FrameRef | None = None
    """None: the verdict came without a frame, because the part was gone or not to be seen."""
    stages_ms: StageTimes | None = None
    recovered: bool = False
    """The line was told so by a daemon that was killed before it could keep its report. Verdict and reason are what was
    told; frame, defects and picture went with it. Only sent when it is true."""
    thumbnail: Thumbnail | None = None

    @model_serializer(mode="wrap")
    def _without_what_is_not_so(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = serialize(self)
        if not self.recovered:
            del written["recovered"]
        return written

    @property
    def id(self) -> ReportId:
        return ReportId(self.device, self.epoch, self.seq)

    def numbered(self, epoch: str, seq: int) -> DefectReport:
        """The same report under its final number."""
        return self.model_copy(update={"epoch": epoch, "seq": seq})

    def without_picture(self) -> DefectReport:
        """The same report; its thumbnail only says what was given up."""
        if self.thumbnail is None:
            return self
        return self.model_copy(update={"thumbnail": self.thumbnail.model_copy(update={"jpeg_base64": None})})

    def split(self) -> tuple[bytes, bytes | None]:
        """The payload without its picture, and the JPEG, so that the picture alone can be given up. See `join`."""
        if self.thumbnail is None or self.thumbnail.jpeg_base64 is None:
            return self.to_bytes(), None
        return self.without_picture().to_bytes(), self.thumbnail.jpeg


def join(payload: bytes, jpeg: bytes | None) -> bytes:
    """Put the picture back: `join(*report.split()) == report.to_bytes()`, without parsing anything."""
    if jpeg is None:
        return payload
    if not payload.endswith(b'"jpeg_base64":null}}'):
        raise ValueError("this report has no place for a picture")
    return payload[: -len(b"null}}")] + b'"' + base64.b64encode(jpeg) + b'"}}'


class CameraState(Block):
    name: Name
    status: CameraStatus
    reason: Code | Literal[""] = ""


class Degraded(Block):
    """Something that works worse than it should; inspection goes on."""

    code: Code
    detail: OneLine = ""


class DeviceState(Message):
    """Retained. The last will is the same message with `offline`, `reason` = `connection-lost` and no `since`."""

    kind: ClassVar[str] = "inspect.state/1"

    type: Literal["inspect.state/1"] = "inspect.state/1"
    site: Name
    line: Name
    device: Name
    status: Literal["online", "offline"]
    reason: Literal["", "stopped", "connection-lost"] = ""
    since: UtcTime | None
    """Since when it is so; null in the last will, which is written before anyone knows."""
    epoch: Epoch | None = None
    """The epoch that reports now carry."""
    versions: Annotated[dict[Label, Label], Field(max_length=40)] = {}
    cameras: Annotated[tuple[CameraState, ...], Field(max_length=64)] = ()
    degraded: Annotated[tuple[Degraded, ...], Field(max_length=64)] = ()
    update: ModelUpdate | None = None
    """Of devices that take models from a channel; else, and while offline, it is not sent."""

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = serialize(self)
        if self.update is None:
            del written["update"]
        return written

    def gone(self, reason: Literal["stopped", "connection-lost"], since: datetime | None) -> DeviceState:
        """The same device, offline."""
        changed: dict[str, Any] = {"status": "offline", "reason": reason, "since": since, "cameras": (), "degraded": ()}
        return self.model_copy(update={**changed, "update": None})


class Ack(Message):
    """The plant has committed these reports to its database: the device may forget them after its retention."""

    kind: ClassVar[str] = "inspect.ack/1"

    type: Literal["inspect.ack/1"] = "inspect.ack/1"
    device: Name
    epoch: Epoch
    ranges: Annotated[tuple[SeqRange, ...], Field(min_length=1, max_length=1000)]


class Resync(Message):
    """The plant asks for these reports (again), whatever it said about them before. Asking twice costs nothing more."""

    kind: ClassVar[str] = "inspect.resync/1"

    type: Literal["inspect.resync/1"] = "inspect.resync/1"
    device: Name
    epoch: Epoch
    ranges: Annotated[tuple[SeqRange, ...], Field(min_length=1, max_length=1000)]


class Gone(Message):
    """The device's answer to a resync for what it cannot send: these reports are not in its outbox.

    What stood in the same request and is in the outbox comes as reports, with or after this.
    """

    kind: ClassVar[str] = "inspect.gone/1"

    type: Literal["inspect.gone/1"] = "inspect.gone/1"
    device: Name
    epoch: Epoch
    last_seq: Count | None
    """The highest seq this device knows to have given in that epoch: what lies above never was. Null: it does not know
    the epoch any more."""
    ranges: Annotated[tuple[SeqRange, ...], Field(min_length=1, max_length=1000)]


MESSAGES: tuple[type[Message], ...] = (DefectReport, DeviceState, Vitals, Ack, Resync, Gone, Desired)
"""Everything that has a schema in docs/wire."""
