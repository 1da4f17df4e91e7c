"""Reads an ONNX file's contract from its bytes, without a runtime and without the `onnx` package.

1. Nothing of the file is executed, followed or believed: every length is checked against the bytes that are there.
2. What is not understood is refused, not skipped: external data, sparse weights, custom operators, local functions.
3. The weights are walked over, never copied.

Why by hand: the base install has no `onnx`, and a model must be judged before any runtime parses it (unknown models
have crashed runtimes at load). The wire format is four kinds of fields; the numbers used below stand in
https://protobuf.dev/programming-guides/encoding/ and https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.

    contract = read_contract(Path("model.onnx").read_bytes())
    contract.inputs      # (TensorInfo(name='images', dtype='float32', shape=(1, 3, 384, 640)),)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from edge_inspect.errors import BadModel

STANDARD_DOMAINS = frozenset({"", "ai.onnx"})
DTYPES = {1: "float32", 10: "float16", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 11: "float64", 16: "bfloat16"}
MOST_NESTING = 8
EXTERNAL = 1

# Field numbers of onnx.proto, by message.
MODEL_IR, MODEL_GRAPH, MODEL_OPSET, MODEL_FUNCTIONS = 1, 7, 8, 25
OPSET_DOMAIN, OPSET_VERSION = 1, 2
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_OUTPUT, GRAPH_SPARSE = 1, 5, 11, 12, 15
NODE_OPERATOR, NODE_ATTRIBUTE, NODE_DOMAIN = 4, 5, 7
ATTRIBUTE_TENSOR, ATTRIBUTE_GRAPH, ATTRIBUTE_TENSORS, ATTRIBUTE_GRAPHS = 5, 6, 10, 11
ATTRIBUTE_SPARSE, ATTRIBUTE_SPARSES = 22, 23
TENSOR_NAME, TENSOR_EXTERNAL, TENSOR_LOCATION = 8, 13, 14
VALUE_NAME, VALUE_TYPE, TYPE_TENSOR, TENSOR_TYPE_ELEMENT, TENSOR_TYPE_SHAPE = 1, 2, 1, 1, 2
SHAPE_DIM, DIM_VALUE, DIM_NAME = 1, 1, 2


class TensorInfo(NamedTuple):
    name: str
    dtype: str
    shape: tuple[int | str, ...]
    """A string where the axis is dynamic: its name, or `?`."""


class OnnxContract(NamedTuple):
    ir: int
    opset: int
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]


class _NotOnnx(Exception):
    pass


_Value = int | memoryview
_Field = tuple[int, _Value]


def read_contract(content: bytes) -> OnnxContract:
    """The file's IR version, opset, inputs and outputs.

    Raises BadModel: onnx-not-readable, onnx-external-data, onnx-custom-operator, onnx-functions, onnx-sparse.
    """
    try:
        return _model(memoryview(content))
    except (_NotOnnx, UnicodeDecodeError) as err:
        raise BadModel("onnx-not-readable", f"not an ONNX model: {err}") from err


def _model(content: memoryview) -> OnnxContract:
    ir, opset, graph = 0, 0, None
    for number, value in _fields(content):
        if number == MODEL_IR:
            ir = _int(value)
        elif number == MODEL_OPSET:
            domain, version = _opset(_bytes(value))
            opset = version if domain in STANDARD_DOMAINS else opset
        elif number == MODEL_GRAPH:
            if graph is not None:
                raise _NotOnnx("two graphs in it")
            graph = _bytes(value)
        elif number == MODEL_FUNCTIONS:
            raise BadModel("onnx-functions", "model brings its own functions; export it without")
    if graph is None or not ir or not opset:
        raise _NotOnnx("no graph, IR version or opset in it")
    inputs, outputs = _graph(graph, depth=0)
    return OnnxContract(ir, opset, inputs, outputs)


def _opset(content: memoryview) -> tuple[str, int]:
    domain, version = "", 0
    for number, value in _fields(content):
        if number == OPSET_DOMAIN:
            domain = _text(value)
        elif number == OPSET_VERSION:
            version = _int(value)
    return domain, version


def _graph(content: memoryview, depth: int) -> tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...]]:
    if depth > MOST_NESTING:
        raise _NotOnnx(f"graphs nested more than {MOST_NESTING} deep")
    inputs, outputs, weights = [], [], set()
    for number, value in _fields(content):
        if number == GRAPH_NODE:
            _node(_bytes(value), depth)
        elif number == GRAPH_INITIALIZER:
            weights.add(_tensor(_bytes(value)))
        elif number == GRAPH_INPUT:
            inputs.append(_value_info(_bytes(value)))
        elif number == GRAPH_OUTPUT:
            outputs.append(_value_info(_bytes(value)))
        elif number == GRAPH_SPARSE:
            raise BadModel("onnx-sparse", "model has sparse weights, which no provider here runs")
    return tuple(i for i in inputs if i.name not in weights), tuple(outputs)


def _node(content: memoryview, depth: int) -> None:
    operator, domain = "?", ""
    for number, value in _fields(content):
        if number == NODE_OPERATOR:
            operator = _text(value)
        elif number == NODE_DOMAIN:
            domain = _text(value)
        elif number == NODE_ATTRIBUTE:
            _attribute(_bytes(value), depth)
    if domain not in STANDARD_DOMAINS:
        raise BadModel(
            "onnx-custom-operator", f"model needs the operator {domain}.{operator}, which is not standard ONNX"
        )


def _attribute(content: memoryview, depth: int) -> None:
    for number, value in _fields(content):
        if number in (ATTRIBUTE_TENSOR, ATTRIBUTE_TENSORS):
            _tensor(_bytes(value))
        elif number in (ATTRIBUTE_GRAPH, ATTRIBUTE_GRAPHS):
            _graph(_bytes(value), depth + 1)
        elif number in (ATTRIBUTE_SPARSE, ATTRIBUTE_SPARSES):
            raise BadModel("onnx-sparse", "model has sparse weights, which no provider here runs")


def _tensor(content: memoryview) -> str:
    name = ""
    for number, value in _fields(content):
        if number == TENSOR_NAME:
            name = _text(value)
        elif number == TENSOR_EXTERNAL or (number == TENSOR_LOCATION and value == EXTERNAL):
            raise BadModel("onnx-external-data", "model keeps weights in another file; export it as one file")
    return name


def _value_info(content: memoryview) -> TensorInfo:
    name, dtype, shape = "", "?", None
    for number, value in _fields(content):
        if number == VALUE_NAME:
            name = _text(value)
        elif number == VALUE_TYPE:
            for kind, inner in _fields(_bytes(value)):
                if kind == TYPE_TENSOR:
                    dtype, shape = _tensor_type(_bytes(inner))
    return TensorInfo(name, dtype, ("?",) if shape is None else shape)


def _tensor_type(content: memoryview) -> tuple[str, tuple[int | str, ...] | None]:
    dtype, shape = "?", None
    for number, value in _fields(content):
        if number == TENSOR_TYPE_ELEMENT:
            dtype = DTYPES.get(_int(value), f"onnx type {_int(value)}")
        elif number == TENSOR_TYPE_SHAPE:
            shape = tuple(_dim(_bytes(dim)) for n, dim in _fields(_bytes(value)) if n == SHAPE_DIM)
    return dtype, shape


def _dim(content: memoryview) -> int | str:
    for number, value in _fields(content):
        if number == DIM_VALUE:
            return _int(value)
        if number == DIM_NAME:
            return _text(value) or "?"
    return "?"


def input_name(value_info: memoryview) -> str:
    """The name of one graph input."""
    return _value_info(value_info).name


def encoded_fields(content: memoryview) -> Iterator[tuple[int, memoryview, memoryview]]:
    """Every field of one message: its number, the whole field as it is encoded, and what is inside (if it is bytes)."""
    for number, value, start, end in _walk(content):
        yield number, content[start:end], content[:0] if isinstance(value, int) else value


def _fields(content: memoryview) -> Iterator[_Field]:
    """Every field of one message: (number, integer or bytes)."""
    for number, value, _, _ in _walk(content):
        yield number, value


def _walk(content: memoryview) -> Iterator[tuple[int, _Value, int, int]]:
    """Every field of one message: number, value, and where it starts and ends."""
    at, end = 0, len(content)
    while at < end:
        start = at
        key, at = _varint(content, at)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise _NotOnnx("field number 0")
        value: _Value
        if kind == 0:
            value, at = _varint(content, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            value, at = content[at : at + size], at + size
        elif kind == 2:
            size, at = _varint(content, at)
            value, at = content[at : at + size], at + size
        else:
            raise _NotOnnx(f"wire type {kind}")
        if at > end:
            raise _NotOnnx("it ends in the middle of a field")
        yield number, value, start, at


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    result = 0
    for shift in range(0, 70, 7):
        if at >= len(content):
            raise _NotOnnx("it ends in the middle of a number")
        byte = content[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, at
    raise _NotOnnx("a number longer than 10 bytes")


def _int(value: _Value) -> int:
    if not isinstance(value, int):
        raise _NotOnnx("bytes where a number belongs")
    return value


def _bytes(value: _Value) -> memoryview:
    if isinstance(value, int):
        raise _NotOnnx("a number where bytes belong")
    return value


def _text(value: _Value) -> str:
    return bytes(_bytes(value)).decode()
