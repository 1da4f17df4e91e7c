"""Messages are strict, bounded and deterministic; topics cannot be anything but topics."""

from __future__ import annotations

import base64
import json
import re
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from edge_wire.fields import MAX_THUMBNAIL_BYTES, digest_of, utc_from_ns
from edge_wire.messages import (
    MAX_PAYLOAD_BYTES,
    Ack,
    BadMessage,
    Defect,
    DefectReport,
    Message,
    Thumbnail,
    Vitals,
    join,
)
from edge_wire.topics import LEAVES, Topics, subscription
from tests.wire.samples import JPEG, SAMPLES, defect_full, vitals_full

boxes = st.lists(st.floats(0, 65535), min_size=4, max_size=4).map(
    lambda n: (min(n[0], n[2]), min(n[1], n[3]), max(n[0], n[2]), max(n[1], n[3]))
)
defects = st.builds(
    Defect,
    class_name=st.from_regex(re.compile(r"[^\x00-\x1f\ud800-\udfff]{1,60}"), fullmatch=True),
    confidence=st.floats(0, 1),
    box_px=boxes,
    part_box_px=boxes,
    width_mm=st.none() | st.floats(0, 1e6),
    height_mm=st.none() | st.floats(0, 1e6),
    severity=st.sampled_from(["info", "minor", "major", "critical"]),
    looks=st.integers(1, 10_000),
)
moments = st.datetimes(timezones=st.just(timezone.utc))


@given(
    found=st.lists(defects, max_size=5),
    seq=st.integers(1, 2**53 - 1),
    moment=moments,
    number=st.integers(0, 2**53 - 1),
    jpeg=st.none() | st.binary(max_size=2000),
)
def test_reading_gives_back_what_was_written(
    found: list[Defect], seq: int, moment: datetime, number: int, jpeg: bytes | None
) -> None:
    picture = None
    if jpeg is not None:
        text = base64.b64encode(jpeg).decode()
        picture = Thumbnail(width_px=1, height_px=1, crop_px=(0.0, 0.0, 1.0, 1.0), jpeg_base64=text)
    report = defect_full().model_copy(
        update={"defects": tuple(found), "seq": seq, "verdict_utc": moment, "verdict_ns": number, "thumbnail": picture}
    )
    payload = report.to_bytes()
    assert DefectReport.from_bytes(payload) == report
    assert DefectReport.from_bytes(payload).to_bytes() == payload
    assert join(*report.split()) == payload


@pytest.mark.parametrize("name", SAMPLES)
def test_payload_is_compact_json_with_keys_in_the_models_order(name: str) -> None:
    message = SAMPLES[name]
    payload = message.to_bytes()
    assert payload == json.dumps(json.loads(payload), separators=(",", ":"), ensure_ascii=False).encode()
    only_when_true = {"recovered", "update"}
    left_out = {key for key in only_when_true if not getattr(message, key, False)}
    assert list(json.loads(payload)) == [key for key in type(message).model_fields if key not in left_out]
    assert json.loads(payload)["type"] == type(message).kind


def changed(message: Message, path: str, value: Any) -> bytes:
    document = json.loads(message.to_bytes())
    node, *steps = [document], "0", *path.split(".")
    for step in steps[:-1]:
        node = node[int(step)] if isinstance(node, list) else node[step]
    last = steps[-1]
    if value is ...:
        del node[last]
    elif isinstance(node, list):
        node[int(last)] = value
    else:
        node[last] = value
    return json.dumps(document).encode()


WRONG: list[tuple[str, Any]] = [
    ("type", "inspect.defect/2"),
    ("type", ...),
    ("device", ...),
    ("device", ""),
    ("device", "a/b"),
    ("device", "x" * 41),
    ("device", "edge\n"),
    ("device", 17),
    ("epoch", "1"),
    ("seq", 0),
    ("seq", -1),
    ("seq", 1.0),
    ("seq", "1"),
    ("seq", True),
    ("seq", 2**53),
    ("seq", 10**300),
    ("site", "+"),
    ("line", "#"),
    ("camera", "$SYS"),
    ("camera_digest", "sha256:" + "G" * 64),
    ("part.number", None),
    ("part.mode", "always"),
    ("verdict", "OK"),
    ("verdict", "ng"),
    ("reason", "Because it is bad"),
    ("reason", ""),
    ("defects", {}),
    ("defects", [None]),
    ("defects.0.confidence", 1.01),
    ("defects.0.confidence", -0.1),
    ("defects.0.confidence", float("nan")),
    ("defects.0.confidence", "0.5"),
    ("defects.0.box_px", [1, 2, 3]),
    ("defects.0.box_px", [3, 2, 1, 4]),
    ("defects.0.box_px", [0, 0, 70000, 1]),
    ("defects.0.box_px", [0, 0, float("inf"), 1]),
    ("defects.0.box_px", [-1, 0, 1, 1]),
    ("defects.0.class_name", "a\nb"),
    ("defects.0.looks", 0),
    ("defects.0.width_mm", -1),
    ("defects.0.extra", 1),
    ("model.digest", ""),
    ("recipe", None),
    ("verdict_ns", -1),
    ("verdict_utc", "2026-11-22T08:26:00"),
    ("verdict_utc", "2026-11-22T08:26:00+02:00"),
    ("verdict_utc", "2026-02-30T08:26:00Z"),
    ("verdict_utc", 1795338098),
    ("frame.age_ms", float("inf")),
    ("stages_ms.judge", ...),
    ("thumbnail.jpeg_base64", "not base64!"),
    ("thumbnail.jpeg_base64", "A" * 4 * ((MAX_THUMBNAIL_BYTES + 2) // 3 + 1)),
    ("thumbnail.width_px", 0),
    ("unknown_key", 1),
]


@pytest.mark.parametrize(("path", "value"), WRONG, ids=[f"{path}-{index}" for index, (path, _) in enumerate(WRONG)])
def test_wrong_report_is_refused_with_one_line_that_names_the_place(path: str, value: Any) -> None:
    with pytest.raises(BadMessage) as refusal:
        DefectReport.from_bytes(changed(defect_full(), path, value))
    text = str(refusal.value)
    assert text.startswith("inspect.defect/1: ") and "\n" not in text and len(text) < 500
    assert path.split(".", maxsplit=1)[0] in text


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"[]",
        b"42",
        b"{",
        b"\xff\xfe{}",
        b'{"a":' * 10_000,
        b"[" * 100_000,
        b"{} trailing",
        b'"\\ud800"',
        b"x" * (MAX_PAYLOAD_BYTES + 1),
    ],
    ids=lambda payload: repr(payload[:12]),
)
@pytest.mark.parametrize("kind", [DefectReport, Vitals, Ack], ids=lambda kind: kind.__name__)
def test_what_is_not_a_message_is_refused(kind: type[Message], payload: bytes) -> None:
    with pytest.raises(BadMessage):
        kind.from_bytes(payload)


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_payload_is_refused_or_read_but_never_anything_else(data: st.DataObject) -> None:
    payload = bytearray(SAMPLES[data.draw(st.sampled_from(sorted(SAMPLES)))].to_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    for kind in (DefectReport, Vitals, Ack):
        try:
            kind.from_bytes(bytes(payload)).to_bytes()
        except BadMessage as err:
            assert "\n" not in str(err)


def test_numbers_are_rounded_to_what_they_are_worth() -> None:
    defect = defect_full().defects[0]
    assert (defect.confidence, defect.box_px[0], defect.width_mm) == (0.8731, 412.2, 4.5)
    tiny = Defect.model_validate({**defect.model_dump(), "part_box_px": (-0.01, 0.0, 1.0, 1.0)})
    assert b"-0.0" not in tiny.model_dump_json().encode()


def test_times_for_people_are_utc_with_microseconds() -> None:
    assert utc_from_ns(1_795_338_098_123_456_789).isoformat() == "2026-11-22T09:01:38.123456+00:00"
    assert b'"verdict_utc":"2026-11-22T09:01:38.123456Z"' in defect_full().to_bytes()
    with pytest.raises(ValidationError):
        Vitals.model_validate(
            {**vitals_full().model_dump(), "utc": datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1)))}
        )


def test_a_message_that_is_too_large_cannot_leave() -> None:
    wordy = vitals_full().model_copy(update={"cameras": vitals_full().cameras * 1000})
    with pytest.raises(ValueError, match="at most"):
        wordy.to_bytes()


def test_a_picture_can_be_given_up_and_says_so() -> None:
    payload, jpeg = defect_full().split()
    assert jpeg == JPEG
    bare = DefectReport.from_bytes(payload)
    assert bare.thumbnail is not None and bare.thumbnail.jpeg is None and bare.thumbnail.width_px == 160
    with pytest.raises(ValueError, match="no place"):
        join(SAMPLES["defect-unseen"].to_bytes(), JPEG)


def test_digest_does_not_depend_on_key_order_and_refuses_nan() -> None:
    assert digest_of({"a": 1, "b": [1, "ä"]}) == digest_of({"b": [1, "ä"], "a": 1})
    with pytest.raises(ValueError):
        digest_of({"a": float("nan")})


def test_topics_are_six_levels_and_parse_back() -> None:
    topics = Topics("plant-1", "press-4", "edge-0017")
    assert topics.defect == "inspect/v1/plant-1/press-4/edge-0017/defect"
    for leaf in LEAVES:
        assert Topics.parse(getattr(topics, leaf)) == (topics, leaf)


@pytest.mark.parametrize("name", ["", "a/b", "+", "#", "a#", "$a", "-a", ".", "..", "a b", "ä", "x" * 41, "a\n", "a\0"])
def test_what_cannot_be_a_topic_level_is_refused(name: str) -> None:
    for names in ((name, "l", "d"), ("s", name, "d"), ("s", "l", name)):
        with pytest.raises(ValueError, match="is not a name"):
            Topics(*names)


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "inspect/v1/a/b/c",
        "inspect/v2/a/b/c/defect",
        "inspect/v1/a/b/c/defect/x",
        "inspect/v1/a/b/c/other",
        "inspect/v1//b/c/ack",
    ],
)
def test_foreign_topics_are_refused(topic: str) -> None:
    with pytest.raises(ValueError):
        Topics.parse(topic)


def test_subscription_filters_by_what_is_named() -> None:
    assert subscription("defect") == "inspect/v1/+/+/+/defect"
    assert subscription("state", site="plant-1", device="edge-1") == "inspect/v1/plant-1/+/edge-1/state"
    with pytest.raises(ValueError):
        subscription("defect", line="#")
    with pytest.raises(ValueError):
        subscription("anything")
