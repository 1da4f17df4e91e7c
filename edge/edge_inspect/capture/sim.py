"""The simulated camera: metal plates pass on a moving belt, good ones and defective ones, with exact ground truth.

Promises:

1. Frame n of a given seed and size is always the same picture, whether frames before it were read or not; `lamp` and
   `light` alone make it darker.
2. A frame is composed inside the slot it is handed; nothing of frame size is allocated for it. Only when a plate comes
   into view is its picture drawn, once.
3. `truth()` has the format of the recorded clips' `*.gt.json`; boxes are those of the drawn defects, not estimates.
4. Paced, it behaves as a camera: frames are stamped on schedule, and who reads too slowly misses frames. Unpaced, it
   waits for the reader and ends, as a file does.

    camera = SimCamera(seed=3, parts=20, paced=False)
    pixels = np.empty((360, 640, 3), np.uint8)
    camera.open()
    while camera.read_into(pixels, stamp) is not Read.END: ...
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_inspect.capture.plates import KINDS, PLATE_HEIGHT_PX, PLATE_WIDTH_PX, render_plate
from edge_inspect.capture.protocol import Camera, Format, Pixels, Read, Stamp
from edge_inspect.errors import BadSourceOption, FormatChanged

__all__ = ["SimCamera", "render_plate"]

PITCH_PX = 510
"""Distance from one plate to the next, at 640x360."""
_BELT = (246, 249, 247)
_NOISE_SPARE_PX = 64
_VISIBLE_SHARE = 0.5
"""A defect counts in a frame when at least this share of its width is inside the picture, as in the recorded clips."""
_TAIL_FRAMES = 8
_WAIT_S = 0.4


class SimCamera(Camera):
    """A camera above a line of metal plates; see the module's promises.

    `width` x `height`: picture size in px; plates are scaled to fit (450x300 px at 640x360).
    `px_per_frame`: how far the belt moves between two frames, in px of this picture.
    `parts`: how many plates pass before the end; None: without end.
    `ng_share`: share of plates that carry one to four defects of `kinds`.
    `lamp`: a file with the light's share of full, 0 to 1, looked at before each frame: `echo 0.8 > lamp` dims the line.
    While there is no such file, or no such number in it, the light stays as it is.
    Raises BadSourceOption for values that make no picture.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        width: int = 640,
        height: int = 360,
        fps: float = 25.0,
        px_per_frame: int = 8,
        parts: int | None = None,
        ng_share: float = 0.2,
        paced: bool = True,
        kinds: Sequence[str] | str = ("scratch",),
        lamp: str | None = None,
    ) -> None:
        kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
        _check(
            {
                "seed": seed,
                "width": width,
                "height": height,
                "fps": fps,
                "px_per_frame": px_per_frame,
                "parts": parts,
                "ng_share": ng_share,
                "paced": paced,
                "kinds": kinds,
                "lamp": lamp,
            }
        )
        self.light = 1.0
        self._lamp = None if lamp is None else Path(lamp)
        self.label = f"sim:seed={seed}"
        self.live = paced
        self._seed, self._fps, self._step_px, self._parts = seed, fps, px_per_frame, parts
        self._ng_share, self._kinds = ng_share, kinds
        self._width, self._height = width, height
        scale = min(width / 640, height / 360)
        self._scale = scale
        self._plate_w, self._plate_h = round(PLATE_WIDTH_PX * scale), round(PLATE_HEIGHT_PX * scale)
        self._pitch = round(PITCH_PX * scale)
        self._top = (height - self._plate_h) // 2
        self._shade, self._noise = _light(seed, width, height), _noise(seed, width, height)
        self._pictures: dict[int, Pixels] = {}
        self._boxes: dict[int, list[list[float]]] = {}
        self._index = 0
        self._shown = 0
        self._start_ns = 0

    # --- camera ---------------------------------------------------------------------------------------------------

    def open(self) -> Format:
        """Start (again) at the first frame."""
        self._index = 0
        self._start_ns = time.monotonic_ns()
        return Format(self._width, self._height, self._fps, "BGR", {"seed": self._seed, "parts": self._parts})

    def read_into(self, pixels: Pixels, stamp: Stamp) -> Read:
        if pixels.shape != (self._height, self._width, 3):
            raise FormatChanged(f"{self.label} gives {self._width}x{self._height}, the slot holds {pixels.shape}")
        missed = 0
        self._look_at_lamp()
        if self.live:
            due_ns = self._due_ns()
            if due_ns > time.monotonic_ns():
                return Read.NOTHING
            behind = int((time.monotonic_ns() - due_ns) * self._fps / 1e9)
            missed, self._index = behind, self._index + behind
        if self._parts is not None and self._index >= self.frame_count(self._parts):
            return Read.END
        self.show(self._index, pixels)
        stamp.index, stamp.missed, stamp.broken = self._index, missed, ""
        stamp.captured_ns = self._scheduled_ns() if self.live else time.monotonic_ns()
        stamp.utc_ns = time.time_ns() - (time.monotonic_ns() - stamp.captured_ns)
        self._index += 1
        self._shown = max(self._shown, self._index)
        return Read.FRAME

    def show(self, index: int, pixels: Pixels) -> None:
        """Compose frame `index` in `pixels` (height, width, 3): belt, plates, light and noise."""
        pixels[:] = _BELT
        visible = self._parts_in(index)
        for part in visible:
            x = self._x(part) - self._step_px * index
            left, right = max(0, x), min(self._width, x + self._plate_w)
            if left < right:
                pixels[self._top : self._top + self._plate_h, left:right] = self._picture(part)[:, left - x : right - x]
        for part in [part for part in self._pictures if part < visible.start]:
            del self._pictures[part]
        drift = 1 + 0.015 * np.sin(index / 400 + self._seed)
        cv2.multiply(pixels, self._shade, dst=pixels, scale=float(drift) * self.light / 250)
        dy, dx = (index * 37 + 11) % _NOISE_SPARE_PX, (index * 53 + 5) % _NOISE_SPARE_PX
        noise = self._noise[dy : dy + self._height, dx : dx + self._width]
        cv2.add(pixels, noise, dst=pixels, dtype=cv2.CV_8U)

    def close(self) -> None:
        self._pictures.clear()

    def _look_at_lamp(self) -> None:
        if self._lamp is None:
            return
        try:
            with self._lamp.open("rb") as lamp:
                light = float(lamp.read(32))
        except (OSError, ValueError):  # none yet, or somebody is just writing it
            return
        if 0 <= light <= 1:
            self.light = light

    def _scheduled_ns(self) -> int:
        return self._start_ns + int(self._index * 1e9 / self._fps)

    def _due_ns(self) -> int:
        """Wait for the next frame's moment, at most `_WAIT_S`; returns that moment.

        The next plate is drawn while there is time: its drawing is no delay of the picture in which it appears.
        """
        due_ns = self._scheduled_ns()
        coming = self._parts_in(self._index).stop
        if due_ns > time.monotonic_ns() and (self._parts is None or coming < self._parts):
            self._picture(coming)
        wait_s = (due_ns - time.monotonic_ns()) / 1e9
        if wait_s > 0:
            time.sleep(min(wait_s, _WAIT_S))
        return due_ns

    # --- ground truth ---------------------------------------------------------------------------------------------

    def frame_count(self, parts: int) -> int:
        """Frames until `parts` plates have left, and a short piece of empty belt."""
        return self._exit(parts - 1) + _TAIL_FRAMES + 1

    def center_frame(self, part: int) -> int:
        """The frame in which the plate has just reached the middle of the picture."""
        return (self._x(part) - (self._width - self._plate_w) // 2) // self._step_px

    def is_defective(self, part: int) -> bool:
        """What an ideal inspection would call NG."""
        return bool(self._boxes_of(part))

    def truth(self) -> dict[str, Any]:
        """What was shown so far, or with `parts` given all that will be shown, in the format of `*.gt.json`."""
        frames = self._shown if self._parts is None else self.frame_count(self._parts)
        parts = [self._part_truth(part) for part in self._parts_until(frames)]
        return {
            "fps": self._fps,
            "width": self._width,
            "height": self._height,
            "px_per_frame": self._step_px,
            "seed": self._seed,
            "classes": list(self._kinds),
            "parts": parts,
            "frames": [self._frame_truth(index) for index in range(frames)],
        }

    def boxes_in_frame(self, index: int, visible_share: float = _VISIBLE_SHARE) -> list[dict[str, Any]]:
        """Defects of which at least `visible_share` is in frame `index`, clipped to the picture."""
        found = []
        for part in self._parts_in(index):
            x = self._x(part) - self._step_px * index
            for cls, x1, y1, x2, y2 in self._boxes_of(part):
                left, right = max(0.0, x1 + x), min(float(self._width), x2 + x)
                if right - left < visible_share * (x2 - x1):
                    continue
                box = [left, y1 + self._top, right, y2 + self._top]
                clipped = right - left < x2 - x1
                found.append({"part": part, "cls": self._kinds[int(cls)], "bbox": box, "clipped": clipped})
        return found

    def _frame_truth(self, index: int) -> list[dict[str, Any]]:
        return [{**one, "bbox": [float(round(v)) for v in one["bbox"]]} for one in self.boxes_in_frame(index)]

    def _part_truth(self, part: int) -> dict[str, Any]:
        boxes = self._boxes_of(part)
        return {
            "id": part,
            "src": f"sim-{self._seed}-{part}",
            "x": self._x(part),
            "y": self._top,
            "w": self._plate_w,
            "h": self._plate_h,
            "boxes": boxes,
            "verdict": "NG" if boxes else "OK",
            "enter_frame": self._enter(part),
            "center_frame": self.center_frame(part),
            "exit_frame": self._exit(part),
        }

    # --- the belt -------------------------------------------------------------------------------------------------

    def _x(self, part: int) -> int:
        """Left edge of the plate's picture in frame 0; the gaps differ by up to 10 px (at 640x360)."""
        jitter = np.random.default_rng([self._seed, part, 1]).uniform(-10, 10) if part else 0.0
        return self._width + part * self._pitch + round(jitter * self._scale)

    def _enter(self, part: int) -> int:
        return -((self._width - self._x(part)) // self._step_px)

    def _exit(self, part: int) -> int:
        return (self._x(part) + self._plate_w) // self._step_px

    def _parts_until(self, frames: int) -> range:
        last = (frames * self._step_px) // self._pitch + 1
        count = last if self._parts is None else min(last, self._parts)
        return range(count)

    def _parts_in(self, index: int) -> range:
        """Numbers of the plates that can be in view; the first and the last may be just outside."""
        first = (index * self._step_px - self._width - self._plate_w) // self._pitch
        last = (index * self._step_px) // self._pitch + 1
        if self._parts is not None:
            last = min(last, self._parts - 1)
        return range(max(0, first), last + 1)

    def _picture(self, part: int) -> Pixels:
        if part not in self._pictures:
            self._pictures[part] = self._draw(part)
        return self._pictures[part]

    def _boxes_of(self, part: int) -> list[list[float]]:
        """[class number in `kinds`, x1, y1, x2, y2] in px of the part's picture."""
        if part not in self._boxes:
            self._draw(part)
        return self._boxes[part]

    def _draw(self, part: int) -> Pixels:
        rng = np.random.default_rng([self._seed, part])
        defects: list[str] = []
        if rng.random() < self._ng_share:
            defects = [str(kind) for kind in rng.choice(self._kinds, min(4, 1 + rng.poisson(0.8)))]
        plate = render_plate(rng, defects)
        s = self._scale
        self._boxes[part] = [[float(self._kinds.index(kind)), *(v * s for v in box)] for kind, *box in plate.boxes]
        smear = 0.15 * self._step_px / s
        blurred = cv2.filter2D(plate.pixels, -1, np.array([[smear / 2, 1, smear / 2]], np.float32) / (1 + smear))
        sized = cv2.resize(blurred, (self._plate_w, self._plate_h), interpolation=cv2.INTER_CUBIC)
        return np.asarray(cv2.cvtColor(sized, cv2.COLOR_GRAY2BGR), np.uint8)


def _check(options: Mapping[str, Any]) -> None:
    """Options may come from a command line or a file, so types are checked like values."""
    for name in ("seed", "width", "height", "px_per_frame", "parts"):
        if type(options[name]) is not int and not (name == "parts" and options[name] is None):
            raise BadSourceOption(f"sim: {name} = {options[name]!r} is not possible (a whole number)")
    for name in ("fps", "ng_share"):
        if type(options[name]) not in (int, float):
            raise BadSourceOption(f"sim: {name} = {options[name]!r} is not possible (a number)")
    if type(options["lamp"]) not in (str, type(None)):
        raise BadSourceOption(f"sim: lamp = {options['lamp']!r} is not possible (a file's name)")
    if type(options["paced"]) is not bool:
        raise BadSourceOption(f"sim: paced = {options['paced']!r} is not possible (true or false)")
    most = options["width"]
    limits = {"seed": (0, 2**32 - 1), "width": (64, 8192), "height": (64, 8192), "fps": (0.01, 1000)}
    limits |= {"px_per_frame": (1, most), "parts": (1, 1_000_000), "ng_share": (0, 1)}
    for name, (low, high) in limits.items():
        if options[name] is not None and not low <= options[name] <= high:
            raise BadSourceOption(f"sim: {name} = {options[name]} is not possible ({low} to {high})")
    unknown = [kind for kind in options["kinds"] if kind not in KINDS]
    if unknown or not options["kinds"]:
        found = ", ".join(map(str, options["kinds"])) or "(none)"
        raise BadSourceOption(f"sim: kinds = {found} is not possible (some of {', '.join(KINDS)}, joined by +)")


def _light(seed: int, width: int, height: int) -> Pixels:
    """Brightness of the lamp over the picture, 250 = full: up to 4 percent less towards one corner."""
    rng = np.random.default_rng([seed, 2**20, 1])
    across, down = rng.uniform(-3, 3), rng.uniform(-3, 3)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    shade = 250 - abs(across) - abs(down) + across * x + down * y
    return np.repeat(np.rint(shade).astype(np.uint8)[:, :, None], 3, axis=2)


def _noise(seed: int, width: int, height: int) -> NDArray[np.int16]:
    """Sensor noise, larger than a frame by `_NOISE_SPARE_PX`, so that each frame takes another piece of it."""
    rng = np.random.default_rng([seed, 2**20, 2])
    size = (height + _NOISE_SPARE_PX, width + _NOISE_SPARE_PX)
    noise = np.rint(rng.normal(0, 1.2, size)).astype(np.int16)
    return np.repeat(noise[:, :, None], 3, axis=2)
