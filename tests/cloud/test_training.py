"""Training data is checked in full before training; a training, export and package are one chain that really runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from cloud_inspect import cli
from cloud_inspect.errors import BadDataset, BadTraining, BadWeights, CloudError
from cloud_inspect.learning import datasets, training
from cloud_inspect.learning.datasets import load_dataset, mix

YAML = "path: .\ntrain: images/train\nval: images/val\nnames:\n  0: scratch\n"


def write_set(root: Path, *, train: int = 3, val: int = 1, seed: int = 0, size: tuple[int, int] = (300, 450)) -> Path:
    """A small data set of grey pictures with one white bar each; returns its data.yaml."""
    rng = np.random.default_rng(seed)
    for split, count in (("train", train), ("val", val)):
        (root / "images" / split).mkdir(parents=True)
        (root / "labels" / split).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(70, 90, (*size, 3), dtype=np.uint8)
            x, y = int(rng.integers(20, size[1] - 120)), int(rng.integers(20, size[0] - 60))
            pixels[y : y + 20, x : x + 90] = 250
            cv2.imwrite(str(root / "images" / split / f"{split}{number}.png"), pixels)
            label = f"0 {(x + 45) / size[1]:.6f} {(y + 10) / size[0]:.6f} {90 / size[1]:.6f} {20 / size[0]:.6f}\n"
            (root / "labels" / split / f"{split}{number}.txt").write_text(label)
    (root / "data.yaml").write_text(YAML)
    return root / "data.yaml"


# --- what is refused ----------------------------------------------------------------------------------------------


def _label(text: str) -> Callable[[Path], None]:
    return lambda root: (root / "labels/train/train0.txt").write_text(text) and None


def _yaml(text: str) -> Callable[[Path], None]:
    return lambda root: (root / "data.yaml").write_text(text) and None


def _copy_to_val(root: Path) -> None:
    (root / "images/val/other.png").write_bytes((root / "images/train/train0.png").read_bytes())
    (root / "labels/val/other.txt").write_text("")


def _same_name_in_val(root: Path) -> None:
    (root / "images/val/val0.png").rename(root / "images/val/train0.png")
    (root / "labels/val/val0.txt").rename(root / "labels/val/train0.txt")


def _no_boxes(root: Path) -> None:
    for path in (root / "labels/train").iterdir():
        path.write_text("")


def _no_pictures(root: Path) -> None:
    for path in (root / "images/val").iterdir():
        path.unlink()


SPOILED: dict[str, tuple[Callable[[Path], None], str]] = {
    "yaml missing": (lambda root: (root / "data.yaml").unlink(), r"data\.yaml: cannot be read: No such file"),
    "yaml broken": (_yaml("names: [\n"), "is not YAML"),
    "yaml is a list": (_yaml("- a\n"), "not a data set description"),
    "no names": (_yaml("train: images/train\nval: images/val\n"), "`names` must list the classes, found None"),
    "names with a gap": (_yaml(YAML.replace("0:", "1:")), "must be numbered 0 to 0"),
    "class name empty": (_yaml(YAML.replace("scratch", "''")), "must be different and not empty"),
    "class name twice": (_yaml(YAML + "  1: scratch\n"), "must be different and not empty"),
    "class without boxes": (_yaml(YAML + "  1: dent\n"), r"class 1 \(dent\) has no box in train"),
    "no train key": (_yaml(YAML.replace("train:", "training:")), "`train` must name a folder"),
    "folder missing": (_yaml(YAML.replace("images/val", "images/test")), "images/test is not a folder"),
    "folder empty": (_no_pictures, "no pictures in"),
    "label file missing": (lambda root: (root / "labels/train/train0.txt").unlink(), "has no label file"),
    "picture missing": (lambda root: (root / "images/train/train0.png").unlink(), r"train0\.txt: there is no picture"),
    "picture broken": (
        lambda root: (root / "images/train/train0.png").write_bytes(b"\x89PNG no") and None,
        r"train0\.png: is not a picture",
    ),
    "label of words": (_label("0 a b c d\n"), r"train0\.txt:1: .* is not five numbers"),
    "label too short": (_label("0 0.5 0.5 0.1\n"), r"train0\.txt:1: 4 numbers, must be 5"),
    "second line bad": (_label("0 0.5 0.5 0.1 0.1\n0 0.5\n"), r"train0\.txt:2: "),
    "label polygon": (_label("0 0.1 0.1 0.2 0.1 0.2 0.2\n"), "7 numbers, must be 5"),
    "class unknown": (_label("3 0.5 0.5 0.1 0.1\n"), "class 3 does not exist, allowed 0 to 0"),
    "class fractional": (_label("0.5 0.5 0.5 0.1 0.1\n"), r"class 0\.5 does not exist"),
    "box outside": (_label("0 0.98 0.5 0.1 0.1\n"), "reaches out of the picture"),
    "box in px": (_label("0 225 150 40 20\n"), "reaches out of the picture"),
    "box empty": (_label("0 0.5 0.5 0 0.1\n"), "is empty"),
    "box not a number": (_label("0 nan 0.5 0.1 0.1\n"), "is empty"),
    "no boxes at all": (_no_boxes, "has no box in train"),
    "picture in both splits": (_copy_to_val, "the same picture is in train and val"),
    "name in both splits": (_same_name_in_val, "the same picture is in train and val"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_spoiled_data_set_is_refused_with_file_and_reason(case: str, tmp_path: Path) -> None:
    path = write_set(tmp_path / "set")
    spoil, said = SPOILED[case]
    spoil(tmp_path / "set")
    with pytest.raises(BadDataset, match=said) as refused:
        load_dataset(path)
    assert "\n" not in str(refused.value)


def test_the_real_photos_are_a_clean_data_set(data_dir: Path) -> None:
    dataset = load_dataset(data_dir / "sets" / "metal_tag" / "data.yaml")
    assert (len(dataset.train), len(dataset.val)) == (140, 33)
    assert sum(len(one.boxes) for one in dataset.train) == 272


def test_digest_changes_with_a_label_and_not_with_the_place(tmp_path: Path) -> None:
    first, second = (load_dataset(write_set(tmp_path / name)) for name in ("a", "b"))
    assert first.digest == second.digest
    (tmp_path / "b/labels/train/train0.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    assert load_dataset(tmp_path / "b/data.yaml").digest != first.digest


# --- mixing -------------------------------------------------------------------------------------------------------


def test_mix_keeps_splits_apart_and_sizes_equal(tmp_path: Path) -> None:
    sources = [write_set(tmp_path / "a", seed=1), write_set(tmp_path / "b", seed=2, size=(360, 640))]
    mixed = mix(sources, tmp_path / "mixed", canvas=(384, 640), seed=3, belt_views=2)
    assert len(mixed.train) == 3 * 3 + 3  # photos also twice on the belt, line frames once
    assert len(mixed.val) == 1 * 3 + 1
    assert {cv2.imread(str(one.picture)).shape for one in (*mixed.train, *mixed.val)} == {(384, 640, 3)}
    assert all("train" in one.picture.name for one in mixed.train)


def test_mix_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    source = write_set(tmp_path / "a", train=5)
    digests = [
        mix([source], tmp_path / name, canvas=(384, 640), seed=seed).digest
        for name, seed in (("x", 3), ("y", 3), ("z", 4))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_mixed_boxes_still_lie_on_the_defects(tmp_path: Path) -> None:
    mixed = mix([write_set(tmp_path / "a", train=6)], tmp_path / "mixed", canvas=(384, 640), seed=3)
    boxes = 0
    for one in mixed.train:
        pixels = cv2.imread(str(one.picture))[:, :, 0]
        for _, x, y, w, h in one.boxes:
            inside = pixels[
                int((y - h * 0.4) * 384) : int((y + h * 0.4) * 384), int((x - w * 0.4) * 640) : int((x + w * 0.4) * 640)
            ]
            assert inside.mean() > 235
            boxes += 1
    assert boxes >= 12


def test_mix_refuses_sets_with_other_classes(tmp_path: Path) -> None:
    first, second = write_set(tmp_path / "a"), write_set(tmp_path / "b", seed=1)
    second.write_text(YAML.replace("scratch", "dent"))
    with pytest.raises(BadDataset, match=r"classes \['dent'\] differ from \['scratch'\]"):
        mix([first, second], tmp_path / "mixed", canvas=(384, 640))


def test_mix_refuses_a_picture_that_another_set_validates_on(tmp_path: Path) -> None:
    first, second = write_set(tmp_path / "a", seed=1), write_set(tmp_path / "b", seed=2)
    (tmp_path / "b/images/val/val0.png").write_bytes((tmp_path / "a/images/train/train1.png").read_bytes())
    with pytest.raises(BadDataset, match="the same picture is in train and val"):
        mix([first, second], tmp_path / "mixed", canvas=(384, 640))


def test_letterbox_and_boxes_move_together() -> None:
    pixels = np.zeros((300, 450, 3), np.uint8)
    pixels[100:200, 90:180] = 255
    whole, boxes = datasets.letterboxed(pixels, np.array([[0, 0.3, 0.5, 0.2, 1 / 3]]), (384, 640))
    ys, xs = np.nonzero(whole[:, :, 0] > 200)
    _, x, y, w, h = boxes[0]
    expected = [(x - w / 2) * 640, (y - h / 2) * 384, (x + w / 2) * 640, (y + h / 2) * 384]
    assert [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] == pytest.approx(expected, abs=1.0)
    assert (whole[:, 0] == datasets.PAD_GREY).all()


# --- training -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "error", "said"),
    [
        ({"imgsz": (380, 640)}, BadTraining, "380x640 is not possible"),
        ({"imgsz": (640, 384)}, BadTraining, "upright"),
        ({"epochs": 0}, BadTraining, "epochs = 0"),
        ({"batch": 0}, BadTraining, "batch = 0"),
        ({"weights": Path("nothing.pt")}, BadWeights, "nothing.pt"),
    ],
)
def test_senseless_plan_is_refused_before_any_work(
    changed: dict[str, object], error: type[CloudError], said: str, tmp_path: Path
) -> None:
    weights = tmp_path / "w.pt"
    weights.write_bytes(b"x")
    values: dict[str, object] = {
        "sources": (tmp_path / "none.yaml",),
        "weights": weights,
        "folder": tmp_path / "run",
        "epochs": 1,
    }
    with pytest.raises(error, match=said):
        training.train(training.Plan(**(values | changed)))  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_nothing_to_resume_is_said(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(b"x")
    plan = training.Plan((tmp_path / "a.yaml",), weights=tmp_path / "w.pt", folder=tmp_path / "run", epochs=1)
    with pytest.raises(BadTraining, match="nothing to resume"):
        training.train(plan, resume=True)


def test_a_used_name_is_not_trained_over(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(b"x")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best.pt").write_bytes(b"hours of work")
    plan = training.Plan((tmp_path / "a.yaml",), weights=tmp_path / "w.pt", folder=tmp_path / "run", epochs=1)
    with pytest.raises(BadTraining, match="choose another name, or resume"):
        training.train(plan)
    assert (tmp_path / "run" / "best.pt").read_bytes() == b"hours of work"


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (["train", "nowhere.yaml", "--name", "x", "--weights", "nothing.pt"], "nothing.pt: there are no weights", 1),
        (["train", "nowhere.yaml", "--name", "x", "--imgsz", "big"], "--imgsz big: must be HEIGHTxWIDTH", 64),
        (["measure", "model.onnx", "nowhere.yaml"], "nowhere.yaml: cannot be read", 1),
        (["measure", "model.onnx", "nowhere.yaml", "--split", "test"], "--split test: must be one of", 64),
        (["train"], "Missing argument", 64),
    ],
)
def test_command_line_refuses_in_one_line(
    arguments: list[str],
    said: str,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["cloud-inspect", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    lines = capsys.readouterr().err.strip().splitlines()
    assert ended.value.code == code
    assert len(lines) == 1 and lines[0].startswith("cloud-inspect: ") and said in lines[0]


@pytest.mark.parametrize("command", ["train", "average", "export", "quantise", "measure", "package"])
def test_help_of_every_command_has_an_example(command: str) -> None:
    result = CliRunner().invoke(cli.app, [command, "--help"])
    assert f"Example: cloud-inspect {command}" in " ".join(result.output.split())


@pytest.mark.train
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
def test_one_epoch_then_export_then_package(tmp_path: Path, data_dir: Path) -> None:
    pytest.importorskip("ultralytics", reason="needs the extra `train`")
    from cloud_inspect.learning.export import convert_fp16, export_onnx
    from cloud_inspect.release.package import Draft, build_package
    from edge_wire.manifest import Dataset, Tolerance

    epochs: list[int] = []
    plan = training.Plan(
        (write_set(tmp_path / "set", train=4, val=2),),
        weights=data_dir / "weights" / "yolov8n.pt",
        folder=tmp_path / "runs" / "short",
        epochs=1,
        imgsz=(96, 160),
        batch=2,
        belt_views=0,
    )
    trained = training.train(plan, progress=lambda epoch, *_: epochs.append(epoch))
    assert epochs == [1]
    assert trained.weights.is_file() and 0 <= trained.map50 <= 1
    record = json.loads((plan.folder / "training.json").read_text())
    assert record["trained"]["dataset_digest"] == trained.dataset_digest

    mean = training.average_weights([trained.weights, trained.weights.with_name("last.pt")], tmp_path / "mean.pt")
    with pytest.raises(BadWeights, match="not the same network and classes"):
        training.average_weights([mean, plan.weights], tmp_path / "never.pt")
    assert not (tmp_path / "never.pt").exists()

    fp32 = export_onnx(mean, tmp_path / "model.onnx", (96, 160))
    fp16 = convert_fp16(fp32, tmp_path / "model-fp16.onnx")
    assert str(tmp_path).encode() not in fp32.read_bytes()
    draft = Draft(
        name="short",
        version="0.0.1",
        classes=trained.classes,
        thresholds={"scratch": 0.9},
        dataset=Dataset(name="test", digest=trained.dataset_digest, pictures=4),
        tolerance=Tolerance(confidence=0.2, box_px=20.0),
    )
    golden = sorted((tmp_path / "set/images/val").iterdir())
    manifest = build_package(tmp_path / "short" / "0.0.1", draft, variants=[fp32, fp16], golden=golden)
    assert [variant.precision for variant in manifest.variants] == ["fp32", "fp16"]
    assert manifest.variants[0].input.shape == (1, 3, 96, 160)
    assert manifest.runtime.opset <= 17 and manifest.runtime.ir <= 10
    written = {path.relative_to(tmp_path / "short" / "0.0.1").as_posix() for path in (tmp_path / "short").rglob("*.*")}
    assert {"manifest.json", "model.onnx", "model-fp16.onnx", "golden/val0.png", "golden/val1.png"} <= written
