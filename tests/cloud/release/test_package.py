"""A package is what its manifest says, the edge accepts it, and nothing released is overwritten."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from cloud_inspect.errors import BadPackage, BadWeights
from cloud_inspect.learning.datasets import load_dataset
from cloud_inspect.learning.detect import Detector, suppress
from cloud_inspect.learning.measure import average_precision, measure
from cloud_inspect.release.package import Draft, build_package, load_draft
from edge_inspect.inference.package import ModelPackage
from edge_wire.manifest import Dataset, Expected
from tests.sim.tiny_model import draw_defect, tiny_model

DRAFT = """
name = "tiny"
version = "0.1.0"
classes = ["scratch"]

[thresholds]
scratch = 0.5

[dataset]
name = "spots"
digest = "sha256:%s"
pictures = 2
""" % ("0" * 64)


@pytest.fixture
def parts(tmp_path: Path) -> tuple[Draft, Path, Path]:
    """A draft, a tiny network that finds red spots, a golden picture with one."""
    model = tmp_path / "model.onnx"
    model.write_bytes(tiny_model(96, 160, "raw", 1).SerializeToString())
    golden = tmp_path / "spot.png"
    write_spot(golden, (100, 60, 140, 84))
    return (
        Draft(
            name="tiny",
            version="0.1.0",
            classes=("scratch",),
            thresholds={"scratch": 0.5},
            dataset=Dataset(name="spots", digest="sha256:" + "0" * 64, pictures=2),
        ),
        model,
        golden,
    )


def write_spot(path: Path, *boxes: tuple[int, int, int, int]) -> None:
    pixels = np.full((192, 320, 3), 128, np.uint8)
    for box in boxes:
        draw_defect(pixels, box)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels)


def test_the_edge_accepts_what_was_built(parts: tuple[Draft, Path, Path], tmp_path: Path) -> None:
    draft, model, golden = parts
    manifest = build_package(tmp_path / "out" / "0.1.0", draft, variants=[model], golden=[golden])
    package = ModelPackage.load(tmp_path / "out" / "0.1.0")
    assert package.manifest == manifest
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["0.1.0"]


def test_golden_answer_is_what_the_model_finds(parts: tuple[Draft, Path, Path], tmp_path: Path) -> None:
    draft, model, golden = parts
    expected: tuple[Expected, ...] = (
        build_package(tmp_path / "out", draft, variants=[model], golden=[golden]).golden[0].expect
    )
    assert [one.cls for one in expected] == ["scratch"]
    assert expected[0].box == pytest.approx((100, 60, 140, 84), abs=2)


def test_released_package_is_not_overwritten(parts: tuple[Draft, Path, Path], tmp_path: Path) -> None:
    draft, model, golden = parts
    build_package(tmp_path / "out", draft, variants=[model], golden=[golden])
    before = (tmp_path / "out" / "manifest.json").read_bytes()
    with pytest.raises(BadPackage, match="exists already"):
        build_package(tmp_path / "out", draft, variants=[model], golden=[golden])
    assert (tmp_path / "out" / "manifest.json").read_bytes() == before


def test_variant_that_finds_something_else_is_refused(parts: tuple[Draft, Path, Path], tmp_path: Path) -> None:
    draft, model, golden = parts
    other = onnx.load(model)
    threshold = next(i for i in other.graph.initializer if i.data_type == onnx.TensorProto.FLOAT)
    values = onnx.numpy_helper.to_array(threshold) * np.float32(0)
    threshold.CopyFrom(onnx.numpy_helper.from_array(np.asarray(values), threshold.name))
    (tmp_path / "blind.onnx").write_bytes(other.SerializeToString())
    with pytest.raises(BadPackage, match=r"blind\.onnx: (does not find|finds)"):
        build_package(tmp_path / "out", draft, variants=[model, tmp_path / "blind.onnx"], golden=[golden])
    assert not (tmp_path / "out").exists()


def _garbage(path: Path) -> None:
    path.write_bytes(b"\x00garbage" * 50)


@pytest.mark.parametrize(
    ("file", "spoil", "said"),
    [
        ("model.onnx", Path.unlink, r"model\.onnx: no such file"),
        ("model.onnx", _garbage, r"model\.onnx: not an ONNX model: .* \[onnx-not-readable\]"),
        ("spot.png", Path.unlink, r"spot\.png: no such file"),
        ("spot.png", _garbage, r"spot\.png: is not a picture"),
    ],
)
def test_bad_file_is_named_and_nothing_is_written(
    file: str, spoil: Callable[[Path], None], said: str, parts: tuple[Draft, Path, Path], tmp_path: Path
) -> None:
    draft, model, golden = parts
    spoil(tmp_path / file)
    with pytest.raises(BadPackage, match=said):
        build_package(tmp_path / "out", draft, variants=[model], golden=[golden])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "tiny"', "name = ", "is not TOML"),
        ('version = "0.1.0"\n', "", "version: Field required"),
        ("[thresholds]", "[treshold]", "Extra inputs|Field required"),
        ("pictures = 2", 'pictures = "two"', r"dataset\.pictures"),
        ("sha256:0", "md5:0", r"dataset\.digest"),
    ],
)
def test_bad_draft_is_one_line(old: str, new: str, said: str, tmp_path: Path) -> None:
    assert old in DRAFT
    (tmp_path / "package.toml").write_text(DRAFT.replace(old, new, 1))
    with pytest.raises(BadPackage, match=said):
        load_draft(tmp_path / "package.toml")


def test_shipped_draft_and_shipped_manifest_agree() -> None:
    models = Path(__file__).resolve().parents[3] / "models" / "metal-plate"
    draft = load_draft(models / "package.toml")
    manifest = ModelPackage.load(models / "1.0.0").manifest
    assert (draft.name, draft.version, draft.classes) == (manifest.name, manifest.version, manifest.classes)
    assert draft.thresholds == manifest.thresholds
    assert draft.accuracy == manifest.accuracy
    assert all(file.size_bytes <= 13_000_000 for file in manifest.files())


# --- measuring ----------------------------------------------------------------------------------------------------


def test_measure_counts_escapes_and_overkill(parts: tuple[Draft, Path, Path], tmp_path: Path) -> None:
    spot = "0 0.375 0.375 0.125 0.125\n"  # the box (100, 60, 140, 84) of 320x192
    labelled = {"found": spot, "unlabelled": "", "empty": "", "missed": spot}
    for name, label in labelled.items():
        shown = [(100, 60, 140, 84)] if name in ("found", "unlabelled") else []
        write_spot(tmp_path / "set/images/val" / f"{name}.png", *shown)
        (tmp_path / "set/labels/val").mkdir(parents=True, exist_ok=True)
        (tmp_path / "set/labels/val" / f"{name}.txt").write_text(label)
    write_spot(tmp_path / "set/images/train/one.png", (10, 10, 30, 30))
    (tmp_path / "set/labels/train").mkdir(parents=True)
    (tmp_path / "set/labels/train/one.txt").write_text("0 0.0625 0.104 0.0625 0.104\n")
    (tmp_path / "set/data.yaml").write_text("train: images/train\nval: images/val\nnames: [scratch]\n")
    dataset = load_dataset(tmp_path / "set/data.yaml")
    measured = measure(parts[1], dataset.val, dataset.classes, threshold=0.5)
    assert (measured.pictures, measured.defective, measured.good) == (4, 2, 2)
    assert (measured.escapes, measured.overkill) == (1, 1)


def test_average_precision_of_perfect_and_of_useless_guesses() -> None:
    truth = [(np.array([[10.0, 10, 50, 40, 0], [60, 10, 90, 90, 0]]), (100, 100))]
    perfect = np.array([[10.0, 10, 50, 40, 0.9, 0], [60, 10, 90, 90, 0.8, 0]])
    assert average_precision(truth, [perfect], ("scratch",)) == pytest.approx((1.0, 1.0), abs=0.01)
    assert average_precision(truth, [np.zeros((0, 6))], ("scratch",)) == (0.0, 0.0)
    assert average_precision(truth, [perfect[1:]], ("scratch",))[0] == pytest.approx(0.5, abs=0.02)


def test_suppression_keeps_the_best_of_what_overlaps() -> None:
    boxes = np.array([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10], [5, 0, 15, 10]])
    assert suppress(boxes, 0.7).tolist() == [0, 2, 3]
    assert suppress(np.zeros((0, 4)), 0.7).tolist() == []


def test_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no")
    with pytest.raises(BadWeights, match="cannot load it"):
        Detector(tmp_path / "model.onnx")
