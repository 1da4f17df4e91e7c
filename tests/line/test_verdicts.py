"""The whole appliance on drawn pictures: every part gets one verdict, and what could not be seen is never OK."""

from __future__ import annotations

import os
import re
import resource
import sqlite3
from pathlib import Path

import pytest

from edge_inspect.config import load_config
from edge_inspect.daemon import Appliance
from edge_inspect.delivery.outbox import FILE_NAME
from tests.line.conftest import Build
from tests.line.drawn import SPOT, DrawnCamera, Notes
from tests.sim.tiny_model import write_tiny_package

GOOD, BAD = ("OK", "no-defect"), ("NG", "defect")


def test_every_frame_is_judged_in_order(build: Build) -> None:
    line, notes = build({"left": DrawnCamera(["good", "bad", "good", "bad", "bad"])})
    line.run(notes.stop)
    assert notes.told == [GOOD, BAD, GOOD, BAD, BAD]
    assert [judged.part for judged in notes.judged_parts] == [0, 1, 2, 3, 4]


def test_a_defect_is_found_where_it_was_drawn(build: Build) -> None:
    line, notes = build({"left": DrawnCamera(["bad"])})
    line.run(notes.stop)
    (defect,) = notes.judged_parts[0].verdict.defects
    assert all(abs(found - drawn) <= 3 for found, drawn in zip(defect.box_px, SPOT, strict=True))


@pytest.mark.parametrize("why", ["truncated", "corrupt", "stale", "driver-error", "empty"])
def test_a_damaged_frame_is_unknown_whatever_it_shows(build: Build, why: str) -> None:
    line, notes = build({"left": DrawnCamera(["good", f"broken:{why}", "good"])})
    line.run(notes.stop)
    assert notes.told == [GOOD, ("UNKNOWN", why), GOOD]


def test_frames_the_camera_lost_are_unknown(build: Build) -> None:
    line, notes = build({"left": DrawnCamera(["good", "gap:3", "good"])})
    line.run(notes.stop)
    assert notes.told == [GOOD, *[("UNKNOWN", "frames-lost")] * 3, GOOD, GOOD]


def test_an_unplugged_camera_is_unknown_once_and_comes_back(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_inspect.capture.grab.FIRST_WAIT_S", 0.02)
    line, notes = build({"left": DrawnCamera(["good", "lost", "bad", "good"])})
    line.run(notes.stop)
    assert sorted(notes.told) == sorted([GOOD, ("UNKNOWN", "camera-lost"), BAD, GOOD])
    assert line.stations["left"].counts.reconnects == 1


@pytest.mark.parametrize(("stall_s", "losses"), [(None, 1), (60.0, 0)])
def test_a_camera_that_a_machine_triggers_may_rest(
    build: Build, monkeypatch: pytest.MonkeyPatch, stall_s: float | None, losses: int
) -> None:
    monkeypatch.setattr("edge_inspect.capture.grab.FIRST_WAIT_S", 0.02)
    camera = DrawnCamera(["good", *["rest"] * 100, "bad"], live=True)
    camera.patience_s = 0.05
    line, notes = build({"left": camera}, stall_s=stall_s)
    notes.stop_after = 2 + losses
    line.run(notes.stop)
    assert notes.told == [GOOD, *[("UNKNOWN", "camera-lost")] * losses, BAD]


def test_numbers_that_are_not_finite_are_unknown(build: Build, poisoned_model: Path) -> None:
    line, notes = build({"left": DrawnCamera(["good", "blue", "bad"])}, model=poisoned_model)
    line.run(notes.stop)
    assert notes.told == [GOOD, ("UNKNOWN", "non-finite"), BAD]


def test_cameras_take_turns_and_share_one_engine(build: Build) -> None:
    cameras = {name: DrawnCamera(["good", "bad"] * 20) for name in ("left", "right", "top")}
    line, notes = build(cameras)
    line.run(notes.stop)
    assert {name: notes.order.count(name) for name in cameras} == dict.fromkeys(cameras, 40)
    engines = {id(station.lane.engine) for station in line.stations.values() if station.lane}
    assert len(engines) == 1


def test_a_camera_decodes_into_the_rings_own_slots(build: Build) -> None:
    camera = DrawnCamera(["good"] * 30)
    line, notes = build({"left": camera})
    line.run(notes.stop)
    lane = line.stations["left"].lane
    assert lane is not None
    assert camera.addresses <= {slot.pixels.ctypes.data for slot in lane.ring.slots}


def test_only_parts_that_are_not_ok_reach_the_disk(build: Build, tmp_path: Path) -> None:
    line, notes = build({"left": DrawnCamera(["good", "bad", "broken:corrupt", "good", "bad"])}, deliver=True)
    line.run(notes.stop)
    with sqlite3.connect(tmp_path / "state" / FILE_NAME) as db:
        verdicts = [row[0] for row in db.execute("SELECT json_extract(payload, '$.verdict') FROM report ORDER BY row")]
    db.close()
    assert verdicts == ["NG", "UNKNOWN", "NG"]


def test_frames_wanted_ends_the_run(build: Build) -> None:
    line, notes = build({"left": DrawnCamera(["good"] * 50)}, frames=7)
    line.run(notes.stop)
    assert len(notes.told) == 7


def test_a_thread_that_dies_takes_the_process_down(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    line, notes = build({"left": DrawnCamera(["good"] * 50)})

    def explode(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(line.pipeline, "inspect", explode)
    with pytest.raises(ZeroDivisionError):
        line.run(notes.stop)


def test_a_wrong_known_answer_stops_the_start(build: Build, tmp_path: Path) -> None:
    from edge_inspect.errors import BadModel

    package = write_tiny_package(tmp_path / "liar")
    manifest = package / "manifest.json"
    text = manifest.read_text()
    assert '"confidence": 0.9' in text
    manifest.write_text(text.replace('"confidence": 0.9', '"confidence": 0.5', 1))
    line, notes = build({"left": DrawnCamera(["good"])}, model=package)
    with pytest.raises(BadModel, match="known-answer"):
        line.run(notes.stop)
    assert notes.told == []


def test_a_runtime_that_begins_to_lie_ends_the_run(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_inspect.errors import BadModel
    from edge_inspect.inference.engine import Engine

    monkeypatch.setattr("edge_inspect.known_answers.EVERY_S", 0.0)
    asked: list[int] = []
    really = Engine.known_answer

    def lie_from_the_third_time_on(engine: Engine, number: int | None = None) -> None:
        asked.append(-1 if number is None else number)
        if len(asked) > 3:
            engine.input[:] = 0
            raise BadModel("known-answer", "drawn: found nothing")
        really(engine, *([] if number is None else [number]))

    monkeypatch.setattr(Engine, "known_answer", lie_from_the_third_time_on)
    line, notes = build({"left": DrawnCamera(["good"] * 50)})
    line.config.state_dir.mkdir()
    with pytest.raises(BadModel, match="found nothing"):
        line.run(notes.stop)
    assert asked[0] == -1, "all of them at the start"
    assert asked[1] == 0, "then one at a time, between frames"
    assert len(notes.told) < 50
    again, _ = build({"left": DrawnCamera(["good"])})
    [alarm] = again.state().degraded
    assert alarm.code == "results-in-doubt", "what was told since the last right answer is named after the next start"
    assert line.stations["left"].package.digest[7:19] in alarm.detail


def test_each_camera_of_a_configuration_has_its_own_recipe(tmp_path: Path, tiny_model: Path) -> None:
    recipe = 'name = "{0}"\nversion = "1"\n[classes.scratch]\nthreshold = {1}\n'
    (tmp_path / "strict.toml").write_text(recipe.format("strict", 0.5))
    (tmp_path / "blind.toml").write_text(recipe.format("blind", 0.99))
    file = tmp_path / "line.toml"
    file.write_text(
        f"""state_dir = "{tmp_path}/state"
[model]
dir = "{tiny_model}"
provider = "cpu"
[[camera]]
name = "left"
source = "sim"
recipe = "strict.toml"
[[camera]]
name = "right"
source = "sim"
recipe = "blind.toml"
"""
    )
    notes = Notes()
    cameras = {name: DrawnCamera(["bad"] * 3) for name in ("left", "right")}
    line = Appliance(load_config(file), cameras=cameras, watchers=(notes,), deliver=False)
    line.run(notes.stop)
    told = {
        name: [verdict for of, verdict in zip(notes.order, notes.told, strict=True) if of == name] for name in cameras
    }
    assert told == {"left": [BAD] * 3, "right": [GOOD] * 3}
    assert {s.recipe.name for s in line.stations.values()} == {"strict", "blind"}


def test_frames_are_locked_into_memory_where_that_is_allowed(build: Build) -> None:
    line, notes = build({"left": DrawnCamera(["good"])})
    line.run(notes.stop)
    lane = line.stations["left"].lane
    assert lane is not None
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    frames = sum(slot.pixels.nbytes for slot in lane.ring.slots)
    assert lane.ring.locked or (os.geteuid() != 0 and soft < frames)
    assert not lane.ring.locked or all(is_locked(slot.pixels.ctypes.data) for slot in lane.ring.slots)


def is_locked(address: int) -> bool:
    """As the kernel says of the mapping in which it lies; how much is locked in all says nothing of this ring."""
    found = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, _, rest = line.partition(" ")
        if re.fullmatch(r"[0-9a-f]+-[0-9a-f]+", first):
            start, end = (int(number, 16) for number in first.split("-"))
            found = start <= address < end
        elif found and first == "VmFlags:":
            return "lo" in rest.split()
    raise AssertionError("no such mapping")
