"""Pictures that cannot be judged although they arrived whole: frozen, black, white, garbage. And slow drift.

1. A few rows spread over the picture are looked at, never all of it: about 0.03 ms at 1080p, nothing of the picture's
   size is allocated.
2. Frozen: the same bytes several times in a row. A sensor's noise never repeats, so this is a driver, a bridge or a
   decoder that repeats itself. Recordings repeat rightly; do not ask this of them.
3. White means saturated everywhere (255, no grain). A light belt without a part on it, evenly 250, is not white.
   Black means no light (a cap, a dead lamp). Garbage means bytes that are no picture: random, or one strong colour
   without any grain.
4. Drift is a hint for people, over minutes: darker, brighter, flat or blurred against the first pictures since the
   start. Only pictures with something on them count, so that an empty belt is not drift.

    check = PictureCheck(1080, 1920)
    reason = check.check(pixels)        # "" or frozen, black, white, garbage
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_inspect.capture.protocol import Pixels

_ROWS = 24
_COLOURED = 25.0
"""Spread of the three channels of an even picture; grey and light belts are far below, filled bytes far above."""


class PictureCheck:
    """For live pictures of one size, in their order; one thread."""

    def __init__(
        self,
        height: int,
        width: int,
        *,
        frozen_frames: int | None = 5,
        dark_level: float = 8.0,
        bright_level: float = 254.5,
        noise_level: float = 45.0,
        drift_frames: int = 500,
    ) -> None:
        """`frozen_frames`: so many equal pictures in a row are frozen; None: never (recordings).

        Levels are 0 to 255: the mean of the pixels; for
        garbage the mean step from a pixel to its neighbour. `drift_frames`: how many pictures a mean of drift spans.
        """
        if frozen_frames is not None and frozen_frames < 2:
            raise ValueError(f"frozen_frames is {frozen_frames}; at least 2: one picture alone cannot be frozen")
        if height < 1 or width < 2:
            raise ValueError(f"pictures of {width}x{height} px; at least 2x1")
        self._shape = (height, width, 3)
        rows = min(_ROWS, height)
        self._step = height // rows
        self._first = (height - 1 - (rows - 1) * self._step) // 2
        self._rows: NDArray[np.uint8] = np.zeros((rows, width * 3), np.uint8)
        self._frozen_frames = frozen_frames
        self._dark_level = dark_level
        self._bright_level = bright_level
        self._noise_level = noise_level
        self._equal = 0
        self._drift = Drift(drift_frames)

    def check(self, pixels: Pixels) -> str:
        """Why `pixels` (height, width, 3) must not be judged: frozen, black, white, garbage; "" if they may."""
        if pixels.shape != self._shape:
            raise ValueError(f"a picture of shape {pixels.shape} came, {self._shape} was agreed")
        rows = pixels.reshape(self._shape[0], -1)[self._first :: self._step][: len(self._rows)]
        is_equal = self._equal > 0 and cv2.norm(rows, self._rows, cv2.NORM_INF) == 0
        self._equal = self._equal + 1 if is_equal else 1
        if self._frozen_frames is not None and self._equal >= self._frozen_frames:
            return "frozen"
        np.copyto(self._rows, rows)
        look = _look(self._rows)
        reason = self._judge(look)
        if not reason:
            self._drift.see(look)
        return reason

    def _judge(self, look: Look) -> str:
        if look.light <= self._dark_level and look.contrast <= self._dark_level:
            return "black"
        if look.light >= self._bright_level and look.contrast <= 1.0:
            return "white"
        if look.grain >= self._noise_level:
            return "garbage"
        if look.grain == 0.0 and look.contrast >= _COLOURED:
            return "garbage"
        return ""

    def drift(self) -> str:
        """How the pictures have changed since the start: darker, brighter, flat, blurred; "" if not. No verdict."""
        return self._drift.told()

    def start_again(self) -> None:
        """After the camera was lost: the last picture is no measure for the next. The baseline of drift stays."""
        self._equal = 0


class Look(NamedTuple):
    """What a picture looks like: all levels 0 to 255."""

    light: float
    """Mean of the pixels."""
    contrast: float
    """Their standard deviation."""
    grain: float
    """Mean step from a pixel to its right neighbour: edges, texture, noise."""


def _look(rows: NDArray[np.uint8]) -> Look:
    mean, deviation = cv2.meanStdDev(rows)
    steps = cv2.norm(rows[:, 3:], rows[:, :-3], cv2.NORM_L1)
    return Look(float(mean[0, 0]), float(deviation[0, 0]), steps / (rows.size - 3 * len(rows)))


class Drift:
    """Running means of what busy pictures look like: first the baseline, then the present against it."""

    busy_share = 0.5
    """A picture is busy when its contrast is at least this share of the highest seen."""
    light_levels = 20.0
    kept_share = 0.65
    """Of contrast and grain; less is flat or blurred."""

    def __init__(self, frames: int) -> None:
        self._frames = frames
        self._seen = 0
        self._highest = 0.0
        self._baseline = Look(0.0, 0.0, 0.0)
        self._present = Look(0.0, 0.0, 0.0)

    def see(self, look: Look) -> None:
        self._highest = max(self._highest, look.contrast)
        if look.contrast < self.busy_share * self._highest:
            return
        self._seen += 1
        if self._seen <= self._frames:
            self._baseline = self._present = _nearer(self._baseline, look, 1 / self._seen)
        else:
            self._present = _nearer(self._present, look, 1 / self._frames)

    def told(self) -> str:
        if self._seen < 2 * self._frames:
            return ""
        before, now = self._baseline, self._present
        if abs(now.light - before.light) > self.light_levels:
            return "darker" if now.light < before.light else "brighter"
        if now.contrast < self.kept_share * before.contrast:
            return "flat"
        return "blurred" if now.grain < self.kept_share * before.grain else ""


def _nearer(mean: Look, look: Look, share: float) -> Look:
    return Look(
        mean.light + share * (look.light - mean.light),
        mean.contrast + share * (look.contrast - mean.contrast),
        mean.grain + share * (look.grain - mean.grain),
    )
