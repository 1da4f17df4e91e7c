"""A live camera that shows the same pictures in turn, at a steady pace, with a little grain."""

from __future__ import annotations

import threading
import time

import numpy as np

from edge_inspect.capture.protocol import Camera, Format, Pixels, Read, Stamp


class SteadyCamera(Camera):
    """Frames are numbered from 0 without a hole; one that finds no free slot is lost, as with any live camera."""

    label = "steady"
    live = True

    def __init__(self, *pictures: Pixels, fps: float) -> None:
        self.shown = 0
        self.ended = threading.Event()
        self._pictures = pictures
        self._period_s = 1 / fps
        self._next_s = 0.0

    def open(self) -> Format:
        height, width = self._pictures[0].shape[:2]
        self._next_s = time.monotonic()
        return Format(width, height, 1 / self._period_s, "BGR")

    def read_into(self, pixels: Pixels, stamp: Stamp) -> Read:
        if self.ended.is_set():
            return Read.END
        self._next_s = max(self._next_s + self._period_s, time.monotonic() - self._period_s)
        time.sleep(max(0.0, self._next_s - time.monotonic()))
        np.copyto(pixels, self._pictures[self.shown % len(self._pictures)])
        pixels[:, self.shown % pixels.shape[1]] ^= 3  # a live picture is never twice the same
        stamp.index, stamp.captured_ns, stamp.utc_ns = self.shown, time.monotonic_ns(), time.time_ns()
        stamp.missed, stamp.broken = 0, ""
        self.shown += 1
        return Read.FRAME

    def close(self) -> None:
        """Nothing is held."""
