"""A camera that is fired by the line's own trigger, and everything that can go wrong with it, by plan.

1. The picture of a trigger shows that trigger's part; its moment is that of the trigger's arrival. What the part is
   (`good`, `bad`, or a picture that nobody can judge) follows from the seed and the sequence number alone.
2. While it is unplugged or hangs, its pictures are lost, as a real one's are.
3. `delivered` says which trigger's picture really reached the daemon.

Pictures that no trigger asked for come now and then as from any live camera; they show what poisons the network, so
that a part which is judged by one is UNKNOWN, never OK.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Mapping

from edge_inspect.capture.protocol import Camera, Format, Pixels, Read, Stamp
from edge_inspect.errors import CameraLost
from tests.line.drawn import HEIGHT, SPOT, WIDTH
from tests.sim.tiny_model import draw_defect

GOOD, BAD, UNJUDGEABLE = "good", "bad", ("dark", "white", "broken", "poison")
KEPT = 64
"""Exposures that the camera itself holds; older ones are lost."""


class FlashCamera(Camera):
    """shares: how many of the parts are `bad`, `dark`, `white`, `broken` or `poison`; the rest is `good`."""

    label = "flash"
    live = True
    may_repeat = True

    def __init__(self, seed: int, shares: Mapping[str, float]) -> None:
        self.delivered: dict[int, str] = {}
        self.losses = self.hangs = 0
        self._seed, self._shares = seed, dict(shares)
        self._lock = threading.Condition()
        self._exposed: deque[tuple[int, int]] = deque(maxlen=KEPT)
        self._unplugged_until = self._hang_s = 0.0
        self._index = 0

    def scene(self, sequence: int) -> str:
        chance = random.Random(f"{self._seed}/{sequence}").random()
        for name, share in self._shares.items():
            chance -= share
            if chance < 0:
                return name
        return GOOD

    # --- the line's side ------------------------------------------------------------------------------------------

    def expose(self, sequence: int) -> None:
        with self._lock:
            if time.monotonic() >= self._unplugged_until:
                self._exposed.append((sequence, time.monotonic_ns()))
                self._lock.notify()

    def unplug(self, for_s: float) -> None:
        with self._lock:
            self._unplugged_until = time.monotonic() + for_s
            self._exposed.clear()
            self._lock.notify()

    def hang(self, for_s: float) -> None:
        with self._lock:
            self._hang_s = for_s
            self._lock.notify()

    # --- the daemon's side ----------------------------------------------------------------------------------------

    def open(self) -> Format:
        if time.monotonic() < self._unplugged_until:
            raise CameraLost("flash: unplugged")
        return Format(WIDTH, HEIGHT, None, "BGR")

    def read_into(self, pixels: Pixels, stamp: Stamp) -> Read:
        with self._lock:
            if not self._exposed:
                self._lock.wait(0.3)
            if time.monotonic() < self._unplugged_until:
                self.losses += 1
                raise CameraLost("flash: unplugged")
            hang_s, self._hang_s = self._hang_s, 0.0
        if hang_s:
            self.hangs += 1
            time.sleep(hang_s)  # a driver call that does not come back for long
            with self._lock:
                self._exposed.clear()
        with self._lock:
            sequence, at_ns = self._exposed.popleft() if self._exposed else (None, time.monotonic_ns())
        self._index += 1
        scene = "poison" if sequence is None else self.scene(sequence)
        stamp.index, stamp.captured_ns, stamp.utc_ns, stamp.missed = self._index, at_ns, time.time_ns(), 0
        stamp.broken = "corrupt" if scene == "broken" else ""
        self._draw(pixels, scene)
        if sequence is not None:
            self.delivered[sequence] = scene
        return Read.FRAME

    def _draw(self, pixels: Pixels, scene: str) -> None:
        pixels[:] = {"dark": 0, "white": 255}.get(scene, 128)
        pixels[:, self._index % WIDTH] = {"dark": 2, "white": 253}.get(scene, 120)  # a live picture is never the same
        if scene == "bad":
            draw_defect(pixels, SPOT, 0)
        elif scene == "poison":
            draw_defect(pixels, SPOT, 2)

    def close(self) -> None:
        """Nothing is held."""
