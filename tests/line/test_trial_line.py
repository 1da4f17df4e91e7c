"""A candidate judges on trial: kept when it does well, and what it does wrong sends it back."""

from __future__ import annotations

import threading
from collections import Counter

import pytest

from edge_inspect.capture.protocol import Pixels, Read, Stamp
from edge_inspect.errors import BadModel
from edge_inspect.inference.engine import Engine
from edge_inspect.inference.package import ModelPackage
from edge_inspect.update.shadow import shadow_verdict
from edge_inspect.update.trial import trial_verdict
from edge_wire.release import ShadowLimits, TrialLimits
from tests.line.belt import Belt, as_drawn, running, shadowed, until
from tests.line.conftest import Build
from tests.line.drawn import SPOT
from tests.sim.tiny_model import draw_defect

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
