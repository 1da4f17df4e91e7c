"""What is kept of one part: which pictures, encoded, each with its record inside."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import simplejpeg

from edge_inspect.delivery.evidence_file import MOST_MARKS, Mark, Other, Record, VerdictName, What, join
from edge_inspect.delivery.jpeg_sizes import JpegSizes
from edge_inspect.delivery.picture_pool import Copied, PicturePool, PixelBox

DISAGREEMENT = "disagreement"
NEARLY_ALL = 0.8
"""A crop that shows so much of the frame is not kept beside it."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A part with its verdict, and what of its frame to keep. Boxes x0, y0, x1, y1 in px of the frame."""

    camera: str
    part: int
    verdict: VerdictName
    reason: str
    defects: tuple[Mark, ...]
    part_px: PixelBox | None
    crop_px: PixelBox
    """The defects and something around them, or the part."""
    captured_ns: int
    captured_utc_ns: int
    model: str
    model_digest: str
    recipe: str
    recipe_digest: str
    sequence: int | None = None
    """The line's number of its trigger."""
    beside: Other | None = None
    """What another model said of it; then the picture is kept for that, beside one that may be kept of the verdict."""


class Encoder:
    """Used by one thread. `run_id`: of this life of the daemon; with camera and part number it makes a part's id."""

    def __init__(self, pool: PicturePool, run_id: str, *, full_frames: bool, quality: int) -> None:
        self._pool = pool
        self._run_id = run_id
        self._full_frames = full_frames
        self._quality = quality
        self.frame_sizes: dict[str, JpegSizes] = {}
        """Of each camera's whole frames, as encoded here."""

    def pictures(self, subject: Subject, copied: Copied) -> list[tuple[Record, bytes]]:
        """The files' contents: the whole frame, if asked for, and the crop, if it is not about the same."""
        whole = copied.at_px
        wanted: list[tuple[What, PixelBox]] = [("frame", whole)] if self._full_frames else []
        if not self._full_frames or _area(subject.crop_px) < NEARLY_ALL * _area(whole):
            wanted.append(("crop", subject.crop_px))
        return [self._encode(subject, copied, what, box) for what, box in wanted]

    def _encode(self, subject: Subject, copied: Copied, what: What, box: PixelBox) -> tuple[Record, bytes]:
        picture = self._pool.cut(copied, box)
        jpeg: bytes = simplejpeg.encode_jpeg(picture, quality=self._quality, colorspace="BGR", colorsubsampling="420")
        if what == "frame":
            self.frame_sizes.setdefault(subject.camera, JpegSizes()).add(len(jpeg))
        record = Record(
            id=f"{self._run_id}-{subject.camera}-{subject.part}{'.beside' if subject.beside else ''}",
            camera=subject.camera,
            part=subject.part,
            sequence=subject.sequence,
            verdict=subject.verdict,
            reason=subject.reason,
            defects=subject.defects[:MOST_MARKS],
            beside=subject.beside,
            what=what,
            crop_px=box,
            part_px=subject.part_px,
            frame_px=copied.frame_px,
            captured_utc_ns=subject.captured_utc_ns,
            captured_ns=subject.captured_ns,
            model=subject.model,
            model_digest=subject.model_digest,
            recipe=subject.recipe,
            recipe_digest=subject.recipe_digest,
            jpeg_sha256=hashlib.sha256(jpeg).hexdigest(),
        )
        return record, join(jpeg, record)


def _area(box: PixelBox) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])
