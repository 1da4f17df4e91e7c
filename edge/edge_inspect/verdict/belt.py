"""The belt as the light barrier sees it: which columns of the picture show something that is not belt.

1. A frame is reduced to a small sheet (`ACROSS` samples across the belt, at most `ALONG` along it) and then left alone.
2. The belt is learnt from the two edges along which parts travel, then kept fresh where nothing covers it: uneven
   light, drift and auto-exposure are followed. What differs is never learnt, so that no part ever becomes belt.
3. Nothing of a frame's size is allocated; `see` works in arrays of its own.

"Along" is the direction of travel, "across" is square to it; positions along are counted in columns of the sheet.

    belt = Belt(recipe.barrier, height=1080, width=1920)
    belt.see(pixels)
    belt.pieces(gap=6)          # [(12.0, 121.0, 0.1, 0.9)]: from and to along, from and to across
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_inspect.verdict.recipe import Barrier

ALONG = 160
ACROSS = 45
BANDS = 5
"""Parts are told apart by how they look in this many bands across the belt."""
EDGE = 0.011
"""Share of the band between the picture's edge and the first sample: the outermost rows are often coding artefacts."""
LEAST_ACROSS = 3
"""A column is covered when at least this many of its samples differ from the belt."""
LEARN_EVERY = 3
LEARN = 0.2
"""How much of a fresh view of the empty belt goes into what is known of it, each `LEARN_EVERY` frames."""
FASTEST = 0.06
"""Largest share by which light may drift in two frames; what changes faster is a lamp switched, or no light at all."""
ALIKE = 0.15
"""What a lamp does to one place in the picture it does to all others, give or take this share."""
DEVIATIONS = 4.0
"""A sample is no belt when it differs by this many times the belt's mean deviation (5 sigma if that were Gaussian)."""
MOST_NOISE = 60.0
"""Grey levels above which nothing is put down to noise."""
GUARD = 2
"""Columns beside a covered one that are not learnt from: shadows, motion blur."""

Sheet = NDArray[np.float32]


class Piece(NamedTuple):
    """Something that covers the belt: columns `start <= c < end` along, shares `low`..`high` of the picture across."""

    start: int
    end: int
    low: float
    high: float


class Belt:
    """Learns the empty belt and tells where it is covered. `height`, `width` of the frames in px."""

    def __init__(self, rule: Barrier, height: int, width: int) -> None:
        self.vertical = rule.direction in ("up", "down")
        length_px, across_px = (height, width) if self.vertical else (width, height)
        self.columns = max(8, min(ALONG, length_px // 2))
        self.column_px = length_px / self.columns
        along = np.floor((np.arange(self.columns) + 0.5) * self.column_px)
        first, last = (share * across_px for share in rule.band)
        inset = max(1.0, (last - first) * EDGE)
        across = np.round(np.linspace(first + inset, last - 1 - inset, ACROSS))
        self._across = across / across_px
        # Half a pixel off: linear interpolation then averages four pixels.
        xs, ys = np.meshgrid(along.astype(np.float32) - 0.5, across.astype(np.float32) - 0.5)
        self._map = cv2.convertMaps(*((ys, xs) if self.vertical else (xs, ys)), cv2.CV_16SC2)
        shape = (ACROSS, self.columns, 3)
        self._sheet = np.empty(shape, np.uint8)
        self._expected = np.empty(shape, np.uint8)
        self._belt, self._scratch = np.empty(shape, np.float32), np.empty(shape, np.float32)
        self._apart = np.empty(shape, np.uint8)
        self._colours = tuple(np.empty(shape[:2], np.uint8) for _ in range(3))
        self._differs = np.empty(shape[:2], np.uint8)
        self._over = np.empty(shape[:2], np.uint8)
        self._count = np.empty((1, self.columns), np.int32)
        self._free = np.ones(self.columns, bool)
        self._noise = 0.0
        self._known = False
        self._brightness = 0.0
        self._frames = 0
        self._rule = rule
        self._fenced = np.zeros(self.columns + 2, bool)
        self.covered = self._fenced[1:-1]
        """Which columns show something that is no belt."""
        self.looks = np.zeros((BANDS, self.columns), np.uint8)
        """What covers the belt, as grey levels of difference averaged in bands; zero where it is empty."""
        self.hidden_frames = 0
        """For how many frames in a row no belt at all was seen."""

    def see(self, pixels: NDArray[np.uint8]) -> None:
        """Take in one frame (height, width, 3); updates `covered`, `looks`, `hidden_frames`."""
        cv2.remap(pixels, *self._map, cv2.INTER_LINEAR, dst=self._sheet, borderMode=cv2.BORDER_REPLICATE)
        if not self._known:
            self._learn_first()
        if self._frames % 2 == 0:
            self._follow_light()
        cv2.absdiff(self._sheet, self._expected, dst=self._apart)
        cv2.split(self._apart, self._colours)
        cv2.max(self._colours[0], self._colours[1], dst=self._differs)
        cv2.max(self._differs, self._colours[2], dst=self._differs)
        cv2.threshold(self._differs, self._threshold, 1, cv2.THRESH_BINARY, dst=self._over)
        cv2.reduce(self._over, 0, cv2.REDUCE_SUM, dst=self._count, dtype=cv2.CV_32S)
        np.greater_equal(self._count[0], LEAST_ACROSS, out=self.covered)
        cv2.resize(self._differs, (self.columns, BANDS), dst=self.looks, interpolation=cv2.INTER_AREA)
        np.multiply(self.looks, self.covered, out=self.looks)
        self.hidden_frames = self.hidden_frames + 1 if self.covered.all() else 0
        self._note_free()
        self._frames += 1
        if self._frames % LEARN_EVERY == 0:
            self._learn()

    def forget(self) -> None:
        """Learn the belt anew from the next frame."""
        self._known = False
        self.hidden_frames = 0

    def pieces(self, gap: int) -> list[Piece]:
        """What covers the belt, in order; gaps of up to `gap` columns are closed."""
        edges = np.flatnonzero(self._fenced[1:] != self._fenced[:-1]).tolist()
        joined: list[list[int]] = []
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            if joined and start - joined[-1][1] <= gap:
                joined[-1][1] = end
            else:
                joined.append([start, end])
        return [self._piece(start, end) for start, end in joined]

    def _piece(self, start: int, end: int) -> Piece:
        rows = np.flatnonzero(self._over[:, start:end].any(axis=1))
        low, high = max(0, int(rows[0]) - 1), min(ACROSS - 1, int(rows[-1]) + 1)
        return Piece(start, end, float(self._across[low]), float(self._across[high]))

    @property
    def _threshold(self) -> float:
        return max(float(self._rule.contrast), min(DEVIATIONS * self._noise, MOST_NOISE))

    def _learn_first(self) -> None:
        """From one frame: light may fall off towards the ends, parts may hide less than half of each edge."""
        edges = self._sheet[:: ACROSS - 1].astype(np.float32)
        sides = np.stack([_smooth(edges[0]), _smooth(edges[1])])
        if self._rule.belt_bgr is not None:
            self._belt[:] = self._rule.belt_bgr
        else:
            share = np.linspace(0, 1, ACROSS, dtype=np.float32)[:, None, None]
            self._belt[:] = sides[0] * (1 - share) + sides[1] * share
        self._noise = float(np.median(np.abs(edges - sides).max(axis=2)))
        self._free[:] = True
        self._known = True
        self._expect()

    def _expect(self) -> None:
        np.clip(self._belt, 0, 255, out=self._belt)
        np.rint(self._belt, out=self._scratch)
        np.copyto(self._expected, self._scratch, casting="unsafe")

    def _follow_light(self) -> None:
        """One ratio per colour, from those samples at the two edges that still look like belt."""
        columns = self._free if np.count_nonzero(self._free) >= 0.08 * self.columns else slice(None)
        now = self._sheet[:: ACROSS - 1, columns].astype(np.float32)
        expected = self._expected[:: ACROSS - 1, columns].astype(np.float32)
        belt = (np.abs(now - expected) <= self._threshold + FASTEST * expected).all(axis=2, keepdims=True)
        before, self._brightness = self._brightness, float(self._sheet.mean())
        if np.count_nonzero(belt) >= 0.4 * belt.size:
            was = (expected * belt).sum(axis=(0, 1)) + 1
            ratio = np.clip(((now * belt).sum(axis=(0, 1)) + 1) / was, 1 - FASTEST, 1 + FASTEST)
        else:
            ratio = _jump(now, expected, self._brightness / max(before, 1.0))
        if np.abs(ratio - 1).max() > 0.004:
            self._belt *= ratio
            self._expect()

    def _note_free(self) -> None:
        """Where the belt is seen, away from whatever covers it."""
        np.logical_not(self.covered, out=self._free)
        for side in range(1, GUARD + 1):
            self._free[side:] &= ~self.covered[:-side]
            self._free[:-side] &= ~self.covered[side:]

    def _learn(self) -> None:
        """Refresh what is known of the belt where it is seen."""
        if not self._free.any():
            return
        self._noise += LEARN * (float(self._differs[:, self._free].mean()) - self._noise)
        np.subtract(self._sheet, self._belt, out=self._scratch)
        self._scratch *= (LEARN * self._free)[:, None].astype(np.float32)
        self._belt += self._scratch
        self._expect()


def _jump(now: Sheet, expected: Sheet, whole: float) -> NDArray[np.float32]:
    """A lamp that went on or off: the edges changed all alike, and all that is in the picture changed as they did.

    Otherwise something else lies there now, and the answer is: no change of light.
    """
    ratios = (now + 1) / (expected + 1)
    ratio = np.median(ratios, axis=(0, 1)).astype(np.float32)
    alike = (np.abs(ratios / ratio - 1) <= ALIKE).all(axis=2)
    is_light = alike.mean() >= 0.8 and abs(float(ratio.mean()) / max(whole, 0.01) - 1) <= ALIKE
    return ratio if is_light else np.ones(3, np.float32)


def _smooth(line: Sheet) -> Sheet:
    """A parabola per colour through one edge of the sheet, (columns, 3); what stands out of it is not believed.

    Where less than a quarter of the edge agrees, its middle value stands for all.
    """
    x = np.linspace(-1, 1, len(line))
    smooth = np.empty_like(line)
    for colour in range(line.shape[1]):
        y = line[:, colour].astype(np.float64)
        middle = float(np.percentile(y, 50, method="nearest"))
        smooth[:, colour] = middle
        trusted = np.abs(y - middle) <= 40
        for _ in range(3):
            if np.count_nonzero(trusted) < max(6, len(y) // 4):
                break
            fit = np.polynomial.polynomial.polyfit(x[trusted], y[trusted], 2)
            smooth[:, colour] = np.polynomial.polynomial.polyval(x, fit)
            off = np.abs(smooth[:, colour] - y)
            trusted = off <= max(4.0, 3 * float(np.median(off)))
    return smooth
