"""The gate before every runtime: what detection models are made of passes, everything else is a BadOnnx, quickly."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edge_wire import onnx_gate, onnx_wire
from edge_wire.onnx_file import read_model
from edge_wire.onnx_gate import OPERATORS, inspect
from edge_wire.onnx_wire import BadOnnx
from tests.sim.tiny_model import tiny_model

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted((ROOT / "models").glob("*/*/*.onnx"))
MOST_CPU_S = 20
"""For one answer about hostile bytes, on a slow and busy machine; it is below 1 s on a free one."""
LENIENT = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def message(number: int, payload: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def integer(number: int, value: int) -> bytes:
    return varint(number << 3) + varint(value)


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def model_around(graph: bytes) -> bytes:
    return integer(1, 8) + message(8, integer(2, 17)) + message(7, graph)


def answer(content: bytes) -> str:
    """The refusal's code, "" when it passes; every other exception is a failure."""
    started = time.process_time()
    try:
        inspect(content)
        code = ""
    except BadOnnx as err:
        code = err.code
        assert len(str(err)) < 1000 and "\n" not in str(err)
    assert time.process_time() - started < MOST_CPU_S
    return code


@pytest.fixture(scope="module")
def tiny() -> bytes:
    return bytes(tiny_model(96, 160, "end2end", 3).SerializeToString())


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_models_pass_and_are_read_as_onnx_reads_them(path: Path) -> None:
    content = path.read_bytes()
    assert answer(content) == ""
    ours, theirs = read_model(content), onnx.load_from_string(content)
    assert [(n.operator, n.inputs, n.outputs) for n in ours.nodes] == [
        (n.op_type, tuple(n.input), tuple(n.output)) for n in theirs.graph.node
    ]
    assert [(w.name, w.dims, w.size_bytes) for w in ours.weights] == [
        (i.name, tuple(i.dims), numpy_helper.to_array(i).nbytes) for i in theirs.graph.initializer
    ]


@pytest.mark.parametrize("layout", ["raw", "end2end"])
def test_both_head_layouts_pass(layout: str) -> None:
    assert answer(tiny_model(96, 160, layout, 3).SerializeToString()) == ""


def test_operators_are_those_of_onnx() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == ""}
    assert known >= OPERATORS
    control = {s.name for s in onnx.defs.get_all_schemas() if "GRAPH" in str([a.type for a in s.attributes.values()])}
    assert not OPERATORS & control


@pytest.mark.parametrize("kind", ["raw", "numbers"])
@pytest.mark.parametrize(
    "dtype", ["float32", "float64", "int64", "int32", "int8", "uint8", "float16", "bool", "uint64"]
)
def test_weights_are_counted_in_every_way_of_writing_them(tiny: bytes, dtype: str, kind: str) -> None:
    model = onnx.load_from_string(tiny)
    values = np.array([[0, 1, 1], [1, 0, 1]], dtype)
    if kind == "raw":
        tensor = numpy_helper.from_array(values, "extra")
    else:
        tensor = helper.make_tensor("extra", helper.np_dtype_to_tensor_dtype(values.dtype), [2, 3], values.ravel())
    model.graph.initializer.append(tensor)
    assert answer(model.SerializeToString()) == ""
    model.graph.initializer[-1].dims[0] = 3
    assert answer(model.SerializeToString()) == "onnx-weights-size"


# --- refused, by its code -------------------------------------------------------------------------------------------


def node(kind: str, *inputs: str, out: str = "extra", **attributes: Any) -> Callable[[onnx.ModelProto], None]:
    return lambda model: model.graph.node.append(
        helper.make_node(kind, list(inputs or ["images"]), [out], **attributes)
    )


def weights(dims: list[int], dtype: int = TensorProto.FLOAT, raw: bytes = b"") -> Callable[[onnx.ModelProto], None]:
    tensor = TensorProto(name="extra", data_type=dtype, dims=dims, raw_data=raw)
    return lambda model: model.graph.initializer.append(tensor)


def repeat_output(model: onnx.ModelProto) -> None:
    model.graph.node[1].output[0] = model.graph.node[0].output[0]


def circle(model: onnx.ModelProto) -> None:
    model.graph.node.extend([helper.make_node("Relu", ["b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])])


def unsorted(model: onnx.ModelProto) -> None:
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))


def described_in_two_ways(model: onnx.ModelProto) -> None:
    for side in (4, 5):
        model.graph.value_info.append(helper.make_tensor_value_info("t0", TensorProto.FLOAT, [1, side]))


def value(dims: list[int]) -> Callable[[onnx.ModelProto], None]:
    info = helper.make_tensor_value_info("t0", TensorProto.FLOAT, dims)
    return lambda model: model.graph.value_info.append(info)


def untyped_attribute(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute.add(name="odd", ints=[1], type=onnx.AttributeProto.FLOAT)


def sparse_attribute(model: onnx.ModelProto) -> None:
    model.graph.node[0].attribute.add(name="odd", type=onnx.AttributeProto.SPARSE_TENSOR).sparse_tensor.dims.append(1)


def opset(version: int) -> Callable[[onnx.ModelProto], None]:
    return lambda model: setattr(model.opset_import[0], "version", version)


def many_nodes(model: onnx.ModelProto) -> None:
    model.graph.node.extend(helper.make_node("Relu", ["images"], [f"m{i}"]) for i in range(onnx_gate.MOST_NODES))


def many_weights(model: onnx.ModelProto) -> None:
    one = numpy_helper.from_array(np.zeros(1, np.float32))
    for i in range(onnx_gate.MOST_WEIGHTS):
        model.graph.initializer.add().CopyFrom(one)
        model.graph.initializer[-1].name = f"w{i}"


REFUSED: list[tuple[str, Callable[[onnx.ModelProto], Any]]] = [
    ("onnx-operator", node("Det")),
    ("onnx-operator", node("RandomNormalLike")),
    ("onnx-operator", node("Einsum", equation="abcd->a")),
    ("onnx-operator", node("LSTM")),
    ("onnx-control-flow", node("Loop")),
    ("onnx-custom-operator", node("Attention", domain="com.microsoft")),
    ("onnx-attribute", node("Conv", "images", "c0", strides=[0, 1])),
    ("onnx-attribute", node("Conv", "images", "c0", group=0)),
    ("onnx-attribute", node("MaxPool", kernel_shape=[1 << 40, 1])),
    ("onnx-attribute", node("AveragePool", kernel_shape=[2, 2], pads=[0, 0, -9, 0])),
    ("onnx-attribute", untyped_attribute),
    ("onnx-sparse", sparse_attribute),
    ("onnx-dims", weights([-1], raw=b"")),
    ("onnx-dims", weights([2, 0, 3])),
    ("onnx-dims", weights([1 << 20, 1 << 20, 1 << 20, 1 << 20])),
    ("onnx-dims", weights([1 << 62])),
    ("onnx-dims", value([1, -5])),
    ("onnx-dims", value([1 << 14, 1 << 15])),
    ("onnx-rank", weights([1] * 9, raw=b"0000")),
    ("onnx-rank", value([1] * 9)),
    ("onnx-weights-size", weights([2, 2], raw=b"0" * 15)),
    ("onnx-weights-size", weights([1 << 20])),
    ("onnx-weights-type", weights([1], TensorProto.STRING)),
    ("onnx-weights-type", weights([1], TensorProto.COMPLEX64, b"0" * 8)),
    ("onnx-weights-type", weights([1], 77, b"0" * 4)),
    ("onnx-name-repeated", repeat_output),
    ("onnx-name-repeated", described_in_two_ways),
    ("onnx-name-repeated", node("Relu", out="images")),
    ("onnx-name-missing", node("Relu", "nowhere")),
    ("onnx-name-missing", lambda m: setattr(m.graph.output[0], "name", "nothing")),
    ("onnx-name-missing", lambda m: m.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32)))),
    ("onnx-order", circle),
    ("onnx-order", unsorted),
    ("onnx-too-many-nodes", many_nodes),
    ("onnx-too-many-weights", many_weights),
    ("onnx-too-many-names", node("Concat", *["images"] * 257, axis=0)),
    ("onnx-text-too-long", lambda m: setattr(m.graph.node[0], "name", "x" * 600)),
    ("onnx-text-too-long", lambda m: setattr(m, "producer_name", "x" * 300_000)),
    ("opset-too-new", opset(18)),
    ("opset-too-old", opset(6)),
    ("ir-too-new", lambda m: setattr(m, "ir_version", 11)),
    ("ir-too-old", lambda m: setattr(m, "ir_version", 2)),
    ("onnx-not-readable", lambda m: m.opset_import.add(domain="ai.onnx", version=9)),
]


@pytest.mark.parametrize(("code", "spoil"), REFUSED, ids=[f"{i}-{code}" for i, (code, _) in enumerate(REFUSED)])
def test_refused_with_its_code(tiny: bytes, code: str, spoil: Callable[[onnx.ModelProto], Any]) -> None:
    model = onnx.load_from_string(tiny)
    spoil(model)
    assert answer(model.SerializeToString()) == code


HOSTILE: list[tuple[str, bytes]] = [
    ("onnx-not-readable", b""),
    ("onnx-not-readable", b"\xff" * 1_000_000),
    ("onnx-not-readable", model_around(b"") + message(7, b"")),
    ("onnx-not-readable", integer(1, 1 << 40) + message(8, integer(2, 17)) + message(7, b"")),
    ("onnx-not-readable", b"\x08" + b"\x80" * 9 + b"\x7f"),
    ("onnx-not-readable", model_around(message(1, b"\x0b" * 1000))),
    ("onnx-not-readable", model_around(message(11, message(1, b"\xff\xfe")))),
    ("onnx-not-readable", model_around(b"\x0d1234")),
    ("onnx-not-readable", model_around(message(1, message(9, b"\x0bt18")))),
    ("onnx-not-readable", model_around(message(1, message(5, message(7, b"12345"))))),
    ("onnx-not-readable", model_around(message(5, integer(2, 7) + message(7, b"\x01\x81")))),
    ("onnx-not-readable", message(3, varint(1 << 63)[:-1])),
    ("onnx-too-many-fields", model_around(message(1, b"\x0a\x00" * 1_000_000))),
    ("onnx-too-many-fields", model_around(message(1, message(5, integer(8, 1) * 1_000_000)))),
    ("onnx-rank", model_around(message(5, integer(2, 1) + integer(1, 1 << 62) * 150_000))),
    ("onnx-text-too-long", model_around(message(1, message(5, message(8, b"\x01" * 1_000_000))))),
    ("onnx-weights-size", model_around(message(5, integer(2, 7) + message(7, b"\x01" * 20_000_000)))),
]


@pytest.mark.parametrize(("code", "content"), HOSTILE, ids=[f"{i}-{code}" for i, (code, _) in enumerate(HOSTILE)])
def test_hostile_bytes_are_refused_in_bounded_time(code: str, content: bytes) -> None:
    assert answer(content) == code


def test_nesting_of_any_depth_is_refused_at_the_first_level() -> None:
    graph = b""
    for _ in range(2_000):
        graph = message(1, message(5, message(6, graph)))
    assert answer(model_around(graph)) == "onnx-control-flow"


def test_field_that_two_readers_would_read_differently_is_refused(tiny: bytes) -> None:
    shape = message(2, message(1, integer(1, 96)))
    tensor_type = integer(1, 1) + shape + shape  # a merging reader makes [96, 96] of it
    graph = message(11, message(1, b"images") + message(2, message(1, tensor_type)))
    assert answer(model_around(graph)) == "onnx-not-readable"


def test_length_of_the_file_is_limited(monkeypatch: pytest.MonkeyPatch, tiny: bytes) -> None:
    monkeypatch.setattr(onnx_gate, "MOST_FILE_BYTES", len(tiny) - 1)
    assert answer(tiny) == "onnx-too-large"


def test_weights_in_all_are_limited(monkeypatch: pytest.MonkeyPatch, tiny: bytes) -> None:
    monkeypatch.setattr(onnx_gate, "MOST_WEIGHT_BYTES", 1000)
    assert answer(tiny) == "onnx-weights-too-large"


# --- whatever the bytes are -----------------------------------------------------------------------------------------

MUTATION = st.tuples(
    st.sampled_from(["flip", "set", "cut", "insert", "double"]), st.floats(0, 1), st.binary(max_size=12)
)


def mutated(content: bytes, changes: list[tuple[str, float, bytes]]) -> bytes:
    data = bytearray(content)
    for kind, where, payload in changes:
        at = int(where * max(len(data) - 1, 0))
        if kind == "flip" and data:
            data[at] ^= 1 << (len(payload) % 8)
        elif kind == "set":
            data[at : at + len(payload)] = payload
        elif kind == "cut":
            del data[at : at + len(payload) + 1]
        elif kind == "insert":
            data[at:at] = payload
        else:
            data[at:at] = data[at : at + 200]
    return bytes(data)


@LENIENT
@given(st.binary(max_size=400))
def test_any_bytes_are_an_answer(content: bytes) -> None:
    answer(content)
    answer(model_around(content))
    answer(model_around(message(1, content)))
    answer(model_around(message(5, content)))


@LENIENT
@given(changes=st.lists(MUTATION, min_size=1, max_size=6))
def test_any_change_of_a_real_model_is_an_answer(changes: list[tuple[str, float, bytes]]) -> None:
    answer(mutated(SMALL, changes))


SMALL = bytes(tiny_model(96, 160, "raw", 1).SerializeToString())


@pytest.mark.parametrize("share", [0.0005, 0.003, 0.01, 0.02, 0.9999])
def test_mutated_shipped_models_are_an_answer(share: float) -> None:
    """Structure lies at the front and the back of a file of weights."""
    content = next(path for path in SHIPPED if path.name == "model-int8.onnx").read_bytes()
    rng = np.random.default_rng(int(share * 1e6))
    for _ in range(8):
        data = bytearray(content)
        for at in rng.integers(0, max(1, int(len(data) * share)), 3):
            data[int(at)] = int(rng.integers(256))
        answer(bytes(data))


def test_every_code_is_explained() -> None:
    sources = "".join(Path(module.__file__ or "").read_text() for module in (onnx_gate, onnx_wire))
    sources += (ROOT / "edge/edge_wire/onnx_file.py").read_text()
    codes = set(re.findall(r'"((?:onnx|opset|ir)-[a-z-]+)"', sources))
    explained = set(re.findall(r"`([a-z0-9-]+)`", (ROOT / "docs" / "model-packages.md").read_text()))
    assert len(codes) >= 20
    assert not codes - explained
