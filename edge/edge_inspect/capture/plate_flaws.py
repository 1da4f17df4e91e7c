"""What is on a plate's metal besides the metal: wear, which nobody calls a defect, and the defects themselves.

1. Each changes `metal` in place and draws from `rng` alone.
2. Hairlines of wear lift a pixel by at most 42 grey levels; a scratch reaches 90 and more along its stroke.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_inspect.capture.plate_ink import (
    PLATE_HEIGHT_PX,
    PLATE_WIDTH_PX,
    SHIFT,
    Grey,
    Outline,
    Points,
    blank,
    dot,
    fixed,
    smooth_noise,
    soft,
    somewhere,
    wavy_line,
)

# --- harmless -----------------------------------------------------------------------------------------------------


def wear(rng: np.random.Generator, metal: Grey, outline: Outline) -> None:
    """What a used plate carries and nobody calls a defect: hairlines, cloudy scuffs, dust."""
    for _ in range(rng.poisson(3.0)):
        _hairline(rng, metal, outline)
    for _ in range(rng.poisson(2.0)):
        _scuff(rng, metal, outline)
    dust = blank()
    for _ in range(rng.poisson(14)):
        dot(dust, somewhere(rng, outline, -6), rng.uniform(0.3, 0.9), rng.uniform(0.1, 0.3))
    for _ in range(rng.poisson(1.0)):
        dot(dust, somewhere(rng, outline), rng.uniform(0.8, 1.6), rng.uniform(0.3, 0.9))
    metal += (252 - metal) * soft(dust, 0.5)


def _hairline(rng: np.random.Generator, metal: Grey, outline: Outline) -> None:
    line = blank()
    path = wavy_line(rng, somewhere(rng, outline, -8), rng.uniform(15, 170), bend=0.35)
    cv2.polylines(line, [fixed(path)], False, 255, 1, cv2.LINE_AA, SHIFT)
    fade = np.clip(0.7 + smooth_noise(rng, 30), 0.1, 1)
    metal += np.minimum(soft(line, 0.5) * 1.6 * fade, 1) * (5 + 37 * rng.beta(1, 3))


def _scuff(rng: np.random.Generator, metal: Grey, outline: Outline) -> None:
    """A cloud of tiny marks, mostly near the rim."""
    x1, y1, x2, y2 = outline.inner
    at = somewhere(rng, outline)
    if rng.random() < 0.7:
        at[1] = rng.choice([y1, y2]) + rng.uniform(-6, 14)
        at[0] = np.clip(at[0], x1, x2)
    cloud = blank()
    spread = rng.uniform(5, 16)
    for _ in range(rng.integers(10, 60)):
        start = at + rng.normal(0, spread, 2) * (1.4, 0.8)
        end = start + rng.normal(0, 3, 2)
        cv2.line(cloud, fixed(start).tolist(), fixed(end).tolist(), int(rng.integers(50, 256)), 1, cv2.LINE_AA, SHIFT)
    metal += soft(cloud, 0.6) * rng.uniform(12, 45)


# --- defects ------------------------------------------------------------------------------------------------------


def scratch(rng: np.random.Generator, metal: Grey, outline: Outline) -> None:
    """Bright, thin, broken strokes 40-180 px long, mostly diagonal; one in six is a bundle of strokes."""
    length = min(float(np.exp(rng.normal(4.5, 0.42))), 230.0)
    length = max(length, 34.0)
    angle = _slant(rng)
    reach = np.abs([np.cos(angle), np.sin(angle)]) * length / 2
    x1, y1, x2, y2 = outline.inner
    low = np.minimum(np.add([x1, y1], reach), [x2 - 8, y2 - 8])
    centre = rng.uniform(low, np.maximum(low + 1, np.subtract([x2, y2], reach)))
    ink = blank()
    strokes = int(rng.integers(2, 5)) if rng.random() < 0.16 else 1
    for i in range(strokes):
        shift = rng.normal(0, 7, 2) if i else np.zeros(2)
        part = length * (rng.uniform(0.5, 1) if i else 1)
        path = wavy_line(rng, centre + shift, part, bend=0.18, angle=angle + i * rng.normal(0, 0.12))
        _stroke(rng, ink, path)
    if rng.random() < 0.3:
        ghost = wavy_line(rng, centre + rng.normal(0, 5, 2), length * rng.uniform(0.5, 1), bend=0.2, angle=angle)
        faint = blank()
        cv2.polylines(faint, [fixed(ghost)], False, int(rng.integers(20, 50)), 1, cv2.LINE_AA, SHIFT)
        ink = np.maximum(ink, faint)
    metal += (252 - metal) * np.clip(soft(ink, rng.uniform(0.45, 0.7)) * 1.25, 0, 1)


def _slant(rng: np.random.Generator) -> float:
    """Mostly diagonal, now and then along or across the brush lines, or anything."""
    chance = rng.random()
    if chance < 0.65:
        return float(rng.choice([1, -1]) * rng.uniform(0.5, 1.2))
    if chance < 0.75:
        return float(rng.normal(0, 0.08))
    if chance < 0.85:
        return float(np.pi / 2 + rng.normal(0, 0.08))
    return float(rng.uniform(0, np.pi))


def _stroke(rng: np.random.Generator, ink: NDArray[np.uint8], path: Points) -> None:
    """One stroke: width and strength vary along it; a broken one is a row of dots over a weak line."""
    broken = rng.choice([0.0, 0.35, 0.8], p=[0.4, 0.35, 0.25])
    strength = rng.uniform(0.65, 1.0)
    width = rng.choice([1, 2, 3], p=[0.68, 0.29, 0.03])
    varies = np.convolve(rng.uniform(0, 1, len(path) + 2), np.ones(3) / 3, "valid")
    for i in range(len(path) - 1):
        gap = varies[i] < 0.5 * broken + 0.1 * (broken > 0)
        value = strength * (0.35 if gap else 1.0) * (0.75 + 0.5 * varies[i])
        ends = fixed(path[i : i + 2]).tolist()
        cv2.line(ink, ends[0], ends[1], min(value, 1) * 255, 1 if gap else int(width), cv2.LINE_AA, SHIFT)
        if not gap and rng.random() < 0.16:
            dot(ink, path[i] + rng.normal(0, 0.5, 2), rng.uniform(0.7, 1.1 + 0.3 * width), 1.0)


def dent(rng: np.random.Generator, metal: Grey, outline: Outline) -> None:
    """A blow: a bowl that is bright on the side facing the light and dark on the other."""
    radius = rng.uniform(9, 22)
    centre = somewhere(rng, outline, radius)
    y, x = np.mgrid[0:PLATE_HEIGHT_PX, 0:PLATE_WIDTH_PX].astype(np.float32)
    u, v = (x - centre[0]) / radius, (y - centre[1]) / (radius * rng.uniform(0.7, 1.0))
    light = rng.uniform(0, 2 * np.pi)
    slope = (u * np.cos(light) + v * np.sin(light)) * np.exp(-1.6 * (u * u + v * v))
    metal += (rng.uniform(150, 240) * slope).astype(np.float32)


def stain(rng: np.random.Generator, metal: Grey, outline: Outline) -> None:
    """A dried drop: a ragged darker patch with a still darker edge."""
    radius = rng.uniform(12, 30)
    centre = somewhere(rng, outline, radius)
    y, x = np.mgrid[0:PLATE_HEIGHT_PX, 0:PLATE_WIDTH_PX].astype(np.float32)
    distance = np.hypot(x - centre[0], (y - centre[1]) * rng.uniform(0.8, 1.4)) / radius
    distance += 0.35 * smooth_noise(rng, 12)
    body = 1 / (1 + np.exp((distance - 1) * 14))
    edge = np.exp(-(((distance - 0.95) / 0.1) ** 2)) * (distance < 2)
    metal -= (rng.uniform(22, 34) * body + rng.uniform(6, 18) * edge).astype(np.float32)
