"""The hot path, letterbox -> run -> decode, allocates nothing of ours per frame, however long it runs.

Short by default; EDGE_INSPECT_LONG=1 runs 10,000 frames under tracemalloc and 100,000 for the resident set.
"""

from __future__ import annotations

import gc
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

import edge_inspect.inference
from edge_inspect.inference.decode import Decoder
from edge_inspect.inference.engine import Engine
from edge_inspect.inference.letterbox import Letterbox
from edge_inspect.inference.package import ModelPackage
from tests.sim.tiny_model import draw_defect, write_tiny_package

LONG = bool(os.environ.get("EDGE_INSPECT_LONG"))
WARM_UP = 500
ROUNDS = 5
TRACED_FRAMES = 10_000 if LONG else 1_000
RESIDENT_FRAMES = 100_000 if LONG else 4_000
OURS = str(Path(edge_inspect.inference.__file__).parent / "*")
SMALL_BYTES = 32 << 10
"""Far below the input (46 kB), the frame (691 kB) and one letterboxed plane."""

pytestmark = pytest.mark.timeout(900 if LONG else 180)


@pytest.fixture(params=["raw", "end2end"])
def frame(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[int], None]:
    """One frame through letterbox, network and decoder; every other one shows a defect."""
    package = ModelPackage.load(write_tiny_package(tmp_path / "tiny", layout=request.param))
    engine = Engine(package, provider="cpu", threads=1)
    letterbox = Letterbox(360, 640, engine.height, engine.width)
    decoder, thresholds = Decoder(engine.layout, engine.classes), engine.thresholds()
    slots = np.full((2, 360, 640, 3), 120, np.uint8)
    draw_defect(slots[1], (100, 100, 160, 130))

    def inspect(index: int) -> None:
        letterbox(slots[index % 2], out=engine.input)
        engine.run()
        assert decoder.decode(engine.output, letterbox, thresholds).n == index % 2

    return inspect


def test_no_block_of_ours_stays_and_no_array_of_tensor_size_is_made(frame: Callable[[int], None]) -> None:
    for index in range(WARM_UP):
        frame(index)
    gc.collect()
    tracemalloc.start()
    try:
        for index in range(300):  # what tracing itself and the interpreter's caches keep
            frame(index)
        before = blocks_of_ours()
        standing, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        after = []
        for _ in range(ROUNDS):
            for index in range(TRACED_FRAMES // ROUNDS):
                frame(index)
            after.append(blocks_of_ours())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Free lists hand a block from one line to another, so a single count wavers by one or two; a leak only ever grows.
    assert min(after) <= before, (before, after)
    assert peak - standing < SMALL_BYTES


def blocks_of_ours() -> int:
    snapshot = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, OURS)])
    return sum(line.count for line in snapshot.statistics("filename"))


@pytest.mark.parametrize("source", [(1080, 1920), (720, 1280), (384, 640)], ids=str)
def test_letterbox_of_a_camera_picture_allocates_nothing_of_its_size(source: tuple[int, int]) -> None:
    pixels, tensor = np.zeros((*source, 3), np.uint8), np.zeros((1, 3, 384, 640), np.uint8)
    letterbox = Letterbox(*source, 384, 640)
    letterbox(pixels, out=tensor)
    tracemalloc.start()
    try:
        standing, _ = tracemalloc.get_traced_memory()
        letterbox(pixels, out=tensor)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - standing < SMALL_BYTES


@pytest.mark.slow
def test_resident_set_stays_flat(frame: Callable[[int], None]) -> None:
    process = psutil.Process()
    for index in range(WARM_UP):
        frame(index)
    # A leak grows every time; pages that the allocator takes from what earlier tests left do not.
    growth = []
    for _ in range(3):
        before = process.memory_info().rss
        for index in range(RESIDENT_FRAMES):
            frame(index)
        growth.append(process.memory_info().rss - before)
        if growth[-1] <= 1 << 20:
            break
    assert growth[-1] <= 1 << 20, growth
