"""Reports to put into outboxes: each says by its part number which one it is."""

from __future__ import annotations

import base64

from edge_wire.fields import utc_from_ns
from edge_wire.messages import (
    DRAFT_EPOCH,
    DRAFT_SEQ,
    Defect,
    DefectReport,
    DeviceState,
    FrameRef,
    ModelRef,
    Part,
    PartMode,
    RecipeRef,
    StageTimes,
    Thumbnail,
    VerdictKind,
)
from edge_wire.topics import Topics

DEVICE = "edge-1"
TOPICS = Topics("plant", "press-4", DEVICE)
DIGEST = "sha256:" + "ab" * 32
UTC_NS = 1_795_338_098_123_456_789


def report(number: int, *, picture_bytes: int = 0, device: str = DEVICE) -> DefectReport:
    """An NG report of part `number`; with `picture_bytes`, a thumbnail of that size whose bytes name the part."""
    return DefectReport(
        device=device,
        epoch=DRAFT_EPOCH,
        seq=DRAFT_SEQ,
        site="plant",
        line="press-4",
        camera="cam-1",
        camera_digest=DIGEST,
        part=Part(number=number, mode=PartMode.BARRIER),
        verdict=VerdictKind.NG,
        reason="defect",
        defects=(
            Defect(
                class_name="scratch",
                confidence=0.87,
                box_px=(10.0, 20.0, 40.0, 60.0),
                part_box_px=(5.0, 6.0, 35.0, 46.0),
                severity="major",
                looks=2,
            ),
        ),
        model=ModelRef(name="metal-plate", version="1.0.0", digest=DIGEST, variant_digest=DIGEST),
        recipe=RecipeRef(name="metal-plate", version="1", digest=DIGEST),
        verdict_ns=1_000_000 * number,
        verdict_utc=utc_from_ns(UTC_NS),
        frame=FrameRef(index=number, captured_ns=900_000 * number, captured_utc=utc_from_ns(UTC_NS), age_ms=12.5),
        stages_ms=StageTimes(capture=1.0, letterbox=0.5, inference=9.0, decode=0.2, judge=0.1),
        thumbnail=_picture(number, picture_bytes) if picture_bytes else None,
    )


def _picture(number: int, size_bytes: int) -> Thumbnail:
    jpeg = (b"\xff\xd8" + f"part {number} ".encode() + b"\x00" * size_bytes)[:size_bytes]
    return Thumbnail(
        width_px=64, height_px=48, crop_px=(0.0, 0.0, 64.0, 48.0), jpeg_base64=base64.b64encode(jpeg).decode()
    )


def state() -> DeviceState:
    return DeviceState(
        site="plant",
        line="press-4",
        device=DEVICE,
        status="online",
        since=utc_from_ns(UTC_NS),
        versions={"edge-inspect": "0.1.0"},
    )


def part_numbers(payloads: list[bytes]) -> list[int]:
    """Which parts these payloads tell of, in order; every one must be whole."""
    return [DefectReport.from_bytes(payload).part.number for payload in payloads]


def without_repeats(payloads: list[bytes]) -> list[int]:
    """Part numbers in the order of their first arrival, repeats dropped by (device, epoch, seq)."""
    first: dict[object, int] = {}
    for payload in payloads:
        found = DefectReport.from_bytes(payload)
        first.setdefault(found.id, found.part.number)
    return list(first.values())
