"""C7 to C13, C16, C20: packages that everybody has signed and that ought not to run, for the table of bad artefacts."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge_inspect.update.probe import ProbeLimits
from tests.edge.update import packages
from tests.edge.update.bad_case import Made, Tried
from tests.edge.update.packages import Change
from tests.edge.update.victim import Victim
from tests.wire.test_onnx_gate import message, model_around

FAULTY = Path(__file__).parent / "faulty_child.py"


# --- ways to make one -----------------------------------------------------------------------------------------------


def graph(change: Change) -> Made:
    """Another ONNX file; the manifest says what it said, and its digests are right."""
    return lambda victim: victim.package(change)


def manifest(**keys: Any) -> Made:
    return lambda victim: victim.package(**keys)


def edited(change: Callable[[dict[str, Any]], Any]) -> Made:
    def make(victim: Victim) -> Path:
        folder = victim.package()
        path = folder / "manifest.json"
        said = json.loads(path.read_bytes())
        change(said)
        path.write_text(json.dumps(said))
        return folder

    return make


def variant(**keys: Any) -> Made:
    """What the manifest says of the one ONNX file."""

    def change(said: dict[str, Any]) -> None:
        for name, value in keys.items():
            said["variants"][0][name] |= value

    return edited(change)


def classes(*names: str) -> Made:
    """The manifest's; the network computes what it did."""
    return edited(lambda said: said.update(classes=names, thresholds=dict.fromkeys(names, 0.5)))


def written(text: Callable[[str], str]) -> Made:
    """A manifest that is no JSON any more."""

    def make(victim: Victim) -> Path:
        folder = victim.package()
        path = folder / "manifest.json"
        path.write_text(text(path.read_text()))
        return folder

    return make


def raw(content: bytes) -> Made:
    """These bytes as ONNX file, rightly signed."""

    def make(victim: Victim) -> Path:
        folder = victim.package()
        (folder / "model.onnx").write_bytes(content)
        path = folder / "manifest.json"
        said = json.loads(path.read_bytes())
        said["variants"][0] |= {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        path.write_text(json.dumps(said))
        return folder

    return make


def in_a_child_that(fault: str, **limits: Any) -> Made:
    """A good package; the process that probes it meets with this accident while it is loaded."""

    def make(victim: Victim) -> Path:
        victim.spies.child = (sys.executable, "-I", str(FAULTY), fault)
        victim.spies.limits = ProbeLimits(**{"seconds": 120.0, "memory_bytes": 1 << 30, **limits})
        return victim.package()

    return make


def within(limits: ProbeLimits, made: Made) -> Made:
    def make(victim: Victim) -> Path:
        victim.spies.limits = limits
        return made(victim)  # type: ignore[return-value]

    return make


def without_its_provider(victim: Victim) -> Path:
    victim.spies.provider = "tensorrt"
    return victim.package()


# --- changes of the graph -------------------------------------------------------------------------------------------


def node(kind: str, *inputs: str, **attributes: Any) -> Change:
    return lambda model: model.graph.node.append(
        helper.make_node(kind, list(inputs or ["images"]), ["extra"], **attributes)
    )


def with_a_body(kind: str) -> Change:
    """A node that carries a graph of its own: branches and loops."""
    body = helper.make_graph([], "body", [], [])
    names = {"If": ["then_branch", "else_branch"], "Loop": ["body"], "Scan": ["body"]}[kind]
    return node(kind, **dict.fromkeys(names, body))


def input_shape(*shape: Any) -> Change:
    def change(model: onnx.ModelProto) -> None:
        old = model.graph.input[0]
        old.CopyFrom(helper.make_tensor_value_info("images", TensorProto.FLOAT, list(shape)))

    return change


def output_shape(*shape: Any) -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.graph.output[0].CopyFrom(helper.make_tensor_value_info("output0", TensorProto.FLOAT, list(shape)))

    return change


def half_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16


def second_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("second", TensorProto.FLOAT, [1]))


def second_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("t0", TensorProto.FLOAT, [1]))


def opset(version: int) -> Change:
    return lambda model: setattr(model.opset_import[0], "version", version)


def external_data(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../../etc/passwd"


def functions(model: onnx.ModelProto) -> None:
    model.functions.append(helper.make_function("own", "Hidden", ["x"], ["y"], [], [helper.make_opsetid("", 17)]))


def sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add().dims.append(1)


def weights(dims: list[int], dtype: int = TensorProto.FLOAT, content: bytes = b"") -> Change:
    tensor = TensorProto(name="extra", data_type=dtype, dims=dims, raw_data=content)
    return lambda model: model.graph.initializer.append(tensor)


def many_nodes(model: onnx.ModelProto) -> None:
    model.graph.node.extend(helper.make_node("Relu", ["images"], [f"m{number}"]) for number in range(5_000))


def many_weights(model: onnx.ModelProto) -> None:
    one = numpy_helper.from_array(np.zeros(1, np.float32))
    for number in range(10_000):
        model.graph.initializer.add().CopyFrom(one)
        model.graph.initializer[-1].name = f"w{number}"


def circle(model: onnx.ModelProto) -> None:
    model.graph.node.extend([helper.make_node("Relu", ["b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])])


def made_twice(model: onnx.ModelProto) -> None:
    model.graph.node[1].output[0] = model.graph.node[0].output[0]


def nested(depth: int) -> bytes:
    inner = b""
    for _ in range(depth):
        inner = message(1, message(5, message(6, inner)))
    return model_around(inner)


def infinite(model: onnx.ModelProto) -> None:
    packages.after("Add", np.full((1, 1, 1), np.inf))(model)


def much_memory(model: onnx.ModelProto) -> None:
    """256 MB that nobody can fold away: which of its ones is taken depends on the picture."""
    for name, values in (("huge", [64, 1 << 20]), ("pair", [1, 2]), ("nought", np.float32(0))):
        kind = np.float32 if name == "nought" else np.int64
        model.graph.initializer.append(numpy_helper.from_array(np.array(values, kind), name))
    one = numpy_helper.from_array(np.array([1], np.float32))
    head = packages.last(model).input[0]
    del model.graph.node[-1]
    model.graph.node.extend([
        helper.make_node("ReduceMax", ["images"], ["most"], keepdims=0),
        helper.make_node("Mul", ["most", "nought"], ["none"]),
        helper.make_node("Cast", ["none"], ["zero"], to=TensorProto.INT64),
        helper.make_node("Expand", ["zero", "pair"], ["place"]),
        helper.make_node("ConstantOfShape", ["huge"], ["ones"], value=one),
        helper.make_node("GatherND", ["ones", "place"], ["taken"]),
        helper.make_node("Mul", [head, "taken"], ["output0"]),
    ])  # fmt: skip


def deaf(model: onnx.ModelProto) -> None:
    """Strong colours are as sure as before, faint ones are not seen any more."""
    for tensor in model.graph.initializer:
        if list(tensor.dims) == [2]:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) - np.float32(0.2), tensor.name))
            return
    raise AssertionError("no bias")


ODD = (
    "../../escape", "/etc/cron.d/x", "a/../../b", "..", "a\\..\\b", "golden/ü.png", "a\u202egnp.x", "a b", "-rf",
    "n" * 5000, "a/b/c", "%2e%2e/x", "x\ny", "", ".hidden",
)  # fmt: skip


def odd_names(victim: Victim) -> Iterator[Path]:
    """Signed under the name that the manifest gives to it."""
    for name in ODD:
        yield edited(lambda said, name=name: said["golden"][0].update(file=name))(victim)  # type: ignore[misc]


WIDE = ProbeLimits(seconds=120.0, memory_bytes=4 << 30)
TIGHT = ProbeLimits(seconds=120.0, memory_bytes=1 << 30)

# fmt: off
TRIED = (
    Tried("C7", "its input is larger than its manifest says", "input-shape", "verify",
            graph(input_shape(1, 3, 128, 160))),
    Tried("C7", "its input is half precision", "input-dtype", "verify", graph(half_input)),
    Tried("C7", "its input has another name", "input-name", "verify", variant(input={"name": "pictures"})),
    Tried("C7", "two inputs", "input-count", "verify", graph(second_input)),
    Tried("C7", "any batch size, any width", "dynamic-axes", "verify", graph(input_shape("batch", 3, 96, "width"))),
    Tried("C7", "its output is another than its manifest says", "output-shape", "verify",
            graph(output_shape(1, 6, 241))),
    Tried("C7", "its output is half precision", "output-dtype", "verify", graph(packages.half_ends)),
    Tried("C7", "its output has another name", "output-name", "verify", variant(output={"name": "found"})),
    Tried("C7", "two outputs", "output-count", "verify", graph(second_output)),
    Tried("C7", "the layout is another one", "manifest-output-shape", "verify", variant(output={"layout": "end2end"})),
    Tried("C7", "one class more than it computes", "manifest-output-classes", "verify",
          classes("scratch", "dent", "stain")),
    Tried("C7", "one class twice", "manifest-class-repeated", "verify",
            classes("scratch", "scratch")),
    Tried("C7", "a threshold for a class that is none", "manifest-threshold-classes", "verify",
            manifest(thresholds={"scratch": 0.5, "crack": 0.5})),
    Tried("C7", "a golden picture of a class that is none", "manifest-golden-class", "verify",
            edited(lambda said: said["golden"][0]["expect"][0].update(cls="crack"))),
    Tried("C7", "sides that no network of these has", "manifest-input-not-multiple-of-32", "verify",
            variant(input={"shape": [1, 3, 97, 160]})),
    Tried("C7", "classes in another order, its own pictures made to fit", "golden-of-active", "probe",
            lambda victim: victim.package(packages.swap_classes, golden=[])),
    Tried("C7", "no runtime given", "manifest-missing-key", "verify", edited(lambda said: said.pop("runtime"))),
    Tried("C7", "a key that nobody knows", "manifest-unknown-key", "verify", manifest(frobnicate=1)),
    Tried("C7", "a size that is a word", "manifest-wrong-value", "verify",
            edited(lambda said: said["variants"][0].update(size_bytes="large"))),
    Tried("C7", "a manifest of a later program", "manifest-format", "verify", manifest(format=99)),
    Tried("C7", "a manifest that is no JSON", "manifest-not-json", "verify", written(lambda text: text[:-1])),
    Tried("C7", "a limit in the manifest that is no number", "manifest-not-json", "verify",
            edited(lambda said: said["golden"][0]["tolerance"].update(box_px=float("nan")))),
    Tried("C7", "a key twice in the manifest", "manifest-not-json", "verify",
            written(lambda text: text.replace("{", '{"name": "other",', 1))),
    Tried("C7", "opset 18", "opset-too-new", "verify", graph(opset(18))),
    Tried("C7", "opset 6", "opset-too-old", "verify", graph(opset(6))),
    Tried("C7", "IR version 11", "ir-too-new", "verify", graph(lambda model: setattr(model, "ir_version", 11))),
    Tried("C7", "IR version 2", "ir-too-old", "verify", graph(lambda model: setattr(model, "ir_version", 2))),
    Tried("C8", "weights in another file, /etc/passwd", "onnx-external-data", "verify", graph(external_data)),
    Tried("C8", "an operator of its own", "onnx-custom-operator", "verify",
            graph(node("Attention", domain="com.example"))),
    Tried("C8", "a standard operator that no detection model has", "onnx-operator", "verify", graph(node("Det"))),
    *(Tried("C8", f"{kind}, with a graph in it", "onnx-control-flow", "verify",
            graph(with_a_body(kind))) for kind in ("If", "Loop", "Scan")),
    Tried("C8", "graphs in graphs, 2,000 deep", "onnx-control-flow", "verify", raw(nested(2_000))),
    Tried("C8", "functions of its own", "onnx-functions", "verify", graph(functions)),
    Tried("C8", "sparse weights", "onnx-sparse", "verify", graph(sparse)),
    Tried("C8", "5,000 nodes more", "onnx-too-many-nodes", "verify", graph(many_nodes)),
    Tried("C8", "10,000 weights more", "onnx-too-many-weights", "verify", graph(many_weights)),
    Tried("C8", "a million fields", "onnx-too-many-fields", "verify",
            raw(model_around(message(1, b"\x0a\x00" * 1_000_000)))),
    Tried("C8", "a side of -1", "onnx-dims", "verify", graph(weights([-1]))),
    Tried("C8", "sides whose product overflows", "onnx-dims", "verify", graph(weights([1 << 20] * 4))),
    Tried("C8", "nine dimensions", "onnx-rank", "verify", graph(weights([1] * 9, content=b"0000"))),
    Tried("C8", "a gigabyte of weights in no bytes", "onnx-weights-size", "verify", graph(weights([1 << 14, 1 << 14]))),
    Tried("C8", "weights of text", "onnx-weights-type", "verify", graph(weights([1], TensorProto.STRING))),
    Tried("C8", "a convolution with steps of 0", "onnx-attribute", "verify",
            graph(node("Conv", "images", "c0", strides=[0, 1]))),
    Tried("C8", "nodes in a circle", "onnx-order", "verify", graph(circle)),
    Tried("C8", "a value made twice", "onnx-name-repeated", "verify", graph(made_twice)),
    Tried("C8", "a value made by nothing", "onnx-name-missing", "verify", graph(node("Relu", "nowhere"))),
    Tried("C8", "300 kB of remarks", "onnx-text-too-long", "verify",
            graph(lambda model: setattr(model, "doc_string", "x" * 300_000))),
    Tried("C8", "noise in place of a model", "onnx-not-readable", "verify", raw(b"\xff" * 100_000)),
    Tried("C9", "a crash while it is loaded: SIGSEGV", "probe-crash", "probe", in_a_child_that("segv")),
    Tried("C9", "a crash while it is loaded: abort", "probe-crash", "probe", in_a_child_that("abort")),
    Tried("C9", "it never ends being loaded", "probe-hang", "probe", in_a_child_that("hang", seconds=3.0)),
    Tried("C9", "a few bytes that the runtime unfolds to 16 GB", "probe-memory", "probe",
            within(TIGHT, graph(packages.memory_at_load(16)))),
    Tried("C10", "NaN", "non-finite", "probe", graph(packages.nan)),
    Tried("C10", "infinity", "non-finite", "probe", graph(infinite)),
    Tried("C10", "all zero, whatever it sees", "constant-output", "probe", graph(packages.constant)),
    Tried("C10", "thousands of boxes", "too-many-boxes", "probe", graph(packages.everything_everywhere)),
    Tried("C10", "boxes outside of the picture", "boxes-outside", "probe", graph(packages.far_away)),
    Tried("C11", "many times slower than the model that judges", "probe-latency", "probe", graph(packages.heavy(8))),
    Tried("C11", "many times the memory of the model that judges", "probe-memory", "probe", graph(much_memory)),
    Tried("C11", "its provider is not there", "probe-provider", "probe", without_its_provider),
    Tried("C12", "one class forgotten, its own pictures left out", "golden-of-active", "probe",
            lambda victim: victim.package(packages.forget(0), golden=[])),
    Tried("C13", "it passes what is faint: half of the line's bad parts", "shadow-new-ok", "shadow", graph(deaf)),
    Tried("C16", "the version that judges, with other bytes", "version-reused",
            "fetch", manifest(version="1.1.0", golden=[])),
    Tried("C16", "an older version, and nobody says that it goes back", "version-older",
            "fetch", manifest(version="1.0.5")),
    Tried("C20", "file names that lead elsewhere, are endless, hidden or no names", "manifest-file-name", "verify",
            odd_names),
)
# fmt: on
