"""A few frame-sized buffers between the thread that must never wait and the one that may.

1. `copy` copies once into a buffer that stands ready, or says no at once: nothing is allocated, nobody waits.
2. A buffer is in one hand at a time: free, or with whoever got it, until `give_back`.
3. After `prepare` for the largest frame nothing of a frame's size is allocated any more.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
PixelBox = tuple[int, int, int, int]


class Copied(NamedTuple):
    """A part of a frame, in a buffer of the pool."""

    buffer: Pixels
    """Flat; its beginning holds the copy."""
    at_px: PixelBox
    """Which part of the frame: x0, y0, x1, y1."""
    frame_px: tuple[int, int]
    """Width and height of the frame."""

    @property
    def pixels(self) -> Pixels:
        return shaped(self.buffer, self.at_px)


class PicturePool:
    """`copy` belongs to one thread, `give_back` and `cut` to another; `prepare` may be called from any."""

    def __init__(self, buffers: int) -> None:
        self._free: deque[Pixels] = deque(np.zeros(0, np.uint8) for _ in range(buffers))
        self._scratch = np.zeros(0, np.uint8)
        self._size_bytes = 0
        self._growing = threading.Lock()

    def prepare(self, height_px: int, width_px: int) -> None:
        """Frames (height, width, 3) will come: make every buffer large enough."""
        size = height_px * width_px * 3
        with self._growing:  # two cameras at once: the size only ever goes up
            if size <= self._size_bytes:
                return
            self._size_bytes = size
        for _ in range(len(self._free)):  # one that is in use is replaced when it comes back
            try:
                self._put(self._free.popleft())
            except IndexError:
                return

    def copy(self, pixels: Pixels, at_px: PixelBox) -> Copied | None:
        """A copy of that part of the frame; None when every buffer is busy."""
        x0, y0, x1, y1 = at_px
        try:
            buffer = self._free.popleft()
        except IndexError:
            return None
        if (y1 - y0) * (x1 - x0) * 3 > buffer.size:  # `prepare` was not told of such frames, or is at it
            self.prepare(*pixels.shape[:2])
            self._put(buffer)
            return None
        np.copyto(shaped(buffer, at_px), pixels[y0:y1, x0:x1])
        return Copied(buffer, at_px, (pixels.shape[1], pixels.shape[0]))

    def cut(self, copied: Copied, box: PixelBox) -> Pixels:
        """A contiguous part of what was copied; valid until the next call."""
        if box == copied.at_px:
            return copied.pixels
        if self._scratch.size < self._size_bytes:
            self._scratch = np.zeros(self._size_bytes, np.uint8)
        left, top = copied.at_px[:2]
        part = shaped(self._scratch, box)
        np.copyto(part, copied.pixels[box[1] - top : box[3] - top, box[0] - left : box[2] - left])
        return part

    def give_back(self, copied: Copied) -> None:
        self._put(copied.buffer)

    def _put(self, buffer: Pixels) -> None:
        if buffer.size < self._size_bytes:
            buffer = np.ones(self._size_bytes, np.uint8)  # written to: its pages are there before a frame needs them
        self._free.append(buffer)


def shaped(buffer: Pixels, box: PixelBox) -> Pixels:
    """The beginning of a flat buffer as a picture of the box's size."""
    height_px, width_px = box[3] - box[1], box[2] - box[0]
    return buffer[: height_px * width_px * 3].reshape(height_px, width_px, 3)
