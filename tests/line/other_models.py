"""Packages made from others by editing their ONNX file: the same model with noise, or one that finds nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Change = Callable[[onnx.ModelProto], None]


def changed_package(source: Path, folder: Path, change: Change | None = None, **manifest: Any) -> Path:
    """A copy of a package with every ONNX file changed, and manifest keys replaced; golden pictures are left out."""
    shutil.copytree(source, folder)
    told = json.loads((folder / "manifest.json").read_text())
    for variant in told["variants"]:
        path = folder / variant["file"]
        if change is not None:
            model = onnx.load(path)
            change(model)
            path.write_bytes(model.SerializeToString())
        content = path.read_bytes()
        variant.update(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
    told.update({"golden": [], **manifest})
    (folder / "manifest.json").write_text(json.dumps(told))
    return folder


def noised(share: float, seed: int = 1) -> Change:
    """Every weight off by normal noise of so much of its tensor's standard deviation; quantised ones, too."""
    dice = np.random.default_rng(seed)

    def change(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            values = numpy_helper.to_array(tensor)
            if values.ndim < 2 or values.dtype not in (np.float32, np.float16, np.int8):
                continue
            off = values + dice.normal(0, share * (values.astype(np.float32).std() or 1.0), values.shape)
            if values.dtype == np.int8:
                off = off.round().clip(-127, 127)
            tensor.CopyFrom(numpy_helper.from_array(off.astype(values.dtype), tensor.name))

    return change


def half_as_sure(model: onnx.ModelProto) -> None:
    """Every score is half of what it was. One class only, as `finds_nothing`."""
    _scale_output(model, np.array([1, 1, 1, 1, 0.5], np.float32).reshape(1, 5, 1))


def finds_nothing(model: onnx.ModelProto) -> None:
    """Every score is 0; the rest of the head is as it was."""
    _scale_output(model, np.array([1, 1, 1, 1, 0], np.float32).reshape(1, 5, 1))


def _scale_output(model: onnx.ModelProto, by: Any) -> None:
    graph = model.graph
    last = next(node for node in graph.node if graph.output[0].name in node.output)
    last.output[list(last.output).index(graph.output[0].name)] = "before_the_end"
    graph.initializer.append(numpy_helper.from_array(by, "scale_of_the_end"))
    graph.node.append(helper.make_node("Mul", ["before_the_end", "scale_of_the_end"], [graph.output[0].name]))
