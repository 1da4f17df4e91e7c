"""Model packages that must not run: each refused with its code, one clear line and exit code 1, before any runtime."""

from __future__ import annotations

import hashlib
import json
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edge_inspect.cli import run_command
from edge_inspect.errors import BadModel
from edge_inspect.inference.package import ModelPackage
from edge_wire.manifest import File
from tests.sim.tiny_model import write_tiny_package

Spoil = Callable[[Path], None]


@pytest.fixture(autouse=True)
def only_this_family(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty command lines: leave the other families' imports out."""
    monkeypatch.setattr("edge_inspect.cli.COMMAND_FILES", ("model", "config"))


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return write_tiny_package(tmp_path / "tiny")


def manifest(change: Callable[[dict[str, Any]], Any]) -> Spoil:
    def spoil(folder: Path) -> None:
        content = json.loads((folder / "manifest.json").read_text())
        change(content)
        (folder / "manifest.json").write_text(json.dumps(content))

    return spoil


def text(content: bytes) -> Spoil:
    return lambda folder: (folder / "manifest.json").write_bytes(content) and None


def signed(folder: Path, content: bytes) -> None:
    """Put `content` in as model.onnx with the size and digest that it has."""
    (folder / "model.onnx").write_bytes(content)

    def change(m: dict[str, Any]) -> None:
        m["variants"][0] |= {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    manifest(change)(folder)


def graph(change: Callable[[onnx.ModelProto], Any]) -> Spoil:
    """A changed ONNX file with the right size and digest: only the contract can tell."""

    def spoil(folder: Path) -> None:
        model = onnx.load(str(folder / "model.onnx"))
        change(model)
        signed(folder, model.SerializeToString())

    return spoil


def content(make: Callable[[bytes], bytes]) -> Spoil:
    return lambda folder: signed(folder, make((folder / "model.onnx").read_bytes()))


def remove(name: str) -> Spoil:
    return lambda folder: (folder / name).unlink()


def flip_a_bit(folder: Path) -> None:
    data = bytearray((folder / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "model.onnx").write_bytes(data)


def truncate(folder: Path) -> None:
    with (folder / "model.onnx").open("r+b") as stream:
        stream.truncate(100)


def link(folder: Path) -> None:
    (folder / "model.onnx").rename(folder.parent / "elsewhere.onnx")
    (folder / "model.onnx").symlink_to(folder.parent / "elsewhere.onnx")


def pipe(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    os.mkfifo(folder / "model.onnx")


def external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def external_in_a_node(model: onnx.ModelProto) -> None:
    value = helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])
    value.data_location = TensorProto.EXTERNAL
    value.external_data.add(key="location", value="weights.bin")
    model.graph.node.append(helper.make_node("Constant", [], ["unused"], value=value))


def foreign_operator(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Steal", ["images"], ["stolen"], domain="com.example"))


def foreign_operator_in_a_branch(model: onnx.ModelProto) -> None:
    inner = helper.make_node("Steal", ["images"], ["stolen"], domain="com.example")
    out = helper.make_tensor_value_info("stolen", TensorProto.FLOAT, [1])
    branch = helper.make_graph([inner], "branch", [], [out])
    model.graph.node.append(helper.make_node("If", ["c"], ["x"], then_branch=branch, else_branch=branch))


def own_function(model: onnx.ModelProto) -> None:
    node = helper.make_node("Identity", ["a"], ["b"])
    opset = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("here", "Mine", ["a"], ["b"], [node], opset))


def second_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info(model.graph.node[0].output[0], TensorProto.FLOAT, [1]))


def second_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


def first_dim(side: str, value: int | str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        dim = getattr(model.graph, side)[0].type.tensor_type.shape.dim[2]
        if isinstance(value, str):
            dim.dim_param = value
        else:
            dim.dim_value = value

    return change


def no_shape(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.ClearField("shape")


def half_precision(side: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        getattr(model.graph, side)[0].type.tensor_type.elem_type = TensorProto.FLOAT16

    return change


def renamed(model: onnx.ModelProto) -> None:
    old, new = model.graph.input[0].name, "pictures"
    model.graph.input[0].name = new
    for node in model.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]


def sparse(model: onnx.ModelProto) -> None:
    values = helper.make_tensor("s", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [1], np.array([0]))
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))


def nested_graphs(model: onnx.ModelProto) -> None:
    out = helper.make_tensor_value_info("o", TensorProto.FLOAT, [1])
    inner = helper.make_graph([], "leaf", [], [out])
    for _ in range(20):
        node = helper.make_node(
            "If", ["c"], ["o"], then_branch=inner, else_branch=helper.make_graph([], "e", [], [out])
        )
        inner = helper.make_graph([node], "g", [], [out])
    model.graph.node.append(helper.make_node("If", ["c"], ["x"], then_branch=inner, else_branch=inner))


def golden(**changes: Any) -> Spoil:
    return manifest(lambda m: m["golden"][0].update(changes))


def variant(**changes: Any) -> Spoil:
    return manifest(lambda m: m["variants"][0].update(changes))


TALLY = {"defective": 2, "escapes": 0, "good": 2, "overkill": 1}


def measured(**changes: Any) -> Spoil:
    whole = {"file": "model.onnx", "map50": 0.9, "pictures": TALLY, "classes": {"scratch": TALLY}}
    return manifest(lambda m: m.update(format=2, measured=[whole | changes]))


BAD: list[tuple[str, Spoil, str]] = [
    # the folder and the manifest
    ("manifest-missing", remove("manifest.json"), "no such file"),
    ("manifest-not-json", text(b"{ not json"), "not JSON"),
    ("manifest-not-json", text(b'{"name": "a", "name": "b"}'), "twice"),
    ("manifest-not-json", text(b"\xff\xfe\x00"), "not JSON"),
    ("manifest-not-json", text(b"[" * 100_000), "manifest.json"),
    ("manifest-too-large", text(b" " * (1 << 20) + b"{}"), "more than"),
    ("manifest-format", manifest(lambda m: m.update(format=3)), "format"),
    ("manifest-key-of-format-2", manifest(lambda m: m.update(provenance={})), "provenance"),
    ("manifest-measured-variant", measured(file="other.onnx"), "other.onnx"),
    ("manifest-measured-classes", measured(classes={}), "classes"),
    ("manifest-measured-counts", measured(pictures=TALLY | {"escapes": 9}), "more escapes"),
    ("manifest-unknown-key", manifest(lambda m: m.update(autoupdate=True)), "autoupdate"),
    ("manifest-missing-key", manifest(lambda m: m.pop("licence")), "licence"),
    ("manifest-wrong-value", manifest(lambda m: m.update(classes="scratch")), "classes"),
    (
        "manifest-wrong-value",
        manifest(lambda m: m.update(version="newest")),
        "version: found 'newest', allowed: three numbers",
    ),
    ("manifest-wrong-value", manifest(lambda m: m.update(task="segment")), "task"),
    ("manifest-wrong-value", manifest(lambda m: m["thresholds"].update(scratch=1.5)), "thresholds"),
    ("manifest-wrong-value", manifest(lambda m: m["runtime"].update(opset=23)), "opset"),
    ("manifest-wrong-value", variant(sha256="abc"), "sha256"),
    ("manifest-wrong-value", variant(precision="fp8"), "precision"),
    ("manifest-no-classes", manifest(lambda m: m.update(classes=[], thresholds={}, golden=[])), "classes"),
    ("manifest-class-repeated", manifest(lambda m: m.update(classes=["scratch", "scratch"])), "twice"),
    ("manifest-threshold-classes", manifest(lambda m: m.update(thresholds={"dent": 0.5})), "dent"),
    ("manifest-output-classes", manifest(lambda m: (m["classes"].append("b"), m["thresholds"].update(b=0.1))), "rows"),
    ("manifest-input-not-multiple-of-32", lambda f: variant_input(f, [1, 3, 90, 160]), "multiples of 32"),
    ("manifest-input-not-multiple-of-32", lambda f: variant_input(f, [4, 3, 96, 160]), "[4, 3, 96, 160]"),
    ("manifest-file-repeated", golden(file="model.onnx"), "twice"),
    ("manifest-golden-class", golden(expect=[{"cls": "dent", "confidence": 0.9, "box": [1, 2, 3, 4]}]), "dent"),
    ("manifest-golden-box", golden(expect=[{"cls": "scratch", "confidence": 0.9, "box": [9, 2, 3, 4]}]), "box"),
    ("manifest-golden-variant", golden(variants=["other.onnx"]), "other.onnx"),
    ("manifest-created-without-zone", manifest(lambda m: m.update(created="2026-11-22T08:00:00")), "time zone"),
    # path tricks
    ("manifest-file-name", variant(file="../model.onnx"), "variants.0.file"),
    ("manifest-file-name", variant(file="/etc/passwd"), "variants.0.file"),
    ("manifest-file-name", variant(file="a/b/model.onnx"), "variants.0.file"),
    ("manifest-file-name", variant(file="golden/../../model.onnx"), "variants.0.file"),
    ("manifest-file-name", variant(file="model\x00.onnx"), "variants.0.file"),
    ("manifest-file-name", variant(file=".hidden"), "variants.0.file"),
    ("file-not-regular", link, "a link"),
    ("file-not-regular", pipe, "not a regular file"),
    # bytes
    ("file-missing", remove("model.onnx"), "no such file"),
    ("file-missing", remove("golden/spot.png"), "spot.png"),
    ("size-mismatch", truncate, "100 bytes"),
    ("digest-mismatch", flip_a_bit, "sha256"),
    # the ONNX file
    ("onnx-not-readable", content(lambda _: b"this is no model at all"), "not an ONNX model"),
    ("onnx-not-readable", content(lambda b: b[: len(b) // 2]), "ends in the middle"),
    ("onnx-not-readable", content(lambda _: b"\x89PNG\r\n\x1a\n" + b"0" * 64), "not an ONNX model"),
    ("onnx-not-readable", content(lambda b: b + b), "two of IR version"),
    ("onnx-control-flow", graph(nested_graphs), "graphs inside of nodes"),
    ("onnx-external-data", graph(external), "another file"),
    ("onnx-external-data", graph(external_in_a_node), "another file"),
    ("onnx-custom-operator", graph(foreign_operator), "com.example.Steal"),
    ("onnx-control-flow", graph(foreign_operator_in_a_branch), "graphs inside of nodes"),
    ("onnx-functions", graph(own_function), "functions"),
    ("onnx-sparse", graph(sparse), "sparse"),
    ("opset-too-new", graph(lambda m: setattr(m.opset_import[0], "version", 23)), "opset 23"),
    ("ir-too-new", graph(lambda m: setattr(m, "ir_version", 13)), "IR version 13"),
    ("input-count", graph(second_input), "2 inputs"),
    ("output-count", graph(second_output), "2 outputs"),
    ("input-name", graph(renamed), "pictures"),
    ("input-shape", graph(first_dim("input", 128)), "[1, 3, 128, 160]"),
    ("output-shape", graph(first_dim("output", 241)), "[1, 5, 241]"),
    ("input-dtype", graph(half_precision("input")), "float16"),
    ("output-dtype", graph(half_precision("output")), "float16"),
    ("dynamic-axes", graph(first_dim("input", "height")), "dynamic"),
    ("dynamic-axes", graph(no_shape), "dynamic"),
]


def variant_input(folder: Path, shape: list[int]) -> None:
    manifest(lambda m: m["variants"][0]["input"].update(shape=shape))(folder)


@pytest.mark.parametrize(("code", "spoil", "says"), BAD, ids=[f"{i}-{code}" for i, (code, _, _) in enumerate(BAD)])
def test_package_is_refused_with_code_and_one_line(
    package: Path, code: str, spoil: Spoil, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(package)
    with pytest.raises(BadModel) as refusal:
        ModelPackage.load(package)
    assert refusal.value.code == code

    assert run_command(["model", "verify", str(package), "--json"]) == 1

    printed = capsys.readouterr()
    line = printed.err.strip().splitlines()
    assert len(line) == 1
    assert line[0].startswith("edge-inspect: ")
    assert says in line[0]
    assert line[0].endswith(f"[{code}]")
    assert json.loads(printed.out.splitlines()[-1])["code"] == code


def test_table_holds_many_different_refusals() -> None:
    assert len({code for code, _, _ in BAD}) >= 30


def test_missing_package_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["model", "verify", str(tmp_path / "nothing")]) == 1
    assert "[package-missing]" in capsys.readouterr().err


def test_whole_package_is_accepted(package: Path) -> None:
    loaded = ModelPackage.load(package)
    assert loaded.manifest.name == "tiny"
    assert loaded.digest == "sha256:" + hashlib.sha256((package / "manifest.json").read_bytes()).hexdigest()


def test_file_swapped_after_loading_is_refused(package: Path) -> None:
    loaded = ModelPackage.load(package)
    flip_a_bit(package)
    with pytest.raises(BadModel, match="digest-mismatch"):
        loaded.read(loaded.variant())


class Content(bytes):
    """Bytes whose end can be seen: they themselves allow no weak reference."""

    class Mark:
        pass

    def __init__(self, content: bytes) -> None:
        self.mark = Content.Mark()


def test_no_two_files_of_a_package_are_in_memory_at_once(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variant may have 512 MiB, and the service that fetches it has room for one."""
    read, held = ModelPackage.read, weakref.WeakSet[Content.Mark]()

    def watched(self: ModelPackage, file: File) -> bytes:
        assert not held, "the file before is still in memory"
        found = Content(read(self, file))
        held.add(found.mark)
        return found

    monkeypatch.setattr(ModelPackage, "read", watched)
    assert len(ModelPackage.load(package).manifest.files()) > 1
