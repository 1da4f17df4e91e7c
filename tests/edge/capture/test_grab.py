"""The grab loop brings a camera back for ever, notices silence, and leaves a gap for what passed unseen."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from edge_inspect.capture.grab import Grabber
from edge_inspect.capture.protocol import Camera, Format, Pixels, Read, Stamp
from edge_inspect.capture.ring import Ring
from edge_inspect.counts import LaneCounts
from edge_inspect.errors import BadSource, CameraLost

Step = Callable[[], Read]


class ScriptedCamera(Camera):
    """Plays steps: "frame", "nothing", "lost", "refused", "busy" (opening fails); then ends, or gives nothing."""

    label = "scripted"

    def __init__(self, *steps: str, live: bool = True, sizes: list[tuple[int, int]] | None = None) -> None:
        self.live = live
        self.steps = list(steps)
        self.sizes = sizes or [(6, 4)]
        self.opened = self.closed = self.index = 0

    def open(self) -> Format:
        self.opened += 1
        if self.steps and self.steps[0] == "busy":
            self.steps.pop(0)
            raise CameraLost("scripted: busy")
        if self.steps and self.steps[0] == "refused":
            raise BadSource("scripted: no permission")
        width, height = self.sizes[min(self.opened, len(self.sizes)) - 1]
        return Format(width, height, 25.0, "BGR")

    def read_into(self, pixels: Pixels, stamp: Stamp) -> Read:
        step = self.steps.pop(0) if self.steps else ("nothing" if self.live else "end")
        if step == "lost":
            raise CameraLost("scripted: unplugged")
        if step == "frame":
            self.index += 1
            stamp.index, stamp.captured_ns, stamp.missed, stamp.broken = self.index, time.monotonic_ns(), 0, ""
            return Read.FRAME
        if step == "nothing":
            time.sleep(0.01)
        return Read(step)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_inspect.capture.grab.FIRST_WAIT_S", 0.01)
    monkeypatch.setattr("edge_inspect.capture.grab.LONGEST_WAIT_S", 0.05)


class Line:
    """A grabber on its own thread, and what came out of its ring."""

    def __init__(self, camera: ScriptedCamera, **options: float) -> None:
        self.counts = LaneCounts()
        self.ring: Ring | None = None
        self.grabber = Grabber("left", camera, self._prepare, self.counts, **options)
        self.stop = threading.Event()
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._run, name="grab-left")

    def _prepare(self, form: Format) -> Ring:
        self.ring = Ring(4, form.height_px, form.width_px, "every")
        return self.ring

    def _run(self) -> None:
        try:
            self.grabber.run(self.stop)
        except (CameraLost, BadSource) as err:
            self.error = err

    def collect(self, frames: int, gaps: int = 0) -> tuple[list[int], list[str]]:
        """Wait (with a deadline) until so many frames and gaps came."""
        self.thread.start()
        indices: list[int] = []
        reasons: list[str] = []
        until = time.monotonic() + 20
        while (len(indices) < frames or len(reasons) < gaps) and time.monotonic() < until:
            if self.ring is None:
                self.grabber.settled.wait(0.01)
                continue
            with self.ring.take(timeout_s=0.05) as slot:
                if slot is not None:
                    indices.append(slot.stamp.index)
            while (gap := self.ring.next_gap()) is not None:
                reasons.append(gap.reason)
        self.stop.set()
        self.thread.join(timeout=10)
        return indices, reasons


def test_a_lost_camera_comes_back_alone_and_leaves_one_gap() -> None:
    camera = ScriptedCamera("frame", "frame", "lost", "busy", "busy", "frame")
    line = Line(camera)
    assert line.collect(frames=3, gaps=1) == ([1, 2, 3], ["camera-lost"])
    assert line.counts.reconnects == 1
    assert camera.opened == 4
    assert camera.closed >= 3, "let go after every loss and at the end"


def test_silence_is_a_loss() -> None:
    camera = ScriptedCamera("frame")
    line = Line(camera, stall_s=0.1)
    assert line.collect(frames=1, gaps=1) == ([1], ["camera-lost"])


def test_a_camera_that_opens_and_gives_nothing_is_lost_once_and_tried_less_and_less() -> None:
    camera = ScriptedCamera("frame", *["lost"] * 1000)
    line = Line(camera)
    line.thread.start()
    assert line.grabber.settled.wait(10)
    until = time.monotonic() + 10
    while camera.opened < 6 and time.monotonic() < until:
        line.stop.wait(0.01)
    line.stop.set()
    line.thread.join(timeout=10)
    assert camera.opened >= 6
    assert line.ring is not None and line.ring.next_gap() is not None and line.ring.next_gap() is None
    assert line.counts.reconnects == 0


def test_a_file_that_ends_ends_the_thread() -> None:
    line = Line(ScriptedCamera("frame", "frame", live=False))
    indices, _ = line.collect(frames=2)
    assert indices == [1, 2]
    assert line.grabber.ended.is_set()
    assert line.error is None
    assert line.grabber.beat_ns is None, "ended in good order is no hang"


def test_another_size_after_a_loss_writes_nothing_and_waits_for_the_old_one() -> None:
    camera = ScriptedCamera("frame", "lost", "frame", sizes=[(6, 4), (8, 4), (8, 4), (6, 4)])
    line = Line(camera)
    assert line.collect(frames=2, gaps=1) == ([1, 2], ["camera-lost"])
    assert camera.opened == 4
    assert line.ring is not None and line.ring.slots[0].pixels.shape == (4, 6, 3)


def test_a_camera_that_never_opens_ends_the_wait_when_a_limit_is_set() -> None:
    camera = ScriptedCamera(*["busy"] * 1000)
    line = Line(camera, first_open_s=0.05)
    with capture_logs() as logged:
        line.thread.start()
        line.thread.join(timeout=10)
    assert isinstance(line.error, CameraLost)
    assert logged == [], "what was never had is not told as lost before the wait is given up"


def test_a_refused_source_is_not_tried_again() -> None:
    camera = ScriptedCamera("refused")
    line = Line(camera)
    line.thread.start()
    line.thread.join(timeout=10)
    assert isinstance(line.error, BadSource)
    assert camera.opened == 1


class StuckCamera(ScriptedCamera):
    """The third read does not return until it is let go."""

    def __init__(self) -> None:
        super().__init__(*["frame"] * 6)
        self.stuck, self.let_go = threading.Event(), threading.Event()

    def read_into(self, pixels: Pixels, stamp: Stamp) -> Read:
        if self.index == 2 and not self.let_go.is_set():
            self.stuck.set()
            assert self.let_go.wait(60)
        return super().read_into(pixels, stamp)


def test_a_call_that_does_not_return_is_a_loss_at_once_and_over_when_it_returns() -> None:
    camera = StuckCamera()
    line = Line(camera)
    line.thread.start()
    try:
        assert camera.stuck.wait(60)
        grabber, ring, beat_ns = line.grabber, line.ring, line.grabber.beat_ns
        assert ring is not None
        assert beat_ns is not None
        grabber.look_after(beat_ns + round(3.9e9), 0)
        assert grabber.state == "up"
        grabber.look_after(beat_ns + round(9e9), beat_ns + round(8e9))
        assert grabber.state == "up", "a process that stood still itself has no right to complain"
        for late_s in (4.1, 4.2, 9.0):
            grabber.look_after(beat_ns + round(late_s * 1e9), 0)
        assert grabber.state == "lost"
        gap = ring.next_gap()
        assert gap is not None
        assert gap.reason == "camera-lost"
        assert ring.next_gap() is None
        camera.let_go.set()
        until = time.monotonic() + 60
        while grabber.state != "up" and time.monotonic() < until:
            time.sleep(0.01)
        assert (grabber.state, line.counts.reconnects) == ("up", 1)
    finally:
        camera.let_go.set()
        line.stop.set()
        line.thread.join(60)
