"""Every message becomes a report or something set aside with a reason; no bytes make it fail."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_inspect.intake.reading import Reading, read
from edge_wire.messages import MAX_PAYLOAD_BYTES, DefectReport, ReportId
from tests.edge.delivery.reports import DEVICE, TOPICS, report

EPOCH = "000000000001-00000000000000aa"
GOOD = report(7, picture_bytes=100).numbered(EPOCH, 7)


def changed(**values: Any) -> bytes:
    return json.dumps({**json.loads(GOOD.to_bytes()), **values}).encode()


def without(key: str) -> bytes:
    fields = json.loads(GOOD.to_bytes())
    del fields[key]
    return json.dumps(fields).encode()


def test_a_report_is_taken_whole() -> None:
    reading = read(TOPICS.defect, GOOD.to_bytes())
    assert reading.report == GOOD and reading.claim == GOOD.id and reading.reason == ""


def test_a_report_from_before_the_device_was_moved_to_another_line_is_taken() -> None:
    reading = read("inspect/v1/plant/another-line/edge-1/defect", GOOD.to_bytes())
    assert reading.report == GOOD and reading.topics is not None and reading.topics.line == "another-line"


@pytest.mark.parametrize(
    ("payload", "reason", "claimed"),
    [
        (b"", "empty", False),
        (b"x" * (MAX_PAYLOAD_BYTES + 1), "oversized", False),
        (b"not json", "not-json", False),
        (b"\xff\xfe{\x00}\x00", "not-json", False),
        (GOOD.to_bytes()[:-20], "not-json", False),
        (GOOD.to_bytes() + b"{}", "not-json", False),
        (b"[" * 100_000, "not-json", False),
        (b"null", "schema", False),
        (b"[1, 2]", "schema", False),
        (b"{}", "schema", False),
        (b"1" * 5000, "not-json", False),
        (changed(type="inspect.defect/2", more={"a": 1}), "newer-schema", True),
        (changed(type="inspect.defect/0"), "schema", True),
        (changed(type="inspect.vitals/1"), "schema", True),
        (changed(type=5), "schema", True),
        (changed(more=1), "schema", True),
        (changed(verdict="OK"), "schema", True),
        (changed(reason="<script>"), "schema", True),
        (changed(verdict_utc="0000-01-01T00:00:00Z"), "schema", True),
        (changed(camera="a\x00b"), "schema", True),
        (changed(camera="\ud800"), "not-json", False),
        (without("model"), "schema", True),
        (without("type"), "schema", True),
        (changed(seq=0), "schema", False),
        (changed(seq="7"), "schema", False),
        (changed(seq=True), "schema", False),
        (changed(seq=2**63), "schema", False),
        (changed(seq=7.0), "schema", False),
        (changed(epoch="today"), "schema", False),
        (changed(epoch=None), "schema", False),
        (without("device"), "schema", False),
        (changed(device=5), "schema", False),
        (changed(device="edge-2"), "foreign", False),
        (changed(device="edge-2", type="inspect.defect/9"), "foreign", False),
        (changed(device="'; DROP TABLE report; --"), "foreign", False),
    ],
)
def test_what_is_no_report_is_set_aside_with_its_reason(payload: bytes, reason: str, claimed: bool) -> None:
    reading = read(TOPICS.defect, payload)
    assert reading.report is None
    assert reading.reason == reason, reading.detail
    assert reading.claim == (ReportId(DEVICE, EPOCH, 7) if claimed else None)
    assert reading.detail and "\n" not in reading.detail and len(reading.detail) <= 500


@pytest.mark.parametrize(
    "topic",
    [
        "inspect/v1/plant/press-4/edge 1/defect",
        "inspect/v1/plant//edge-1/defect",
        "inspect/v1/plant/press-4/../defect",
        "inspect/v1/plant/press-4/" + "e" * 41 + "/defect",
        "inspect/v1/plant/press-4/" + "e" * 65_000 + "/defect",
        "inspect/v1/plant/press-4/ünit/defect",
    ],
)
def test_a_topic_that_names_no_device_has_nobody_to_tell(topic: str) -> None:
    reading = read(topic, GOOD.to_bytes())
    assert (reading.reason, reading.claim, reading.topics) == ("topic", None, None)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_no_bytes_make_it_fail(payload: bytes) -> None:
    assert read(TOPICS.defect, payload).reason


@settings(max_examples=300, deadline=None)
@given(position=st.integers(0, len(GOOD.to_bytes()) - 1), value=st.integers(0, 255))
def test_no_flipped_byte_makes_it_fail(position: int, value: int) -> None:
    payload = bytearray(GOOD.to_bytes())
    payload[position] = value
    reading = read(TOPICS.defect, bytes(payload))
    assert (reading.report is None) == bool(reading.reason)
    if reading.report is not None:
        assert DefectReport.from_bytes(bytes(payload)) == reading.report


def test_the_same_message_has_the_same_digest_and_no_other() -> None:
    messages = [("a", b"bc"), ("ab", b"c"), ("a", b"bd")]
    assert len({Reading(topic, payload, None).digest for topic, payload in messages}) == 3
    assert Reading("a", b"bc", None).digest == Reading("a", b"bc", None, reason="x").digest
