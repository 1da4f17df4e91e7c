"""The other side of a benchmark: `YOLO(...).predict`, whole call, as a user would write it. Started by `bench --peers`.

    python peer_ultralytics.py '{"weights": "yolov8n.pt", "format": "onnx", "shape": [640, 640],
                                 "frames": "frames.npy", "folder": "/tmp/x"}'

Runs under a Python that has ultralytics (and, for format openvino, openvino); imports nothing of edge-inspect.
Orders and answers as edge_inspect/cli/bench_worker.py.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("YOLO_AUTOINSTALL", "False")

import numpy as np
from ultralytics import YOLO


def exported(weights: Path, kind: str, shape: list[int], folder: Path) -> Path:
    """The weights in `kind` at a fixed shape, exported once into `folder`."""
    own = folder / f"{weights.stem}-{kind}-{shape[0]}x{shape[1]}"
    found = sorted(own.glob("*.onnx" if kind == "onnx" else "*_openvino_model"))
    if not found:
        own.mkdir(parents=True, exist_ok=True)
        shutil.copy(weights, own / weights.name)
        extra: dict[str, Any] = {"opset": 17} if kind == "onnx" else {}
        made = YOLO(str(own / weights.name)).export(format=kind, imgsz=tuple(shape), dynamic=False, **extra)
        found = [Path(made)]
    return found[0]


def main() -> None:
    settings = json.loads(sys.argv[1])
    frames = np.load(settings["frames"])
    model_file = exported(Path(settings["weights"]), settings["format"], settings["shape"], Path(settings["folder"]))
    model = YOLO(str(model_file), task="detect")

    def predict(count: int) -> list[float]:
        times = []
        for index in range(count):
            start = time.perf_counter_ns()
            model.predict(frames[index % len(frames)], imgsz=tuple(settings["shape"]), conf=0.25, verbose=False)
            times.append((time.perf_counter_ns() - start) / 1e6)
        return times

    predict(3)
    say({"ready": True, "file": str(model_file)})
    for line in sys.stdin:
        order = json.loads(line)
        say({"frame": predict(order["frames"])})


def say(answer: dict[str, Any]) -> None:
    sys.stdout.write("\n" + json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
