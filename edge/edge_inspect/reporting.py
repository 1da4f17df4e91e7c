"""From a verdict to what leaves the edge: the defect report and its thumbnail.

1. A report says only what was measured: no field is guessed, what is unknown is null.
2. The thumbnail is cut from the slot while it is leased, shows the defects (or the part), and never exceeds the
   recipe's byte budget: quality goes down first, then size, then it is left out.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import simplejpeg

from edge_inspect.capture.protocol import Pixels
from edge_inspect.delivery.evidence_file import Mark, Other
from edge_inspect.delivery.evidence_subject import DISAGREEMENT, NEARLY_ALL, Subject
from edge_inspect.pipeline import Judged, Lane
from edge_inspect.verdict.judge import Defect, Kind, Verdict
from edge_wire import messages as wire
from edge_wire.fields import utc_from_ns
from edge_wire.topics import Topics

QUALITIES = (80, 60, 40, 25)
MARGIN = 0.25
"""Of the defects' size, shown around them."""
LEAST_CROP_PX = 160
"""Of a kept picture: a person needs something around a small defect to see where it is."""
_REPORTED: dict[Kind, Literal[wire.VerdictKind.NG, wire.VerdictKind.UNKNOWN]] = {
    Kind.NG: wire.VerdictKind.NG,
    Kind.UNKNOWN: wire.VerdictKind.UNKNOWN,
}


@dataclass(frozen=True, slots=True)
class Identity:
    """Who reports, per camera. `model`: the one that judges now; a part carries the one that judged it."""

    topics: Topics
    camera_digest: str
    recipe: wire.RecipeRef
    model: wire.ModelRef


def outline(camera: str, mode: str, who: Identity) -> wire.DefectReport:
    """What is known of a camera's reports before there is one; the rest stands for nothing."""
    return wire.DefectReport(
        device=who.topics.device,
        site=who.topics.site,
        line=who.topics.line,
        epoch=wire.DRAFT_EPOCH,
        seq=wire.DRAFT_SEQ,
        camera=camera,
        camera_digest=who.camera_digest,
        part=wire.Part(number=0, mode=wire.PartMode(mode)),
        verdict=wire.VerdictKind.UNKNOWN,
        reason="outline",
        model=who.model,
        recipe=who.recipe,
        verdict_ns=0,
        verdict_utc=utc_from_ns(0),
    )


def defect_report(lane: Lane, judged: Judged, who: Identity, pixels: Pixels | None) -> wire.DefectReport:
    """The report of a part that is not OK; the outbox numbers it. `pixels`: the frame the verdict rests on, or None."""
    verdict_utc_ns = judged.captured_utc_ns + judged.verdict_ns - judged.captured_ns
    return wire.DefectReport(
        device=who.topics.device,
        site=who.topics.site,
        line=who.topics.line,
        epoch=wire.DRAFT_EPOCH,
        seq=wire.DRAFT_SEQ,
        camera=lane.name,
        camera_digest=who.camera_digest,
        part=wire.Part(number=judged.part, mode=wire.PartMode(lane.recipe.part.mode), sequence=judged.sequence),
        verdict=_REPORTED[judged.verdict.kind],
        reason=judged.verdict.reason,
        defects=tuple(_defect(defect) for defect in judged.verdict.defects[: wire.MAX_DEFECTS]),
        model=judged.model or who.model,
        recipe=who.recipe,
        verdict_ns=judged.verdict_ns,
        verdict_utc=utc_from_ns(verdict_utc_ns),
        frame=_frame(judged),
        stages_ms=_stages(judged),
        thumbnail=thumbnail(lane, judged, pixels) if pixels is not None and lane.recipe.report.thumbnail else None,
    )


def _defect(defect: Defect) -> wire.Defect:
    return wire.Defect(
        class_name=defect.cls,
        confidence=defect.confidence,
        box_px=defect.box_px,
        part_box_px=defect.part_box_px,
        width_mm=defect.width_mm,
        height_mm=defect.height_mm,
        severity=defect.severity,
        looks=defect.looks,
    )


def _frame(judged: Judged) -> wire.FrameRef | None:
    if judged.box_px is None:
        return None
    return wire.FrameRef(
        index=judged.frame_index,
        captured_ns=judged.captured_ns,
        captured_utc=utc_from_ns(judged.captured_utc_ns),
        age_ms=judged.age_ms,
    )


def _stages(judged: Judged) -> wire.StageTimes | None:
    if judged.stages is None:
        return None
    capture, letterbox, inference, decode, judge = (ns / 1e6 for ns in judged.stages)
    return wire.StageTimes(capture=capture, letterbox=letterbox, inference=inference, decode=decode, judge=judge)


def thumbnail(lane: Lane, judged: Judged, pixels: Pixels) -> wire.Thumbnail | None:
    """A JPEG of the defects (of the part when there are none) within the recipe's budget, or None if none fits."""
    x0, y0, x1, y1 = _crop(judged, pixels.shape[1], pixels.shape[0])
    width_px, height_px = x1 - x0, y1 - y0
    scale = min(1.0, lane.recipe.report.thumbnail_px / max(width_px, height_px))
    for shrink in (1.0, 0.5):
        size = (max(1, round(width_px * scale * shrink)), max(1, round(height_px * scale * shrink)))
        small = cv2.resize(pixels[y0:y1, x0:x1], size, interpolation=cv2.INTER_AREA)
        for quality in QUALITIES:
            jpeg: bytes = simplejpeg.encode_jpeg(small, quality=quality, colorspace="BGR", colorsubsampling="420")
            if len(jpeg) <= lane.recipe.report.thumbnail_max_bytes:
                return wire.Thumbnail(
                    width_px=size[0],
                    height_px=size[1],
                    crop_px=(float(x0), float(y0), float(x1), float(y1)),
                    jpeg_base64=base64.b64encode(jpeg).decode(),
                )
    return None


def evidence_subject(lane: Lane, judged: Judged, who: Identity, pixels: Pixels) -> Subject:
    """What to keep of a part: the frame `pixels` and, of it, the part, or the defects where the part is the frame."""
    verdict, model = judged.verdict, judged.model or who.model
    return Subject(
        camera=lane.name,
        part=judged.part,
        verdict=verdict.kind.value,
        reason=verdict.reason,
        defects=_marks(verdict),
        part_px=judged.box_px,
        crop_px=_evidence_crop(judged, pixels.shape[1], pixels.shape[0]),
        captured_ns=judged.captured_ns,
        captured_utc_ns=judged.captured_utc_ns,
        model=f"{model.name} {model.version}",
        model_digest=model.digest,
        recipe=f"{who.recipe.name} {who.recipe.version}",
        recipe_digest=who.recipe.digest,
        sequence=judged.sequence,
    )


def disagreement(
    lane: Lane,
    judged: Judged,
    who: Identity,
    pixels: Pixels,
    answered: Verdict,
    beside: tuple[wire.ModelRef, Verdict],
) -> Subject:
    """What to keep of a part on which two models disagree: the one that answers the line, and the one beside it."""
    model, verdict = beside
    other = Other(
        model=f"{model.name} {model.version}",
        model_digest=model.digest,
        verdict=verdict.kind.value,
        reason=verdict.reason,
        defects=_marks(verdict),
    )
    of_the_line = evidence_subject(lane, judged, who, pixels)
    return replace(
        of_the_line, verdict=answered.kind.value, reason=DISAGREEMENT, defects=_marks(answered), beside=other
    )


def _marks(verdict: Verdict) -> tuple[Mark, ...]:
    return tuple(Mark(found.cls, found.confidence, found.box_px, found.severity) for found in verdict.defects)


def _evidence_crop(judged: Judged, width_px: int, height_px: int) -> tuple[int, int, int, int]:
    part = judged.box_px
    if part is None:
        return 0, 0, width_px, height_px
    if (part[2] - part[0]) * (part[3] - part[1]) < NEARLY_ALL * width_px * height_px:
        x0, y0, x1, y1 = max(0, part[0]), max(0, part[1]), min(width_px, part[2]), min(height_px, part[3])
    else:
        x0, y0, x1, y1 = _crop(judged, width_px, height_px)
    left, right = _at_least(x0, x1, min(LEAST_CROP_PX, width_px), width_px)
    top, bottom = _at_least(y0, y1, min(LEAST_CROP_PX, height_px), height_px)
    return left, top, right, bottom


def _at_least(first: int, end: int, least: int, limit: int) -> tuple[int, int]:
    """The stretch, widened to both sides where it is shorter than `least`, within 0 and `limit`."""
    if end - first >= least:
        return first, end
    start = max(0, min((first + end - least) // 2, limit - least))
    return start, start + least


def _crop(judged: Judged, width_px: int, height_px: int) -> tuple[int, int, int, int]:
    boxes = [defect.box_px for defect in judged.verdict.defects] or [judged.box_px or (0, 0, width_px, height_px)]
    x0, y0 = min(box[0] for box in boxes), min(box[1] for box in boxes)
    x1, y1 = max(box[2] for box in boxes), max(box[3] for box in boxes)
    margin_x, margin_y = (x1 - x0) * MARGIN + 4, (y1 - y0) * MARGIN + 4
    left, top = int(max(0, min(x0 - margin_x, width_px - 2))), int(max(0, min(y0 - margin_y, height_px - 2)))
    right, bottom = int(min(width_px, max(x1 + margin_x, left + 2))), int(min(height_px, max(y1 + margin_y, top + 2)))
    return left, top, right, bottom
