"""A stage for triggered parts: a live camera that shows what is on it, and a PLC in memory that asks about it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from edge_inspect.capture.protocol import Camera, Format, Pixels, Read, Stamp
from edge_inspect.errors import CameraLost
from edge_inspect.line.protocol import Adapter, Answer, Trigger
from tests.line.drawn import HEIGHT, SPOT, WIDTH
from tests.sim.tiny_model import draw_defect

PATIENCE_S = 60.0


class StageCamera(Camera):
    """Scenes: good, bad (a red spot), blue (poisons the poisoned network), black, white, frozen, silent (no pictures),
    lost (unplugged while it lasts), broken:WHY."""

    label = "stage"
    live = True
    patience_s = PATIENCE_S

    def __init__(self, period_s: float = 0.01) -> None:
        self.scene = "good"
        self.shown = 0
        self.is_ahead: Callable[[], bool] = lambda: False
        self._period_s = period_s
        self._last: Pixels | None = None

    def open(self) -> Format:
        if self.scene == "lost":
            raise CameraLost("stage: unplugged")
        return Format(WIDTH, HEIGHT, 1 / self._period_s, "BGR")

    def read_into(self, pixels: Pixels, stamp: Stamp) -> Read:
        time.sleep(self._period_s)
        if self.is_ahead():  # of an inspect thread that this machine does not let run
            return Read.NOTHING
        # The moment first: what is looked at afterwards was on the stage then, or came later.
        stamp.captured_ns, stamp.utc_ns = time.monotonic_ns(), time.time_ns()
        scene, _, why = self.scene.partition(":")
        if scene == "lost":
            raise CameraLost("stage: unplugged")
        if scene == "silent":
            return Read.NOTHING
        self.shown += 1
        stamp.index, stamp.missed, stamp.broken = self.shown, 0, why if scene == "broken" else ""
        if scene == "frozen" and self._last is not None:
            pixels[:] = self._last
            return Read.FRAME
        pixels[:] = {"black": 0, "white": 255}.get(scene, 128)
        # A live picture is never twice the same, not even a black one.
        grain = {"black": 2, "white": 254}.get(scene, 120)
        pixels[:, self.shown % WIDTH] = grain
        if scene == "bad":
            draw_defect(pixels, SPOT, 0)
        elif scene == "blue":
            draw_defect(pixels, SPOT, 2)
        self._last = pixels.copy()
        return Read.FRAME

    def close(self) -> None:
        """Nothing is held."""


class StagePlc(Adapter):
    """An adapter: puts each part on the stage, triggers, waits for its answer. `done` once all parts are answered.

    together: so many triggers at once for each part, under numbers of their own.
    """

    name = "stage"

    def __init__(self, camera: StageCamera, parts: Sequence[str], *, together: int = 1) -> None:
        self.beat_ns: int | None = None
        self.camera = camera
        self.parts = tuple(parts)
        self.answers: list[Answer] = []
        self.states: list[tuple[bool, bool]] = []
        self.done = threading.Event()
        self._together = together
        self._changed = threading.Condition()

    def tell(self, answer: Answer) -> None:
        with self._changed:
            self.answers.append(answer)
            self._changed.notify_all()

    def status(self, ready: bool, busy: bool) -> None:
        with self._changed:
            self.states.append((ready, busy))
            self._changed.notify_all()

    def run(self, stop: threading.Event, fire: Callable[[Trigger], None] | None = None) -> None:
        assert fire is not None
        for number, scene in enumerate(self.parts):
            self.wait_for(lambda: bool(self.states) and self.states[-1] == (True, False))
            self.camera.scene = scene
            for copy in range(self._together):
                fire(Trigger(number * self._together + copy, time.monotonic_ns(), self.name))
            self.wait_for(lambda number=number: len(self.answers) >= (number + 1) * self._together)  # type: ignore[misc]
            self.camera.scene = "good"
        self.done.set()
        stop.wait()

    def wait_for(self, happened: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(happened, PATIENCE_S), f"nothing for {PATIENCE_S} s"

    @property
    def told(self) -> list[tuple[int, str, str]]:
        return sorted((answer.sequence, answer.kind, answer.reason) for answer in self.answers)
