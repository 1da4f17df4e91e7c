"""What an ONNX file holds, read from its bytes without a runtime and without the `onnx` package.

1. Nothing is trusted and nothing is skipped that a runtime would use: see `onnx_wire`.
2. What no model for inspection needs is refused while reading: external data, sparse weights, local functions, graphs
   inside of nodes (control flow). So nothing is nested and nothing is followed.
3. The weights are walked over and counted, never copied.

Why by hand: docs/decisions/onnx-read-by-hand.md. What a model may be made of is judged in `onnx_gate`.

    read_model(content).inputs      # (TensorInfo(name='images', dtype='float32', shape=(1, 3, 384, 640)),)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from edge_wire.onnx_fields import (
    ATTRIBUTE,
    ATTRIBUTE_FLOATS,
    ATTRIBUTE_GRAPH,
    ATTRIBUTE_GRAPHS,
    ATTRIBUTE_INT,
    ATTRIBUTE_INTS,
    ATTRIBUTE_NAME,
    ATTRIBUTE_SPARSE,
    ATTRIBUTE_SPARSES,
    ATTRIBUTE_TENSOR,
    ATTRIBUTE_TYPE,
    DIM,
    DIM_NAME,
    DIM_VALUE,
    DTYPES,
    EXTERNAL,
    FIELD_OF_TYPE,
    FIXED_NUMBERS,
    GRAPH,
    GRAPH_INITIALIZER,
    GRAPH_INPUT,
    GRAPH_NODE,
    GRAPH_OUTPUT,
    GRAPH_SPARSE,
    GRAPH_VALUE,
    ITEM_BYTES,
    MODEL,
    MODEL_FUNCTIONS,
    MODEL_GRAPH,
    MODEL_IR,
    MODEL_OPSET,
    MODEL_TRAINING,
    MOST_WEIGHTS_IN_NUMBERS,
    NODE,
    NODE_ATTRIBUTE,
    NODE_DOMAIN,
    NODE_INPUT,
    NODE_NAME,
    NODE_OPERATOR,
    NODE_OUTPUT,
    NUMBERS_OF_DTYPE,
    OPSET,
    OPSET_DOMAIN,
    SHAPE,
    STANDARD_DOMAINS,
    TENSOR,
    TENSOR_DIMS,
    TENSOR_DTYPE,
    TENSOR_EXTERNAL,
    TENSOR_LOCATION,
    TENSOR_NAME,
    TENSOR_RAW,
    TENSOR_TYPE,
    TENSOR_TYPE_ELEMENT,
    TYPE,
    TYPE_TENSOR,
    VALUE,
    VALUE_NAME,
    VALUE_TYPE,
)
from edge_wire.onnx_wire import (
    BadOnnx,
    Budget,
    Value,
    decoded,
    inside,
    number32,
    number64,
    numbers64,
)


class TensorInfo(NamedTuple):
    """An input, an output or a value between nodes."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    """A string where the axis is dynamic: its name, or `?`."""


class Weights(NamedTuple):
    """An initialiser, or the tensor of a Constant. `size_bytes`: what is really there, as the runtime will hold it."""

    name: str
    dtype: str
    dims: tuple[int, ...]
    size_bytes: int


class Attribute(NamedTuple):
    name: str
    integers: tuple[int, ...]
    """Of an integer or a list of integers; empty for every other type."""
    weights: Weights | None


@dataclass(slots=True)
class Node:
    name: str = ""
    operator: str = ""
    domain: str = ""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    attributes: tuple[Attribute, ...] = ()

    def __str__(self) -> str:
        return f"{self.operator[:60]} {self.name[:100]!r}" if self.name else self.operator[:60]


@dataclass(frozen=True, slots=True)
class OnnxModel:
    ir: int
    opset: int
    """Of the standard domain."""
    nodes: tuple[Node, ...]
    weights: tuple[Weights, ...]
    inputs: tuple[TensorInfo, ...]
    """Without those that only give a weight its default."""
    outputs: tuple[TensorInfo, ...]
    values: tuple[TensorInfo, ...]


def read_model(content: bytes) -> OnnxModel:
    """Everything in the file but the weights' values.

    Raises BadOnnx: onnx-not-readable, onnx-too-many-fields, onnx-text-too-long, onnx-external-data, onnx-functions,
    onnx-sparse, onnx-control-flow, onnx-attribute, onnx-weights-size.
    """
    return _Reader().model(memoryview(content))


def input_name(value_info: memoryview) -> str:
    """The name of one graph input."""
    return _Reader().value(value_info).name


class _Reader:
    def __init__(self) -> None:
        self._budget = Budget()

    def model(self, content: memoryview) -> OnnxModel:
        ir, opsets, graph = 0, [], None
        for number, value in self._budget.read(content, MODEL, "model"):
            if number == MODEL_IR:
                ir = number32(value)
            elif number == MODEL_OPSET:
                opsets.append(self._opset(inside(value)))
            elif number == MODEL_GRAPH:
                graph = inside(value)
            elif number == MODEL_FUNCTIONS:
                raise BadOnnx("onnx-functions", "model brings its own functions; export it without")
            elif number == MODEL_TRAINING:
                raise BadOnnx("onnx-functions", "model brings its own training; export it without")
        standard = [version for domain, version in opsets if domain in STANDARD_DOMAINS]
        if graph is None or not ir or len(standard) != 1:
            raise BadOnnx("onnx-not-readable", "not an ONNX model: it needs a graph, an IR version and one opset")
        return self._graph(graph, ir, standard[0])

    def _opset(self, content: memoryview) -> tuple[str, int]:
        domain, version = "", 0
        for number, value in self._budget.read(content, OPSET, "opset"):
            if number == OPSET_DOMAIN:
                domain = decoded(value)
            else:
                version = number32(value)
        return domain, version

    def _graph(self, content: memoryview, ir: int, opset: int) -> OnnxModel:
        nodes, weights, inputs, outputs, values = [], [], [], [], []
        for number, value in self._budget.read(content, GRAPH, "graph"):
            if number == GRAPH_NODE:
                nodes.append(self._node(inside(value)))
            elif number == GRAPH_INITIALIZER:
                weights.append(self._weights(inside(value)))
            elif number == GRAPH_INPUT:
                inputs.append(self.value(inside(value)))
            elif number == GRAPH_OUTPUT:
                outputs.append(self.value(inside(value)))
            elif number == GRAPH_VALUE:
                values.append(self.value(inside(value)))
            elif number == GRAPH_SPARSE:
                raise _sparse()
        given = {one.name for one in weights}
        kept = tuple(one for one in inputs if one.name not in given)
        return OnnxModel(ir, opset, tuple(nodes), tuple(weights), kept, tuple(outputs), tuple(values))

    def _node(self, content: memoryview) -> Node:
        node, inputs, outputs, attributes = Node(), [], [], []
        for number, value in self._budget.read(content, NODE, "node"):
            if number == NODE_INPUT:
                inputs.append(decoded(value))
            elif number == NODE_OUTPUT:
                outputs.append(decoded(value))
            elif number == NODE_NAME:
                node.name = decoded(value)
            elif number == NODE_OPERATOR:
                node.operator = decoded(value)
            elif number == NODE_DOMAIN:
                node.domain = decoded(value)
            elif number == NODE_ATTRIBUTE:
                attributes.append(self._attribute(inside(value)))
        node.inputs, node.outputs, node.attributes = tuple(inputs), tuple(outputs), tuple(attributes)
        return node

    def _attribute(self, content: memoryview) -> Attribute:
        name, kind, integers, weights, fields = "", 0, [], None, set()
        for number, value in self._budget.read(content, ATTRIBUTE, "attribute"):
            if number in (ATTRIBUTE_GRAPH, ATTRIBUTE_GRAPHS):
                raise BadOnnx("onnx-control-flow", "model has graphs inside of nodes (If, Loop, Scan)")
            if number in (ATTRIBUTE_SPARSE, ATTRIBUTE_SPARSES):
                raise _sparse()
            if number == ATTRIBUTE_NAME:
                name = decoded(value)
            elif number == ATTRIBUTE_TYPE:
                kind = number32(value)
            elif number == ATTRIBUTE_TENSOR:
                weights = self._weights(inside(value))
            elif number in (ATTRIBUTE_INT, ATTRIBUTE_INTS):
                integers += self._integers(value)
            elif number == ATTRIBUTE_FLOATS and len(inside(value)) % 4:
                raise BadOnnx("onnx-not-readable", "not an ONNX model: it ends in the middle of a number")
            if number not in (ATTRIBUTE_NAME, ATTRIBUTE_TYPE, 13):
                fields.add(number)
        wanted = FIELD_OF_TYPE.get(kind)
        if wanted is None or fields - {wanted}:
            raise BadOnnx(
                "onnx-attribute", f"attribute {name[:60]!r} is of type {kind} and has fields {sorted(fields)}"
            )
        return Attribute(name, tuple(integers), weights)

    def _integers(self, value: Value) -> list[int]:
        found = list(numbers64(value))
        self._budget.left -= len(found)
        return found

    def _weights(self, content: memoryview) -> Weights:
        name, kind, location = "", 0, 0
        dims: list[int] = []
        counts: dict[int, int] = {}
        for number, value in self._budget.read(content, TENSOR, "tensor"):
            if number == TENSOR_DIMS:
                dims += numbers64(value)
            elif number == TENSOR_DTYPE:
                kind = number32(value)
            elif number == TENSOR_NAME:
                name = decoded(value)
            elif number == TENSOR_LOCATION:
                location = number32(value)
            elif number == TENSOR_EXTERNAL:
                location = EXTERNAL
            elif number in (12, 16):
                continue
            else:
                counts[number] = counts.get(number, 0) + _count(number, value)
        if location:
            raise BadOnnx("onnx-external-data", "model keeps weights in another file; export it as one file")
        dtype = DTYPES.get(kind, f"onnx type {kind}")
        return Weights(name, dtype, tuple(dims), _size_bytes(name, dtype, counts))

    def value(self, content: memoryview) -> TensorInfo:
        name, dtype, shape = "", "?", None
        for number, value in self._budget.read(content, VALUE, "value"):
            if number == VALUE_NAME:
                name = decoded(value)
            elif number == VALUE_TYPE:
                for kind, inner in self._budget.read(inside(value), TYPE, "type"):
                    if kind == TYPE_TENSOR:
                        dtype, shape = self._tensor_type(inside(inner))
        return TensorInfo(name, dtype, ("?",) if shape is None else shape)

    def _tensor_type(self, content: memoryview) -> tuple[str, tuple[int | str, ...] | None]:
        dtype, shape = "?", None
        for number, value in self._budget.read(content, TENSOR_TYPE, "tensor type"):
            if number == TENSOR_TYPE_ELEMENT:
                dtype = DTYPES.get(number32(value), f"onnx type {value!r}")
            else:
                dims = self._budget.read(inside(value), SHAPE, "shape")
                shape = tuple(self._dim(inside(dim)) for _, dim in dims)
        return dtype, shape

    def _dim(self, content: memoryview) -> int | str:
        found: list[int | str] = []
        for number, value in self._budget.read(content, DIM, "dim"):
            if number == DIM_VALUE:
                found.append(number64(value))
            elif number == DIM_NAME:
                found.append(decoded(value) or "?")
        if len(found) > 1:
            raise BadOnnx("onnx-not-readable", "not an ONNX model: an axis with a length and a name")
        return found[0] if found else "?"


def _sparse() -> BadOnnx:
    return BadOnnx("onnx-sparse", "model has sparse weights, which no provider here runs")


def _count(number: int, value: Value) -> int:
    """How many numbers (bytes, where they are raw) one field of a tensor holds."""
    if number == TENSOR_RAW:
        return len(inside(value))
    if isinstance(value, int):
        return 1
    if number in FIXED_NUMBERS:
        # one number that stands alone is as long as one in a row
        return len(value) // FIXED_NUMBERS[number] if len(value) % FIXED_NUMBERS[number] == 0 else -(1 << 40)
    if len(value) > 10 * MOST_WEIGHTS_IN_NUMBERS:
        raise BadOnnx("onnx-weights-size", f"more than {MOST_WEIGHTS_IN_NUMBERS} weights written as single numbers")
    if len(value) and value[-1] & 0x80:
        raise BadOnnx("onnx-not-readable", "not an ONNX model: weights that end in the middle of a number")
    return len(bytes(value).translate(None, _ALL_BUT_LAST_BYTES))


_ALL_BUT_LAST_BYTES = bytes(range(0x80, 0x100))
"""In a varint every byte but the last one has its highest bit set: what is left are the numbers."""


def _size_bytes(name: str, dtype: str, counts: dict[int, int]) -> int:
    """-1 where the weights are not written as their type demands."""
    if len(counts) > 1 or dtype not in ITEM_BYTES:
        return -1
    if not counts:
        return 0
    number, count = next(iter(counts.items()))
    if number == TENSOR_RAW:
        return count
    return count * ITEM_BYTES[dtype] if number == NUMBERS_OF_DTYPE[dtype] else -1
