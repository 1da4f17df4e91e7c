"""What the same footage would cost as a video stream: the yardstick for the bytes that we send instead.

Each frame is encoded with libx264, the way network cameras are commonly set: High profile, one key frame every two
seconds, constant quality (CRF 23), preset veryfast. Only packets are counted, no RTP or container.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import av.error

from edge_inspect.capture.protocol import Pixels

KEY_FRAME_EVERY_S = 2
CRF = 23


class VideoMeter:
    """Counts `bytes` of an H.264 stream of the frames given to `add`."""

    def __init__(self, width_px: int, height_px: int, fps: float) -> None:
        self.bytes = 0
        rate = Fraction(fps).limit_denominator(1000)
        self._codec = av.CodecContext.create("libx264", "w")
        self._codec.width, self._codec.height = width_px - width_px % 2, height_px - height_px % 2
        self._codec.pix_fmt = "yuv420p"
        self._codec.framerate, self._codec.time_base = rate, 1 / rate
        self._codec.gop_size = max(1, round(fps * KEY_FRAME_EVERY_S))
        self._codec.options = {"preset": "veryfast", "crf": str(CRF), "threads": "1"}
        self._count = 0

    def add(self, pixels: Pixels) -> None:
        """One frame, (height, width, 3) uint8 BGR."""
        even = pixels[: self._codec.height, : self._codec.width]
        frame = av.VideoFrame.from_ndarray(even, format="bgr24").reformat(format="yuv420p")
        frame.pts = self._count
        self._count += 1
        self.bytes += sum(packet.size for packet in self._codec.encode(frame))

    def close(self) -> int:
        """Flush the encoder; the total in bytes."""
        self.bytes += sum(packet.size for packet in self._codec.encode(None))
        return self.bytes


def stream_bytes(source: str) -> int | None:
    """Size of the H.264 packets in a recording; None when `source` is no file with an H.264 stream."""
    if not Path(source).is_file():
        return None
    try:
        with av.open(source) as container:
            streams = container.streams.video
            if not streams or streams[0].codec_context.name != "h264":
                return None
            return int(sum(packet.size for packet in container.demux(streams[0])))
    except av.error.FFmpegError:
        # The replay has already said what is wrong with this file.
        return None
