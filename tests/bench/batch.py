"""Does a batch of several cameras' frames pay? Milliseconds a frame of the bare runtime at batch 1, 2, 4.

    python tests/bench/batch.py b1.onnx b2.onnx b4.onnx [--provider cpu,openvino] [--rounds N]

The files: ultralytics' export of one network with batch=1, 2, 4 and the same shape. Each in a process of its own, in
turns. Found: docs/measurements/README.md.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_inspect.cli.bench_side import Side, percentiles, take_turns
from edge_inspect.inference import providers


def opened(file: str, provider: str) -> tuple[Any, list[NDArray[np.float32]]]:
    """Something to call for one run, and the arrays it runs over: they must outlive it."""
    with open(file, "rb") as stream:
        content = stream.read()
    if provider == "openvino" and not providers._plugin_devices():
        openvino = providers._openvino()
        core = openvino.Core()
        model = core.compile_model(core.read_model(io.BytesIO(content)), "CPU", {"PERFORMANCE_HINT": "LATENCY"})
        request = model.create_infer_request()
        arrays = [np.zeros(tuple(port.shape), np.float32) for port in (model.inputs[0], model.outputs[0])]
        request.set_input_tensor(openvino.Tensor(arrays[0], shared_memory=True))
        request.set_output_tensor(openvino.Tensor(arrays[1], shared_memory=True))
        return lambda: (request.start_async(), request.wait()), arrays
    ort: Any = providers._onnxruntime()
    session = providers._open_session(ort, content, None, provider, providers.Tuning())  # type: ignore[arg-type]
    bound, ports = session.io_binding(), (session.get_inputs()[0], session.get_outputs()[0])
    arrays = [np.zeros(port.shape, np.float32) for port in ports]
    bound.bind_ortvalue_input(ports[0].name, ort.OrtValue.ortvalue_from_numpy(arrays[0]))
    bound.bind_ortvalue_output(ports[1].name, ort.OrtValue.ortvalue_from_numpy(arrays[1]))
    return lambda: session.run_with_iobinding(bound), arrays


def side(file: str, provider: str) -> None:
    run, arrays = opened(file, provider)
    batch = len(arrays[0])
    print(json.dumps({"ready": True, "batch": batch}), flush=True)
    for line in sys.stdin:
        times = []
        for _ in range(json.loads(line)["frames"]):
            start = time.perf_counter()
            run()
            times.append((time.perf_counter() - start) * 1e3 / batch)
        print(json.dumps({"frame": times}), flush=True)


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("files", nargs="+")
    options.add_argument("--provider", default="cpu,openvino")
    options.add_argument("--rounds", type=int, default=10)
    options.add_argument("--side")
    given = options.parse_args()
    if given.side:
        side(given.files[0], given.side)
        return
    for provider in given.provider.split(","):
        sides = [Side(file, [sys.executable, __file__, file, "--side", provider]) for file in given.files]
        try:
            samples = take_turns([(one, "run") for one in sides], given.rounds, 30)
        finally:
            for one in sides:
                one.close()
        for one in sides:
            print(
                f"{provider:10} batch {one.about['batch']}: {percentiles(samples[one.name, 'run']['frame'])} ms a frame"
            )


if __name__ == "__main__":
    main()
