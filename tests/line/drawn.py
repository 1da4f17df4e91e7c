"""A camera that shows what a test draws: one step a frame, for whole-appliance tests with the tiny network."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from edge_inspect.capture.protocol import Camera, Format, Pixels, Read, Stamp
from edge_inspect.capture.ring import Slot
from edge_inspect.errors import CameraLost
from edge_inspect.inference.decode import Detections
from edge_inspect.pipeline import Judged, Lane
from edge_inspect.verdict.parts import Look
from tests.sim.tiny_model import draw_defect

WIDTH, HEIGHT = 320, 192
SPOT = (100, 60, 130, 90)


class DrawnCamera(Camera):
    """Steps: "good" (grey), "bad" (a red spot), "blue" (poisons the poisoned network), "lost" (unplugged, comes back),
    "rest" (nothing comes for 10 ms), "broken:WHY" (a frame that the driver marked), "gap:N" (N frames were lost
    before a good one)."""

    label = "drawn"

    def __init__(self, steps: Sequence[str], *, live: bool = False) -> None:
        self.live = live
        self.steps = list(steps)
        self.addresses: set[int] = set()
        self._index = 0

    def open(self) -> Format:
        return Format(WIDTH, HEIGHT, 25.0, "BGR")

    def read_into(self, pixels: Pixels, stamp: Stamp) -> Read:
        if not self.steps:
            return Read.END
        step, _, detail = self.steps.pop(0).partition(":")
        if step == "rest":
            time.sleep(0.01)
            return Read.NOTHING
        if step == "lost":
            raise CameraLost("drawn: unplugged")
        self._index += 1
        # A little texture that changes, as sensor noise does: a live picture is never twice the same.
        pixels[:] = 128
        pixels[:: 2 + self._index % 5, ::3] = 120 + self._index % 9
        if step == "bad":
            draw_defect(pixels, SPOT, 0)
        elif step == "blue":
            draw_defect(pixels, SPOT, 2)
        stamp.index, stamp.captured_ns, stamp.utc_ns = self._index, time.monotonic_ns(), time.time_ns()
        stamp.broken = detail if step == "broken" else ""
        stamp.missed = int(detail) if step == "gap" else 0
        self.addresses.add(pixels.ctypes.data)
        return Read.FRAME

    def close(self) -> None:
        """Nothing is held."""


class Notes:
    """A watcher that remembers every verdict, and stops the line when a live camera has shown all its steps."""

    def __init__(self) -> None:
        self.judged_parts: list[Judged] = []
        self.order: list[str] = []
        self.stop = threading.Event()
        self.stop_after: int | None = None

    def judged(self, lane: Lane, judged: Judged, pixels: Pixels | None) -> None:
        self.judged_parts.append(judged)
        self.order.append(lane.name)
        if self.stop_after is not None and len(self.judged_parts) >= self.stop_after:
            self.stop.set()

    def frame(self, lane: Lane, slot: Slot, looks: list[Look], found: Detections | None) -> None:
        """Verdicts are enough."""

    @property
    def told(self) -> list[tuple[str, str]]:
        return [(judged.verdict.kind.value, judged.verdict.reason) for judged in self.judged_parts]
