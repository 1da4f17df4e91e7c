"""How far the belt moved between two frames, from what lies on it.

1. The answer is the shift that lays the previous frame's content best onto this one's, not a guess from the clock; the
   clock (or, where time stamps say nothing, the count of frames) only says where to look first and settles ties.
2. Where the content cannot be laid on, the answer is None: whoever follows parts must not follow blindly.
3. With nothing on the belt the answer is what is expected: nothing can be mistaken then.

    travel = Travel(columns=160, bands=5)
    travel.measure(belt.looks, captured_ns)     # columns; negative: towards column 0
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SEARCH = 12
"""Columns to each side of the expected shift that are tried first."""
GOOD = 0.15
"""A mismatch (share of the content's strength) up to which the first search is believed."""
USABLE = 0.5
"""A mismatch above which the contents of two frames have nothing to do with each other."""
TIE = 0.002
"""Mismatch that one column of distance from the expected shift costs."""
LEARN = 0.2
FORGET = 0.001
SURE_OF_DIRECTION = 2.0
"""Columns of travel after which the direction is known."""
LONGEST_WAY = 20.0
"""Columns of travel that are remembered: a reversed belt is believed after so many columns."""
OLDEST_KEY = 200
"""Frames after which a belt that stands still is looked at afresh."""


class Travel:
    """Measures shifts between frames of `columns` columns that are described in `bands` bands (uint8)."""

    def __init__(self, columns: int, bands: int) -> None:
        self.furthest = columns // 2
        """Larger shifts between two frames cannot be measured."""
        self.per_frame = 0.0
        """Columns from one measured frame to the next, of late."""
        self.mismatch = 0.0
        """Of the last search; for people who tune."""
        self._columns = columns
        padded = np.zeros((bands, columns + 2 * self.furthest), np.int16)
        self._key = padded[:, self.furthest : self.furthest + columns]
        self._key_age = 0
        self._shifted = np.lib.stride_tricks.sliding_window_view(padded, columns, axis=1)
        """[:, furthest - s] is the key frame moved by s columns."""
        self._current = np.zeros((bands, columns), np.int16)
        self._apart = np.zeros((bands, 2 * SEARCH + 1, columns), np.int16)
        self._previous_ns: int | None = None
        self._per_second = 0.0
        self._frame_error = self._clock_error = 0.0
        self._way = 0.0
        self._running_per_frame = self._running_per_second = 0.0

    @property
    def direction(self) -> int:
        """-1: towards column 0, 1: away from it, 0: not known yet."""
        return 0 if abs(self._way) < SURE_OF_DIRECTION else 1 if self._way > 0 else -1

    def expect(self, captured_ns: int, frames: int = 1) -> float:
        """The shift to expect since the last measured frame, `frames` frames ago."""
        if self._clock_is_right:
            return self._per_second * self._elapsed_s(captured_ns)
        return self.per_frame * frames

    def reach(self, captured_ns: int, frames: int) -> float | None:
        """How far things came since then, at most, if the belt runs as usual; None when it was never seen running."""
        if not self.direction:
            return None
        if self._clock_is_right:
            return self._running_per_second * self._elapsed_s(captured_ns)
        return self._running_per_frame * frames

    def measure(self, looks: NDArray[np.uint8], captured_ns: int, frames: int = 1) -> float | None:
        """The shift since the last measured frame, in columns; None: cannot be told (and this frame is not kept)."""
        np.copyto(self._current, looks)
        expected = self.expect(captured_ns, frames)
        shift: float | None = expected
        compared = bool(self._key.any() and self._current.any())
        if compared:
            shift = self._search(expected)
            if shift is None:
                return None
            self._note_speed(shift, captured_ns, frames)
        self._key_age += 1
        if shift or not compared or self._key_age > OLDEST_KEY:
            self._keep_as_key()
        self._previous_ns = captured_ns
        return shift

    def restart(self, looks: NDArray[np.uint8], captured_ns: int) -> None:
        """Begin anew with this frame; what is known of the speed stays."""
        np.copyto(self._current, looks)
        self._keep_as_key()
        self._previous_ns = captured_ns

    def _keep_as_key(self) -> None:
        """A frame in which nothing moved by a whole column replaces no key: slow belts add up."""
        np.copyto(self._key, self._current)
        self._key_age = 0

    @property
    def _clock_is_right(self) -> bool:
        """Time stamps tell the shift as well as counting frames does; not so for a file read as fast as can be."""
        return self._clock_error <= self._frame_error + 0.1

    def _elapsed_s(self, captured_ns: int) -> float:
        return 0.0 if self._previous_ns is None else (captured_ns - self._previous_ns) / 1e9

    def _search(self, expected: float) -> float | None:
        nearest = round(min(max(expected, -self.furthest), self.furthest))
        shift, self.mismatch = self._best(nearest - SEARCH, nearest + SEARCH, expected)
        if self.mismatch > GOOD:
            chunks = range(-self.furthest, self.furthest + 1, 2 * SEARCH + 1)
            found = [self._best(low, low + 2 * SEARCH, expected) for low in chunks]
            shift, self.mismatch = min(found, key=lambda each: each[1])
        return None if self.mismatch > USABLE else float(shift)

    def _best(self, low: int, high: int, expected: float) -> tuple[int, float]:
        """The best of the shifts low..high, and its mismatch: mean difference where both frames show the same place."""
        low, high = max(low, -self.furthest), min(high, self.furthest)
        shifts = np.arange(high, low - 1, -1)
        apart = self._apart[:, : len(shifts)]
        np.subtract(self._shifted[:, self.furthest - high : self.furthest - low + 1], self._current[:, None], out=apart)
        np.abs(apart, out=apart)
        total = apart.sum(axis=(0, 2), dtype=np.int64)
        entered = np.concatenate(([0], self._current.sum(axis=0, dtype=np.int64).cumsum()))
        unseen = np.where(shifts > 0, entered[np.maximum(shifts, 0)], entered[-1] - entered[np.minimum(shifts, 0) - 1])
        strength = (float(self._key.sum()) + float(entered[-1])) / (2 * self._columns)
        mismatch = (total - unseen) / ((self._columns - np.abs(shifts)) * strength) + TIE * np.abs(shifts - expected)
        best = int(np.argmin(mismatch))
        return int(shifts[best]), float(mismatch[best])

    def _note_speed(self, shift: float, captured_ns: int, frames: int) -> None:
        elapsed_s = self._elapsed_s(captured_ns)
        self._frame_error += LEARN * (abs(shift - self.per_frame * frames) - self._frame_error)
        self._clock_error += LEARN * (abs(shift - self._per_second * elapsed_s) - self._clock_error)
        self.per_frame += LEARN * (shift / frames - self.per_frame)
        self._per_second += LEARN * ((shift / elapsed_s if elapsed_s > 0 else 0.0) - self._per_second)
        self._way = min(max(self._way + shift, -LONGEST_WAY), LONGEST_WAY)
        self._running_per_frame = _held(self._running_per_frame, self.per_frame)
        self._running_per_second = _held(self._running_per_second, self._per_second)


def _held(peak: float, now: float) -> float:
    """The peak, slowly forgotten: a belt that stands may start at its usual speed."""
    return now if abs(now) >= abs(peak) else peak + FORGET * (now - peak)
