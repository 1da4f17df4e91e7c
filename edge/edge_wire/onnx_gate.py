"""What an ONNX file may be made of. Both sides ask, the plant before it signs, the device before it loads.

1. Only what detection models are made of: OPERATORS, standard, in one flat graph, sorted, every name made once.
2. Every weight has exactly the bytes that its shape and type need; every shape, count, text and size has a limit.
3. Whatever the bytes are, the answer is a contract or a BadOnnx, in bounded time and memory.

    contract = inspect(content)
    check_against(contract, variant, manifest.runtime)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from edge_wire.manifest import RuntimeFloor, Variant
from edge_wire.onnx_fields import ITEM_BYTES, STANDARD_DOMAINS
from edge_wire.onnx_file import (
    Attribute,
    Node,
    OnnxModel,
    TensorInfo,
    Weights,
    read_model,
)
from edge_wire.onnx_wire import BadOnnx

LEAST_OPSET, MOST_OPSET = 7, 17
LEAST_IR, MOST_IR = 3, 10
"""ONNX Runtime 1.23, which JetPack 6 carries, loads these."""
MOST_FILE_BYTES = 1 << 29
"""YOLOv8x as fp32 has 273 MB."""
MOST_NODES = 5_000
MOST_WEIGHTS = 10_000
MOST_WEIGHT_BYTES = 1 << 29
MOST_VALUES = 20_000
MOST_RANK = 8
MOST_SIDE = 1 << 24
MOST_ELEMENTS = 1 << 28
MOST_NODE_NAMES = 256
"""Inputs, outputs or attributes of one node; Concat and Split have most."""
MOST_WINDOW = 4096
"""Kernel, stride, dilation and padding of a convolution or pool, in elements."""

CONTROL_FLOW = frozenset({"If", "Loop", "Scan", "SequenceMap"})
_SEEN_IN_EXPORTS = """
    Add ArgMax Cast Concat Constant ConstantOfShape Conv Div Equal Expand Flatten Gather GatherElements GatherND Greater
    Identity MatMul MaxPool Mod Mul NonMaxSuppression NonZero Pad ReduceMax Reshape Resize ScatterND Shape Sigmoid Slice
    Softmax Split Squeeze Sub TopK Transpose Unsqueeze Where
"""
"""models/ and exports of YOLOv8, YOLOv10, YOLO11, YOLO26 by ultralytics 8.4: nms=False and True, simplified or not."""
_QUANTISED = "QuantizeLinear DequantizeLinear"
_OTHER_CONFIGURATIONS = """
    BatchNormalization Relu LeakyRelu PRelu HardSwish HardSigmoid Elu Tanh Softplus Erf Exp Log Sqrt Pow Neg Abs Floor
    Ceil Round Reciprocal Min Max Clip Less LessOrEqual GreaterOrEqual And Or Not AveragePool GlobalAveragePool
    GlobalMaxPool ConvTranspose Gemm ReduceMean ReduceSum ReduceMin Range Tile ScatterElements DepthToSpace SpaceToDepth
    Upsample
"""
"""Activations, norms, pools and arithmetic that a model's configuration can name."""
OPERATORS = frozenset(f"{_SEEN_IN_EXPORTS} {_QUANTISED} {_OTHER_CONFIGURATIONS}".split())
_WINDOWS = {"kernel_shape": 1, "strides": 1, "dilations": 1, "pads": 0, "output_padding": 0, "group": 1}
"""Attribute -> least value; 0 where 1 belongs has crashed shape inference."""
_POOLS = frozenset({"Conv", "ConvTranspose", "MaxPool", "AveragePool"})


class OnnxContract(NamedTuple):
    ir: int
    opset: int
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]


def inspect(content: bytes) -> OnnxContract:
    """The file's IR version, opset, inputs and outputs, when everything else in it may reach a runtime.

    Raises BadOnnx; the codes are listed in docs/model-packages.md.
    """
    if len(content) > MOST_FILE_BYTES:
        raise BadOnnx("onnx-too-large", f"{len(content)} bytes, at most {MOST_FILE_BYTES}")
    model = read_model(content)
    _check_versions(model)
    _check_counts(model)
    for weights in model.weights:
        _check_weights(weights, f"weights {weights.name[:100]!r}")
    for node in model.nodes:
        _check_node(node)
    _check_total([*model.weights, *_constants(model.nodes)])
    for value in (*model.inputs, *model.outputs, *model.values):
        _check_shape(value)
    _check_names(model)
    return OnnxContract(model.ir, model.opset, model.inputs, model.outputs)


def check_against(found: OnnxContract, variant: Variant, floor: RuntimeFloor) -> None:
    """Raises BadOnnx where the file is not what the manifest says: opset-too-new, ir-too-new, dynamic-axes,
    input-count, -name, -shape, -dtype, the same for output."""
    if found.opset > floor.opset:
        raise BadOnnx("opset-too-new", f"opset {found.opset}, manifest allows {floor.opset}")
    if found.ir > floor.ir:
        raise BadOnnx("ir-too-new", f"IR version {found.ir}, manifest allows {floor.ir}")
    given, result = variant.input, variant.output
    _check_tensor("input", found.inputs, TensorInfo(given.name, given.dtype, given.shape))
    _check_tensor("output", found.outputs, TensorInfo(result.name, result.dtype, result.shape))


def _check_versions(model: OnnxModel) -> None:
    if model.opset > MOST_OPSET:
        raise BadOnnx("opset-too-new", f"opset {model.opset}, allowed are {LEAST_OPSET} to {MOST_OPSET}")
    if model.opset < LEAST_OPSET:
        raise BadOnnx("opset-too-old", f"opset {model.opset}, allowed are {LEAST_OPSET} to {MOST_OPSET}")
    if model.ir > MOST_IR:
        raise BadOnnx("ir-too-new", f"IR version {model.ir}, allowed are {LEAST_IR} to {MOST_IR}")
    if model.ir < LEAST_IR:
        raise BadOnnx("ir-too-old", f"IR version {model.ir}, allowed are {LEAST_IR} to {MOST_IR}")


def _check_counts(model: OnnxModel) -> None:
    for code, what, found, most in (
        ("onnx-too-many-nodes", "nodes", model.nodes, MOST_NODES),
        ("onnx-too-many-weights", "weights", model.weights, MOST_WEIGHTS),
        ("onnx-too-many-values", "values", model.values, MOST_VALUES),
    ):
        if len(found) > most:
            raise BadOnnx(code, f"{len(found)} {what}, at most {most}")


def _check_node(node: Node) -> None:
    if node.domain not in STANDARD_DOMAINS:
        raise BadOnnx(
            "onnx-custom-operator",
            f"model needs the operator {node.domain[:60]}.{node.operator[:60]}, which is not standard ONNX",
        )
    if node.operator in CONTROL_FLOW:
        raise BadOnnx("onnx-control-flow", f"node {node} branches or loops, which no detection model needs")
    if node.operator not in OPERATORS:
        raise BadOnnx("onnx-operator", f"node {node}: not an operator that detection models are made of")
    if max(len(node.inputs), len(node.outputs), len(node.attributes)) > MOST_NODE_NAMES:
        raise BadOnnx(
            "onnx-too-many-names", f"node {node} has more than {MOST_NODE_NAMES} inputs, outputs or attributes"
        )
    for attribute in node.attributes:
        _check_attribute(node, attribute)


def _check_attribute(node: Node, attribute: Attribute) -> None:
    if sum(other.name == attribute.name for other in node.attributes) > 1:
        raise BadOnnx("onnx-name-repeated", f"node {node} has two attributes {attribute.name[:60]!r}")
    if attribute.weights is not None:
        _check_weights(attribute.weights, f"node {node}")
    if node.operator in _POOLS and attribute.name in _WINDOWS:
        least = _WINDOWS[attribute.name]
        for value in attribute.integers:
            if not least <= value <= MOST_WINDOW:
                raise BadOnnx(
                    "onnx-attribute", f"node {node}: {attribute.name} is {value}, allowed are {least} to {MOST_WINDOW}"
                )


def _check_weights(weights: Weights, where: str) -> None:
    if weights.dtype not in ITEM_BYTES:
        raise BadOnnx("onnx-weights-type", f"{where}: type {weights.dtype}, allowed are {', '.join(ITEM_BYTES)}")
    if len(weights.dims) > MOST_RANK:
        raise BadOnnx("onnx-rank", f"{where}: {len(weights.dims)} dimensions, at most {MOST_RANK}")
    if weights.dims != (0,):  # the region that Resize does not need
        _check_sides(weights.dims, where)
    needed = _product(weights.dims) * ITEM_BYTES[weights.dtype]
    if weights.size_bytes != needed:
        has = f"{weights.size_bytes} bytes" if weights.size_bytes >= 0 else "another form"
        raise BadOnnx(
            "onnx-weights-size", f"{where}: {list(weights.dims)} of {weights.dtype} needs {needed} bytes, has {has}"
        )


def _check_sides(dims: Iterable[int], where: str) -> None:
    elements = 1
    for side in dims:
        if not 1 <= side <= MOST_SIDE:
            raise BadOnnx("onnx-dims", f"{where}: a side of {side} elements, allowed are 1 to {MOST_SIDE}")
        elements *= side
        if elements > MOST_ELEMENTS:
            raise BadOnnx("onnx-dims", f"{where}: more than {MOST_ELEMENTS} elements")


def _check_shape(value: TensorInfo) -> None:
    where = f"value {value.name[:100]!r}"
    if len(value.shape) > MOST_RANK:
        raise BadOnnx("onnx-rank", f"{where}: {len(value.shape)} dimensions, at most {MOST_RANK}")
    _check_sides((side for side in value.shape if isinstance(side, int)), where)


def _check_total(weights: Iterable[Weights]) -> None:
    total = sum(one.size_bytes for one in weights)
    if total > MOST_WEIGHT_BYTES:
        raise BadOnnx("onnx-weights-too-large", f"{total} bytes of weights, at most {MOST_WEIGHT_BYTES}")


def _constants(nodes: Iterable[Node]) -> list[Weights]:
    return [one.weights for node in nodes for one in node.attributes if one.weights is not None]


def _check_names(model: OnnxModel) -> None:
    """One maker for every name, and before its users."""
    described: dict[str, tuple[str, list[int]]] = {}
    for value in model.values:  # onnxslim describes each twice, with other names for open sides
        fixed = value.dtype, [-1 if isinstance(side, str) else side for side in value.shape]
        if described.setdefault(value.name, fixed) != fixed:
            raise BadOnnx("onnx-name-repeated", f"a value is described in two ways: {value.name[:100]!r}")
    given = [one.name for one in model.inputs] + [one.name for one in model.weights]
    _refuse_twice(given, "an input or weights stand twice")
    known = set(given)
    if "" in known:
        raise BadOnnx("onnx-name-missing", "an input or weights have no name")
    made = {name for node in model.nodes for name in node.outputs}
    for node in model.nodes:
        for name in node.inputs:
            if name and name not in known:
                if name in made:
                    raise BadOnnx("onnx-order", f"node {node} takes {name[:100]!r}, which is made after it")
                raise BadOnnx("onnx-name-missing", f"node {node} takes {name[:100]!r}, which nothing makes")
        for name in filter(None, node.outputs):
            if name in known:
                raise BadOnnx("onnx-name-repeated", f"node {node} makes {name[:100]!r}, which is there already")
            known.add(name)
    for output in model.outputs:
        if output.name not in known:
            raise BadOnnx("onnx-name-missing", f"output {output.name[:100]!r} is made by nothing")


def _refuse_twice(names: list[str], why: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise BadOnnx("onnx-name-repeated", f"{why}: {name[:100]!r}")
        seen.add(name)


def _check_tensor(side: str, found: tuple[TensorInfo, ...], wanted: TensorInfo) -> None:
    if len(found) != 1:
        names = ", ".join(tensor.name[:60] for tensor in found[:5])
        raise BadOnnx(f"{side}-count", f"{len(found)} {side}s ({names}), must be one")
    tensor = found[0]
    if tensor.name != wanted.name:
        raise BadOnnx(f"{side}-name", f"{side} is called {tensor.name[:100]!r}, manifest says {wanted.name!r}")
    if any(isinstance(length, str) for length in tensor.shape):
        shapes = f"{list(tensor.shape)}, must be {list(wanted.shape)}"
        raise BadOnnx("dynamic-axes", f"{side} {wanted.name} has dynamic axes {shapes}")
    if tensor.shape != wanted.shape:
        shapes = f"{list(tensor.shape)}, manifest says {list(wanted.shape)}"
        raise BadOnnx(f"{side}-shape", f"{side} {wanted.name} is {shapes}")
    if tensor.dtype != wanted.dtype:
        raise BadOnnx(f"{side}-dtype", f"{side} {wanted.name} is {tensor.dtype}, manifest says {wanted.dtype}")


def _product(dims: Iterable[int]) -> int:
    elements = 1
    for side in dims:
        elements *= side
    return elements
