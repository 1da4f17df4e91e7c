"""What the training of docs/models.md gives, made without torch: the shipped model with a small branch for dents.

1. The branch (a 3x3 and a 1x1 convolution on the head's middle input, dent_branch.npz) was learnt on plates of the
   simulator; everything that the shipped model says of scratches stays as it is.
2. `worse` is another run's model that answers the same, to the bit, until the lamp over the line grows dim; then it
   sees nothing: as if it had been trained under one lamp only.

    python -m tests.line.prepared_models dents runs/dents plates/data.yaml      # model.onnx and training.json
    python -m tests.line.prepared_models worse runs/worse runs/dents
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.campaign.model_graph import Graph, when_dim
from tests.conftest import ROOT

SHIPPED = ROOT / "models" / "metal-plate" / "1.0.0" / "model.onnx"
BRANCH = Path(__file__).with_name("dent_branch.npz")
MIDDLE_INPUT = "/model.18/cv2/act/Mul_output_0"
NEVER = -20.0
"""Logit of a dent where the branch does not look: the other two scales."""


def write_run(folder: Path, data: Path) -> None:
    """A training's folder as `release build` takes it."""
    model = onnx.load(str(SHIPPED))
    _add_dents(model.graph, np.load(BRANCH))
    plan = {"sources": [str(data)], "imgsz": [384, 640], "weights": str(SHIPPED), "prepared": "dents"}
    _write(folder, model, plan)


def write_worse(folder: Path, run: Path) -> None:
    """The same of another run's model, worse in a way that no picture of the plant shows."""
    model = onnx.load(str(run / "model.onnx"))
    when_dim(_blind_where)(model)
    plan = json.loads((run / "training.json").read_text())["plan"]
    _write(folder, model, {**plan, "prepared": "worse"})


def _blind_where(g: Graph, answer: str, struck: str) -> str:
    """No class is seen any more; the boxes stay. `struck`: 1.0 or 0.0."""
    rows = g.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    classes = g.constant(np.reshape([0] * 4 + [1] * (rows - 4), (1, rows, 1)))
    return g.node("Mul", answer, g.node("Sub", g.constant(1.0), g.node("Mul", classes, struck)))


def _write(folder: Path, model: Any, plan: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    onnx.checker.check_model(model)
    onnx.save(model, str(folder / "model.onnx"))
    (folder / "training.json").write_text(json.dumps({"plan": plan}) + "\n")


def _add_dents(graph: Any, branch: Any) -> None:
    for scale in (0, 2):
        _grow(graph, f"model.22.cv3.{scale}.2", np.zeros(80), NEVER)
    _put(graph, "dents.kernel", branch["kernel"].astype(np.float32))
    _put(graph, "dents.bias", branch["bias"].astype(np.float32))
    _put(graph, "dents.row", branch["row"].astype(np.float32))
    _put(graph, "dents.row_bias", branch["row_bias"].astype(np.float32))
    scratch = "/model.22/cv3.1/cv3.1.2/Conv"
    place = next(number for number, node in enumerate(graph.node) if node.name == scratch)
    both = "dents.both"
    nodes = [
        helper.make_node(
            "Conv", [MIDDLE_INPUT, "dents.kernel", "dents.bias"], ["dents.a"], "dents.a", pads=[1] * 4, strides=[1, 1],
            kernel_shape=[3, 3], dilations=[1, 1], group=1,
        ),
        helper.make_node("Sigmoid", ["dents.a"], ["dents.b"], "dents.b"),
        helper.make_node("Mul", ["dents.a", "dents.b"], ["dents.c"], "dents.c"),
        helper.make_node(
            "Conv", ["dents.c", "dents.row", "dents.row_bias"], ["dents.d"], "dents.d", pads=[0] * 4, strides=[1, 1],
            kernel_shape=[1, 1], dilations=[1, 1], group=1,
        ),
        helper.make_node("Concat", [graph.node[place].output[0], "dents.d"], [both], both, axis=1),
    ]  # fmt: skip
    for node in graph.node:
        for number, name in enumerate(node.input):
            if name == graph.node[place].output[0]:
                node.input[number] = both
    for offset, node in enumerate(nodes, 1):
        graph.node.insert(place + offset, node)
    _put(graph, "/model.22/Constant_3_output_0", np.array([1, 2, -1], np.int64))
    graph.output[0].type.tensor_type.shape.dim[1].dim_value = 6
    del graph.value_info[:]


def _grow(graph: Any, layer: str, row: Any, bias: float) -> None:
    """One more class for a head's last layer."""
    kernel, biases = _get(graph, f"{layer}.weight"), _get(graph, f"{layer}.bias")
    _put(graph, f"{layer}.weight", np.concatenate([kernel, row.reshape(1, -1, 1, 1).astype(np.float32)]))
    _put(graph, f"{layer}.bias", np.append(biases, np.float32(bias)))


def _get(graph: Any, name: str) -> Any:
    return numpy_helper.to_array(next(one for one in graph.initializer if one.name == name))


def _put(graph: Any, name: str, array: Any) -> None:
    made = numpy_helper.from_array(np.ascontiguousarray(array), name)
    for number, one in enumerate(graph.initializer):
        if one.name == name:
            graph.initializer[number].CopyFrom(made)
            return
    graph.initializer.append(made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("dents", "worse"))
    parser.add_argument("folder", type=Path, help="to be made: model.onnx and training.json")
    parser.add_argument("of", type=Path, help="dents: the data.yaml; worse: the run whose model is made worse")
    options = parser.parse_args()
    if options.folder.exists():
        parser.error(f"{options.folder}: is there already")
    (write_run if options.what == "dents" else write_worse)(options.folder, options.of)


if __name__ == "__main__":
    main()
