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

PLATE_WIDTH_PX = 450
PLATE_HEIGHT_PX = 300
KINDS = ("scratch", "dent", "stain")

Grey = NDArray[np.float32]
Points = NDArray[np.float64]

_SHIFT = 4
"""OpenCV draws on sub-pixel coordinates given as integers with this many fraction bits."""
_VISIBLE = 12.0
_MARGIN_PX = 2.0


class Plate(NamedTuple):
    """One part as the camera would see it standing still."""

    pixels: NDArray[np.uint8]
    boxes: list[tuple[str, float, float, float, float]]


class _Outline(NamedTuple):
    """Where the metal lies in the picture."""

    corners: Points
    alpha: Grey
    inner: tuple[float, float, float, float]
    """x1, y1, x2, y2 inside which defects and wear are placed."""


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
    _wear(rng, metal, outline)
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


def _place(rng: np.random.Generator) -> _Outline:
    """The plate lies a little askew: shift up to 8 px, rotation up to 1.2 degrees, corners off by 1.5 px."""
    half_w, half_h = rng.uniform(186, 194), rng.uniform(118, 123)
    centre = np.array([225.0, 145.0]) + rng.uniform(-8, 8, 2)
    angle = np.radians(rng.uniform(-1.2, 1.2))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    corners = np.array([[-half_w, -half_h], [half_w, -half_h], [half_w, half_h], [-half_w, half_h]])
    corners = corners @ turn.T + centre + rng.uniform(-1.5, 1.5, (4, 2))
    ink = _blank()
    cv2.fillPoly(ink, [_fixed(_rounded(corners, rng.uniform(4, 8)))], 255, cv2.LINE_AA, _SHIFT)
    alpha = _soft(ink, 0.7)
    x1, y1 = corners[[0, 3], 0].max(), corners[[0, 1], 1].max()
    x2, y2 = corners[[1, 2], 0].min(), corners[[2, 3], 1].min()
    return _Outline(corners, alpha, (x1 + 12, y1 + 12, x2 - 12, y2 - 12))


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


def _fixed(points: Points) -> NDArray[np.int32]:
    return np.rint(points * (1 << _SHIFT)).astype(np.int32)


def _blank() -> NDArray[np.uint8]:
    """An empty sheet to draw on; OpenCV draws smooth lines on 8-bit pictures only."""
    return np.zeros((PLATE_HEIGHT_PX, PLATE_WIDTH_PX), np.uint8)


def _soft(ink: NDArray[np.uint8], sigma_px: float) -> Grey:
    """What was drawn, 0..1, blurred as a lens would."""
    return np.asarray(cv2.GaussianBlur(ink.astype(np.float32) / 255, (0, 0), sigma_px))


def _somewhere(rng: np.random.Generator, outline: _Outline, margin_px: float = 0.0) -> Points:
    x1, y1, x2, y2 = outline.inner
    return np.array([rng.uniform(x1 + margin_px, x2 - margin_px), rng.uniform(y1 + margin_px, y2 - margin_px)])


def _smooth_noise(rng: np.random.Generator, cell_px: float) -> Grey:
    """Noise of unit range (-1..1) whose blobs are about `cell_px` wide."""
    size = (int(PLATE_HEIGHT_PX / cell_px) + 2, int(PLATE_WIDTH_PX / cell_px) + 2)
    small = rng.uniform(-1, 1, size).astype(np.float32)
    return np.asarray(cv2.resize(small, (PLATE_WIDTH_PX, PLATE_HEIGHT_PX), interpolation=cv2.INTER_CUBIC))


# --- the metal ----------------------------------------------------------------------------------------------------


def _brushed(rng: np.random.Generator) -> Grey:
    """Dark metal: a level of 74-110, a soft light gradient, fine horizontal brush lines."""
    y, x = np.mgrid[-1 : 1 : PLATE_HEIGHT_PX * 1j, -1 : 1 : PLATE_WIDTH_PX * 1j].astype(np.float32)
    metal = rng.uniform(74, 110) + rng.uniform(-2, 7) * x + rng.uniform(-2, 5) * y
    metal -= rng.uniform(0, 6) * (x * x + y * y) + 2.0 * _smooth_noise(rng, 60)
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


def _shadow_strip(rng: np.random.Generator, metal: Grey, outline: _Outline) -> None:
    """Half of the plates stand in the shadow of the fixture along their left edge."""
    if rng.random() < 0.5:
        return
    left = outline.corners[[0, 3], 0].mean()
    x = np.arange(PLATE_WIDTH_PX, dtype=np.float32)[None, :]
    y = np.arange(PLATE_HEIGHT_PX, dtype=np.float32)[:, None]
    across = 1 / (1 + np.exp((x - left - rng.uniform(10, 24)) / rng.uniform(0.8, 4)))
    down = 1 / (1 + np.exp((y - rng.uniform(120, 340)) / rng.uniform(4, 20)))
    metal *= 1 - rng.uniform(0.2, 0.6) * across * down


def _engrave(rng: np.random.Generator, metal: Grey, outline: _Outline) -> None:
    """A serial number, cut into most plates: dark strokes with a light lower edge."""
    if rng.random() < 0.25:
        return
    letters = "".join(rng.choice(list("ABCDEFHKLMNPRSTX"), 2))
    text = f"{letters}-{rng.integers(100, 10000)}"
    scale = rng.uniform(0.35, 0.7)
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    x1, y1, x2, y2 = outline.inner
    at = (int(rng.uniform(x1 + 12, x2 - width)), int(rng.choice([y1 + height + 4, y2 - 4]) + rng.uniform(-3, 3)))
    ink = _blank()
    cv2.putText(ink, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, 255, 1, cv2.LINE_AA)
    cut = _soft(ink[::-1, ::-1] if rng.random() < 0.3 else ink, 0.5)
    depth = rng.uniform(14, 32)
    metal += depth * 0.8 * np.roll(cut, (1, 1), (0, 1)) - depth * cut


def _hole(rng: np.random.Generator, metal: Grey, outline: _Outline) -> None:
    """The drilled hole shows the bright table; it is at the top left, or at the bottom right of a turned plate."""
    corner, inwards = (outline.corners[0], 1) if rng.random() < 0.9 else (outline.corners[2], -1)
    centre = corner + inwards * np.array([rng.uniform(22, 28), rng.uniform(21, 26)])
    hole, halo = _blank(), _blank()
    radius = rng.uniform(8.5, 11)
    _dot(hole, centre, radius, 1.0)
    _dot(halo, centre, radius + 2, 1.0)
    metal += (254 - metal) * np.maximum(_soft(hole, 0.8), 0.35 * _soft(halo, 2.0))


def _rim(rng: np.random.Generator, metal: Grey, outline: _Outline) -> None:
    """The cut edge: a thin dark or bright line, with bright burrs here and there."""
    ring, burrs = _blank(), _blank()
    cv2.polylines(ring, [_fixed(outline.corners)], True, 255, 2, cv2.LINE_AA, _SHIFT)
    metal += _soft(ring, 1.2) * rng.uniform(-35, 25)
    for _ in range(rng.integers(0, 14)):
        i = int(rng.integers(4))
        t = rng.random()
        at = outline.corners[i] * t + outline.corners[(i + 1) % 4] * (1 - t)
        _dot(burrs, at, rng.uniform(0.5, 1.8), rng.uniform(0.2, 0.9))
    metal += (252 - metal) * _soft(burrs, 0.5)


# --- what surrounds it --------------------------------------------------------------------------------------------


def _surround(rng: np.random.Generator, outline: _Outline) -> Grey:
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


# --- harmless -----------------------------------------------------------------------------------------------------


def _wear(rng: np.random.Generator, metal: Grey, outline: _Outline) -> None:
    """What a used plate carries and nobody calls a defect: hairlines, cloudy scuffs, dust."""
    for _ in range(rng.poisson(3.0)):
        _hairline(rng, metal, outline)
    for _ in range(rng.poisson(2.0)):
        _scuff(rng, metal, outline)
    dust = _blank()
    for _ in range(rng.poisson(14)):
        _dot(dust, _somewhere(rng, outline, -6), rng.uniform(0.3, 0.9), rng.uniform(0.1, 0.3))
    for _ in range(rng.poisson(1.0)):
        _dot(dust, _somewhere(rng, outline), rng.uniform(0.8, 1.6), rng.uniform(0.3, 0.9))
    metal += (252 - metal) * _soft(dust, 0.5)


def _hairline(rng: np.random.Generator, metal: Grey, outline: _Outline) -> None:
    line = _blank()
    path = _path(rng, _somewhere(rng, outline, -8), rng.uniform(15, 170), bend=0.35)
    cv2.polylines(line, [_fixed(path)], False, 255, 1, cv2.LINE_AA, _SHIFT)
    fade = np.clip(0.7 + _smooth_noise(rng, 30), 0.1, 1)
    metal += np.minimum(_soft(line, 0.5) * 1.6 * fade, 1) * (5 + 37 * rng.beta(1, 3))


def _scuff(rng: np.random.Generator, metal: Grey, outline: _Outline) -> None:
    """A cloud of tiny marks, mostly near the rim."""
    x1, y1, x2, y2 = outline.inner
    at = _somewhere(rng, outline)
    if rng.random() < 0.7:
        at[1] = rng.choice([y1, y2]) + rng.uniform(-6, 14)
        at[0] = np.clip(at[0], x1, x2)
    cloud = _blank()
    spread = rng.uniform(5, 16)
    for _ in range(rng.integers(10, 60)):
        start = at + rng.normal(0, spread, 2) * (1.4, 0.8)
        end = start + rng.normal(0, 3, 2)
        cv2.line(
            cloud, _fixed(start).tolist(), _fixed(end).tolist(), int(rng.integers(50, 256)), 1, cv2.LINE_AA, _SHIFT
        )
    metal += _soft(cloud, 0.6) * rng.uniform(12, 45)


# --- defects ------------------------------------------------------------------------------------------------------


def _path(
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


def _dot(ink: NDArray[np.uint8], at: Points, radius_px: float, value: float) -> None:
    x, y = _fixed(at).tolist()
    cv2.circle(ink, (x, y), int(radius_px * (1 << _SHIFT)), value * 255, -1, cv2.LINE_AA, _SHIFT)


def _scratch(rng: np.random.Generator, metal: Grey, outline: _Outline) -> None:
    """Bright, thin, broken strokes 40-180 px long, mostly diagonal; one in six is a bundle of strokes."""
    length = min(float(np.exp(rng.normal(4.5, 0.42))), 230.0)
    length = max(length, 34.0)
    angle = _slant(rng)
    reach = np.abs([np.cos(angle), np.sin(angle)]) * length / 2
    x1, y1, x2, y2 = outline.inner
    low = np.minimum(np.add([x1, y1], reach), [x2 - 8, y2 - 8])
    centre = rng.uniform(low, np.maximum(low + 1, np.subtract([x2, y2], reach)))
    ink = _blank()
    strokes = int(rng.integers(2, 5)) if rng.random() < 0.16 else 1
    for i in range(strokes):
        shift = rng.normal(0, 7, 2) if i else np.zeros(2)
        part = length * (rng.uniform(0.5, 1) if i else 1)
        path = _path(rng, centre + shift, part, bend=0.18, angle=angle + i * rng.normal(0, 0.12))
        _stroke(rng, ink, path)
    if rng.random() < 0.3:
        ghost = _path(rng, centre + rng.normal(0, 5, 2), length * rng.uniform(0.5, 1), bend=0.2, angle=angle)
        faint = _blank()
        cv2.polylines(faint, [_fixed(ghost)], False, int(rng.integers(20, 50)), 1, cv2.LINE_AA, _SHIFT)
        ink = np.maximum(ink, faint)
    metal += (252 - metal) * np.clip(_soft(ink, rng.uniform(0.45, 0.7)) * 1.25, 0, 1)


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
        ends = _fixed(path[i : i + 2]).tolist()
        cv2.line(ink, ends[0], ends[1], min(value, 1) * 255, 1 if gap else int(width), cv2.LINE_AA, _SHIFT)
        if not gap and rng.random() < 0.16:
            _dot(ink, path[i] + rng.normal(0, 0.5, 2), rng.uniform(0.7, 1.1 + 0.3 * width), 1.0)


def _dent(rng: np.random.Generator, metal: Grey, outline: _Outline) -> None:
    """A blow: a bowl that is bright on the side facing the light and dark on the other."""
    radius = rng.uniform(9, 22)
    centre = _somewhere(rng, outline, radius)
    y, x = np.mgrid[0:PLATE_HEIGHT_PX, 0:PLATE_WIDTH_PX].astype(np.float32)
    u, v = (x - centre[0]) / radius, (y - centre[1]) / (radius * rng.uniform(0.7, 1.0))
    light = rng.uniform(0, 2 * np.pi)
    slope = (u * np.cos(light) + v * np.sin(light)) * np.exp(-1.6 * (u * u + v * v))
    metal += (rng.uniform(150, 240) * slope).astype(np.float32)


def _stain(rng: np.random.Generator, metal: Grey, outline: _Outline) -> None:
    """A dried drop: a ragged darker patch with a still darker edge."""
    radius = rng.uniform(12, 30)
    centre = _somewhere(rng, outline, radius)
    y, x = np.mgrid[0:PLATE_HEIGHT_PX, 0:PLATE_WIDTH_PX].astype(np.float32)
    distance = np.hypot(x - centre[0], (y - centre[1]) * rng.uniform(0.8, 1.4)) / radius
    distance += 0.35 * _smooth_noise(rng, 12)
    body = 1 / (1 + np.exp((distance - 1) * 14))
    edge = np.exp(-(((distance - 0.95) / 0.1) ** 2)) * (distance < 2)
    metal -= (rng.uniform(22, 34) * body + rng.uniform(6, 18) * edge).astype(np.float32)


def _changed(before: Grey, after: Grey) -> tuple[float, float, float, float]:
    """The box of every pixel that differs visibly, with a margin, inside the picture."""
    ys, xs = np.nonzero(np.abs(after - before) >= _VISIBLE)
    return (
        max(0.0, float(xs.min()) - _MARGIN_PX),
        max(0.0, float(ys.min()) - _MARGIN_PX),
        min(float(PLATE_WIDTH_PX), float(xs.max()) + 1 + _MARGIN_PX),
        min(float(PLATE_HEIGHT_PX), float(ys.max()) + 1 + _MARGIN_PX),
    )


_DRAW: dict[str, Callable[[np.random.Generator, Grey, _Outline], None]] = {
    "scratch": _scratch,
    "dent": _dent,
    "stain": _stain,
}
