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
    Tenths,
    UtcTime,
)
from edge_wire.manifest import ClassName
from edge_wire.message import MAX_PAYLOAD_BYTES as MAX_PAYLOAD_BYTES  # noqa: PLC0414
from edge_wire.message import BadMessage as BadMessage  # noqa: PLC0414
from edge_wire.message import Message as Message  # noqa: PLC0414
from edge_wire.updates import Desired as Desired  # noqa: PLC0414
from edge_wire.updates import ModelUpdate

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


class ModelRef(Block):
    name: Label
    version: Label
    digest: Digest
    """Of the model package's manifest."""
    variant_digest: Digest
    """Of the ONNX file that really ran."""


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


class Latency(Block):
    """Since the daemon started; of a camera: from a frame's capture to its part's verdict."""

    p50: Milliseconds
    p99: Milliseconds
    max: Milliseconds


class CameraVitals(Block):
    """Counts since the daemon started; they only ever go up."""

    name: Name
    frames: Count
    parts: Count
    ok: Count
    ng: Count
    unknown: Count
    unknown_by_reason: Annotated[dict[Code, Count], Field(max_length=64)] = {}
    missed: Count
    """Frames lost before they reached us."""
    overruns: Count
    """Frames that came while there was no free slot."""
    reconnects: Count
    fps: Tenths
    latency_ms: Latency | None
    model: ModelRef | None
    provider: Label | None


class LineVitals(Block):
    """What a production line asked and was told; counts since the daemon started."""

    name: Name
    camera: Name
    ready: bool
    triggers: Count
    ok: Count
    ng: Count
    unknown: Count
    unknown_by_reason: Annotated[dict[Code, Count], Field(max_length=64)] = {}
    missed_deadlines: Count
    """Parts that had no verdict by their deadline."""
    late_verdicts: Count
    """Verdicts that came when the line had been told UNKNOWN already."""
    overruns: Count
    """Triggers that came while as many parts as allowed were being judged."""
    repeated: Count
    """Triggers whose sequence number was already known."""
    skipped: Count
    """Sequence numbers that never came."""
    answer_ms: Latency | None
    """Trigger to answer."""
    rejected: Count
    """Parts for which the reject gate was due."""
    rejects_missed: Count
    """Of these, how many were not driven out, or not seen in the bin."""
    adapters: Annotated[dict[Code, Annotated[dict[Code, Count], Field(max_length=32)]], Field(max_length=16)] = {}
    """What each adapter has counted that went otherwise than it should, by short name; `late`: answers put out at or
    after their part's deadline, all of them as UNKNOWN."""


class OutboxVitals(Block):
    epoch: Epoch | None
    last_seq: Count
    """Of the newest report; lets the plant see that the last ones are missing too."""
    depth: Count
    """Reports that the plant does not have yet."""
    oldest_age_s: Tenths
    size_bytes: Count
    pictures_shed: Count
    dropped: Count
    """Reports that could not be kept at all: none, or there is an alarm."""


class Outage(Block):
    """A time without a connection to the broker."""

    since: UtcTime
    seconds: Tenths
    code: Code
    """Why, as it was found last."""


class EvidenceVitals(Block):
    """Pictures kept on the device: counts since the daemon started; `pictures` and `size_bytes`: what is there now."""

    stored: Count
    skipped: Count
    """Parts whose picture was not taken: the disk was too slow or failing, or too many came."""
    failed: Count
    """Parts whose picture was taken and could not be written."""
    pruned: Count
    pictures: Count
    size_bytes: Count
    failing: bool


class LinkVitals(Block):
    connects: Count
    failures: Annotated[dict[Code, Count], Field(max_length=64)] = {}
    """Why connections failed or ended, by code (`refused-auth`, `bad-certificate`, ...)."""
    bytes_sent: Count
    """What was handed to the broker: packets with payload, topic and MQTT header; without TLS and TCP framing."""
    reports_sent: Count
    """That the broker confirmed; repeats after a lost connection count again."""
    unheard: Count = 0
    """Of these, how many the broker took although nobody had subscribed (only MQTT 5 brokers tell)."""
    resent: Count = 0
    """Sent again because the plant's acknowledgement did not come in time."""
    resynced: Count = 0
    """Sent again because the plant asked for them."""
    gone: Count = 0
    """That the plant asked for and that are not here any more."""
    pictures_left: Count = 0
    """Pictures left behind because the report was too large for the broker with them."""
    outage_s: Tenths = 0.0
    """Without a connection since the daemon started, all times together."""
    last_outage: Outage | None = None
    """The last one that has ended."""


class Vitals(Message):
    kind: ClassVar[str] = "inspect.vitals/1"

    type: Literal["inspect.vitals/1"] = "inspect.vitals/1"
    site: Name
    line: Name
    device: Name
    utc: UtcTime
    uptime_s: Tenths
    cameras: Annotated[tuple[CameraVitals, ...], Field(max_length=64)]
    outbox: OutboxVitals | None
    link: LinkVitals | None
    rss_bytes: Count
    temperature_c: Tenths | None
    evidence: EvidenceVitals | None = None
    lines: Annotated[tuple[LineVitals, ...], Field(max_length=64)] = ()


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
