"""Recordings made for a test: every picture shows its number (see `rtsp_server.squares`)."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

from tests.sim.rtsp_server import draw


def write_numbered_clip(
    path: Path, *, frames: int, width: int = 320, height: int = 192, gop: int = 25, codec: str = "libx264"
) -> None:
    """`frames` pictures, 25 a second; the container follows from the name."""
    options = {"preset": "ultrafast", "g": str(gop)} if codec == "libx264" else {"q": "2"}
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25, options=options)
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv420p" if codec == "libx264" else "yuvj420p"
        for number in range(frames):
            planes = np.frombuffer(draw(number, width, height), np.uint8).reshape(-1, width)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        out.mux(stream.encode(None))
