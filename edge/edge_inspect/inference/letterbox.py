"""A picture of any size into the network's input, exactly as ultralytics' LetterBox does it in training.

1. Byte for byte the same picture: size rounding, INTER_LINEAR, centred, grey 114, RGB planes. (The division by 255 is
   in the graph, see byte_input.)
2. No frame-sized allocation per call: one small intermediate picture is made once, if one is needed at all.
3. The whole input is written each time, padding too, so that one input may serve several letterboxes.
4. `to_source` is the way back, with the same rounding.

    letterbox = Letterbox(1080, 1920, 384, 640)
    letterbox(pixels, out=engine.input)

Formulas: ultralytics/data/augment.py `LetterBox(auto=False)`, ultralytics/utils/ops.py `scale_boxes`.
Why the steps are the ones they are: docs/measurements/letterbox.md.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

GREY = 114
BAND_ROWS = 90
"""Rows picked at a time: their source fits the second-level cache while its three channels are read."""


class Letterbox:
    """For pictures of one size and one network input size. Not thread-safe: it owns its intermediate pictures."""

    def __init__(self, src_h: int, src_w: int, dst_h: int, dst_w: int) -> None:
        self.src_h, self.src_w, self.dst_h, self.dst_w = src_h, src_w, dst_h, dst_w
        scale = min(dst_h / src_h, dst_w / src_w)
        self.inner_h, self.inner_w = max(round(src_h * scale), 1), max(round(src_w * scale), 1)
        self.top = round((dst_h - self.inner_h) / 2 - 0.1)
        self.left = round((dst_w - self.inner_w) / 2 - 0.1)
        self._to_px = np.array([self.inner_w / src_w, self.inner_h / src_h] * 2, np.float32)
        self._shift_px = np.array([self.left, self.top] * 2, np.float32)
        self._least_px, self._limit_px = np.zeros(4, np.float32), np.array([src_w, src_h] * 2, np.float32)
        self._step = self._odd_step()
        self._small = np.empty((self.inner_h, self.inner_w, 3) if self._step == 0 else (0, 0, 3), np.uint8)

    def __call__(self, pixels: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
        """pixels: (src_h, src_w, 3) uint8 BGR. out: (1, 3, dst_h, dst_w) uint8 RGB, wholly overwritten."""
        assert pixels.shape == (self.src_h, self.src_w, 3) and out.shape == (1, 3, self.dst_h, self.dst_w)
        bottom, right = self.top + self.inner_h, self.left + self.inner_w
        planes = out[0]
        if self.inner_h < self.dst_h:
            planes[:, : self.top] = GREY
            planes[:, bottom:] = GREY
        if self.inner_w < self.dst_w:
            planes[:, :, : self.left] = GREY
            planes[:, :, right:] = GREY
        self._shrink(pixels, [planes[2 - channel, self.top : bottom, self.left : right] for channel in range(3)])

    def to_source(self, boxes: NDArray[np.float32], n: int) -> None:
        """boxes: (at least n, 4) float32 x1 y1 x2 y2 in network px; the first n become source px, in place, clipped."""
        first = boxes[:n]
        first -= self._shift_px
        first /= self._to_px
        np.minimum(first, self._limit_px, out=first)
        np.maximum(first, self._least_px, out=first)

    def _odd_step(self) -> int:
        """n where the picture is exactly n times the inner size and n is odd; else 0.

        Linear interpolation then falls exactly on every n-th pixel, so it is enough to pick those.
        """
        step = self.src_h // self.inner_h
        exact = step * self.inner_h == self.src_h and step * self.inner_w == self.src_w
        return step if exact and step % 2 == 1 else 0

    def _shrink(self, pixels: NDArray[np.uint8], blue_green_red: list[NDArray[np.uint8]]) -> None:
        if self._step > 1:
            first = self._step // 2
            picked = pixels[first :: self._step, first :: self._step]
            for row in range(0, self.inner_h, BAND_ROWS):
                band = picked[row : row + BAND_ROWS]
                for channel, plane in enumerate(blue_green_red):
                    np.copyto(plane[row : row + BAND_ROWS], band[:, :, channel])
            return
        if self._step == 0:
            cv2.resize(pixels, (self.inner_w, self.inner_h), dst=self._small, interpolation=cv2.INTER_LINEAR)
            pixels = self._small
        cv2.split(pixels, blue_green_red)
