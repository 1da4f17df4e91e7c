"""A folder of pictures, or one picture, as a camera: one picture, one frame, in the order of their names (2 before 10).

1. The first picture that can be decoded sets the size. Nothing is ever resized.
2. A picture of another size is handed over as broken `size-differs`, one that cannot be decoded whole as broken
   `corrupt`; in both cases its place in the order is kept and nothing outside the slot is written.
3. JPEG is decoded by libjpeg-turbo straight into the slot, strictly (cut-off data is corrupt, not half grey).
   Other kinds (png, bmp, tiff, webp) are decoded by OpenCV and copied: the one place where a frame is allocated.
4. EXIF orientation is not applied: pixels lie as the sensor gave them.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from edge_inspect.capture.files import check_readable
from edge_inspect.capture.protocol import Camera, Format, Pixels, Read, Stamp
from edge_inspect.errors import BadSource, CameraLost

JPEG = frozenset({".jpg", ".jpeg"})
KINDS = JPEG | {".png", ".bmp", ".tif", ".tiff", ".webp"}
LONGEST_WAIT_S = 0.4
"""With `fps`: how long one read waits for its time before it says NOTHING."""


class ImageFolder(Camera):
    """`path`, or all pictures directly in it if it is a folder, as fast as they are taken; with `fps` at that pace."""

    live = False

    def __init__(self, path: str | Path, *, fps: float | None = None) -> None:
        if fps is not None and not 0 < fps <= 10_000:
            raise BadSource(f"folder {path}: fps is {fps}; allowed: more than 0, at most 10000")
        self._path = Path(path)
        self._fps = fps
        self._files: list[Path] = []
        self._next = 0
        self._due_ns = 0
        self._open = False
        self.label = f"pictures {self._path.name}"

    def open(self) -> Format:
        """List the pictures. Raises BadSource: no folder, unreadable, no picture, none that can be decoded."""
        self.close()
        _hush_opencv()
        self._files = self._list()
        height, width = self._first_size()
        self._next = 0
        self._due_ns = time.monotonic_ns()
        self._open = True
        return Format(width, height, self._fps, "pictures", {"frames": len(self._files)})

    def read_into(self, pixels: Pixels, stamp: Stamp) -> Read:
        if not self._open:
            raise CameraLost(f"{self.label}: not open")
        if self._next == len(self._files):
            return Read.END
        if self._fps is not None and not self._wait_for_due(self._fps):
            return Read.NOTHING
        stamp.broken = _decode(self._files[self._next], pixels)
        stamp.index = self._next
        stamp.captured_ns = time.monotonic_ns()
        stamp.utc_ns = time.time_ns()
        stamp.missed = 0
        self._next += 1
        return Read.FRAME

    def close(self) -> None:
        self._open = False

    def _list(self) -> list[Path]:
        try:
            if not self._path.is_dir():
                check_readable(self._path)
                return [self._path]
            found = [entry for entry in self._path.iterdir() if entry.suffix.lower() in KINDS and entry.is_file()]
        except OSError as err:
            raise BadSource(f"{self._path}: cannot list it: {err.strerror}") from err
        if not found:
            raise BadSource(f"{self._path}: holds no pictures; allowed: {', '.join(sorted(KINDS))}")
        return sorted(found, key=_natural)

    def _first_size(self) -> tuple[int, int]:
        reason = ""
        for file in self._files:
            try:
                if file.suffix.lower() in JPEG:
                    height, width, _, _ = simplejpeg.decode_jpeg_header(file.read_bytes())
                    return int(height), int(width)
                picture = _decode_by_opencv(file.read_bytes())
                if picture is not None:
                    return int(picture.shape[0]), int(picture.shape[1])
                reason = reason or f"{file.name} is damaged or not a picture"
            except ValueError as err:
                reason = reason or f"{file.name}: {err}"
            except OSError as err:
                reason = reason or f"{file.name}: {err.strerror}"
        if self._files == [self._path]:
            raise BadSource(f"{self._path}: cannot be read as a picture ({reason})")
        raise BadSource(f"{self._path}: none of its {len(self._files)} pictures can be read ({reason})")

    def _wait_for_due(self, fps: float) -> bool:
        wait_ns = self._due_ns - time.monotonic_ns()
        if wait_ns > 0:
            time.sleep(min(wait_ns / 1e9, LONGEST_WAIT_S))
            if self._due_ns > time.monotonic_ns():
                return False
        self._due_ns = max(self._due_ns, time.monotonic_ns() - int(1e9 / fps)) + int(1e9 / fps)
        return True


def _hush_opencv() -> None:
    """What is wrong with a picture goes into its stamp, not onto the terminal."""
    if "OPENCV_LOG_LEVEL" not in os.environ:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def _decode(file: Path, pixels: Pixels) -> str:
    """Fill `pixels` from `file`; returns why they must not be judged, or nothing."""
    try:
        data = file.read_bytes()
        if file.suffix.lower() in JPEG:
            height, width, _, _ = simplejpeg.decode_jpeg_header(data)
            if pixels.shape != (height, width, 3):
                return "size-differs"
            simplejpeg.decode_jpeg(data, colorspace="BGR", buffer=pixels)
            return ""
        picture = _decode_by_opencv(data)
    except (OSError, ValueError):
        return "corrupt"
    if picture is None:
        return "corrupt"
    if picture.shape != pixels.shape:
        return "size-differs"
    np.copyto(pixels, picture)
    return ""


def _decode_by_opencv(data: bytes) -> Pixels | None:
    if not data:
        return None
    try:
        found: Pixels | None = cv2.imdecode(
            np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        )
    except cv2.error:
        return None
    return found


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """Numbers in names sort as numbers: frame2 before frame10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", path.name) if part]
