"""Models of a running appliance: exchanged between parts, compared in the shadow, tried and taken back."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edge_inspect.capture.protocol import Camera, Format, Pixels, Read, Stamp
from edge_inspect.capture.sim import SimCamera
from edge_inspect.config import config_from_options
from edge_inspect.daemon import Appliance
from edge_inspect.delivery.evidence_index import FILE_NAME
from edge_inspect.delivery.evidence_read import Wanted, find_parts
from edge_inspect.errors import BadModel, Ending
from edge_inspect.inference.engine import Engine
from edge_inspect.inference.package import ModelPackage, find_model
from edge_inspect.update.shadow import ShadowReport, shadow_verdict
from edge_inspect.update.trial import trial_verdict
from edge_wire.release import ShadowLimits, TrialLimits
from tests.line.conftest import Build
from tests.line.drawn import HEIGHT, SPOT, WIDTH, Notes
from tests.line.other_models import changed_package, finds_nothing, noised
from tests.line.stage import StageCamera, StagePlc
from tests.line.test_line import Stage, run_until, stage
from tests.sim.tiny_model import draw_defect, write_tiny_package

__all__ = ["stage"]

PATIENCE_S = 60.0
BAD_EVERY = 5


class Belt(Camera):
    """Every fifth picture is bad, for ever; `blue` while that is set. Waits for the line, so that no frame is lost."""

    label = "belt"
    live = False

    def __init__(self) -> None:
        self.shown = 0
        self.scene = ""
        self.ended = threading.Event()

    def open(self) -> Format:
        return Format(WIDTH, HEIGHT, 25.0, "BGR")

    def read_into(self, pixels: Pixels, stamp: Stamp) -> Read:
        if self.ended.is_set():
            return Read.END
        time.sleep(0.002)
        pixels[:] = 128
        if self.scene == "blue":
            draw_defect(pixels, SPOT, 2)
        elif self.shown % BAD_EVERY == 0:
            draw_defect(pixels, SPOT, 0)
        stamp.index, stamp.captured_ns, stamp.utc_ns = self.shown, time.monotonic_ns(), time.time_ns()
        self.shown += 1
        return Read.FRAME

    def close(self) -> None:
        """Nothing is held."""


@contextmanager
def running(appliance: Appliance) -> Iterator[None]:
    """It inspects in a thread of its own; what ended it is raised here."""
    stop, errors = threading.Event(), []

    def body() -> None:
        try:
            appliance.run(stop)
        except BaseException as err:  # noqa: BLE001 - raised below
            errors.append(err)

    thread = threading.Thread(target=body, name="appliance")
    thread.start()
    try:
        until(lambda: bool(errors) or appliance.pipeline.frames > 30)
        yield
    finally:
        stop.set()
        thread.join()
    if errors:
        raise errors[0]


def until(happened: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    end_s = time.monotonic() + patience_s
    while not happened():
        assert time.monotonic() < end_s, "waited in vain"
        time.sleep(0.005)


@pytest.fixture(scope="session")
def others(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, ModelPackage]:
    """By what is the matter with them."""
    folder = tmp_path_factory.mktemp("others")
    made = {
        "good": write_tiny_package(folder / "good", name="good", version="2.0.0"),
        "larger": write_tiny_package(folder / "larger", 192, 320, name="larger"),
        "end2end": write_tiny_package(folder / "end2end", layout="end2end", name="end2end"),
        "more classes": write_tiny_package(folder / "more", classes=("scratch", "dent", "stain"), name="more"),
        "poisoned": write_tiny_package(folder / "poisoned", poison=True, name="poisoned"),
        "blind": changed_package(tiny_model, folder / "blind", finds_nothing, name="blind"),
        "other class": write_tiny_package(folder / "dents", classes=("dent",), name="dents"),
    }
    return {name: ModelPackage.load(path) for name, path in made.items()}


def model_of_each_part(notes: Notes) -> list[str]:
    return [judged.model.digest for judged in notes.judged_parts if judged.model]


def as_drawn(notes: Notes) -> bool:
    """No part is missing, and each is what the belt showed."""
    kinds = [judged.verdict.kind.value for judged in notes.judged_parts]
    return kinds == ["OK" if number % BAD_EVERY else "NG" for number in range(len(kinds))]


# --- swap ----------------------------------------------------------------------------------------------------------


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


# --- shadow --------------------------------------------------------------------------------------------------------


def shadowed(line: Appliance, package: ModelPackage, parts: int) -> ShadowReport:
    line.models.start_shadow(package, role="candidate")
    until(lambda: line.models.shadow_report().parts >= parts)
    line.models.stop_shadow()
    return line.models.shadow_report()


def test_a_good_candidate_agrees_and_passes(build: Build, others: dict[str, ModelPackage]) -> None:
    line, notes = build({"left": Belt(), "right": Belt()})
    line.shadow._share = 1.0
    with running(line):
        for name in ("good", "larger", "end2end"):
            report = shadowed(line, others[name], 60)
            assert report.same == report.parts >= 60 and report.active_ng > 0
            assert report.beside.p50_ms is not None and report.answers.p50_ms is not None
            assert shadow_verdict(report, ShadowLimits(parts=60, least_rejected=5)) == "pass"
        assert line.models.active() not in (others["good"].digest, others["larger"].digest)
    assert as_drawn(_of(notes, "left")) and as_drawn(_of(notes, "right"))


def _of(notes: Notes, camera: str) -> Notes:
    own = Notes()
    own.judged_parts = [j for j, name in zip(notes.judged_parts, notes.order, strict=True) if name == camera]
    return own


def test_a_candidate_that_finds_less_is_caught_and_what_it_missed_is_kept(
    build: Build, others: dict[str, ModelPackage]
) -> None:
    line, notes = build({"left": Belt()}, deliver=True)
    line.shadow._share = 1.0
    with running(line):
        report = shadowed(line, others["blind"], 20)
        assert line.evidence is not None
        folder = line.config.state_dir / "evidence"
        until(lambda: (folder / FILE_NAME).exists() and bool(_disagreements(folder)))
    assert report.new_ok == report.active_ng >= 3 and report.new_ng == 0
    assert report.by_class["scratch"].new_ok == report.new_ok
    assert shadow_verdict(report, ShadowLimits()) == "shadow-new-ok"
    assert as_drawn(notes), "the line hears nothing of it"
    kept = _disagreements(folder)[0]
    assert (kept.verdict, kept.reason) == ("NG", "disagreement") and kept.defects[0].cls == "scratch"
    assert kept.beside is not None
    assert (kept.beside.verdict, kept.beside.model_digest) == ("OK", others["blind"].digest)
    assert kept.model_digest == line.models.active() and kept.part % BAD_EVERY == 0


def _disagreements(folder: Path) -> list[Any]:
    return [part.record for part in find_parts(folder, Wanted()) if part.record.reason == "disagreement"]


def test_a_shadow_that_has_no_time_leaves_parts_out_and_says_so(build: Build, others: dict[str, ModelPackage]) -> None:
    line, notes = build({"left": Belt()})
    line.shadow._share = 0.001
    with running(line):
        line.models.start_shadow(others["good"], role="candidate")
        until(lambda: line.models.shadow_report().skipped > 50)
        report = line.models.shadow_report()
    assert report.same == report.parts < report.skipped and report.share < 0.5
    assert as_drawn(notes)


def test_no_shadow_runs_while_a_trigger_waits(build: Build, others: dict[str, ModelPackage]) -> None:
    line, _ = build({"left": Belt()})
    line.shadow._line_waits = lambda: True
    with running(line):
        line.models.start_shadow(others["good"], role="candidate")
        until(lambda: line.models.shadow_report().skipped > 50)
        assert line.models.shadow_report().parts == 0
        line.models.stop_shadow()  # does not wait for the line either


# --- trial ---------------------------------------------------------------------------------------------------------

TRIAL = TrialLimits(parts=60, least_s=0)


def test_a_good_candidate_is_kept_after_a_trial(build: Build, others: dict[str, ModelPackage]) -> None:
    line, notes = build({"left": Belt()})
    line.shadow._share = 1.0
    before = line.stations["left"].package
    with running(line):
        line.models.swap(others["good"], trial=True)
        line.models.start_shadow(before, role="predecessor")
        until(lambda: trial_verdict(line.models.trial_report(), TRIAL) != "go-on")
        report = line.models.trial_report()
        assert trial_verdict(report, TRIAL) == "keep"
        line.models.stop_shadow()
        line.models.end_trial()
        assert line.models.trial_report().parts == 0
    assert report.parts >= 60 and 0 < report.ng < report.parts and report.before_parts > 0
    assert report.beside.same == report.beside.parts > 0
    assert as_drawn(notes)


def test_a_candidate_whose_numbers_become_nonsense_goes_back(build: Build, others: dict[str, ModelPackage]) -> None:
    """It agreed in the shadow; then parts come of which it makes NaN."""
    belt = Belt()
    line, notes = build({"left": belt})
    line.shadow._share = 1.0
    before = line.stations["left"].package
    with running(line):
        report = shadowed(line, others["poisoned"], 40)
        assert shadow_verdict(report, ShadowLimits(parts=40, least_rejected=5)) == "pass"
        line.models.swap(others["poisoned"], trial=True)
        line.models.start_shadow(before, role="predecessor")
        belt.scene = "blue"
        until(lambda: trial_verdict(line.models.trial_report(), TRIAL, report) == "trial-non-finite")
        line.models.swap(before)
        assert line.models.active() == before.digest and line.models.trial_report().frames == 0
        seen = len(notes.judged_parts)
        until(lambda: len(notes.judged_parts) > seen + 10)
    reasons = Counter((j.model.name, j.verdict.reason) for j in notes.judged_parts if j.model)
    assert reasons["poisoned", "non-finite"] >= 3, "nobody is told that such a part is good"
    assert {judged.verdict.kind.value for judged in notes.judged_parts[-4:]} == {"OK"}


def test_parts_that_change_are_not_the_candidates_fault(build: Build, others: dict[str, ModelPackage]) -> None:
    """From one fifth to all of them bad: the predecessor sees that, too."""

    class Worse(Belt):
        def read_into(self, pixels: Pixels, stamp: Stamp) -> Read:
            read = super().read_into(pixels, stamp)
            if self.scene == "worse":
                draw_defect(pixels, SPOT, 0)
            return read

    belt = Worse()
    line, _ = build({"left": belt})
    line.shadow._share = 1.0
    before = line.stations["left"].package
    with running(line):
        predicted = shadowed(line, others["good"], 40)
        line.models.swap(others["good"], trial=True)
        line.models.start_shadow(before, role="predecessor")
        belt.scene = "worse"
        until(lambda: trial_verdict(line.models.trial_report(), TRIAL, predicted) != "go-on")
        report = line.models.trial_report()
    assert trial_verdict(report, TRIAL, predicted) == "keep"
    assert report.ng / report.parts > 0.5 > predicted.active_ng / predicted.parts


def test_a_wrong_known_answer_of_a_candidate_sends_it_back_instead_of_ending_the_daemon(
    build: Build, others: dict[str, ModelPackage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_inspect.known_answers.EVERY_ON_TRIAL_S", 0.05)
    line, notes = build({"left": Belt()})
    before = line.stations["left"].package
    lies = threading.Event()
    really = Engine.known_answer

    def known_answer(engine: Engine, number: int | None = None) -> None:
        if lies.is_set() and engine.package.manifest.name == "good":
            raise BadModel("known-answer", "drawn: found nothing")
        really(engine, number)

    monkeypatch.setattr(Engine, "known_answer", known_answer)
    with running(line):
        line.models.swap(others["good"], trial=True)
        lies.set()
        until(lambda: trial_verdict(line.models.trial_report(), TRIAL) == "trial-known-answer")
        until(lambda: notes.told[-1] == ("UNKNOWN", "known-answer"))
        line.models.swap(before)
        seen = len(notes.judged_parts)
        until(lambda: len(notes.judged_parts) > seen + 10)
        assert notes.judged_parts[-1].verdict.reason in ("defect", "no-defect")


def test_a_daemon_that_starts_in_a_trial_goes_on_with_it(build: Build) -> None:
    line, _ = build({"left": Belt()})
    with running(line):
        line.models.begin_trial()
        lane = line.stations["left"].lane
        assert lane is not None and lane.model.on_trial
        until(lambda: line.models.trial_report().parts > 10)
        line.models.end_trial()
        assert not lane.model.on_trial


# --- the real model on the simulated line --------------------------------------------------------------------------


def test_a_noised_network_is_caught_on_the_simulated_belt_and_the_same_one_passes(tmp_path: Path) -> None:
    """Barrier, letterbox and the shipped YOLOv8: the candidate is the shipped model again, and then one with noise."""
    shipped = find_model("metal-plate/1.0.0")
    same = ModelPackage.load(changed_package(shipped, tmp_path / "same", name="same"))
    noisy = ModelPackage.load(changed_package(shipped, tmp_path / "noisy", noised(0.5), name="noisy"))
    config = config_from_options(camera="sim", state=tmp_path / "state", provider="cpu", threads=1)
    belt = SimCamera(seed=5, ng_share=0.5, paced=False, px_per_frame=16)
    line = Appliance(config, cameras={config.camera[0].name: belt}, deliver=False)
    line.shadow._share = 1.0
    limits = ShadowLimits(parts=8, least_rejected=0)
    with running(line):
        for package, expected in ((same, {"pass"}), (noisy, {"shadow-new-ok", "shadow-new-ng"})):
            line.models.start_shadow(package, role="candidate")
            until(lambda: shadow_verdict(line.models.shadow_report(), limits) != "go-on")
            report = line.models.shadow_report()
            assert shadow_verdict(report, limits) in expected, report
