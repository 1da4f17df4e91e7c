"""`release build`: a model that is gated, right by the labels and not worse than the one before, or nothing at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from typer.testing import CliRunner

from cloud_inspect import cli
from cloud_inspect.errors import BadPackage, BadRelease
from cloud_inspect.release import build as building
from cloud_inspect.release.build import Plan, build
from cloud_inspect.release.cost import Cost
from edge_inspect.inference.package import ModelPackage
from edge_wire.manifest import Tally
from tests.sim.tiny_model import draw_defect, tiny_model

CLASSES = ("scratch", "dent")
BOX = (100, 60, 140, 84)
OTHER_BOX = (20, 120, 60, 150)
WHERE = {BOX: "0.375 0.375 0.125 0.125", OTHER_BOX: "0.125 0.703125 0.125 0.15625"}


@pytest.fixture(autouse=True)
def measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it costs is measured in a process of its own, by one test below."""
    monkeypatch.setattr(building, "measure_cost", lambda model: Cost(2.0, 1 << 20, 2))


def write_picture(folder: Path, split: str, name: str, *shown: tuple[int, tuple[int, int, int, int]]) -> None:
    pixels = np.full((192, 320, 3), 128, np.uint8)
    pixels[0, 0] = [len(name), *hashlib.sha256(f"{split}{name}".encode()).digest()[:2]]  # no two pictures are equal
    for cls, box in shown:
        draw_defect(pixels, box, cls=cls)
    for kind in ("images", "labels"):
        (folder / kind / split).mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / "images" / split / f"{name}.png"), pixels)
    lines = [f"{cls} {WHERE[box]}\n" for cls, box in shown]
    (folder / "labels" / split / f"{name}.txt").write_text("".join(lines))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Good pictures, scratches, dents and both; five or six of each in val."""
    folder = tmp_path / "set"
    for number in range(6):
        write_picture(folder, "val", f"good-{number}")
        write_picture(folder, "val", f"scratch-{number}", (0, BOX))
        write_picture(folder, "val", f"dent-{number}", (1, BOX))
    write_picture(folder, "val", "both", (0, BOX), (1, OTHER_BOX))
    write_picture(folder, "train", "one", (0, BOX))
    write_picture(folder, "train", "two", (1, OTHER_BOX))
    (folder / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [scratch, dent]\n")
    return folder / "data.yaml"


@pytest.fixture
def plan(tmp_path: Path, data: Path) -> Plan:
    model = tmp_path / "model.onnx"
    model.write_bytes(tiny_model(96, 160, "raw", 2).SerializeToString())
    return Plan(
        model, (data,), "plate", "1.0.0", tmp_path / "out" / "1.0.0", thresholds={"scratch": 0.5, "dent": 0.5},
        precisions=(),
    )  # fmt: skip


def changed(plan: Plan, tmp_path: Path, **changes: Any) -> Plan:
    return Plan(**{**plan.__dict__, "out": tmp_path / "out" / "1.1.0", "version": "1.1.0", **changes})


def spoil(plan: Plan, change: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load(str(plan.model))
    change(model)
    plan.model.write_bytes(model.SerializeToString())


def colours(model: onnx.ModelProto) -> Any:
    """The weights that tell the classes apart."""
    return next(i for i in model.graph.initializer if list(i.dims) == [2, 3, 1, 1])


def forget(cls: int) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        weights = numpy_helper.to_array(colours(model)).copy()
        weights[cls] = -1
        colours(model).CopyFrom(numpy_helper.from_array(weights, colours(model).name))

    return change


def swap(model: onnx.ModelProto) -> None:
    weights = numpy_helper.to_array(colours(model))[::-1].copy()
    colours(model).CopyFrom(numpy_helper.from_array(weights, colours(model).name))


def test_the_edge_accepts_what_was_built_and_the_manifest_says_what_was_measured(plan: Plan) -> None:
    steps: list[str] = []
    built = build(plan, lambda what, done, of: steps.append(what))
    manifest = ModelPackage.load(plan.out).manifest
    assert manifest == built.manifest
    assert manifest.format == 2
    tally = Tally(defective=7, escapes=0, good=12, overkill=0)
    assert manifest.measured[0].classes == {"scratch": tally, "dent": tally}
    assert manifest.measured[0].pictures == Tally(defective=13, escapes=0, good=6, overkill=0)
    assert manifest.latency_budget_ms["cpu-2-cores"].value == 6.0
    assert manifest.memory_budget_bytes["cpu-2-cores"].value == 3 * (1 << 20) + (64 << 20)
    assert manifest.provenance is not None and "onnx" in manifest.provenance.tools
    assert manifest.dataset.pictures == 21
    assert steps[0] == "judging model.onnx"


def test_golden_pictures_are_a_good_one_and_one_of_each_class(plan: Plan) -> None:
    golden = build(plan).manifest.golden
    assert [sorted({found.cls for found in one.expect}) for one in golden] in (
        [[], ["scratch"], ["dent"]],
        [[], ["dent", "scratch"]],
    )


def test_both_head_layouts_are_built(plan: Plan, tmp_path: Path) -> None:
    plan.model.write_bytes(tiny_model(96, 160, "end2end", 2).SerializeToString())
    assert build(plan).manifest.variants[0].output.layout == "end2end"


REFUSED: list[tuple[str, Callable[[onnx.ModelProto], None]]] = [
    ("golden-none", forget(0)),
    ("golden-none", swap),
    ("onnx-operator", lambda m: m.graph.node.append(helper.make_node("Det", ["images"], ["x"]))),
    ("opset-too-new", lambda m: setattr(m.opset_import[0], "version", 19)),
    ("output-shape", lambda m: setattr(m.graph.output[0].type.tensor_type.shape.dim[1], "dim_value", 9)),
    ("dynamic-axes", lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_param", "n")),
]


@pytest.mark.parametrize(("code", "change"), REFUSED, ids=[code for code, _ in REFUSED])
def test_bad_model_is_refused_and_nothing_is_written(
    code: str, change: Callable[[onnx.ModelProto], None], plan: Plan
) -> None:
    spoil(plan, change)
    with pytest.raises((BadPackage, BadRelease), match=rf"\[{code}\]$") as refused:
        build(plan)
    assert not plan.out.parent.exists() or not list(plan.out.parent.iterdir())
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("code", "change"), [("class-forgotten", forget(1)), ("class-forgotten", forget(0))], ids=["dent", "scratch"]
)
def test_model_that_forgot_a_class_is_worse_than_the_one_before(
    code: str, change: Callable[[onnx.ModelProto], None], plan: Plan, tmp_path: Path
) -> None:
    build(plan)
    spoil(plan, change)
    with pytest.raises(BadRelease) as refusal:
        build(changed(plan, tmp_path, than=plan.out))
    assert refusal.value.code == code
    assert not (tmp_path / "out" / "1.1.0").exists()


def test_equal_model_is_not_worse(plan: Plan, tmp_path: Path) -> None:
    build(plan)
    built = build(changed(plan, tmp_path, than=plan.out, thresholds={}))
    assert built.compared
    assert built.manifest.thresholds == {"scratch": 0.5, "dent": 0.5}, "taken over from the reference"


@pytest.mark.parametrize(("threshold", "code"), [(0.99, "class-forgotten"), (0.0001, "worse-overkill")])
def test_shifted_threshold_is_worse(threshold: float, code: str, plan: Plan, tmp_path: Path) -> None:
    build(plan)
    if code == "worse-overkill":  # a bit of everything everywhere
        spoil(
            plan,
            lambda m: m.graph.node[-1].CopyFrom(helper.make_node("Sigmoid", [m.graph.node[-1].input[0]], ["output0"])),
        )
    with pytest.raises(BadRelease) as refusal:
        build(changed(plan, tmp_path, than=plan.out, thresholds=dict.fromkeys(CLASSES, threshold)))
    assert refusal.value.code == code


def test_given_golden_picture_must_agree_with_its_labels(plan: Plan, tmp_path: Path, data: Path) -> None:
    wrong = data.parent / "labels/val/good-3.txt"
    wrong.write_text(f"0 {WHERE[BOX]}\n")
    given = data.parent / "images/val/good-3.png"
    with pytest.raises(BadRelease) as refusal:
        build(changed(plan, tmp_path, golden=(given,)))
    assert refusal.value.code == "golden-wrong"
    with pytest.raises(BadRelease) as refusal:
        build(changed(plan, tmp_path, golden=(tmp_path / "model.onnx",)))
    assert refusal.value.code == "golden-unlabelled"


@pytest.mark.parametrize(("option", "code"), [("extra", "file-missing"), ("golden", "golden-unlabelled")])
def test_file_that_is_not_there_is_said_before_a_picture_is_judged(
    plan: Plan, tmp_path: Path, option: str, code: str
) -> None:
    steps: list[str] = []
    with pytest.raises((BadPackage, BadRelease), match=r"nope\.md: ") as refusal:
        build(changed(plan, tmp_path, **{option: (tmp_path / "nope.md",)}), lambda what, done, of: steps.append(what))
    assert refusal.value.code == code and steps == []


def test_set_without_good_pictures_cannot_be_built_from(plan: Plan, data: Path) -> None:
    for picture in (data.parent / "images/val").glob("good-*"):
        picture.unlink()
        (data.parent / "labels/val" / f"{picture.stem}.txt").unlink()
    with pytest.raises(BadRelease, match="no good val picture"):
        build(plan)


def test_variants_are_made_judged_and_left_out_when_they_lose_too_much(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(precision: str, source: Path, out: Path, pictures: Any) -> None:
        model = onnx.load(str(source))
        if precision == "int8":
            forget(0)(model)
        out.write_bytes(model.SerializeToString())

    monkeypatch.setattr("cloud_inspect.release.variants._convert", convert)
    built = build(changed(plan, tmp_path, precisions=("fp16", "int8")))
    assert [variant.file for variant in built.manifest.variants] == ["model.onnx", "model-fp16.onnx"]
    assert [(one.precision, one.why[:5]) for one in built.manifest.left_out] == [("int8", "mAP50")]
    assert built.manifest.accuracy_budget is not None
    assert [one.file for one in built.manifest.measured] == ["model.onnx", "model-fp16.onnx"]


def test_variant_that_cannot_be_made_is_left_out_with_one_line(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(source: Path, out: Path) -> None:
        raise KeyError("no\nsuch node")

    monkeypatch.setattr("cloud_inspect.release.variants.convert_fp16", convert)
    (left,) = build(changed(plan, tmp_path, precisions=("fp16",))).manifest.left_out
    assert left.why.startswith("cannot be made: KeyError")


def test_sign_test_and_bounds() -> None:
    from cloud_inspect.release.judge import sign_test, wilson

    assert sign_test(0, 0) == 1.0
    assert sign_test(5, 0) == pytest.approx(1 / 32)
    assert sign_test(1, 1) == pytest.approx(0.75)
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 100) == pytest.approx((0.0, 0.037), abs=1e-3)
    assert wilson(50, 100) == pytest.approx((0.404, 0.596), abs=1e-3)


def test_cost_is_measured_in_a_process_of_its_own(plan: Plan, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from cloud_inspect.release.cost import measure_cost

    cost = measure_cost(plan.model)
    assert cost.latency_ms > 0 and cost.cores >= 1
    plan.model.write_bytes(b"no")
    with pytest.raises(BadPackage, match="cannot be run"):
        measure_cost(plan.model)


def test_command_prints_one_object_and_one_line_when_refused(
    plan: Plan, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["release", "build", str(plan.model), "--data", str(plan.data[0]), "--name", "plate", "--version", "1.0.0"]
    words += ["--out", str(plan.out), "--precision", "none", "--threshold", "scratch=0.5", "--threshold", "dent=0.5"]
    result = CliRunner().invoke(cli.app, [*words, "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout.splitlines()[-1])
    assert (told["name"], told["variants"], told["left_out"]) == ("plate", ["model.onnx"], [])
    monkeypatch.setattr("sys.argv", ["cloud-inspect", *words])
    with pytest.raises(SystemExit):
        cli.main()
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and "exists already" in lines[0]


def test_help_has_an_example() -> None:
    result = CliRunner().invoke(cli.app, ["release", "build", "--help"])
    assert "Example: cloud-inspect release build" in " ".join(result.output.split())
