"""A training's folder goes into `release build` as it is; one that is not finished is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cloud_inspect.cli import app
from cloud_inspect.errors import BadPackage, BadWeights
from cloud_inspect.release.from_training import read_run


def a_run(folder: Path) -> Path:
    folder.mkdir()
    plan = {"sources": ["plates/data.yaml", "more/data.yaml"], "imgsz": [384, 640]}
    (folder / "training.json").write_text(json.dumps({"plan": plan}))
    return folder


def test_a_run_brings_its_data_its_record_and_its_shape(tmp_path: Path) -> None:
    run = read_run(a_run(tmp_path / "plates"))
    assert run.imgsz == (384, 640) and run.record == tmp_path / "plates" / "training.json"
    assert run.data == (Path("plates/data.yaml"), Path("more/data.yaml"))


def test_an_export_is_not_made_twice_unless_the_weights_are_newer(tmp_path: Path) -> None:
    run = read_run(a_run(tmp_path / "plates"))
    (run.folder / "model.onnx").write_bytes(b"exported")
    assert run.export() == run.folder / "model.onnx"


def test_a_run_without_weights_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(BadWeights, match=r"best\.pt: no such file"):
        read_run(a_run(tmp_path / "plates")).export()


@pytest.mark.parametrize("record", [None, "{", "[]", "{}", '{"plan": {}}', '{"plan": {"imgsz": 640, "sources": []}}'])
def test_a_training_that_did_not_end_is_refused(record: str | None, tmp_path: Path) -> None:
    (tmp_path / "plates").mkdir()
    if record is not None:
        (tmp_path / "plates" / "training.json").write_text(record)
    with pytest.raises(BadPackage, match=r"training\.json") as refused:
        read_run(tmp_path / "plates")
    assert "\n" not in str(refused.value)


def test_a_single_file_needs_its_data_named(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"x")
    words = ["release", "build", str(tmp_path / "model.onnx"), "--name", "a", "--version", "1.0.0", "--out", "out"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code != 0 and "--data is missing" in result.output + str(result.exception)
