"""What arrived on a `defect` topic: a report, or something that must be set aside with a reason. No I/O.

1. Every message becomes exactly one `Reading`, whatever its bytes are; nothing is raised and nothing is dropped.
2. The device is who may publish on that topic (the broker's ACL says so). A payload that names another device is set
   aside and never acknowledged: nobody may confirm another one's report.
3. A payload that our schema refuses may still say which report it is. Then it can be acknowledged once it is set aside,
   so that it does not stand in its device's way for ever.

4. Of a payload that is larger than any report may be only the first KEPT_BYTES go on (`cut`); it is told apart from
   others by its size and digest.

Reasons: topic, empty, oversized, not-json, newer-schema, schema, foreign (and from the database: conflict, refused).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

from edge_wire.fields import BIG
from edge_wire.messages import MAX_PAYLOAD_BYTES, BadMessage, DefectReport, ReportId
from edge_wire.topics import Topics

_EPOCH = re.compile(r"[0-9a-f]{12}-[0-9a-f]{16}")
_TYPE = re.compile(r"inspect\.defect/([1-9][0-9]{0,5})")
KEPT_BYTES = 1024
"""Of a payload above MAX_PAYLOAD_BYTES only so much is set aside."""
SCHEMA_VERSION = int(DefectReport.kind.rpartition("/")[2])


@dataclass(frozen=True, slots=True)
class Cut:
    """What is left of a payload that was too large."""

    head: bytes
    size_bytes: int
    sha256: bytes


def cut(payload: bytes) -> Cut | None:
    """None: it is not too large."""
    if len(payload) <= MAX_PAYLOAD_BYTES:
        return None
    return Cut(bytes(payload[:KEPT_BYTES]), len(payload), hashlib.sha256(payload).digest())


@dataclass(frozen=True, slots=True)
class Reading:
    """`report` or `reason`; `claim` is the id to acknowledge once it is stored; `topics` None: nobody to tell."""

    topic: str
    payload: bytes
    topics: Topics | None
    report: DefectReport | None = None
    claim: ReportId | None = None
    reason: str = ""
    detail: str = ""
    cut: Cut | None = None
    """Then `payload` is only its head."""

    @property
    def size_bytes(self) -> int:
        """As it came."""
        return len(self.payload) if self.cut is None else self.cut.size_bytes

    @property
    def digest(self) -> str:
        """Of topic and payload: the same message again has the same."""
        name = self.topic.encode("utf-8", "surrogatepass")
        content = self.payload if self.cut is None else self.cut.sha256
        return hashlib.sha256(len(name).to_bytes(4, "big") + name + content).hexdigest()

    def set_aside(self, reason: str, detail: str) -> Reading:
        """The same message, no longer taken as a report."""
        return Reading(self.topic, self.payload, self.topics, None, self.claim, reason, detail[:500], self.cut)


def read(topic: str, payload: bytes | Cut) -> Reading:
    """See the module."""
    large = payload if isinstance(payload, Cut) else cut(payload)
    if isinstance(payload, Cut):
        payload = payload.head
    try:
        topics, leaf = Topics.parse(topic)
    except ValueError as err:
        payload = payload if large is None else large.head
        return Reading(topic, payload, None, reason="topic", detail=str(err)[:500], cut=large)
    assert leaf == "defect"
    if not payload:
        return Reading(topic, payload, topics, reason="empty", detail="a report without a byte")
    if large is not None:
        detail = f"{large.size_bytes} bytes, at most {MAX_PAYLOAD_BYTES} are allowed"
        return Reading(topic, large.head, topics, reason="oversized", detail=detail, cut=large)
    try:
        report = DefectReport.from_bytes(payload)
    except BadMessage as err:
        return _set_aside(topic, payload, topics, str(err))
    if report.device != topics.device:
        return Reading(topic, payload, topics, reason="foreign", detail=f"says it is of device {report.device}")
    return Reading(topic, payload, topics, report=report, claim=report.id)


def _set_aside(topic: str, payload: bytes, topics: Topics, why: str) -> Reading:
    try:
        found: Any = from_json(payload)
    except ValueError as err:
        return Reading(topic, payload, topics, reason="not-json", detail=str(err)[:500])
    if not isinstance(found, dict):
        return Reading(topic, payload, topics, reason="schema", detail=why[:500])
    device, epoch, seq = found.get("device"), found.get("epoch"), found.get("seq")
    if isinstance(device, str) and device != topics.device:
        return Reading(topic, payload, topics, reason="foreign", detail=f"says it is of device {device[:80]!a}")
    kind = found.get("type")
    match = _TYPE.fullmatch(kind) if isinstance(kind, str) else None
    reason = "newer-schema" if match is not None and int(match[1]) > SCHEMA_VERSION else "schema"
    claim = None
    if isinstance(device, str) and isinstance(epoch, str) and _EPOCH.fullmatch(epoch) and type(seq) is int:
        claim = ReportId(device, epoch, seq) if 1 <= seq <= BIG else None
    return Reading(topic, payload, topics, claim=claim, reason=reason, detail=why[:500])
