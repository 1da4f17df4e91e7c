"""Camera driver to verdict: whatever the driver does wrong, no part gets OK or NG for it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.sim.tiny_model import draw_defect
from tests.sim.v4l2 import ShimCamera, draw_number, environment, mjpg, yuyv

ROOT = Path(__file__).resolve().parents[2]
WIDTH, HEIGHT = 320, 192
HARMLESS = {"gap", "frozen", "unplug"}
"""Faults after which the picture itself is whole and its own."""


def pictures(count: int, width: int = WIDTH, height: int = HEIGHT) -> list[NDArray[np.uint8]]:
    """Grey with grain and a number; every odd one has a red spot, so a verdict tells which picture it rests on."""
    made = []
    for number in range(count):
        grain = np.random.default_rng(number).integers(120, 136, (height, width, 1), dtype=np.uint8)
        picture = np.repeat(grain, 3, axis=2)
        draw_number(picture, number)
        if number % 2:
            draw_defect(picture, (100, 60, 140, 84))
        made.append(picture)
    return made


class Line:
    """What the appliance said, beside what the camera really gave."""

    def __init__(self, shim: ShimCamera, done: subprocess.CompletedProcess[str]) -> None:
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        self.summary: dict[str, Any] = lines.pop()
        self.verdicts: list[dict[str, Any]] = lines
        self.log = done.stderr
        self.given = shim.faults()

    def by_kind(self, kind: str) -> list[dict[str, Any]]:
        return [verdict for verdict in self.verdicts if verdict["kind"] == kind]

    def check(self) -> None:
        """OK and NG only on whole pictures, and each on its own."""
        for verdict in self.by_kind("OK") + self.by_kind("NG"):
            number, faults = self.given[verdict["frame"]]
            assert set(faults) <= HARMLESS, verdict
            assert verdict["kind"] == ("NG" if number % 2 else "OK"), (verdict, number)
            assert verdict["age_ms"] < 700

    def reasons(self, kind: str) -> set[str]:
        """Why the pictures that were given out with this fault were UNKNOWN."""
        frames = {sequence for sequence, (_, faults) in self.given.items() if kind in faults}
        told = [verdict for verdict in self.verdicts if verdict["frame"] in frames]
        assert all(verdict["kind"] == "UNKNOWN" for verdict in told), told
        return {verdict["reason"] for verdict in told}


def start(folder: Path, model: Path, recipe: Path, shim: ShimCamera, frames: int) -> subprocess.CompletedProcess[str]:
    words = [str(folder / "state"), str(model), str(recipe), str(frames)]
    env = environment([shim]) | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.line.v4l2_line", *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)


def run(folder: Path, model: Path, recipe: Path, shim: ShimCamera, frames: int) -> Line:
    return Line(shim, start(folder, model, recipe, shim, frames))


def camera(folder: Path, fourcc: str, faults: Sequence[str], count: int = 60) -> ShimCamera:
    coded = [mjpg(picture) if fourcc == "MJPG" else yuyv(picture) for picture in pictures(count)]
    shim = ShimCamera(folder, fps=50).play(fourcc, WIDTH, HEIGHT, coded)
    return shim.write(*(f"fault {fault}" for fault in faults))


FAULTS = ["error", "truncate 60", "empty", "garbage", "zeros 50", "eio", "late 900", "truncate 98", "gap 3"]


@pytest.mark.slow
@pytest.mark.parametrize("fourcc", ["YUYV", "MJPG"])
def test_no_fault_of_the_driver_reaches_a_verdict(tmp_path: Path, tiny_model: Path, recipe: Path, fourcc: str) -> None:
    faults = [f"{60 + 7 * n} {FAULTS[n % len(FAULTS)]}" for n in range(45)]
    line = run(tmp_path, tiny_model, recipe, camera(tmp_path, fourcc, faults), frames=380)
    line.check()
    assert len(line.by_kind("OK")) > 100
    assert len(line.by_kind("NG")) > 100
    assert line.reasons("error") == line.reasons("eio") == {"driver-error"}
    assert line.reasons("truncate") <= {"truncated", "corrupt"}
    assert line.reasons("truncate")
    assert line.reasons("empty") == {"empty"}
    assert line.reasons("zeros") == {"truncated"}
    assert line.reasons("garbage") == ({"corrupt"} if fourcc == "MJPG" else {"garbage"})
    assert line.reasons("late") == set()  # dropped; told as lost with the next picture
    assert "frames-lost" in {verdict["reason"] for verdict in line.by_kind("UNKNOWN")}
    assert line.summary["missed"] >= 9  # five gaps of three and five late ones, less what lies beyond the last frame


@pytest.mark.slow
@pytest.mark.parametrize("node", [0, 2])
def test_unplugged_camera_is_told_and_the_line_goes_on_by_itself(
    tmp_path: Path, tiny_model: Path, recipe: Path, node: int
) -> None:
    shim = camera(tmp_path, "MJPG", [f"100 unplug 300 {node}"])
    line = run(tmp_path, tiny_model, recipe, shim, frames=160)
    line.check()
    assert "camera-lost" in {verdict["reason"] for verdict in line.by_kind("UNKNOWN")}
    assert max(verdict["frame"] for verdict in line.by_kind("OK")) > 110
    assert line.summary["reconnects"] == 1
    assert line.log.count("camera.lost") == 1
    assert line.log.count("camera.up") >= 2


@pytest.mark.slow
def test_a_frozen_camera_is_unknown_until_it_moves_again(tmp_path: Path, tiny_model: Path, recipe: Path) -> None:
    line = run(tmp_path, tiny_model, recipe, camera(tmp_path, "YUYV", ["90 frozen 40"]), frames=170)
    line.check()
    frozen = [verdict["frame"] for verdict in line.by_kind("UNKNOWN") if verdict["reason"] == "frozen"]
    assert len(frozen) > 25
    assert max(frozen) < 135
    assert max(verdict["frame"] for verdict in line.by_kind("OK")) > 140


@pytest.mark.slow
def test_a_change_of_size_stops_the_verdicts_until_the_size_is_back(
    tmp_path: Path, tiny_model: Path, recipe: Path
) -> None:
    shim = camera(tmp_path, "MJPG", [f"90 resize {WIDTH // 2} {HEIGHT // 2}"])
    shim.play("MJPG", WIDTH // 2, HEIGHT // 2, [mjpg(picture) for picture in pictures(4, WIDTH // 2, HEIGHT // 2)])
    line = run(tmp_path, tiny_model, recipe, shim, frames=150)
    line.check()
    assert "other-size" in {verdict["reason"] for verdict in line.by_kind("UNKNOWN")}
    assert "camera-lost" in {verdict["reason"] for verdict in line.by_kind("UNKNOWN")}
    assert max(verdict["frame"] for verdict in line.by_kind("OK")) > 95


@pytest.mark.slow
def test_a_driver_call_that_never_returns_ends_the_process(tmp_path: Path, tiny_model: Path, recipe: Path) -> None:
    done = start(tmp_path, tiny_model, recipe, camera(tmp_path, "YUYV", ["60 hang 0"]), frames=200)
    assert done.returncode == 1
    assert '"thread": "grab-camera"' in done.stderr
    assert "in dequeue" in done.stderr
    assert max(json.loads(line)["frame"] for line in done.stdout.splitlines()) < 60


@pytest.mark.slow
def test_a_driver_call_that_a_signal_can_end_is_told_and_cut_short_and_the_line_goes_on(
    tmp_path: Path, tiny_model: Path, recipe: Path
) -> None:
    shim = camera(tmp_path, "MJPG", ["80 block 0"])
    line = run(tmp_path, tiny_model, recipe, shim, frames=140)
    line.check()
    assert shim.happened("cut"), "nobody cut it short"
    assert "the driver's call has not returned" in line.log
    assert line.log.count("camera.lost") == 1
    assert line.summary["reconnects"] == 1
    assert "camera-lost" in {verdict["reason"] for verdict in line.by_kind("UNKNOWN")}
    assert max(verdict["frame"] for verdict in line.by_kind("OK")) > 90


@pytest.mark.slow
def test_a_driver_call_that_returns_late_by_itself_is_told_meanwhile_and_the_line_goes_on(
    tmp_path: Path, tiny_model: Path, recipe: Path
) -> None:
    shim = camera(tmp_path, "MJPG", ["80 hang 6000"])
    line = run(tmp_path, tiny_model, recipe, shim, frames=140)
    line.check()
    assert line.log.count("camera.lost") == 1
    assert line.summary["reconnects"] == 1
    assert line.log.count('"event": "camera.up"') == 2
