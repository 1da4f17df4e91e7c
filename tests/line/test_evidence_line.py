"""The whole appliance: parts that were not OK have their pictures, and nothing about pictures holds the line up."""

from __future__ import annotations

import sqlite3
import threading
import time
import tracemalloc
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_inspect.capture.sim import SimCamera
from edge_inspect.config import config_from_options
from edge_inspect.config_evidence import EvidenceConfig
from edge_inspect.daemon import Appliance
from edge_inspect.delivery import evidence
from edge_inspect.delivery.evidence import FOLDER
from edge_inspect.delivery.evidence_read import KeptPart, Wanted, find_parts
from edge_inspect.delivery.outbox import FILE_NAME
from edge_inspect.pipeline import Judged, Lane
from edge_wire.messages import DefectReport
from tests.line.conftest import Build
from tests.line.drawn import HEIGHT, SPOT, WIDTH, DrawnCamera, Notes
from tests.line.stage import StageCamera, StagePlc
from tests.line.test_line import Stage, run_until, stage
from tests.line.test_no_allocation import At, EndlessCamera

__all__ = ["stage"]  # a fixture

DEADLINE_S = 60.0


def kept(state: Path) -> dict[int, KeptPart]:
    return {part.record.part: part for part in find_parts(state / FOLDER, Wanted())}


def look_at(state: Path, part: KeptPart, what: str) -> np.ndarray:
    (file,) = [each.file for each in part.pictures if each.record.what == what]
    return cv2.imread(str(state / FOLDER / file))


def with_evidence(line: Appliance, **keys: object) -> None:
    """As if the configuration had said so."""
    config = EvidenceConfig(**keys).model_dump(exclude={"enabled"})
    line.evidence = evidence.EvidenceStore(line.config.state_dir / FOLDER, **config)


class Slowly:
    """Lets each part's picture be written before the next part comes: which parts are kept is then known."""

    def __init__(self) -> None:
        self.line: Appliance | None = None

    def __call__(self, lane: Lane, judged: Judged) -> None:
        assert self.line is not None and self.line.evidence is not None
        until = time.monotonic() + DEADLINE_S
        while self.line.evidence._jobs.qsize() and time.monotonic() < until:
            time.sleep(0.002)


def test_bad_parts_have_their_pictures(build: Build, tmp_path: Path) -> None:
    slowly = Slowly()
    steps = ["good", "bad", "good", "good", "bad", "broken:corrupt", "good"]
    line, notes = build({"left": DrawnCamera(steps)}, deliver=True, tell=slowly)
    slowly.line = line
    with_evidence(line, ok_share=0.0)
    line.run(threading.Event())
    kinds = [kind for kind, _ in notes.told]
    assert kinds == ["OK", "NG", "OK", "OK", "NG", "UNKNOWN", "OK"]
    found = kept(tmp_path / "state")
    assert sorted(found) == [judged.part for judged in notes.judged_parts if judged.verdict.kind.value == "NG"]
    for part in found.values():
        frame = look_at(tmp_path / "state", part, "frame")
        assert frame.shape == (HEIGHT, WIDTH, 3)
        x0, y0, x1, y1 = SPOT
        spot, plate = frame[y0 + 4 : y1 - 4, x0 + 4 : x1 - 4].mean((0, 1)), frame[120:].mean((0, 1))
        assert spot[2] > spot[0] + 60 and abs(plate[2] - plate[0]) < 10, "the red spot is where it was drawn"
        (mark,) = part.record.defects
        assert np.allclose(mark.box_px, SPOT, atol=16)
        crop = next(each.record.crop_px for each in part.pictures if each.record.what == "crop")
        assert crop[0] <= x0 and crop[1] <= y0 and crop[2] >= x1 and crop[3] >= y1


def test_a_report_leads_to_its_pictures(build: Build, tmp_path: Path) -> None:
    slowly = Slowly()
    line, _ = build({"left": DrawnCamera(["good", "bad"])}, deliver=True, tell=slowly)
    slowly.line = line
    line.run(threading.Event())
    with closing(sqlite3.connect(tmp_path / "state" / FILE_NAME)) as db:
        ((payload,),) = db.execute("SELECT payload FROM report").fetchall()
    report = DefectReport.from_bytes(payload)
    record = kept(tmp_path / "state")[report.part.number].record
    assert report.frame is not None
    assert (record.camera, record.captured_ns) == (report.camera, report.frame.captured_ns)
    assert (record.model_digest, record.recipe_digest) == (report.model.digest, report.recipe.digest)
    assert record.verdict == report.verdict.value


def test_a_trigger_leads_to_the_picture_of_its_own_part(stage: Stage, tmp_path: Path) -> None:
    camera = StageCamera()
    plc = StagePlc(camera, ["good", "bad", "good", "bad", "good"])  # no more bad ones than there are buffers
    line, _ = stage(camera, [plc], deliver=True)
    with_evidence(line, ok_share=0.0)
    run_until(plc.done, line)
    found = kept(tmp_path / "state").values()
    assert sorted(part.record.sequence or 0 for part in found) == [1, 3]
    for part in found:
        x0, y0, x1, y1 = SPOT
        spot = look_at(tmp_path / "state", part, "frame")[y0 + 4 : y1 - 4, x0 + 4 : x1 - 4].mean((0, 1))
        assert spot[2] > spot[0] + 60


def test_ok_parts_are_sampled_by_their_number(build: Build, tmp_path: Path) -> None:
    slowly = Slowly()
    line, _ = build({"left": DrawnCamera(["good"] * 60)}, deliver=True, tell=slowly)
    slowly.line = line
    with_evidence(line, ok_share=0.2, most_per_min=100_000)
    assert line.evidence is not None
    line.run(threading.Event())
    chosen = [part for part in range(60) if line.evidence.samples("left", part)]
    found = kept(tmp_path / "state")
    assert 3 < len(chosen) < 30 and sorted(found) == chosen
    assert {part.record.verdict for part in found.values()} == {"OK"}


def test_of_a_dead_camera_the_first_picture_is_kept(build: Build, tmp_path: Path) -> None:
    class Black(DrawnCamera):
        def read_into(self, pixels, stamp):  # type: ignore[no-untyped-def]
            read = super().read_into(pixels, stamp)
            if stamp.index > 2:
                pixels[:] = 0
            return read

    line, notes = build({"left": Black(["good"] * 12)}, deliver=True)
    line.run(threading.Event())
    assert [reason for kind, reason in notes.told if kind == "UNKNOWN"] == ["black"] * 10
    (part,) = [part for part in kept(tmp_path / "state").values() if part.record.verdict == "UNKNOWN"]
    assert part.record.reason == "black"
    assert look_at(tmp_path / "state", part, "frame").max() < 5


def test_nothing_is_kept_where_nothing_is_delivered(build: Build, tmp_path: Path) -> None:
    line, _ = build({"left": DrawnCamera(["bad"] * 3)}, deliver=False)
    line.run(threading.Event())
    assert line.evidence is None and not (tmp_path / "state" / FOLDER).exists()


def test_it_can_be_switched_off(build: Build, tmp_path: Path, tiny_model: Path, recipe: Path) -> None:
    config = config_from_options(camera="sim", state=tmp_path / "off", provider="cpu", recipe=recipe, model=tiny_model)
    config = config.model_copy(update={"evidence": EvidenceConfig(enabled=False)})
    line = Appliance(config, cameras={"camera": DrawnCamera(["bad"] * 3)})
    line.run(threading.Event())
    assert not (tmp_path / "off" / FOLDER).exists()


def test_a_disk_that_hangs_holds_nobody_up(build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = threading.Event()
    monkeypatch.setattr(evidence, "write_picture", lambda *_: goes_on.wait(120))

    class Releases(Notes):
        def judged(self, lane, judged, pixels):  # type: ignore[no-untyped-def]
            super().judged(lane, judged, pixels)
            if len(self.judged_parts) == 200:
                goes_on.set()

    line, _ = build({"left": DrawnCamera(["bad"] * 200)}, deliver=True)
    notes = Releases()
    line.pipeline._watchers = (notes,)
    line.run(threading.Event())
    assert [kind for kind, _ in notes.told] == ["NG"] * 200, "all of them before the disk moved again"
    assert line.writer is not None and line.writer.dropped == 0
    assert line.evidence is not None and line.evidence.skipped >= 190


def test_a_disk_that_fails_is_an_alarm_and_no_verdict_is_missing(build: Build, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / FOLDER).write_text("in the way")
    line, notes = build({"left": DrawnCamera(["bad"] * 20)}, deliver=True)
    line.run(threading.Event())
    assert [kind for kind, _ in notes.told] == ["NG"] * 20
    assert [alarm.code for alarm in line.state().degraded] == ["evidence-failing"]
    assert line.evidence is not None and line.evidence.vitals().failing
    assert line.evidence.failed + line.evidence.skipped == 20


def test_no_frame_sized_memory_per_part_on_the_way_of_a_frame(build: Build) -> None:
    """Every part is a sample here, so that each frame is offered. Three stretches: what happens once does not count."""
    peaks: list[int] = []

    def begin() -> None:
        tracemalloc.start(1)

    def end() -> None:
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()

    slowly = Slowly()
    line, _ = build({"left": EndlessCamera(420)}, deliver=True, tell=slowly)
    slowly.line = line
    with_evidence(line, ok_share=1.0, most_per_min=100_000)
    marks = {f"frame_{n}": act for begun in (100, 200, 300) for n, act in ((begun, begin), (begun + 90, end))}
    line.pipeline._watchers = (At(**marks),)
    line.run(threading.Event())
    assert line.evidence is not None and line.evidence.stored >= 300
    assert min(peaks) < WIDTH * HEIGHT * 3, f"something of a frame's size was allocated: {peaks}"


@pytest.mark.slow
def test_simulated_line_has_a_picture_of_every_bad_part(tmp_path: Path) -> None:
    """The shipped model on the simulated line; what was drawn onto the plates is what the pictures show."""
    camera = SimCamera(seed=3, parts=8, ng_share=0.6, paced=False)
    slowly = Slowly()
    notes = Notes()
    line = Appliance(
        config_from_options(camera="sim", state=tmp_path),
        cameras={"camera": camera}, watchers=(notes,), tell=slowly,
    )  # fmt: skip
    slowly.line = line
    line.run(threading.Event())
    bad = {judged.part for judged in notes.judged_parts if judged.verdict.kind.value != "OK"}
    found = {number: part for number, part in kept(tmp_path).items() if part.record.verdict != "OK"}
    assert bad and set(found) == bad
    for part in found.values():
        frame = look_at(tmp_path, part, "frame").astype(int)
        for mark in part.record.defects:
            x0, y0, x1, y1 = (max(0, round(side)) for side in mark.box_px)
            inside = frame[y0:y1, x0:x1]
            assert inside.max() - np.median(inside) > 40, "a bright scratch on a dark plate"
