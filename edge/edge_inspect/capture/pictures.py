"""Coded video to pictures that may be trusted: what recordings and network cameras share.

1. FFmpeg hides losses: it fills what it could not decode with older pictures. Every sign of that is taken: a
   decoding error, `is_corrupt` on a packet or a frame, a gap in H.264's frame numbers, a packet that the network
   lost (`doubt`).
2. From the first sign on, every picture is `corrupt` until a key frame that was sent after it: later pictures are
   built on earlier ones.
3. Pixels are BGR, as FFmpeg's own scaler makes them (the same bytes as OpenCV's video reader gives), copied once,
   into the slot.

One decoding thread on purpose: with several, FFmpeg switches H.264's damage detection off (slices) or reports it
on the wrong picture (frames). It is no slower here: 2 ms for a 1080p picture, while inference has the other cores.
"""

from __future__ import annotations

import time
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from edge_inspect.capture.nal import HEAD_BYTES, FrameNumbers
from edge_inspect.capture.protocol import Pixels

Frame = Any
"""`av.VideoFrame`; a path of PyAV's own types here would tie us to one of its versions."""


class PictureDecoder:
    """Packets of one video stream in, frames out, each with the reason why it must not be judged ("" if it may be)."""

    def __init__(self, stream: Any, *, from_key: bool) -> None:
        """`from_key`: nothing is trusted before the first key frame (a stream that was joined in the middle)."""
        self._context = stream.codec_context
        self._context.thread_count = 1
        self._context.options = {"err_detect": "explode"}
        is_h264 = self._context.name == "h264"
        self._numbers = FrameNumbers(self._context.extradata) if is_h264 else None
        self._scaler = VideoReformatter()
        self._doubtful = from_key
        self._clean_from: int | None = None
        self._doubtful_since = time.monotonic()
        self.errors = 0
        """Packets that gave no picture."""

    def doubt(self) -> None:
        """Something was lost: what comes now is built on pictures that are not there."""
        if not self._doubtful:
            self._doubtful_since = time.monotonic()
        self._doubtful = True
        self._clean_from = None

    def doubtful_s(self) -> float:
        """For how long no picture could be trusted; 0 if the present one can."""
        return time.monotonic() - self._doubtful_since if self._doubtful else 0.0

    def decode(self, packet: Any) -> list[tuple[Frame, str]]:
        """The frames that are complete now, in the order of their time."""
        if packet.is_corrupt or (self._numbers is not None and packet.size and self._has_gap(packet)):
            self.doubt()
        if self._doubtful and self._clean_from is None and packet.is_keyframe:
            self._clean_from = packet.pts if packet.pts is not None else -(2**63)
        try:
            frames = self._context.decode(packet if packet.size else None)
        except av.FFmpegError:
            self.errors += 1
            self.doubt()
            return []
        return [(frame, self._verdict(frame)) for frame in frames]

    def fill(self, frame: Frame, pixels: Pixels) -> None:
        """Write `frame` into `pixels`, which has its size."""
        plane: Any = self._scaler.reformat(frame, format="bgr24").planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        np.copyto(pixels.reshape(pixels.shape[0], -1), rows[: pixels.shape[0], : pixels.shape[1] * 3])

    def _has_gap(self, packet: Any) -> bool:
        assert self._numbers is not None
        return self._numbers.gap(bytes(memoryview(packet)[:HEAD_BYTES]))

    def _verdict(self, frame: Frame) -> str:
        if frame.is_corrupt:
            self.doubt()
        elif self._doubtful and frame.key_frame and self._clean_from is not None:
            self._doubtful = frame.pts is not None and frame.pts < self._clean_from
        return "corrupt" if self._doubtful else ""
