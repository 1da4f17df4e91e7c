"""A tiny network that really finds something: coloured spots on grey pictures, as a whole and valid model package.

1. Class 0 is a red spot, class 1 a green one, class 2 a blue one (at most three); grey, black and white are good.
2. The box is the spot's own box (from the moments of its colour), right to about 1 px of the network's input, for spots
   up to 48 px there that lie 40 px and more apart. Confidence follows the saturation: full colour gives 0.95.
3. Both head layouts that ultralytics exports: raw (1, 4 + nc, N) and end2end (1, 300, 6).

    package = write_tiny_package(tmp_path / "tiny")
    draw_defect(pixels, (100, 80, 130, 96))      # BGR picture of any size

`python -m tests.sim.tiny_model DIR` writes one for a try by hand.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

STRIDE = 8
WINDOW = 64
FULL_CONFIDENCE = 0.95
_CHANNEL_OF_CLASS = (2, 1, 0)  # BGR index of red, green, blue


def draw_defect(
    pixels: NDArray[np.uint8], box: tuple[int, int, int, int], cls: int = 0, saturation: float = 1.0
) -> None:
    """Fill `box` (x1, y1, x2, y2 px) with the colour of class `cls`; saturation below 1 lowers the confidence."""
    x1, y1, x2, y2 = box
    colour = [round(255 * (1 - saturation))] * 3
    colour[_CHANNEL_OF_CLASS[cls]] = 255
    pixels[y1:y2, x1:x2] = colour


def write_tiny_package(
    folder: Path,
    height: int = 96,
    width: int = 160,
    layout: Literal["raw", "end2end"] = "raw",
    classes: Sequence[str] = ("scratch",),
    *,
    name: str = "tiny",
    version: str = "1.0.0",
    poison: bool = False,
) -> Path:
    """Write model.onnx, manifest.json and a golden picture; returns `folder`.

    poison: the output becomes NaN as long as the picture shows a fully blue spot.
    """
    (folder / "golden").mkdir(parents=True, exist_ok=True)
    model = tiny_model(height, width, layout, len(classes), poison=poison)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    picture = np.full((192, 320, 3), 128, np.uint8)
    box = (100, 60, 140, 84)
    draw_defect(picture, box)
    cv2.imwrite(str(folder / "golden" / "spot.png"), picture)
    output = [d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim]
    manifest = {
        "format": 1,
        "name": name,
        "version": version,
        "classes": list(classes),
        "thresholds": dict.fromkeys(classes, 0.5),
        "variants": [
            {
                **_file(folder, "model.onnx"),
                "precision": "fp32",
                "input": {"name": "images", "shape": [1, 3, height, width], "dtype": "float32"},
                "output": {"name": "output0", "shape": output, "dtype": "float32", "layout": layout},
            }
        ],
        "dataset": {"name": "drawn spots", "digest": "sha256:" + "0" * 64, "pictures": 0},
        "runtime": {"onnxruntime": "1.20", "opset": 17, "ir": 8},
        "golden": [
            {
                **_file(folder, "golden/spot.png"),
                "expect": [{"cls": classes[0], "confidence": FULL_CONFIDENCE, "box": list(box)}],
                "tolerance": {"confidence": 0.1, "box_px": 6.0},
            }
        ],
        "created": "2026-11-22T08:00:00Z",
        "licence": "AGPL-3.0-or-later",
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2))
    return folder


def _file(folder: Path, name: str) -> dict[str, Any]:
    content = (folder / name).read_bytes()
    return {"file": name, "sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}


def tiny_model(height: int, width: int, layout: str, classes: int, *, poison: bool = False) -> onnx.ModelProto:
    """The ONNX graph: opset 17, IR 8, static shapes, input `images`, output `output0`."""
    assert height % 32 == 0 and width % 32 == 0 and 1 <= classes <= 3
    graph = _Graph()
    saturation = _saturation_of_each_class(graph, classes)
    boxes, scores = _boxes_from_moments(graph, saturation, height, width, classes)
    cells = height // STRIDE * (width // STRIDE)
    if layout == "raw":
        head, shape = _one_box_per_cell(graph, boxes, scores, classes, cells), (1, 4 + classes, cells)
    else:
        head, shape = _best_300(graph, boxes, scores, classes, cells), (1, 300, 6)
    if poison:
        head = graph.node("Add", head, _nan_on_full_blue(graph))
    graph.node("Identity", head, out="output0")
    return graph.model(height, width, shape)


class _Graph:
    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def node(self, kind: str, *inputs: str, out: str = "", outputs: int = 1, **attributes: Any) -> str:
        first = out or f"t{len(self.nodes)}"
        names = [first] + [f"{first}_{i}" for i in range(1, outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return first

    def constant(self, values: Any, dtype: type = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def model(self, height: int, width: int, output: tuple[int, ...]) -> onnx.ModelProto:
        images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, height, width])
        found = helper.make_tensor_value_info("output0", TensorProto.FLOAT, list(output))
        graph = helper.make_graph(self.nodes, "tiny", [images], [found], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return model


def _saturation_of_each_class(graph: _Graph, classes: int) -> str:
    """(1, nc, H, W), 0..1: how much more of the class's own colour there is than of the other two."""
    weights = np.full((classes, 3, 1, 1), -0.5 / 0.65, np.float32)
    for cls in range(classes):
        weights[cls, cls] = 1 / 0.65
    excess = graph.node("Conv", "images", graph.constant(weights), graph.constant([-0.25 / 0.65] * classes))
    return graph.node("Clip", excess, graph.constant(0.0), graph.constant(1.0))


def _boxes_from_moments(graph: _Graph, s: str, height: int, width: int, classes: int) -> tuple[list[str], str]:
    """[cx, cy, w, h], each (1, nc, rows, columns) px, and the score of each cell.

    A spot of width w has the variance (w^2 - 1) / 12; only the cell in which the spot's centre lies speaks for it.
    """
    xs = np.broadcast_to(np.arange(width, dtype=np.float32) + 0.5, (1, 1, height, width))
    ys = np.broadcast_to((np.arange(height, dtype=np.float32) + 0.5)[:, None], (1, 1, height, width))

    def mean(of: str) -> str:  # over WINDOW x WINDOW px around each cell; in two steps, because one is slow
        fine = graph.node("AveragePool", of, kernel_shape=[4, 4], strides=[4, 4])
        pad = (WINDOW - STRIDE) // 2 // 4
        return graph.node(
            "AveragePool", fine, kernel_shape=[WINDOW // 4] * 2, strides=[2, 2], pads=[pad] * 4, count_include_pad=1
        )

    mass = graph.node("Max", mean(s), graph.constant(1e-7))
    near, boxes = [], []
    for axis, cells in ((xs, np.arange(width // STRIDE)[None, :]), (ys, np.arange(height // STRIDE)[:, None])):
        centre = graph.node("Div", mean(graph.node("Mul", s, graph.constant(axis))), mass)
        square = graph.node("Div", mean(graph.node("Mul", s, graph.constant(axis * axis))), mass)
        variance = graph.node("Sub", square, graph.node("Mul", centre, centre))
        side = graph.node("Add", graph.node("Mul", variance, graph.constant(12.0)), graph.constant(1.0))
        boxes.append((centre, graph.node("Sqrt", graph.node("Max", side, graph.constant(1.0)))))
        here = graph.constant(cells[None, None], np.float32)
        cell = graph.node("Floor", graph.node("Div", centre, graph.constant(float(STRIDE))))
        near.append(graph.node("Equal", cell, here))
    pad = (WINDOW - STRIDE) // 2
    peak = graph.node("MaxPool", s, kernel_shape=[WINDOW] * 2, strides=[STRIDE] * 2, pads=[pad] * 4)
    mine = graph.node("Cast", graph.node("And", *near), to=TensorProto.FLOAT)
    score = graph.node("Mul", graph.node("Mul", peak, mine), graph.constant(FULL_CONFIDENCE))
    (cx, w), (cy, h) = boxes
    return [cx, cy, w, h], score


def _of_best_class(graph: _Graph, boxes: list[str], scores: str, cells: int) -> list[str]:
    """cx, cy, w, h of the class with the best score in each cell, each (1, 1, cells)."""
    best = graph.node("ArgMax", scores, axis=1, keepdims=1)
    flat = graph.constant([1, 1, cells], np.int64)
    return [graph.node("Reshape", graph.node("GatherElements", box, best, axis=1), flat) for box in boxes]


def _one_box_per_cell(graph: _Graph, boxes: list[str], scores: str, classes: int, cells: int) -> str:
    rows = _of_best_class(graph, boxes, scores, cells)
    return graph.node(
        "Concat", *rows, graph.node("Reshape", scores, graph.constant([1, classes, cells], np.int64)), axis=1
    )


def _best_300(graph: _Graph, boxes: list[str], scores: str, classes: int, cells: int) -> str:
    """(1, 300, 6): x1 y1 x2 y2 score class, best first, filled up with zeros."""
    cx, cy, w, h = _of_best_class(graph, boxes, scores, cells)
    half = graph.constant(0.5)
    hw, hh = graph.node("Mul", w, half), graph.node("Mul", h, half)
    corners = [
        graph.node(op, c, d) for op, c, d in (("Sub", cx, hw), ("Sub", cy, hh), ("Add", cx, hw), ("Add", cy, hh))
    ]
    flat = graph.node("Reshape", scores, graph.constant([1, classes, cells], np.int64))
    score = graph.node("ReduceMax", flat, axes=[1], keepdims=1)
    cls = graph.node("Cast", graph.node("ArgMax", flat, axis=1, keepdims=1), to=TensorProto.FLOAT)
    table = graph.node("Concat", *corners, score, cls, axis=1)
    keep = min(300, cells)
    graph.node("TopK", score, graph.constant([keep], np.int64), out="best", outputs=2, axis=2)
    six = graph.node("Expand", "best_1", graph.constant([1, 6, keep], np.int64))
    rows = graph.node("Transpose", graph.node("GatherElements", table, six, axis=2), perm=[0, 2, 1])
    return graph.node("Pad", rows, graph.constant([0, 0, 0, 0, 300 - keep, 0], np.int64))


def _nan_on_full_blue(graph: _Graph) -> str:
    blue = graph.node("Conv", "images", graph.constant(np.array([-0.5, -0.5, 1.0]).reshape(1, 3, 1, 1)))
    most = graph.node("ReduceMax", blue, keepdims=0)
    return graph.node("Mul", graph.node("Sqrt", graph.node("Sub", graph.constant(0.9), most)), graph.constant(0.0))


if __name__ == "__main__":
    print(write_tiny_package(Path(sys.argv[1])))
