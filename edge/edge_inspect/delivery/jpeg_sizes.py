"""How large a camera's frames are as JPEG: of those frames that are encoded anyway, for the evidence."""

from __future__ import annotations

REMEMBERED = 200
"""The mean is of about so many of the newest: light and product change."""


class JpegSizes:
    """Fed by one thread, read by others."""

    __slots__ = ("count", "mean_bytes")

    def __init__(self) -> None:
        self.count = 0
        self.mean_bytes: float | None = None
        """None before the first."""

    def add(self, size_bytes: int) -> None:
        self.count += 1
        before = size_bytes if self.mean_bytes is None else self.mean_bytes
        self.mean_bytes = before + (size_bytes - before) / min(self.count, REMEMBERED)
