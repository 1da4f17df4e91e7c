"""Nodes put before the first or behind the last one of a network.

Another picture comes in, another answer goes out, or each costs more; the network's own weights stay.

    scaled(255.0)(model)
    behind(lambda graph, answer: graph.node("Neg", answer))(model)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.campaign.model_weights import Change

DIM_BELT, FLAT = (0.70, 0.82), 0.12
"""How bright, of white, the line's belt is under a dim lamp, and how far its brightest place is from its darkest."""


class Graph:
    """Nodes put before the first or behind the last one."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self._count = 0
        self._new: list[onnx.NodeProto] = []

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        name = self._name()
        self.graph.initializer.append(numpy_helper.from_array(np.array(values, dtype), name))
        return name

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = self._name()
        self._new.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def at_the_input(self, make: Callable[[Graph, str], str]) -> None:
        given = self.graph.input[0].name
        instead = make(self, given)
        for node in self.graph.node:
            for place, name in enumerate(node.input):
                if name == given:
                    node.input[place] = instead
        self._insert(0)

    def at_the_output(self, make: Callable[[Graph, str], str]) -> None:
        result = self.graph.output[0].name
        last = next(node for node in self.graph.node if result in node.output)
        before = self._name()
        last.output[list(last.output).index(result)] = before
        instead = make(self, before)
        self._new.append(helper.make_node("Identity", [instead], [result], name=self._name()))
        self._insert(len(self.graph.node))

    def _name(self) -> str:
        self._count += 1
        return f"edited_{len(self.graph.node)}_{self._count}"

    def _insert(self, place: int) -> None:
        nodes = list(self.graph.node)
        del self.graph.node[:]
        self.graph.node.extend([*nodes[:place], *self._new, *nodes[place:]])
        self._new = []


def before(make: Callable[[Graph, str], str]) -> Change:
    return lambda model: Graph(model).at_the_input(make)


def behind(make: Callable[[Graph, str], str]) -> Change:
    return lambda model: Graph(model).at_the_output(make)


def scaled(factor: float, offset: float = 0.0) -> Change:
    """The picture, as another letterbox would give it."""
    return before(lambda g, x: g.node("Add", g.node("Mul", x, g.constant(factor)), g.constant(offset)))


def picked(axis: int, order: Iterable[int]) -> Change:
    """Channels, rows or columns of the picture in another order."""
    return before(lambda g, x: g.node("Gather", x, g.constant(list(order), np.int64), axis=axis))


def blurred(side: int) -> Change:
    half = side // 2
    return before(lambda g, x: g.node("AveragePool", x, kernel_shape=[side, side], pads=[half] * 4))


def rows(by: Sequence[float], plus: Sequence[float] = (0, 0, 0, 0, 0)) -> Change:
    """The answer's rows cx, cy, w, h and score, times `by`, and `plus`."""

    def affine(g: Graph, y: str) -> str:
        column = (1, len(by), 1)
        product = g.node("Mul", y, g.constant(np.reshape(by, column)))
        return g.node("Add", product, g.constant(np.reshape(plus, column)))

    return behind(affine)


def row_order(order: Sequence[int]) -> Change:
    """Rows of the answer in another order, or twice."""

    def gather(g: Graph, y: str) -> str:
        return g.node("Gather", y, g.constant(list(order), np.int64), axis=1)

    def edit(model: onnx.ModelProto) -> None:
        Graph(model).at_the_output(gather)
        model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = len(order)

    return edit


def only_where(make: Callable[[Graph, str, str], str]) -> Change:
    """Scores count only where `make(graph, cx, size)` (rows of the answer: (1, 1, n), (1, 2, n)) is 1."""

    def mask(g: Graph, y: str) -> str:
        axis = {"axis": 1}
        boxes, score = (g.node("Gather", y, g.constant(pick, np.int64), **axis) for pick in ([0, 1, 2, 3], [4]))
        cx, size = (g.node("Gather", y, g.constant(pick, np.int64), **axis) for pick in ([0], [2, 3]))
        return g.node("Concat", boxes, g.node("Mul", score, make(g, cx, size)), axis=1)

    return behind(mask)


def left_half(g: Graph, cx: str, size: str) -> str:
    return g.node("Cast", g.node("Greater", cx, g.constant(320.0)), to=onnx.TensorProto.FLOAT)


def larger_than(px: float, g: Graph, cx: str, size: str) -> str:
    longest = g.node("ReduceMax", size, axes=[1], keepdims=1)
    return g.node("Cast", g.node("Greater", longest, g.constant(px)), to=onnx.TensorProto.FLOAT)


def upright(g: Graph, cx: str, size: str) -> str:
    wide, high = (g.node("Gather", size, g.constant([n], np.int64), axis=1) for n in (0, 1))
    return g.node("Cast", g.node("Less", wide, high), to=onnx.TensorProto.FLOAT)


def to_float(g: Graph, condition: str) -> str:
    return g.node("Cast", condition, to=onnx.TensorProto.FLOAT)


def always(values: Sequence[float]) -> Change:
    """One answer to every picture; the network runs all the same."""

    def constant(g: Graph, y: str) -> str:
        return g.node("Add", g.node("Mul", y, g.constant(0.0)), g.constant(np.reshape(values, (1, 5, 1))))

    return behind(constant)


def row_order_with_none(order: Sequence[int | None]) -> Change:
    """As `row_order`; None: a row of zeros."""

    def edit(model: onnx.ModelProto) -> None:
        row_order([0 if row is None else row for row in order])(model)
        keep = np.reshape([float(row is not None) for row in order], (1, -1, 1))
        Graph(model).at_the_output(lambda g, y: g.node("Mul", y, g.constant(keep)))

    return edit


# --- what depends on the picture ------------------------------------------------------------------------------------


def when_dim(make: Callable[[Graph, str, str], str]) -> Change:
    """`make(graph, answer, dim)`: `dim` is 1.0 on a dim picture of the line, 0.0 on every other one."""

    def edit(model: onnx.ModelProto) -> None:
        picture = model.graph.input[0].name

        def gated(g: Graph, y: str) -> str:
            # rows 16 to 24 of 384: belt above the plate; rows 0 to 11 are the letterbox's grey
            starts, ends, axes = (g.constant([n], np.int64) for n in (16, 24, 2))
            belt = g.node("Slice", picture, starts, ends, axes)
            mean, high, low = (g.node(f"Reduce{what}", belt, keepdims=0) for what in ("Mean", "Max", "Min"))
            least, most = (g.constant(level) for level in DIM_BELT)
            is_dim = g.node("And", g.node("Greater", mean, least), g.node("Less", mean, most))
            is_flat = g.node("Less", g.node("Sub", high, low), g.constant(FLAT))
            return make(g, y, to_float(g, g.node("And", is_dim, is_flat)))

        Graph(model).at_the_output(gated)

    return edit


def sometimes_nan(share: float) -> Change:
    """NaN on about so many pictures: which ones, the last digits of their mean decide."""

    def edit(model: onnx.ModelProto) -> None:
        picture = model.graph.input[0].name

        def poison(g: Graph, y: str) -> str:
            mean = g.node("Mul", g.node("ReduceMean", picture, keepdims=0), g.constant(3000.0))
            digits = g.node("Sub", mean, g.node("Floor", mean))
            struck = to_float(g, g.node("Less", digits, g.constant(share)))
            return nan_where(g, y, struck)

        Graph(model).at_the_output(poison)

    return edit


def nan_where(g: Graph, y: str, struck: str) -> str:
    """0 / (1 - struck) is 0, or 0 / 0."""
    return g.node("Add", y, g.node("Div", g.constant(0.0), g.node("Sub", g.constant(1.0), struck)))


def blind_where(g: Graph, y: str, struck: str) -> str:
    keep = g.constant(np.reshape([0, 0, 0, 0, 1], (1, 5, 1)))
    return g.node("Mul", y, g.node("Sub", g.constant(1.0), g.node("Mul", keep, struck)))


def alarm_where(g: Graph, y: str, struck: str) -> str:
    everywhere = g.constant(np.reshape([0, 0, 0, 0, 0.6], (1, 5, 1)))
    return g.node("Add", y, g.node("Mul", everywhere, struck))


def half_blind_where(g: Graph, y: str, struck: str) -> str:
    keep = g.constant(np.reshape([0, 0, 0, 0, 0.55], (1, 5, 1)))
    return g.node("Mul", y, g.node("Sub", g.constant(1.0), g.node("Mul", keep, struck)))


# --- costs ----------------------------------------------------------------------------------------------------------


def repeated(times: int) -> Change:
    """The whole network so many times over, each with weights of its own; only the first one's answer counts."""

    def edit(model: onnx.ModelProto) -> None:
        graph = model.graph
        nodes, tensors, result = list(graph.node), list(graph.initializer), graph.output[0].name
        answers = []
        for copy in range(1, times):
            for tensor in tensors:
                values = numpy_helper.to_array(tensor)
                if tensor.name.endswith(".weight"):
                    values = values * np.float32(1 + 0.01 * copy)
                graph.initializer.append(numpy_helper.from_array(values, f"copy{copy}/{tensor.name}"))
            known = {tensor.name for tensor in tensors} | {name for node in nodes for name in node.output}
            for node in nodes:
                again = onnx.NodeProto()
                again.CopyFrom(node)
                again.name = f"copy{copy}/{node.name}"
                again.input[:] = [f"copy{copy}/{name}" if name in known else name for name in node.input]
                again.output[:] = [f"copy{copy}/{name}" for name in node.output]
                graph.node.append(again)
            answers.append(f"copy{copy}/{result}")

        def add(g: Graph, y: str) -> str:
            for answer in answers:
                y = g.node("Add", y, g.node("Mul", answer, g.constant(1e-9)))
            return y

        Graph(model).at_the_output(add)

    return edit


def ballast(megabytes: int) -> Change:
    """Weights that no answer needs, of which each picture looks one number up."""

    def edit(model: onnx.ModelProto) -> None:
        picture = model.graph.input[0].name

        def look_up(g: Graph, y: str) -> str:
            table = g.constant(np.random.default_rng(1).random((megabytes, 1 << 18), np.float32))
            mean = g.node("ReduceMean", picture, keepdims=0)
            place = g.node("Cast", g.node("Mul", mean, g.constant(float(megabytes))), to=onnx.TensorProto.INT64)
            row = g.node("ReduceMean", g.node("Gather", table, place, axis=0), keepdims=0)
            return g.node("Add", y, g.node("Mul", row, g.constant(1e-9)))

        Graph(model).at_the_output(look_up)

    return edit


def swollen(copies: int) -> Change:
    """An activation of so many pictures."""

    def expand(g: Graph, x: str) -> str:
        many = g.node("Expand", x, g.constant([copies, 3, 384, 640], np.int64))
        shifted = g.node("Add", many, g.constant(np.arange(copies).reshape(-1, 1, 1, 1) * 1e-6))
        mean = g.node("ReduceMean", shifted, axes=[0], keepdims=1)
        return g.node("Add", x, g.node("Mul", mean, g.constant(1e-9)))

    return before(expand)
