"""Models with bytes changed at random, given to the gate; what passes is held against the `onnx` package.

    python -m tests.campaign.onnx_gate --models 20000

Failures: any exception but BadOnnx, an answer that takes more than MOST_CPU_S, and a file that passes and in which
`onnx` reads other nodes, weights, inputs or outputs. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from edge_wire.onnx_file import read_model
from edge_wire.onnx_gate import inspect
from edge_wire.onnx_wire import BadOnnx
from tests.sim.tiny_model import tiny_model

ROOT = Path(__file__).resolve().parents[2]
MOST_CPU_S = 10.0
HEAD = 0.01
"""Of a large file: nodes and the first weights; the rest is weights' bytes, where a change is none of the gate's."""
TAIL_BYTES = 60_000


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """A change or a few, most of them where the structure is."""
    data = bytearray(content)
    for _ in range(int(rng.geometric(0.7))):
        at = _place(data, rng)
        match int(rng.integers(6)):
            case 0:
                data[at] ^= 1 << int(rng.integers(8))
            case 1:
                data[at] = int(rng.integers(256))
            case 2:
                del data[at : at + int(rng.integers(1, 40))]
            case 3:
                data[at:at] = rng.bytes(int(rng.integers(1, 12)))
            case 4:
                data[at:at] = data[at : at + int(rng.integers(1, 400))]
            case _:
                end = at + int(rng.integers(1, 60))
                data[at:end] = data[_place(data, rng) :][: end - at]
    return bytes(data)


def disagreement(content: bytes) -> str:
    """Where `onnx` reads something else than we do, in a file that passed."""
    try:
        theirs = onnx.load_from_string(content).graph
    except Exception as err:  # noqa: BLE001 what is looked for
        return f"onnx does not read it: {type(err).__name__}"
    ours = read_model(content)
    nodes = [(n.op_type, tuple(n.input), tuple(n.output)) for n in theirs.node]
    weights = [(i.name, tuple(i.dims), numpy_helper.to_array(i).nbytes) for i in theirs.initializer]
    if [(n.operator, n.inputs, n.outputs) for n in ours.nodes] != nodes:
        return "other nodes"
    if [(w.name, w.dims, w.size_bytes) for w in ours.weights] != weights:
        return "other weights"
    for mine, other in ((ours.inputs, theirs.input), (ours.outputs, theirs.output)):
        if [one.name for one in mine] != [one.name for one in other if one.name not in {w.name for w in ours.weights}]:
            return "other inputs or outputs"
    return ""


def run(models: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    sources = [path.read_bytes() for path in sorted((ROOT / "models").glob("*/*/*.onnx"))]
    sources = sources[:1] + [tiny_model(96, 160, layout, 3).SerializeToString() for layout in ("raw", "end2end")] * 8
    codes: Counter[str] = Counter()
    failures, slowest = [], 0.0
    for number in range(models):
        content = mutated(sources[int(rng.integers(len(sources)))], rng)
        started = time.process_time()
        try:
            inspect(content)
            code = ""
        except BadOnnx as err:
            code = err.code
        except Exception as err:  # noqa: BLE001 what is looked for
            code = f"failed: {type(err).__name__}"
            failures.append(f"{number}: {err!r}")
        slowest = max(slowest, time.process_time() - started)
        codes[code or "passed"] += 1
        if not code and (why := disagreement(content)):
            failures.append(f"{number}: {why}")
    if slowest > MOST_CPU_S:
        failures.append(f"an answer took {slowest:.1f} s")
    for line in failures[:20]:
        sys.stderr.write(f"{line}\n")
    bound = 3 / models if not failures else None
    return {"n": models, "seed": seed, "failures": len(failures), "bound": bound, "slowest_s": round(slowest, 3)} | {
        "codes": dict(codes.most_common())
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    result = run(options.models, options.seed)
    sys.stdout.write(json.dumps(result) + "\n")
    sys.exit(1 if result["failures"] else 0)


def _place(data: bytearray, rng: np.random.Generator) -> int:
    size = max(1, len(data))
    if size < 200_000:
        return int(rng.integers(size))
    return int(rng.integers(int(size * HEAD))) if rng.random() < 0.5 else size - 1 - int(rng.integers(TAIL_BYTES))


if __name__ == "__main__":
    main()
