"""Nothing is allocated per frame by us: after warm-up the way of a frame leaves no block behind.

Long form: EDGE_INSPECT_LONG=1 (10,000 frames counted, 100,000 for the memory slope); CI runs the short one.
"""

from __future__ import annotations

import gc
import os
import threading
import time
import tracemalloc
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from edge_inspect.beside_frames import BUFFERS
from edge_inspect.capture.protocol import Camera, Format, Pixels, Read, Stamp
from edge_inspect.capture.ring import Slot
from edge_inspect.daemon import Appliance
from edge_inspect.inference.decode import Detections
from edge_inspect.inference.package import ModelPackage
from edge_inspect.pipeline import Judged, Lane
from edge_inspect.verdict.parts import Look
from tests.line.conftest import Build
from tests.line.drawn import HEIGHT, WIDTH

LONG = bool(os.environ.get("EDGE_INSPECT_LONG"))
WARM_UP = 500
COUNTED = 10_000 if LONG else 2_000
SLOPE_FRAMES = 100_000 if LONG else 10_000
MOST_GROWTH_BYTES = 1_000_000


class EndlessCamera(Camera):
    """Good pictures for ever (until `frames`), without allocating anything itself."""

    label = "endless"
    live = False

    def __init__(self, frames: int) -> None:
        self._left = frames

    def open(self) -> Format:
        return Format(WIDTH, HEIGHT, 25.0, "BGR")

    def read_into(self, pixels: Pixels, stamp: Stamp) -> Read:
        if self._left == 0:
            return Read.END
        self._left -= 1
        pixels[:] = 120 + self._left % 7
        stamp.index += 1
        stamp.captured_ns, stamp.utc_ns = time.monotonic_ns(), time.time_ns()
        return Read.FRAME

    def close(self) -> None:
        """Nothing is held."""


def _shadow(line: Appliance, package: ModelPackage, built: threading.Event) -> None:
    end_s = time.monotonic() + 60
    while line.pipeline.frames < 1 and time.monotonic() < end_s:
        time.sleep(0.001)
    line.models.start_shadow(package, role="candidate")
    built.set()


class At:
    """Calls `act` when frame `number` has been inspected."""

    def __init__(self, **acts: object) -> None:
        self.acts = {int(name.removeprefix("frame_")): act for name, act in acts.items()}
        self.seen = 0

    def frame(self, lane: Lane, slot: Slot, looks: list[Look], found: Detections | None) -> None:
        self.seen += 1
        act = self.acts.get(self.seen)
        if act is not None:
            act()  # type: ignore[operator]

    def judged(self, lane: Lane, judged: Judged, pixels: Pixels | None) -> None:
        """Frames are counted."""


@pytest.mark.parametrize("beside", ["", "a shadow"])
def test_no_block_of_ours_is_left_behind_per_frame(build: Build, tiny_model: Path, beside: str) -> None:
    snapshots: list[tracemalloc.Snapshot] = []
    peaks: list[int] = []

    def start() -> None:
        tracemalloc.start(1)

    def all_judged() -> None:
        """A frame that is in the shadow's hands holds blocks of ours, and how many are is chance."""
        end_s = time.monotonic() + 60
        while len(line.shadow._frames.free) < BUFFERS and time.monotonic() < end_s:
            time.sleep(0.001)

    def begin() -> None:
        all_judged()
        gc.collect()
        snapshots.append(tracemalloc.take_snapshot())
        tracemalloc.reset_peak()
        peaks.append(tracemalloc.get_traced_memory()[0])

    def end() -> None:
        peaks.append(tracemalloc.get_traced_memory()[1])
        all_judged()
        gc.collect()
        snapshots.append(tracemalloc.take_snapshot())
        tracemalloc.stop()

    # Traced long before the first snapshot, so that what each frame replaces is known on both sides.
    at = At(**{"frame_1": start, f"frame_{WARM_UP}": begin, f"frame_{WARM_UP + COUNTED}": end})
    line, _ = build({"left": EndlessCamera(WARM_UP + COUNTED + 10)})
    line.pipeline._watchers = (at,)
    line.shadow._share = 1.0
    if beside:
        until_built = threading.Event()
        at.acts[2] = lambda: until_built.wait(60)
        asking = threading.Thread(target=_shadow, args=(line, ModelPackage.load(tiny_model), until_built))
        asking.start()
    line.run(threading.Event())
    if beside:
        asking.join()
        assert line.shadow.report().parts > COUNTED // 100

    ours = [tracemalloc.Filter(True, "*/edge_inspect/*"), tracemalloc.Filter(True, "*/edge_wire/*")]
    before, after = (snapshot.filter_traces(ours) for snapshot in snapshots)
    changes = [stat for stat in after.compare_to(before, "lineno") if stat.count_diff]
    # Threads stand at other lines in the two snapshots, and free lists keep a few objects: some blocks either way. One
    # block kept every fortieth frame would show.
    assert sum(stat.count_diff for stat in changes) <= COUNTED // 40, "\n".join(map(str, changes[:10]))
    frame_bytes = WIDTH * HEIGHT * 3
    assert peaks[1] - peaks[0] < frame_bytes, f"something of a frame's size was allocated: {peaks[1] - peaks[0]} bytes"


@pytest.mark.slow
def test_resident_memory_does_not_grow_with_frames(build: Build) -> None:
    process = psutil.Process()
    sizes: list[int] = []

    def note() -> None:
        gc.collect()
        sizes.append(process.memory_info().rss)

    # Three stretches: a leak grows on each; pages taken once from what earlier tests left do not.
    marks = [SLOPE_FRAMES // 10 + SLOPE_FRAMES * stretch for stretch in range(4)]
    at = At(**{f"frame_{mark}": note for mark in marks})
    line, _ = build({"left": EndlessCamera(marks[-1] + 10)})
    line.pipeline._watchers = (at,)
    line.run(threading.Event())
    growth = [after - before for before, after in pairwise(sizes)]
    assert min(growth) <= MOST_GROWTH_BYTES, f"{growth} bytes over {SLOPE_FRAMES} frames each"
