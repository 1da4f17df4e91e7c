"""Our side of a benchmark, in a process of its own: one engine, and three ways to run frames through it.

    bare      only the runtime: its bound run, again and again
    pipeline  the inspect thread's whole work on frames that lie in the ring: take, letterbox, run, decode, judge, tell
    whole     the same, while a grab thread copies every frame into the ring as a camera's driver would

Started by `bench_side.Side`; speaks lines of JSON: settings as the first argument, then one order a line on stdin,
one answer a line on stdout. Times are milliseconds a frame, in order.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edge_inspect.capture.picture_check import PictureCheck
from edge_inspect.capture.ring import Ring
from edge_inspect.counts import LaneCounts
from edge_inspect.inference.engine import Engine
from edge_inspect.inference.package import ModelPackage
from edge_inspect.lane import Lane, fit
from edge_inspect.pipeline import Pipeline
from edge_inspect.verdict.parts import part_finder
from edge_inspect.verdict.recipe import Recipe

Times = dict[str, list[float]]


class Workload:
    """settings: model, provider, threads, shape [h, w] or null, precision, spin, cv_threads, frames (a .npy file)."""

    def __init__(self, settings: dict[str, Any]) -> None:
        if settings["cv_threads"] is not None:
            cv2.setNumThreads(settings["cv_threads"])
        self._frames = np.load(settings["frames"], mmap_mode="r")
        count, height, width, _ = self._frames.shape
        package = ModelPackage.load(Path(settings["model"]))
        shape = tuple(settings["shape"]) if settings["shape"] else None
        self.engine = Engine(
            package,
            provider=settings["provider"],
            threads=settings["threads"],
            shape=shape,
            precision=settings["precision"],
            source=(height, width),
            spin=settings["spin"],
        )
        self.engine.warm_up()
        self._lane = self._build_lane(height, width, slots=count)
        self._pipeline = Pipeline(
            tell=lambda lane, judged: None,
            report=lambda lane, judged, pixels: None,
            ready=threading.Condition(),
        )
        for slot, frame in zip(self._lane.ring.slots, self._frames, strict=True):
            np.copyto(slot.pixels, frame)

    def _build_lane(self, height: int, width: int, slots: int) -> Lane:
        recipe = Recipe.model_validate({"name": "bench", "version": "1", "classes": {"*": {"threshold": 0.25}}})
        return Lane(
            name="bench",
            ring=Ring(slots, height, width, "every"),
            model=fit(self.engine, recipe, height, width),
            finder=part_finder(recipe, height, width),
            recipe=recipe,
            counts=LaneCounts(),
            check=PictureCheck(height, width),
        )

    def bare(self, frames: int) -> Times:
        run, times = self.engine.run, []
        for _ in range(frames):
            start = time.perf_counter_ns()
            run()
            times.append((time.perf_counter_ns() - start) / 1e6)
        return {"frame": times}

    def pipeline(self, frames: int) -> Times:
        return self._inspect(frames, self._offer_next)

    def whole(self, frames: int) -> Times:
        grab = threading.Thread(target=self._grab, args=(frames,), name="grab")
        grab.start()
        try:
            return self._inspect(frames, lambda: None)
        finally:
            grab.join()

    def _inspect(self, frames: int, offer: Callable[[], None]) -> Times:
        lane, inference = self._lane, self._lane.counts.inference
        times: Times = {"frame": [], "own": [], "inference": []}
        start = time.perf_counter_ns()
        for _ in range(frames):
            offer()
            ran = inference.total_ns
            with lane.ring.take(timeout_s=5.0) as slot:
                assert slot is not None
                begun = time.perf_counter_ns()
                self._pipeline.inspect(lane, slot)
            done = time.perf_counter_ns()
            assert inference.count, "the picture check refused the frame"
            ran = inference.total_ns - ran
            times["frame"].append((done - start) / 1e6)
            times["own"].append((done - begun - ran) / 1e6)
            times["inference"].append(ran / 1e6)
            start = done
        return times

    def _offer_next(self) -> None:
        """A slot becomes READY as it is: its picture was put there at the start."""
        with self._lane.ring.fill(timeout_s=1.0) as lease:
            assert lease is not None
            lease.stamp.captured_ns = time.monotonic_ns()

    def _grab(self, frames: int) -> None:
        for index in range(frames):
            with self._lane.ring.fill(timeout_s=30.0) as lease:
                assert lease is not None
                np.copyto(lease.pixels, self._frames[index % len(self._frames)])
                lease.stamp.captured_ns = time.monotonic_ns()


def main() -> None:
    """Answer `{"do": "bare", "frames": 100}` and the like until stdin ends."""
    settings = json.loads(sys.argv[1])
    load = Workload(settings)
    engine = load.engine
    say(
        {
            "ready": True,
            "provider": engine.provider,
            "shape": [engine.height, engine.width],
            "file": engine.variant.file,
        }
    )
    for line in sys.stdin:
        order = json.loads(line)
        work: Callable[[int], Times] = getattr(load, order["do"])
        say(work(order["frames"]))


def say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
