"""`[evidence]`: which pictures stay on this box, and how much of its disk they may take."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from edge_inspect.config_table import Table


class EvidenceConfig(Table):
    """`[evidence]`: pictures of NG and UNKNOWN parts, and of a few OK ones, on this box (docs/evidence.md)."""

    enabled: bool = True
    """Keep pictures at all."""
    cap_bytes: Annotated[int, Field(ge=16 << 20, le=1 << 44)] = 1 << 30
    """Most that pictures and their index may take on disk; then the oldest go, OK samples first."""
    keep_days: Annotated[float, Field(gt=0, le=36500)] = 30
    """Older pictures are removed."""
    ok_share: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of OK parts whose picture is kept as well; which, follows from the part's number alone."""
    full_frames: bool = True
    """Keep the whole frame beside the crop around the defects."""
    jpeg_quality: Annotated[int, Field(ge=30, le=100)] = 90
    """Quality of the JPEGs."""
    min_free_bytes: Annotated[int, Field(ge=0, le=1 << 44)] = 256 << 20
    """So much of the disk is never taken: pictures are removed before reports run out of room."""
    most_per_min: Annotated[int, Field(ge=1, le=100_000)] = 300
    """At most so many parts a minute: a line where everything is bad must not wear out the disk."""
