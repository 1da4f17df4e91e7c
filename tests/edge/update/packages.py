"""Model packages for the probe: the tiny network, changed, with the right digests and, where wanted, golden pictures
that were made to fit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.sim.tiny_model import write_tiny_package

Change = Callable[[onnx.ModelProto], None]


def package(
    folder: Path,
    change: Change | None = None,
    *,
    layout: Any = "raw",
    classes: Sequence[str] = ("scratch", "dent"),
    **manifest: Any,
) -> Path:
    """A tiny package; `change` its graph, `manifest` keys replaced. The graph is named `folder.name`."""
    write_tiny_package(folder, layout=layout, classes=classes)
    model = onnx.load(str(folder / "model.onnx"))
    model.graph.name = folder.name
    if change:
        change(model)
    content = model.SerializeToString()
    (folder / "model.onnx").write_bytes(content)
    facts = json.loads((folder / "manifest.json").read_text())
    facts["variants"][0] |= {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(facts | {"format": 2} | manifest))
    return folder


def last(model: onnx.ModelProto) -> Any:
    """The node that makes output0 of what is named here."""
    return model.graph.node[-1]


def after(kind: str, *constants: Any, **attributes: Any) -> Change:
    """One more operator behind the head."""

    def change(model: onnx.ModelProto) -> None:
        names = []
        for number, values in enumerate(constants):
            names.append(f"extra{number}")
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(values, np.float32), names[-1]))
        node = last(model)
        node.CopyFrom(helper.make_node(kind, [node.input[0], *names], ["output0"], **attributes))

    return change


def nan(model: onnx.ModelProto) -> None:
    after("Mul", np.full((1, 1, 1), np.nan))(model)


def constant(model: onnx.ModelProto) -> None:
    after("Mul", np.zeros((1, 1, 1)))(model)


def forget(cls: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        weights = next(i for i in model.graph.initializer if list(i.dims)[1:] == [3, 1, 1])
        values = numpy_helper.to_array(weights).copy()
        values[cls] = -1
        weights.CopyFrom(numpy_helper.from_array(values, weights.name))

    return change


def swap_classes(model: onnx.ModelProto) -> None:
    weights = next(i for i in model.graph.initializer if list(i.dims)[1:] == [3, 1, 1])
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights)[::-1].copy(), weights.name))


def everything_everywhere(model: onnx.ModelProto) -> None:
    """Each of the 240 cells says: defect, small, at its own place."""
    cells = np.arange(240)
    boxes = [8 * (cells % 20) + 4, 8 * (cells // 20) + 4, np.full(240, 6), np.full(240, 6)]
    scores = [np.full(240, 0.9), np.zeros(240)]
    weak = helper.make_node("Mul", [last(model).input[0], "tiny"], ["faint"])
    node = helper.make_node("Add", ["faint", "told"], ["output0"])
    model.graph.initializer.append(numpy_helper.from_array(np.array([1e-6], np.float32), "tiny"))
    told = np.stack([*boxes, *scores])[None].astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(told, "told"))
    del model.graph.node[-1]
    model.graph.node.extend([weak, node])


def far_away(model: onnx.ModelProto) -> None:
    shift = np.zeros((1, 6, 1))
    shift[0, :2] = 5000
    after("Add", shift)(model)


def heavy(times: int) -> Change:
    """Convolutions whose result counts for nothing."""

    def change(model: onnx.ModelProto) -> None:
        rng = np.random.default_rng(1)
        nodes, before = [], "images"
        for number in range(times):
            inputs = 3 if number == 0 else 32
            kernel = rng.normal(0, 0.01, (32, inputs, 3, 3)).astype(np.float32)
            model.graph.initializer.append(numpy_helper.from_array(kernel, f"kernel{number}"))
            nodes.append(helper.make_node("Conv", [before, f"kernel{number}"], [f"h{number}"], pads=[1] * 4))
            before = f"h{number}"
        nodes.append(helper.make_node("ReduceMax", [before], ["most"], keepdims=0))
        model.graph.initializer.append(numpy_helper.from_array(np.array(0, np.float32), "nothing"))
        nodes.append(helper.make_node("Mul", ["most", "nothing"], ["none"]))
        node = last(model)
        nodes.append(helper.make_node("Add", [node.input[0], "none"], ["output0"]))
        del model.graph.node[-1]
        model.graph.node.extend(nodes)

    return change


def memory_at_load(gigabytes: int) -> Change:
    """A few bytes that become gigabytes as soon as the runtime folds constants."""

    def change(model: onnx.ModelProto) -> None:
        shape = np.array([gigabytes, 1 << 28], np.int64)
        model.graph.initializer.append(numpy_helper.from_array(shape, "huge"))
        one = numpy_helper.from_array(np.array([1], np.float32))
        node = last(model)
        nodes = [
            helper.make_node("ConstantOfShape", ["huge"], ["ones"], value=one),
            helper.make_node("ReduceMax", ["ones"], ["most"], keepdims=0),
            helper.make_node("Mul", [node.input[0], "most"], ["output0"]),
        ]
        del model.graph.node[-1]
        model.graph.node.extend(nodes)

    return change


def half_ends(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
