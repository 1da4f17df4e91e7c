"""`train --from active --released URL`: a training goes on from the weights of what a channel runs, or says why not."""

from __future__ import annotations

import hashlib
import json
import uuid
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cloud_inspect.cli import app
from cloud_inspect.cli.train_start import IN_PACKAGE, find_start, shipped
from cloud_inspect.errors import BadRelease, BadWeights
from cloud_inspect.learning import training
from tests.cloud.release.plant import PRODUCT, ROLE, Plant

COCO = Path("yolov8n.pt")


def a_training(runs: Path, name: str) -> str:
    """A finished one's folder; the digest of its record."""
    (runs / name).mkdir(parents=True)
    (runs / name / "weights.npz").write_bytes(name.encode())
    record = json.dumps({"plan": {"sources": [f"{name}/data.yaml"], "imgsz": [384, 640]}}).encode()
    (runs / name / "training.json").write_bytes(record)
    return f"sha256:{hashlib.sha256(record).hexdigest()}"


def release(plant: Plant, version: str, digest: str, channel: str = "stable") -> None:
    """A package that says which training it came from."""
    package = plant.package(version)
    manifest = json.loads((package / "manifest.json").read_text())
    manifest |= {"format": 2, "provenance": {"training_digest": digest}}
    (package / "manifest.json").write_text(json.dumps(manifest))
    plant.release(version, channel, package=package)


@pytest.mark.parametrize("where", ["folder", "memory"])
def test_training_goes_on_from_the_weights_of_what_the_channel_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    plant = Plant(tmp_path, f"memory://{uuid.uuid4().hex}" if where == "memory" else None)
    runs = tmp_path / "runs"
    digests = {name: a_training(runs, name) for name in ("first", "second", "third")}
    release(plant, "1.0.0", digests["first"])
    release(plant, "1.1.0", digests["second"])
    release(plant, "1.2.0", digests["third"], "canary")
    started: list[Path] = []

    def train(plan: training.Plan, **_: object) -> training.Trained:
        started.append(plan.weights)
        raise BadWeights("far enough")

    monkeypatch.setattr(training, "train", train)
    words = ["train", "data.yaml", "--name", "next", "--from", "active", "--runs", str(runs), "--released", plant.url]
    for channel in ("stable", "canary"):
        told = CliRunner().invoke(app, [*words, "--product", PRODUCT, "--channel", channel])
        assert str(told.exception) == "far enough"
    assert started == [runs / "second/weights.npz", runs / "third/weights.npz"]


def test_release_that_no_training_here_made_is_refused_by_name(tmp_path: Path) -> None:
    plant = Plant(tmp_path)
    runs = tmp_path / "runs"
    release(plant, "1.0.0", a_training(tmp_path / "elsewhere", "a"))
    a_training(runs, "b")
    with pytest.raises(BadWeights, match=r"^tiny 1\.0\.0: no training in .*runs is the one it came from") as refused:
        find_start("active", COCO, runs, (plant.url, PRODUCT, "stable"))
    assert "\n" not in str(refused.value)
    release(plant, "1.1.0", "")
    with pytest.raises(BadWeights, match=r"^tiny 1\.1\.0: .*it names none"):
        find_start("active", COCO, runs, (plant.url, PRODUCT, "stable"))


def test_where_nothing_is_released_the_line_says_so(tmp_path: Path) -> None:
    plant = Plant(tmp_path)
    with pytest.raises(BadWeights, match=f"nothing is released for {PRODUCT}, channel stable"):
        find_start("active", COCO, tmp_path, (plant.url, PRODUCT, "stable"))
    with pytest.raises(BadRelease, match=f"it has: {PRODUCT}"):
        find_start("active", COCO, tmp_path, (plant.url, "screws", "stable"))
    with pytest.raises(BadRelease, match="not-a-repository"):
        find_start("active", COCO, tmp_path, (str(tmp_path / "none"), PRODUCT, "stable"))


def test_shipped_model_that_was_released_brings_its_own_weights(tmp_path: Path) -> None:
    plant = Plant(tmp_path)
    plant.sign("1.0.0", package=shipped(), key=(f"{ROLE}-1",))
    plant.publish()
    found = find_start("active", COCO, tmp_path / "runs", (plant.url, PRODUCT, "stable"))
    assert found == shipped() / IN_PACKAGE and found.is_file()


def test_manifest_that_was_changed_after_it_was_signed_is_refused(tmp_path: Path) -> None:
    """Else whoever can write there chooses the weights that the next training starts from."""
    plant = Plant(tmp_path)
    runs = tmp_path / "runs"
    release(plant, "1.0.0", a_training(runs, "good"))
    evil = a_training(runs, "evil")
    manifest = next(Path(plant.url).rglob("*.manifest.json"))
    changed = json.loads(manifest.read_text()) | {"provenance": {"training_digest": evil}}
    manifest.write_text(json.dumps(changed))
    with pytest.raises(BadRelease, match="target-changed"):
        find_start("active", COCO, runs, (plant.url, PRODUCT, "stable"))
