"""A recorded clip (mp4, avi, mkv, gif) or one still picture as a camera.

1. Every frame of the file is handed over, in order, once (again and again with `loop`); nothing is skipped.
2. The decoder writes into the slot itself; a frame of another size is refused before anything is written.
3. A recording that ends before the length it states says so in `ended_early`, in one line.
4. FFmpeg and OpenCV are kept quiet: what a person must know comes out of here as one line.

    clip = VideoFile("line.mp4")
    format = clip.open()
    while clip.read_into(slot, stamp) is not Read.END: ...
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import cv2

from edge_inspect.capture.protocol import Format, Pixels, Read, Stamp
from edge_inspect.errors import BadSource, CameraLost, FormatChanged

LONGEST_WAIT_S = 0.4
"""`paced`: how long one read waits for its time before it says NOTHING."""


def check_readable(path: Path) -> None:
    """Raise BadSource, one clear line, unless `path` is a regular file that we may read and that holds something."""
    try:
        if path.is_dir():
            raise BadSource(f"{path}: is a folder, not a recording")
        if not path.is_file():
            missing = "is not a regular file" if path.exists() else "no such file"
            raise BadSource(f"{path}: {'broken link' if path.is_symlink() and not path.exists() else missing}")
        with path.open("rb") as file:
            if not file.read(1):
                raise BadSource(f"{path}: the file is empty")
    except PermissionError as err:
        raise BadSource(f"{path}: no permission to read it") from err
    except (OSError, ValueError) as err:
        raise BadSource(f"{path!s}: cannot be read: {err}") from err


def hush_opencv() -> None:
    """Keep FFmpeg's and OpenCV's own lines off stderr, unless the user asked for them."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # OpenCV reads it when it opens its first clip
    if "OPENCV_LOG_LEVEL" not in os.environ:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class VideoFile:
    """A recording, read as fast as it is taken, or at its own pace with `paced`."""

    live = False

    def __init__(self, path: str | Path, *, loop: bool = False, paced: bool = False) -> None:
        self._path = Path(path)
        self._loop = loop
        self._paced = paced
        self._capture: cv2.VideoCapture | None = None
        self._stated = 0
        self._in_round = 0
        self._index = 0
        self._period_ns = 0
        self._due_ns = 0
        self.label = f"file {self._path.name}"
        self.ended_early = ""
        """Not empty at the end: the recording is truncated or damaged; one line for a person."""

    def open(self) -> Format:
        """Open from the first frame. Raises BadSource: missing, unreadable, empty, not a recording."""
        self.close()
        check_readable(self._path)
        hush_opencv()
        capture = cv2.VideoCapture(str(self._path), cv2.CAP_FFMPEG)
        if not capture.isOpened():
            raise BadSource(f"{self._path}: not a recording or picture that FFmpeg can read, or it is cut off")
        self._capture = capture
        self._stated = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self._in_round = self._index = 0
        self.ended_early = ""
        fps = capture.get(cv2.CAP_PROP_FPS)
        self._period_ns = int(1e9 / fps) if fps > 0 else 0
        self._due_ns = time.monotonic_ns()
        return Format(
            width_px=int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
            height_px=int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
            fps=fps if fps > 0 else None,
            pixel_format=_fourcc(int(capture.get(cv2.CAP_PROP_FOURCC))),
            settings={"frames": self._stated},
        )

    def read_into(self, pixels: Pixels, stamp: Stamp) -> Read:
        if self._capture is None:
            raise CameraLost(f"{self.label}: not open")
        if self._paced and not self._wait_for_due():
            return Read.NOTHING
        filled = self._decode(pixels)
        if not filled and self._loop and self._in_round:
            self._rewind()
            filled = self._decode(pixels)
        if not filled:
            self._note_end()
            return Read.END
        stamp.index = self._index
        stamp.captured_ns = time.monotonic_ns()
        stamp.utc_ns = time.time_ns()
        stamp.missed = 0
        stamp.broken = ""
        self._index += 1
        self._in_round += 1
        return Read.FRAME

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def _decode(self, pixels: Pixels) -> bool:
        """OpenCV fills `pixels` itself; with a picture of another size it would return an array of its own."""
        assert self._capture is not None
        if not self._capture.grab():
            return False
        width = int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH))
        height = int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        if pixels.shape != (height, width, 3):
            raise FormatChanged(f"{self.label}: frame {self._index} is {width}x{height}, "
                                f"the slot holds {pixels.shape[1]}x{pixels.shape[0]}")
        filled, returned = self._capture.retrieve(pixels)
        if filled and returned.ctypes.data != pixels.ctypes.data:
            found = "x".join(str(n) for n in returned.shape[1::-1])
            raise FormatChanged(f"{self.label}: frame {self._index} came as {found} outside the slot")
        return bool(filled)

    def _rewind(self) -> None:
        index, due_ns = self._index, self._due_ns
        self.open()
        self._index, self._due_ns = index, due_ns

    def _wait_for_due(self) -> bool:
        wait_ns = self._due_ns - time.monotonic_ns()
        if wait_ns > 0:
            time.sleep(min(wait_ns / 1e9, LONGEST_WAIT_S))
            if self._due_ns > time.monotonic_ns():
                return False
        self._due_ns = max(self._due_ns + self._period_ns, time.monotonic_ns() - self._period_ns)
        return True

    def _note_end(self) -> None:
        """Containers without an index state a length estimated from the duration: one in fifty is forgiven."""
        if self._stated > 0 and self._in_round < self._stated - max(2, self._stated // 50):
            self.ended_early = (f"{self._path}: ends after {self._in_round} of {self._stated} frames: "
                                "the recording is cut off or damaged")


def _fourcc(code: int) -> str:
    text = "".join(chr((code >> shift) & 0xFF) for shift in (0, 8, 16, 24)).strip("\0 ")
    return text if text.isprintable() and text else "unknown"
