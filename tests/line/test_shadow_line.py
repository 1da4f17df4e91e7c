"""A candidate judges beside the model that judges: told to nobody, compared part by part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_inspect.capture.sim import SimCamera
from edge_inspect.config import config_from_options
from edge_inspect.daemon import Appliance
from edge_inspect.delivery.evidence_index import FILE_NAME
from edge_inspect.delivery.evidence_read import Wanted, find_parts
from edge_inspect.inference.package import ModelPackage, find_model
from edge_inspect.update.shadow import shadow_verdict
from edge_wire.release import ShadowLimits
from tests.line.belt import BAD_EVERY, Belt, as_drawn, running, shadowed, until
from tests.line.conftest import Build
from tests.line.drawn import Notes
from tests.line.other_models import changed_package, noised


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
