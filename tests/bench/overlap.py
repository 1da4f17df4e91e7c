"""Does a second input buffer pay: letterboxing the next frame in a thread of its own while the present one runs?

    python tests/bench/overlap.py [--provider cpu,openvino] [--rounds N] [--frames N]

one_buffer: letterbox, run, decode, in order. two_buffers: two bindings of one loaded network; while one runs, a thread
letterboxes into the other. Same process, same network, in turns. Found: docs/measurements/README.md.
"""

from __future__ import annotations

import argparse
import json
import queue
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from edge_inspect.cli.bench_engine import save_pictures
from edge_inspect.cli.bench_side import Side, percentiles, take_turns
from edge_inspect.inference import providers
from edge_inspect.inference.binding import Binding, CpuBinding, OpenVinoBinding
from edge_inspect.inference.decode import Decoder
from edge_inspect.inference.letterbox import Letterbox
from edge_inspect.inference.package import ModelPackage, find_model


def two_bindings(package: ModelPackage, provider: str) -> list[Binding]:
    """One loaded network, bound twice."""
    variant = package.variant(shape=(384, 640), precision="fp32")
    first: Any = providers.open_binding(package.read(variant), variant, provider)
    if isinstance(first, OpenVinoBinding):
        import openvino

        second: Any = OpenVinoBinding(openvino, first._request.get_compiled_model(), variant)
    else:
        second = CpuBinding(providers._onnxruntime(), first._session, variant, provider)
    return [first, second]


class Workload:
    def __init__(self, provider: str, frames: str) -> None:
        self.pictures = np.load(frames)
        package = ModelPackage.load(find_model())
        self.bindings = two_bindings(package, provider)
        height, width = self.pictures.shape[1:3]
        self.letterboxes = [Letterbox(height, width, 384, 640) for _ in self.bindings]
        self.decoder = Decoder("raw", package.manifest.classes)
        self.thresholds = np.full(len(package.manifest.classes), 0.25, np.float32)

    def one_buffer(self, frames: int) -> list[float]:
        binding, letterbox, times = self.bindings[0], self.letterboxes[0], []
        start = time.perf_counter()
        for index in range(frames):
            letterbox(self.pictures[index % len(self.pictures)], out=binding.input)
            binding.run()
            self.decoder.decode(binding.output, letterbox, self.thresholds)
            times.append((time.perf_counter() - start) * 1e3)
            start = time.perf_counter()
        return times

    def two_buffers(self, frames: int) -> list[float]:
        free: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        boxed: queue.SimpleQueue[int] = queue.SimpleQueue()
        thread = threading.Thread(target=self._letterbox_ahead, args=(free, boxed))
        thread.start()
        free.put(0)
        free.put(1)
        times = []
        start = time.perf_counter()
        for _ in range(frames):
            which = boxed.get()
            self.bindings[which].run()
            self.decoder.decode(self.bindings[which].output, self.letterboxes[which], self.thresholds)
            free.put(which)
            times.append((time.perf_counter() - start) * 1e3)
            start = time.perf_counter()
        free.put(None)
        thread.join()
        return times

    def _letterbox_ahead(self, free: queue.SimpleQueue[int | None], boxed: queue.SimpleQueue[int]) -> None:
        index = 0
        while (which := free.get()) is not None:
            self.letterboxes[which](self.pictures[index % len(self.pictures)], out=self.bindings[which].input)
            boxed.put(which)
            index += 1


def side(settings: dict[str, Any]) -> None:
    load = Workload(settings["provider"], settings["frames"])
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps({"frame": getattr(load, order["do"])(order["frames"])}), flush=True)


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--provider", default="cpu,openvino")
    options.add_argument("--rounds", type=int, default=10)
    options.add_argument("--frames", type=int, default=60)
    options.add_argument("--side", type=json.loads)
    given = options.parse_args()
    if given.side:
        side(given.side)
        return
    with tempfile.TemporaryDirectory() as folder:
        pictures = save_pictures("sim", 1920, 1080, Path(folder) / "frames.npy")
        for provider in given.provider.split(","):
            settings = json.dumps({"provider": provider, "frames": str(pictures)})
            with Side(provider, [sys.executable, __file__, "--side", settings]) as ours:
                samples = take_turns([(ours, "one_buffer"), (ours, "two_buffers")], given.rounds, given.frames)
            for (_, way), times in samples.items():
                print(f"{provider:10} {way:12} {percentiles(times['frame'])}")


if __name__ == "__main__":
    main()
