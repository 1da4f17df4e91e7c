"""What a device says of itself every few seconds: counts, times, how it delivers. See `messages`.

Counts go up from the daemon's start on and never down; what is there at the moment says so.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from edge_wire.fields import (
    Block,
    Code,
    Count,
    Epoch,
    Label,
    Milliseconds,
    Name,
    Tenths,
    UtcTime,
)
from edge_wire.message import Message
from edge_wire.model_ref import ModelRef


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
    recovered: Count = 0
    """Reports that an earlier life of the daemon had told its line and could not put before it was killed."""


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
