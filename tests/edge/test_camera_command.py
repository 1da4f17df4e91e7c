"""`edge-inspect camera list|test`: what a source really gives, as people and machines read it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import typer

from edge_inspect.cli import camera
from edge_inspect.errors import BadSource, CameraLost, InspectError, StorageFailing, Usage
from tests.sim.v4l2 import ShimCamera, environment, mjpg, numbered, numbers_in, yuyv

ROOT = Path(__file__).resolve().parents[2]
RUN = "import typer; from edge_inspect.cli import camera; app = typer.Typer(); camera.add(app); app()"


def run(*words: str) -> None:
    app = typer.Typer()
    camera.add(app)
    typer.main.get_command(app).main(["camera", *words], standalone_mode=False)


def shimmed(shim: ShimCamera, *words: str) -> subprocess.CompletedProcess[str]:
    env = environment([shim]) | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", RUN, "camera", *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def shim(tmp_path: Path) -> ShimCamera:
    pictures = numbered(60, 320, 240)
    made = ShimCamera(tmp_path, fps=200).play("YUYV", 320, 240, [yuyv(picture) for picture in pictures])
    return made.play("MJPG", 320, 240, [mjpg(picture) for picture in pictures])


def test_list_names_each_camera_with_what_it_offers(shim: ShimCamera) -> None:
    done = shimmed(shim, "list", "--json")
    (listed,) = json.loads(done.stdout.splitlines()[-1])["cameras"]
    assert (listed["device"], listed["card"], listed["bus_info"]) == ("/dev/video0", "Shim Camera", "usb-shim-0")
    assert listed["formats"] == {"YUYV": ["320x240"], "MJPG": ["320x240"]}
    assert "Shim Camera" in shimmed(shim, "list").stdout


def test_test_reports_what_the_driver_gave_and_what_was_lost(shim: ShimCamera, tmp_path: Path) -> None:
    shim.write("fault 10 error", "fault 20 gap 4")
    out = tmp_path / "seen.png"
    words = [
        "test",
        "/dev/video0",
        "--pixel-format",
        "MJPG",
        "--frames",
        "40",
        "--gain",
        "3",
        "--out",
        str(out),
        "--json",
    ]
    told = json.loads(shimmed(shim, *words).stdout.splitlines()[-1])
    assert (told["width_px"], told["height_px"], told["pixel_format"], told["fps"]) == (320, 240, "MJPG", 200)
    assert (told["frames"], told["broken"]) == (40, {"driver-error": 1})
    assert told["missed"] >= 4
    assert 10 < told["measured_fps"] < 300
    assert told["settings"]["note"] == "gain: asked 3, this driver has no such control"
    top, bottom = numbers_in(cv2.imread(str(out)))
    assert top == bottom is not None


def test_a_silent_camera_is_an_error_after_a_few_seconds(shim: ShimCamera, monkeypatch: pytest.MonkeyPatch) -> None:
    shim.write("fault 3 silence 0")
    done = shimmed(shim, "test", "/dev/video0")
    assert done.returncode == 1
    assert "CameraLost" in done.stderr
    assert "no picture for 5 s after 3" in " ".join(done.stderr.split())


def test_any_source_can_be_tested(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run("test", "sim:paced=false", "--frames", "20", "--out", str(tmp_path / "a.jpg"), "--json")
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["frames"] == 20
    assert told["broken"] == {}
    assert cv2.imread(str(tmp_path / "a.jpg")).shape == (told["height_px"], told["width_px"], 3)
    run("test", str(tmp_path / "a.jpg"))
    assert "1 picture," in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        (["test", "nowhere.mp4"], BadSource, "nowhere.mp4"),
        (["test", "sim", "--exposure-us", "100"], BadSource, "exposure_us"),
        (["test", "sim:paced=false", "--out", "picture.txt"], Usage, "allowed: .jpg"),
        (["test", "sim:paced=false", "--frames", "2", "--out", "/nowhere/at/all.jpg"], Usage, "there is no folder"),
        (["test", "sim:paced=false", "--frames", "2", "--out", "/proc/seen.jpg"], StorageFailing, "cannot be written"),
        (["test", "/dev/video61"], CameraLost, "/dev/video61"),
    ],
)
def test_what_cannot_be_tested_is_one_clear_line(words: list[str], error: type[InspectError], said: str) -> None:
    with pytest.raises(error) as raised:
        run(*words)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_no_camera_at_all_is_an_empty_list(capsys: pytest.CaptureFixture[str]) -> None:
    run("list", "--json")
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert isinstance(told["cameras"], list)


def test_a_picture_is_never_written_over_by_what_was_seen_of_it(tmp_path: Path) -> None:
    cv2.imwrite(str(picture := tmp_path / "one.png"), numbered(1, 64, 64)[0])
    before = picture.read_bytes()
    with pytest.raises(Usage, match="is the source"):
        run("test", str(picture), "--out", str(picture))
    with pytest.raises(Usage, match="is in the source"):
        run("test", str(tmp_path), "--out", str(picture))
    assert picture.read_bytes() == before


def test_a_folder_that_takes_no_picture_is_told_of_by_us_alone(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StorageFailing):
        run("test", "sim:paced=false", "--frames", "2", "--out", "/proc/seen.jpg")
    assert capfd.readouterr().err == ""
