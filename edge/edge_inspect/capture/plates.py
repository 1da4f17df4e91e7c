"""Pictures of brushed-metal plates with exact ground truth, drawn with numpy and OpenCV only.

Promises:

1. The same random generator state gives the same picture and the same boxes, pixel for pixel.
2. A box encloses every pixel that its defect changed by 12 grey levels or more, plus a margin of 2 px, and nothing else
   is a defect: engraving, hole, fixture, dust, wear and faint hairlines are drawn on good plates too.
3. Hairlines of wear lift a pixel by at most 42 grey levels; a scratch reaches 90 and more along its stroke.

    rng = np.random.default_rng(7)
    plate = render_plate(rng, ["scratch"])
    plate.pixels        # uint8 (300, 450): one grey channel, plate with its white surround
    plate.boxes         # [("scratch", 134.0, 71.0, 231.0, 203.0)]: x1, y1, x2, y2 in px of this picture
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_inspect.capture.plate_flaws import dent, scratch, stain, wear
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
)

__all__ = ["KINDS", "PLATE_HEIGHT_PX", "PLATE_WIDTH_PX", "Plate", "render_plate"]

KINDS = ("scratch", "dent", "stain")

_VISIBLE = 12.0
_MARGIN_PX = 2.0


class Plate(NamedTuple):
    """One part as the camera would see it standing still."""

    pixels: NDArray[np.uint8]
    boxes: list[tuple[str, float, float, float, float]]


def render_plate(rng: np.random.Generator, defects: Sequence[str] = ()) -> Plate:
    """Draw one plate with the given defects (of `KINDS`, drawn in this order), 450x300 px.

    Raises ValueError for a kind that does not exist.
    """
    unknown = [kind for kind in defects if kind not in _DRAW]
    if unknown:
        raise ValueError(f"no defect kind {unknown[0]!r}; there are {', '.join(KINDS)}")
    outline = _place(rng)
    metal = _brushed(rng)
    _shadow_strip(rng, metal, outline)
    _engrave(rng, metal, outline)
    wear(rng, metal, outline)
    boxes = []
    for kind in defects:
        before = metal.copy()
        _DRAW[kind](rng, metal, outline)
        boxes.append((kind, *_changed(before, metal)))
    _rim(rng, metal, outline)
    surround = _surround(rng, outline)
    _hole(rng, metal, outline)
    picture = surround + (metal - surround) * outline.alpha
    picture += _sensor_texture(rng, picture)
    return Plate(np.clip(np.rint(picture), 0, 255).astype(np.uint8), boxes)


# --- where things lie ---------------------------------------------------------------------------------------------


def _place(rng: np.random.Generator) -> Outline:
    """The plate lies a little askew: shift up to 8 px, rotation up to 1.2 degrees, corners off by 1.5 px."""
    half_w, half_h = rng.uniform(186, 194), rng.uniform(118, 123)
    centre = np.array([225.0, 145.0]) + rng.uniform(-8, 8, 2)
    angle = np.radians(rng.uniform(-1.2, 1.2))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    corners = np.array([[-half_w, -half_h], [half_w, -half_h], [half_w, half_h], [-half_w, half_h]])
    corners = corners @ turn.T + centre + rng.uniform(-1.5, 1.5, (4, 2))
    ink = blank()
    cv2.fillPoly(ink, [fixed(_rounded(corners, rng.uniform(4, 8)))], 255, cv2.LINE_AA, SHIFT)
    alpha = soft(ink, 0.7)
    x1, y1 = corners[[0, 3], 0].max(), corners[[0, 1], 1].max()
    x2, y2 = corners[[1, 2], 0].min(), corners[[2, 3], 1].min()
    return Outline(corners, alpha, (x1 + 12, y1 + 12, x2 - 12, y2 - 12))


def _rounded(corners: Points, radius_px: float) -> Points:
    """The outline with each corner cut by a short arc (quadratic Bezier)."""
    arcs = []
    for i in range(4):
        here, before, after = corners[i], corners[i - 1], corners[(i + 1) % 4]
        a = here + (before - here) / np.linalg.norm(before - here) * radius_px
        b = here + (after - here) / np.linalg.norm(after - here) * radius_px
        t = np.linspace(0, 1, 5)[:, None]
        arcs.append((1 - t) ** 2 * a + 2 * t * (1 - t) * here + t**2 * b)
    return np.concatenate(arcs)


# --- the metal ----------------------------------------------------------------------------------------------------


def _brushed(rng: np.random.Generator) -> Grey:
    """Dark metal: a level of 74-110, a soft light gradient, fine horizontal brush lines."""
    y, x = np.mgrid[-1 : 1 : PLATE_HEIGHT_PX * 1j, -1 : 1 : PLATE_WIDTH_PX * 1j].astype(np.float32)
    metal = rng.uniform(74, 110) + rng.uniform(-2, 7) * x + rng.uniform(-2, 5) * y
    metal -= rng.uniform(0, 6) * (x * x + y * y) + 2.0 * smooth_noise(rng, 60)
    lines = rng.normal(0, 1, (PLATE_HEIGHT_PX, PLATE_WIDTH_PX)).astype(np.float32)
    lines = cv2.blur(lines, (int(rng.integers(9, 41)), 1))
    metal += lines / lines.std() * rng.uniform(0.3, 2.2)
    return np.asarray(metal, np.float32)


def _sensor_texture(rng: np.random.Generator, picture: Grey) -> Grey:
    """Grain that moves with the plate (surface and compression), gone where the picture is burnt out."""
    grain = rng.normal(0, 1, picture.shape).astype(np.float32)
    grain = cv2.GaussianBlur(grain, (0, 0), 0.95)
    grain *= rng.uniform(1.2, 2.5) / grain.std() * np.clip((250 - picture) / 60, 0, 1)
    return np.asarray(grain)


def _shadow_strip(rng: np.random.Generator, metal: Grey, outline: Outline) -> None:
    """Half of the plates stand in the shadow of the fixture along their left edge."""
    if rng.random() < 0.5:
        return
    left = outline.corners[[0, 3], 0].mean()
    x = np.arange(PLATE_WIDTH_PX, dtype=np.float32)[None, :]
    y = np.arange(PLATE_HEIGHT_PX, dtype=np.float32)[:, None]
    across = 1 / (1 + np.exp((x - left - rng.uniform(10, 24)) / rng.uniform(0.8, 4)))
    down = 1 / (1 + np.exp((y - rng.uniform(120, 340)) / rng.uniform(4, 20)))
    metal *= 1 - rng.uniform(0.2, 0.6) * across * down


def _engrave(rng: np.random.Generator, metal: Grey, outline: Outline) -> None:
    """A serial number, cut into most plates: dark strokes with a light lower edge."""
    if rng.random() < 0.25:
        return
    letters = "".join(rng.choice(list("ABCDEFHKLMNPRSTX"), 2))
    text = f"{letters}-{rng.integers(100, 10000)}"
    scale = rng.uniform(0.35, 0.7)
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    x1, y1, x2, y2 = outline.inner
    at = (int(rng.uniform(x1 + 12, x2 - width)), int(rng.choice([y1 + height + 4, y2 - 4]) + rng.uniform(-3, 3)))
    ink = blank()
    cv2.putText(ink, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, 255, 1, cv2.LINE_AA)
    cut = soft(ink[::-1, ::-1] if rng.random() < 0.3 else ink, 0.5)
    depth = rng.uniform(14, 32)
    metal += depth * 0.8 * np.roll(cut, (1, 1), (0, 1)) - depth * cut


def _hole(rng: np.random.Generator, metal: Grey, outline: Outline) -> None:
    """The drilled hole shows the bright table; it is at the top left, or at the bottom right of a turned plate."""
    corner, inwards = (outline.corners[0], 1) if rng.random() < 0.9 else (outline.corners[2], -1)
    centre = corner + inwards * np.array([rng.uniform(22, 28), rng.uniform(21, 26)])
    hole, halo = blank(), blank()
    radius = rng.uniform(8.5, 11)
    dot(hole, centre, radius, 1.0)
    dot(halo, centre, radius + 2, 1.0)
    metal += (254 - metal) * np.maximum(soft(hole, 0.8), 0.35 * soft(halo, 2.0))


def _rim(rng: np.random.Generator, metal: Grey, outline: Outline) -> None:
    """The cut edge: a thin dark or bright line, with bright burrs here and there."""
    ring, burrs = blank(), blank()
    cv2.polylines(ring, [fixed(outline.corners)], True, 255, 2, cv2.LINE_AA, SHIFT)
    metal += soft(ring, 1.2) * rng.uniform(-35, 25)
    for _ in range(rng.integers(0, 14)):
        i = int(rng.integers(4))
        t = rng.random()
        at = outline.corners[i] * t + outline.corners[(i + 1) % 4] * (1 - t)
        dot(burrs, at, rng.uniform(0.5, 1.8), rng.uniform(0.2, 0.9))
    metal += (252 - metal) * soft(burrs, 0.5)


# --- what surrounds it --------------------------------------------------------------------------------------------


def _surround(rng: np.random.Generator, outline: Outline) -> Grey:
    """White table with the clamp above and the rest below, both grey bars behind the plate."""
    picture = np.full((PLATE_HEIGHT_PX, PLATE_WIDTH_PX), rng.uniform(249, 254), np.float32)
    top, bottom = int(outline.corners[:2, 1].max()) + 3, int(outline.corners[2:, 1].min()) - 3
    x = int(rng.uniform(110, 180))
    _bar(rng, picture[:top, x : x + int(rng.integers(90, 230))])
    x = int(rng.uniform(120, 250))
    _bar(rng, picture[bottom:, x : x + int(rng.integers(60, 160))])
    if rng.random() < 0.5:
        picture[bottom:, x + 40 : x + 60 + int(rng.integers(10, 60))] *= rng.uniform(0.2, 0.6)
    if rng.random() < 0.4:
        picture[:12, : int(rng.integers(10, 50))] *= 0.85
    if rng.random() < 0.5:
        x = int(outline.corners[1, 0] + rng.uniform(4, 8))
        cv2.line(picture, (x, top), (x + int(rng.integers(-2, 3)), bottom), 222.0, 1, cv2.LINE_AA)
    return picture


def _bar(rng: np.random.Generator, area: Grey) -> None:
    """A clamp: plain grey, or a milled profile with horizontal lines and smudges."""
    area[:] = rng.uniform(120, 170) + rng.normal(0, 4, area.shape)
    if rng.random() < 0.5:
        for y in range(int(rng.integers(0, 4)), area.shape[0], int(rng.integers(4, 9))):
            area[y : y + int(rng.integers(1, 3))] += rng.uniform(-70, 40)
    if rng.random() < 0.5:
        area[:, : int(area.shape[1] * rng.uniform(0.1, 0.4))] += rng.uniform(20, 80)


def _changed(before: Grey, after: Grey) -> tuple[float, float, float, float]:
    """The box of every pixel that differs visibly, with a margin, inside the picture."""
    ys, xs = np.nonzero(np.abs(after - before) >= _VISIBLE)
    return (
        max(0.0, float(xs.min()) - _MARGIN_PX),
        max(0.0, float(ys.min()) - _MARGIN_PX),
        min(float(PLATE_WIDTH_PX), float(xs.max()) + 1 + _MARGIN_PX),
        min(float(PLATE_HEIGHT_PX), float(ys.max()) + 1 + _MARGIN_PX),
    )


_DRAW: dict[str, Callable[[np.random.Generator, Grey, Outline], None]] = {
    "scratch": scratch,
    "dent": dent,
    "stain": stain,
}
