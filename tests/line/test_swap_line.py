"""Models of a running appliance are exchanged between two parts, and no part is lost or judged by two."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import Any

import pytest

from edge_inspect.capture.protocol import Format, Pixels
from edge_inspect.errors import BadModel, Ending
from edge_inspect.inference.package import ModelPackage
from tests.line.belt import PATIENCE_S, Belt, as_drawn, running, until
from tests.line.conftest import Build
from tests.line.drawn import HEIGHT, WIDTH, Notes
from tests.line.other_models import changed_package, finds_nothing
from tests.line.stage import StageCamera, StagePlc
from tests.line.test_line import Stage, run_until, stage
from tests.sim.tiny_model import write_tiny_package

__all__ = ["stage"]


def model_of_each_part(notes: Notes) -> list[str]:
    return [judged.model.digest for judged in notes.judged_parts if judged.model]


def test_models_change_between_parts_and_no_part_is_lost(build: Build, others: dict[str, ModelPackage]) -> None:
    """Same shape, larger input, another head, more classes: and each part carries the model that judged it."""
    line, notes = build({"left": Belt(), "right": Belt()})
    chain = ["good", "larger", "end2end", "more classes", "good"]
    threads = set()
    with running(line):
        digests = [line.models.active()]
        for name in chain:
            line.models.swap(others[name])
            assert line.models.active() == others[name].digest
            assert len(line._engines._engines) == 1, "the old engine is freed"
            seen = len(notes.judged_parts)
            until(lambda seen=seen: len(notes.judged_parts) > seen + 20)  # type: ignore[misc]
            digests.append(others[name].digest)
            threads.add(threading.active_count())
    assert len(threads) == 1
    for camera in ("left", "right"):
        own = Notes()
        own.judged_parts = [j for j, name in zip(notes.judged_parts, notes.order, strict=True) if name == camera]
        assert as_drawn(own)
        assert [digest for digest, _ in itertools.groupby(model_of_each_part(own))] == digests


def test_reports_and_vitals_say_which_model_judges(
    build: Build, others: dict[str, ModelPackage], monkeypatch: pytest.MonkeyPatch
) -> None:
    line, notes = build({"left": Belt()}, deliver=True)
    reports: list[Any] = []
    assert line.writer is not None
    monkeypatch.setattr(line.writer, "hand_over", reports.append)
    with running(line):
        line.models.swap(others["good"])
        seen = len(notes.judged_parts)
        until(lambda: len(notes.judged_parts) > seen + 20)
        pulse = line.stations["left"].pulse()
        assert pulse.model is not None and pulse.model.digest == others["good"].digest
    by_part = {judged.part: judged.model for judged in notes.judged_parts}
    assert len(reports) >= 8
    assert all(report.model == by_part[report.part.number] for report in reports)
    assert len({report.model.digest for report in reports}) == 2


def test_a_part_is_judged_to_its_end_by_the_model_that_began_it(
    build: Build, others: dict[str, ModelPackage], recipe: Path
) -> None:
    """Parts of three looks, the last together with the first one of the next part; the swap comes after the second."""
    from edge_inspect.verdict.parts import Look

    line, notes = build({"left": Belt()})
    whole = (0, 0, WIDTH, HEIGHT)
    in_the_middle, swapped = threading.Event(), threading.Event()

    class ThreeLooks:
        """Part n is on the frames 2n, 2n + 1, 2n + 2; and the swap happens within part 20."""

        def __init__(self) -> None:
            self.frames = -1

        def see(self, pixels: Pixels, captured_ns: int) -> list[Look]:
            self.frames += 1
            if self.frames == 41:
                in_the_middle.set()
                until(lambda: line.pipeline._exchange is not None)
            part, second = divmod(self.frames, 2)
            begun = Look(part, whole, last=False)
            return [begun] if second or not part else [Look(part - 1, whole, last=True), begun]

        def blind(self, reason: str, captured_ns: int, frames: int = 1) -> None: ...

        def unjudged(self) -> list[tuple[int, str]]:
            return []

    def swap() -> None:
        assert in_the_middle.wait(PATIENCE_S)
        line.models.swap(others["good"])
        swapped.set()

    station = line.stations["left"]
    prepare = station.grabber._prepare

    def prepare_with(form: Format) -> Any:
        ring = prepare(form)
        assert station.lane is not None
        station.lane.finder = ThreeLooks()  # type: ignore[assignment]
        return ring

    station.grabber._prepare = prepare_with
    thread = threading.Thread(target=swap)
    thread.start()
    with running(line):
        until(swapped.is_set)
        until(lambda: len(notes.judged_parts) > 40)
    thread.join()
    models = {judged.part: judged.model.name for judged in notes.judged_parts if judged.model}
    assert [models[part] for part in range(40)] == ["tiny"] * 21 + ["good"] * 19
    assert station.lane is not None and len(station.lane.begun) <= 1
    runs = [station.lane.model.counts.frames + before.frames for before in line.models._before]
    assert runs == [station.counts.frames + 1], "one frame showed parts of both and went through both"


@pytest.mark.parametrize(("name", "code"), [("other class", "recipe-class"), ("lies", "known-answer")])
def test_a_model_that_must_not_judge_changes_nothing(
    build: Build, others: dict[str, ModelPackage], tmp_path: Path, name: str, code: str
) -> None:
    package = others.get(name) or ModelPackage.load(_liar(tmp_path))
    line, notes = build({"left": Belt()})
    with running(line):
        before = line.models.active()
        with pytest.raises(BadModel) as refused:
            line.models.swap(package)
        assert refused.value.code == code
        with pytest.raises(BadModel):
            line.models.start_shadow(package, role="candidate")
        seen = len(notes.judged_parts)
        until(lambda: len(notes.judged_parts) > seen + 20)
        assert line.models.active() == before and len(line._engines._engines) == 1
        assert line.pipeline.beside is None
    assert as_drawn(notes) and set(model_of_each_part(notes)) == {before}


def _liar(tmp_path: Path) -> Path:
    """Its golden picture shows a defect that it does not find."""
    import json

    honest = write_tiny_package(tmp_path / "honest", name="liar")
    golden = json.loads((honest / "manifest.json").read_text())["golden"]
    return changed_package(honest, tmp_path / "liar", finds_nothing, golden=golden)


def test_a_camera_with_a_model_of_its_own_keeps_it(build: Build, others: dict[str, ModelPackage]) -> None:
    line, notes = build({"left": Belt(), "right": Belt()})
    line.stations["right"].follows = False
    line.models._stations = [line.stations["left"]]
    with running(line):
        line.models.swap(others["good"])
        seen = len(notes.judged_parts)
        until(lambda: len(notes.judged_parts) > seen + 20)
        assert len(line._engines._engines) == 2
        line.models.swap(others["larger"])
        assert len(line._engines._engines) == 2
    names: dict[str, set[str]] = {"left": set(), "right": set()}
    for judged, camera in zip(notes.judged_parts, notes.order, strict=True):
        assert judged.model is not None
        names[camera].add(judged.model.name)
    assert names["right"] == {"tiny"} and {"tiny", "good"} <= names["left"]


def test_a_camera_that_comes_later_gets_the_model_that_judges_then(
    build: Build, others: dict[str, ModelPackage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_inspect.capture.grab.FIRST_WAIT_S", 0.02)
    late = StageCamera()
    late.scene = "lost"
    line, notes = build({"left": Belt(), "late": late})
    with running(line):
        line.models.swap(others["good"], trial=True)
        late.scene = "good"
        until(lambda: "late" in notes.order)
        lane = line.stations["late"].lane
        assert lane is not None and lane.model.ref.name == "good" and lane.model.on_trial
        late.scene = "lost"
        until(lambda: line.stations["late"].status == "lost")
        line.models.swap(others["larger"])
        late.scene = "good"
        until(lambda: line.stations["late"].status == "up")
        seen = len(notes.judged_parts)
        until(lambda: notes.order[seen:].count("late") > 3)
        assert lane.model.ref.name == "larger"


def test_a_triggered_line_hears_nothing_of_swaps(stage: Stage, others: dict[str, ModelPackage]) -> None:
    camera = StageCamera()
    parts = ["good", "bad"] * 40
    plc = StagePlc(camera, parts)
    line, notes = stage(camera, [plc])
    errors: list[BaseException] = []

    def swap() -> None:
        try:
            until(lambda: len(plc.answers) > 1)
            for name in itertools.cycle(["good", "larger"]):
                if plc.done.is_set():
                    return
                line.models.swap(others[name])
        except Ending:
            assert plc.done.is_set()
        except BaseException as err:  # noqa: BLE001 - raised below
            errors.append(err)

    thread = threading.Thread(target=swap)
    thread.start()
    run_until(plc.done, line)
    thread.join()
    assert not errors, errors
    kinds = {"good": "OK", "bad": "NG"}
    wrong = [told for told, part in zip(plc.told, parts, strict=True) if told[1] != kinds[part]]
    assert all(told[2] == "deadline" for told in wrong), wrong  # a machine that stands still is no swap's fault
    assert {"good", "larger"} <= {judged.model.name for judged in notes.judged_parts if judged.model}
