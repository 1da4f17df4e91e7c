"""What plates are drawn with: a sheet, a lens, a dot, a wavy line, and where the metal lies.

Everything is in px of the plate's picture, PLATE_WIDTH_PX x PLATE_HEIGHT_PX. OpenCV draws smooth lines on 8-bit sheets
only; `soft` makes of them what a lens would have seen, 0..1.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

PLATE_WIDTH_PX = 450
PLATE_HEIGHT_PX = 300

Grey = NDArray[np.float32]
Points = NDArray[np.float64]

SHIFT = 4
"""OpenCV draws on sub-pixel coordinates given as integers with this many fraction bits."""


class Outline(NamedTuple):
    """Where the metal lies in the picture."""

    corners: Points
    alpha: Grey
    inner: tuple[float, float, float, float]
    """x1, y1, x2, y2 inside which defects and wear are placed."""


def fixed(points: Points) -> NDArray[np.int32]:
    return np.rint(points * (1 << SHIFT)).astype(np.int32)


def blank() -> NDArray[np.uint8]:
    """An empty sheet to draw on; OpenCV draws smooth lines on 8-bit pictures only."""
    return np.zeros((PLATE_HEIGHT_PX, PLATE_WIDTH_PX), np.uint8)


def soft(ink: NDArray[np.uint8], sigma_px: float) -> Grey:
    """What was drawn, 0..1, blurred as a lens would."""
    return np.asarray(cv2.GaussianBlur(ink.astype(np.float32) / 255, (0, 0), sigma_px))


def somewhere(rng: np.random.Generator, outline: Outline, margin_px: float = 0.0) -> Points:
    x1, y1, x2, y2 = outline.inner
    return np.array([rng.uniform(x1 + margin_px, x2 - margin_px), rng.uniform(y1 + margin_px, y2 - margin_px)])


def smooth_noise(rng: np.random.Generator, cell_px: float) -> Grey:
    """Noise of unit range (-1..1) whose blobs are about `cell_px` wide."""
    size = (int(PLATE_HEIGHT_PX / cell_px) + 2, int(PLATE_WIDTH_PX / cell_px) + 2)
    small = rng.uniform(-1, 1, size).astype(np.float32)
    return np.asarray(cv2.resize(small, (PLATE_WIDTH_PX, PLATE_HEIGHT_PX), interpolation=cv2.INTER_CUBIC))


def wavy_line(
    rng: np.random.Generator, centre: Points, length_px: float, *, bend: float, angle: float | None = None
) -> Points:
    """A slightly wavy, slightly bent line through `centre`, one point about every 2 px."""
    angle = rng.uniform(0, np.pi) if angle is None else angle
    along = np.linspace(-0.5, 0.5, max(4, int(length_px / 2)))
    off = rng.normal(0, bend) * (along**2 - 0.08) * length_px
    wobble = rng.normal(0, 1, along.size + 8)
    off += np.convolve(wobble, np.ones(9) / 9, "valid") * rng.uniform(0.3, 1.2)
    direction, normal = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    return np.asarray(centre + along[:, None] * length_px * direction + off[:, None] * normal)


def dot(ink: NDArray[np.uint8], at: Points, radius_px: float, value: float) -> None:
    x, y = fixed(at).tolist()
    cv2.circle(ink, (x, y), int(radius_px * (1 << SHIFT)), value * 255, -1, cv2.LINE_AA, SHIFT)
