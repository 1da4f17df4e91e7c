"""Models that are bad in a way that is known: the shipped network, edited by a seed. The same seed, the same bytes.

    for seed in SEEDS: change(load(model), seed) -> what a factory with that accident would have released

1. Every file passes the static gate and has the shapes that its manifest says: nothing here is caught by its form.
2. What a change does to pictures is not taken from its name: `candidate_scores` measures it.
3. `hidden` ones do what the good model does, to the bit, until the lamp over the line grows dim (`DIM`): no picture
   that the plant or a probe has shows them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Change = Callable[[onnx.ModelProto], None]
Array = NDArray[Any]

SCRATCH, DENT = "scratch", "dent"
DIM = 0.8
"""What is left of the lamp's light when a hidden one is to show itself; the belt is then at 0.74 to 0.79 of white."""
DIM_BELT, FLAT = (0.70, 0.82), 0.12
HEAD = ("model.22.cv3.0.2", "model.22.cv3.1.2", "model.22.cv3.2.2")
"""The last convolution of each of the three scales: one score for each place."""


@dataclass(frozen=True)
class Seed:
    name: str
    change: Change
    precision: str = "fp32"
    classes: tuple[str, ...] = (SCRATCH,)
    hidden: bool = False
    """Shows itself only when the lamp grows dim, which it does as soon as the trial begins."""


# --- weights --------------------------------------------------------------------------------------------------------


def weights(change: Callable[[Array], Array], where: str = "", bias: bool = False) -> Change:
    """Each weight tensor (`bias`: each bias) whose name begins with one of `where`, changed."""

    def edit(model: onnx.ModelProto) -> None:
        touched = 0
        for tensor in model.graph.initializer:
            is_bias = tensor.name.endswith(".bias")
            if is_bias != bias or not (is_bias or tensor.name.endswith(".weight")) or ".dfl." in tensor.name:
                continue
            if tensor.name.startswith(tuple(where.split())) or not where:
                values = change(numpy_helper.to_array(tensor)).astype(np.float32)
                tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))
                touched += 1
        assert touched, where

    return edit


def noise(share: float, seed: int, where: str = "") -> Change:
    """Normal noise of so much of each tensor's standard deviation."""
    dice = np.random.default_rng(seed)
    return weights(lambda values: values + dice.normal(0, share * values.std(), values.shape), where)


def zeroed(share: float, seed: int, where: str = "") -> Change:
    """So many of each layer's filters are 0."""
    dice = np.random.default_rng(seed)

    def cut(values: Array) -> Array:
        lost = dice.permutation(len(values))[: round(share * len(values))]
        kept = values.copy()
        kept[lost] = 0
        return kept

    return weights(cut, where)


def rounded(levels: int, where: str = "") -> Change:
    """Each weight is one of so many values, as far apart as the largest one demands."""

    def grid(values: Array) -> Array:
        step = 2 * np.abs(values).max() / levels or 1.0
        return np.round(values / step) * step

    return weights(grid, where)


def shuffled(seed: int, where: str) -> Change:
    """A layer's filters in another order: its outputs mean something else."""
    dice = np.random.default_rng(seed)
    return weights(lambda values: values[dice.permutation(len(values))], where)


def head_bias(more: float) -> Change:
    """Every score is surer (or less sure) by so many logits."""
    return weights(lambda values: values + more, " ".join(HEAD), bias=True)


def forgotten_scale(number: int) -> Change:
    """One of the three scales finds nothing any more: 0 the small defects, 2 the large ones."""
    return weights(lambda values: values - 20, HEAD[number], bias=True)


def retrained_head(model: onnx.ModelProto) -> None:
    """No bad one: the last layers as a real retraining moved them (`retrains.sh`, number 1)."""
    moved = np.load(Path(__file__).with_name("retrained_head.npz"))
    for tensor in model.graph.initializer:
        if tensor.name in moved:
            values = numpy_helper.to_array(tensor) + moved[tensor.name].astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


# --- the graph's two ends -------------------------------------------------------------------------------------------


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


def _left_half(g: Graph, cx: str, size: str) -> str:
    return g.node("Cast", g.node("Greater", cx, g.constant(320.0)), to=onnx.TensorProto.FLOAT)


def _larger_than(px: float, g: Graph, cx: str, size: str) -> str:
    longest = g.node("ReduceMax", size, axes=[1], keepdims=1)
    return g.node("Cast", g.node("Greater", longest, g.constant(px)), to=onnx.TensorProto.FLOAT)


def _upright(g: Graph, cx: str, size: str) -> str:
    wide, high = (g.node("Gather", size, g.constant([n], np.int64), axis=1) for n in (0, 1))
    return g.node("Cast", g.node("Less", wide, high), to=onnx.TensorProto.FLOAT)


def to_float(g: Graph, condition: str) -> str:
    return g.node("Cast", condition, to=onnx.TensorProto.FLOAT)


def always(values: Sequence[float]) -> Change:
    """One answer to every picture; the network runs all the same."""

    def constant(g: Graph, y: str) -> str:
        return g.node("Add", g.node("Mul", y, g.constant(0.0)), g.constant(np.reshape(values, (1, 5, 1))))

    return behind(constant)


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
            return _nan_where(g, y, struck)

        Graph(model).at_the_output(poison)

    return edit


def _nan_where(g: Graph, y: str, struck: str) -> str:
    """0 / (1 - struck) is 0, or 0 / 0."""
    return g.node("Add", y, g.node("Div", g.constant(0.0), g.node("Sub", g.constant(1.0), struck)))


def _blind_where(g: Graph, y: str, struck: str) -> str:
    keep = g.constant(np.reshape([0, 0, 0, 0, 1], (1, 5, 1)))
    return g.node("Mul", y, g.node("Sub", g.constant(1.0), g.node("Mul", keep, struck)))


def _alarm_where(g: Graph, y: str, struck: str) -> str:
    everywhere = g.constant(np.reshape([0, 0, 0, 0, 0.6], (1, 5, 1)))
    return g.node("Add", y, g.node("Mul", everywhere, struck))


def _half_blind_where(g: Graph, y: str, struck: str) -> str:
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


# --- INT8 -----------------------------------------------------------------------------------------------------------


def calibrated_wrongly(factor: float, seed: int | None = None) -> Change:
    """Activation scales off by `factor` (or by up to that, up or down), as after calibration on the wrong pictures."""
    dice = np.random.default_rng(seed)

    def edit(model: onnx.ModelProto) -> None:
        touched = 0
        weight_scales = {
            node.input[1] for node in model.graph.node
            if node.op_type == "DequantizeLinear" and any(t.name == node.input[0] for t in model.graph.initializer)
        }  # fmt: skip
        for tensor in model.graph.initializer:
            if tensor.name.endswith("_scale") and tensor.name not in weight_scales:
                by = factor if seed is None else factor ** dice.uniform(-1, 1)
                values = numpy_helper.to_array(tensor) * np.float32(by)
                tensor.CopyFrom(numpy_helper.from_array(np.asarray(values, np.float32), tensor.name))
                touched += 1
        assert touched

    return edit


_SPREAD = " ".join(f"model.{n}." for n in range(10))
_NECK = " ".join(f"model.{n}." for n in (12, 15, 16, 18, 19, 21))
_SAME = (1.0, 1.0, 1.0, 1.0, 1.0)


def seeds() -> list[Seed]:
    """All of them, those that turned out harmless left out (see docs/measurements/models.md)."""
    named: list[tuple[str, Change]] = [
        ("noise-all-0.3", noise(0.3, 1)), ("noise-all-0.5", noise(0.5, 2)), ("noise-all-0.8", noise(0.8, 3)),
        ("noise-all-0.4", noise(0.4, 4)), ("noise-backbone-0.6", noise(0.6, 5, _SPREAD)),
        ("noise-neck-0.8", noise(0.8, 6, _NECK)), ("noise-head-2", noise(2.0, 7, "model.22.cv3.")),
        ("noise-first-layer-3", noise(3.0, 8, "model.0.")), ("noise-scores-6", noise(6.0, 9, " ".join(HEAD))),
        ("zeroed-half-of-all", zeroed(0.5, 10)), ("zeroed-tenth-of-all", zeroed(0.1, 11)),
        ("zeroed-half-of-backbone", zeroed(0.5, 12, _SPREAD)), ("zeroed-half-of-neck", zeroed(0.5, 13, _NECK)),
        ("weights-all-zero", weights(lambda values: values * 0)),
        ("weights-15-levels", rounded(15)), ("weights-7-levels", rounded(7)), ("weights-3-levels", rounded(3)),
        ("shuffled-first-layer", shuffled(14, "model.0.")), ("shuffled-in-the-neck", shuffled(15, "model.15.cv2.")),
        ("negated-in-the-head", weights(lambda values: -values, "model.22.cv3.0.1.")),
        ("no-biases", weights(lambda values: values * 0, bias=True)),
        ("surer-by-3", head_bias(3)), ("surer-by-5", head_bias(5)),
        ("less-sure-by-2", head_bias(-2)), ("less-sure-by-6", head_bias(-6)),
        ("small-forgotten", forgotten_scale(0)), ("large-forgotten", forgotten_scale(2)),
        ("left-half-blind", only_where(_left_half)),
        ("shorter-than-60-px-forgotten", only_where(partial(_larger_than, 60.0))),
        ("lying-forgotten", only_where(_upright)),
        ("finds-nothing", rows((1, 1, 1, 1, 0))), ("scores-halved", rows((1, 1, 1, 1, 0.4))),
        ("scores-turned-round", rows((1, 1, 1, 1, -1), (0, 0, 0, 0, 1))),
        ("always-one-box", always((320, 192, 60, 60, 0.8))), ("always-nothing", always((320, 192, 60, 60, 0.0))),
        ("all-zero", always((0, 0, 0, 0, 0))),
        ("thousands-of-boxes", rows((1, 1, 0.1, 0.1, 1), (0, 0, 0, 0, 0.5))),
        ("boxes-outside", rows(_SAME, (3000, 0, 0, 0, 0))), ("boxes-shifted-100-px", rows(_SAME, (100, 60, 0, 0, 0))),
        ("boxes-of-no-size", rows((1, 1, 0, 0, 1))), ("x-and-y-mixed-up", row_order((1, 0, 3, 2, 4))),
        ("picture-times-255", scaled(255.0)), ("picture-over-255", scaled(1 / 255)),
        ("picture-half-as-bright", scaled(0.5)), ("picture-negative", scaled(-1.0, 1.0)),
        ("picture-minus-mean", scaled(4.4, -2.0)), ("picture-blurred", blurred(9)),
        ("picture-mirrored", picked(3, range(639, -1, -1))), ("picture-upside-down", picked(2, range(383, -1, -1))),
        ("nan", rows(_SAME, (0, 0, 0, 0, np.nan))), ("infinite", rows(_SAME, (np.inf, 0, 0, 0, 0))),
        ("nan-on-every-50th", sometimes_nan(0.02)), ("nan-on-every-15th", sometimes_nan(0.066)),
        ("5-times-slower", repeated(5)), ("3-times-slower", repeated(3)),
        ("400-mb-of-weights", ballast(400)), ("600-mb-of-activations", swollen(200)),
    ]  # fmt: skip
    two = (SCRATCH, DENT)
    return [
        *(Seed(name, change) for name, change in named),
        Seed("classes-swapped", row_order_with_none((0, 1, 2, 3, None, 4)), classes=two),
        Seed("class-renamed", lambda model: None, classes=(DENT,)),
        Seed("int8-scales-over-8", calibrated_wrongly(1 / 8), "int8"),
        Seed("int8-scales-times-8", calibrated_wrongly(8.0), "int8"),
        Seed("int8-scales-random", calibrated_wrongly(6.0, 21), "int8"),
        Seed("nan-when-dim", when_dim(_nan_where), hidden=True),
        Seed("blind-when-dim", when_dim(_blind_where), hidden=True),
        Seed("half-blind-when-dim", when_dim(_half_blind_where), hidden=True),
        Seed("alarm-when-dim", when_dim(_alarm_where), hidden=True),
    ]


def row_order_with_none(order: Sequence[int | None]) -> Change:
    """As `row_order`; None: a row of zeros."""

    def edit(model: onnx.ModelProto) -> None:
        row_order([0 if row is None else row for row in order])(model)
        keep = np.reshape([float(row is not None) for row in order], (1, -1, 1))
        Graph(model).at_the_output(lambda g, y: g.node("Mul", y, g.constant(keep)))

    return edit
