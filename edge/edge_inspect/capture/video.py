"""A recorded clip (mp4, avi, mkv, gif) or one still picture as a camera.

1. Every frame of the file is handed over, in order, once (again and again with `loop`); nothing is skipped.
2. What FFmpeg could not decode whole is handed over as broken `corrupt`, up to the next key frame; a frame of which
   nothing came out is counted in `missed`. (OpenCV's reader passes such pictures off as good and then stops:
   docs/decisions/coded-video-through-pyav.md.)
3. A frame of another size is refused before anything is written.
4. A recording that ends before the length it states says so in `ended_early`, in one line.
5. Pixels lie as they were recorded: a phone's rotation tag is not applied.

    clip = VideoFile("line.mp4")
    format = clip.open()
    while clip.read_into(slot, stamp) is not Read.END: ...
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av

from edge_inspect.capture.files import check_readable
from edge_inspect.capture.pictures import Frame, PictureDecoder
from edge_inspect.capture.protocol import Camera, Format, Pixels, Read, Stamp
from edge_inspect.errors import BadSource, CameraLost, FormatChanged

NOT_VIDEO = frozenset({"tty", "bin", "xbin", "adf", "idf", "concat", "hls", "dash", "lavfi"})
"""FFmpeg reads these as "video" too: text as a terminal's screen, and lists that lead to other files."""
LONGEST_WAIT_S = 0.4
"""`paced`: how long one read waits for its time before it says NOTHING."""


class VideoFile(Camera):
    """A recording, read as fast as it is taken, or at its own pace with `paced`."""

    live = False

    def __init__(self, path: str | Path, *, loop: bool = False, paced: bool = False) -> None:
        self._path = Path(path)
        self._loop = loop
        self._paced = paced
        self._container: Any = None
        self._packets: Iterator[Any] = iter(())
        self._decoder: PictureDecoder | None = None
        self._waiting: deque[tuple[Frame, str]] = deque()
        self._stated = 0
        self._in_round = 0
        self._index = 0
        self._errors_told = 0
        self._period_ns = 0
        self._due_ns = 0
        self.label = f"file {self._path.name}"
        self.ended_early = ""
        """Not empty at the end: the recording is cut off or damaged; one line for a person."""

    def open(self) -> Format:
        """Open from the first frame. Raises BadSource: missing, unreadable, empty, not a recording."""
        self._index = 0
        self._due_ns = time.monotonic_ns()
        return self._start()

    def read_into(self, pixels: Pixels, stamp: Stamp) -> Read:
        if self._decoder is None:
            raise CameraLost(f"{self.label}: not open")
        if self._paced and not self._wait_for_due():
            return Read.NOTHING
        found = self._next_frame()
        if found is None and self._loop and self._in_round:
            self._start()
            found = self._next_frame()
        if found is None:
            self._note_end()
            return Read.END
        frame, broken = found
        if (frame.height, frame.width, 3) != pixels.shape:
            raise FormatChanged(
                f"{self.label}: frame {self._index} is {frame.width}x{frame.height} px, "
                f"the slot holds {pixels.shape[1]}x{pixels.shape[0]}"
            )
        self._decoder.fill(frame, pixels)
        missed = self._decoder.errors - self._errors_told
        self._errors_told = self._decoder.errors
        stamp.index = self._index + missed
        stamp.captured_ns = time.monotonic_ns()
        stamp.utc_ns = time.time_ns()
        stamp.missed = missed
        stamp.broken = broken
        self._index += missed + 1
        self._in_round += missed + 1
        return Read.FRAME

    def close(self) -> None:
        self._packets = iter(())
        self._waiting.clear()
        self._decoder = None
        if self._container is not None:
            self._container.close()
            self._container = None

    def _start(self) -> Format:
        self.close()
        check_readable(self._path)
        stream = self._open_stream()
        self._decoder = PictureDecoder(stream, from_key=False)
        self._packets = self._container.demux(stream)
        self._in_round = self._errors_told = 0
        self.ended_early = ""
        rate = float(stream.average_rate or 0)
        self._stated = stream.frames or _length(stream, self._container, rate)
        self._period_ns = int(1e9 / rate) if rate > 0 else 0
        context = stream.codec_context
        return Format(
            context.width,
            context.height,
            rate or None,
            context.name,
            {"frames": self._stated, "stored_as": context.pix_fmt},
        )

    def _open_stream(self) -> Any:
        try:
            self._container = av.open(str(self._path))
        except (av.FFmpegError, ValueError, IndexError) as err:
            reason = getattr(err, "strerror", None) or "unknown"
            raise BadSource(f"{self._path}: not a recording that FFmpeg can read, or it is cut off ({reason})") from err
        streams = self._container.streams.video
        stream = streams[0] if streams else None
        if stream is None or stream.codec_context is None or self._container.format.name in NOT_VIDEO:
            self.close()
            raise BadSource(f"{self._path}: holds no video")
        if not (stream.codec_context.width and stream.codec_context.height and stream.codec_context.pix_fmt):
            self.close()
            raise BadSource(f"{self._path}: holds no picture that can be decoded")
        return stream

    def _next_frame(self) -> tuple[Frame, str] | None:
        assert self._decoder is not None
        while not self._waiting:
            try:
                packet = next(self._packets, None)
            except av.FFmpegError:
                packet = None  # cut off: `_note_end` counts what is missing
            if packet is None:
                return None
            self._waiting.extend(self._decoder.decode(packet))
        return self._waiting.popleft()

    def _wait_for_due(self) -> bool:
        wait_ns = self._due_ns - time.monotonic_ns()
        if wait_ns > 0:
            time.sleep(min(wait_ns / 1e9, LONGEST_WAIT_S))
            if self._due_ns > time.monotonic_ns():
                return False
        self._due_ns = max(self._due_ns + self._period_ns, time.monotonic_ns() - self._period_ns)
        return True

    def _note_end(self) -> None:
        """Containers without an index state a length that comes from the duration: one in fifty is forgiven."""
        if self._in_round < self._stated - max(2, self._stated // 50):
            self.ended_early = (
                f"{self._path}: only {self._in_round} of {self._stated} frames could be read: it is cut off or damaged"
            )
        elif self._container.format.name == "gif" and not _has_gif_trailer(self._path):
            self.ended_early = f"{self._path}: ends after {self._in_round} frames without the end mark: it is cut off"


def _length(stream: Any, container: Any, rate: float) -> int:
    """Frames by duration, 0 if the container does not state one."""
    if stream.duration is not None and stream.time_base is not None:
        return round(float(stream.duration * stream.time_base) * rate)
    return round(container.duration / av.time_base * rate) if container.duration else 0


def _has_gif_trailer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read().rstrip(b"\0").endswith(b";")
