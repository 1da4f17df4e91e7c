"""What a model costs on this machine, measured in a process of its own: time of a run and resident memory.

measure_cost(Path("model.onnx")).latency_ms      # fastest of 40 runs, CPU provider, all cores
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from cloud_inspect.errors import BadPackage

RUNS = 40
MOST_S = 300


@dataclass(frozen=True)
class Cost:
    latency_ms: float
    """The fastest run: what else this machine does is not the model's."""
    memory_bytes: int
    """What loading and running added."""
    cores: int


def measure_cost(model: Path) -> Cost:
    """Raises BadPackage when the model cannot be loaded and run, or takes for ever."""
    command = [sys.executable, "-m", "cloud_inspect.release.cost", str(model)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=MOST_S, check=False)
    except subprocess.TimeoutExpired as err:
        raise BadPackage(f"{model}: {RUNS} runs took longer than {MOST_S} s") from err
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing said"])[-1]
        raise BadPackage(f"{model}: cannot be run: exit code {done.returncode}: {said[:200]}")
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def _measure_here(model: str) -> Cost:
    import onnxruntime

    cores = len(os.sched_getaffinity(0))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores
    before = _resident_bytes()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    picture = {given.name: np.full(given.shape, 114 / 255, np.float32)}
    times = []
    for _ in range(RUNS):
        started = time.perf_counter()
        session.run(None, picture)
        times.append((time.perf_counter() - started) * 1000)
    return Cost(min(times), max(0, _resident_bytes() - before), cores)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(_measure_here(sys.argv[1]))) + "\n")
