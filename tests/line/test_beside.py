"""A model beside the one that judges: cameras join it late, it is taken away, it hangs; the line goes on."""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from edge_inspect import beside, station
from edge_inspect.beside_frames import BUFFERS, Frames, Shown
from edge_inspect.daemon import Appliance
from edge_inspect.delivery.outbox import FILE_NAME
from edge_inspect.errors import BadModel, ShadowHangs
from edge_inspect.inference.engine import Engine
from edge_inspect.inference.package import ModelPackage
from edge_inspect.pipeline import Pipeline
from edge_inspect.update.shadow import ShadowReport
from edge_inspect.update.trial import trial_verdict
from edge_wire.release import TrialLimits
from tests.line.belt import Belt, as_drawn, running, until
from tests.line.conftest import Build
from tests.line.stage import StageCamera


class Runtime:
    """In which one package's runs, or its building, do not come back before `come_back`."""

    def __init__(self, patch: pytest.MonkeyPatch, package: ModelPackage, *, building: bool = False) -> None:
        self.come_back = threading.Event()
        self.closed: list[str] = []
        runtime = self

        class Hanging(Engine):
            def __init__(self, *arguments: Any, **options: Any) -> None:
                super().__init__(*arguments, **options)
                self.built = building
                compute = self.run

                def run() -> None:
                    if self.built and self.package.digest == package.digest and not runtime.come_back.is_set():
                        patch.setattr(beside, "HANGS_S", 0.3)
                        runtime.come_back.wait()
                        patch.setattr(beside, "HANGS_S", 60.0)
                    compute()

                self.run = run

            def known_answer(self, *number: int) -> None:
                super().known_answer(*number)
                self.built = True

            def close(self) -> None:
                runtime.closed.append(self.package.digest)
                super().close()

        patch.setattr(station, "Engine", Hanging)
        if building:
            patch.setattr(beside, "BUILD_S", 0.0)


@contextmanager
def hanging(line: Appliance, runtime: Runtime) -> Iterator[None]:
    """It runs, and whatever hangs in it comes back when the test is over."""
    try:
        with running(line):
            yield
    finally:
        runtime.come_back.set()


def codes(line: Appliance) -> list[str]:
    return [alarm.code for alarm in line.state().degraded]


def refused(line: Appliance) -> str:
    """The code with which a look at the shadow ends."""
    try:
        line.models.shadow_report()
    except BadModel as err:
        return err.code
    return ""


def test_a_candidate_that_hangs_is_refused_and_told_while_the_line_goes_on(
    build: Build, others: dict[str, ModelPackage], monkeypatch: pytest.MonkeyPatch
) -> None:
    line, notes = build({"left": Belt()})
    line.shadow._share = 1.0
    runtime = Runtime(monkeypatch, others["good"])
    with capture_logs() as told, hanging(line, runtime):
        line.models.start_shadow(others["good"], role="candidate")
        until(lambda: refused(line) == "shadow-hangs")
        assert "shadow-hangs" in codes(line)
        line.models.stop_shadow()
        line.models.swap(others["larger"])  # the way home does not wait for it either
        with pytest.raises(ShadowHangs):
            line.models.start_shadow(others["good"], role="candidate")
        seen = len(notes.judged_parts)
        until(lambda: len(notes.judged_parts) > seen + 20)
        assert others["good"].digest not in runtime.closed

        runtime.come_back.set()
        until(lambda: not line.shadow.hangs and others["good"].digest in runtime.closed)
        assert "shadow-hangs" not in codes(line)
        line.models.start_shadow(others["end2end"], role="candidate")
        until(lambda: line.models.shadow_report().parts >= 10)
    assert as_drawn(notes)
    events = [entry["event"] for entry in told if entry["event"].startswith("shadow.")]
    assert events == ["shadow.hangs", "shadow.moves_again"]


def test_a_candidate_whose_building_hangs_is_refused_and_closed_when_it_comes_back(
    build: Build, others: dict[str, ModelPackage], monkeypatch: pytest.MonkeyPatch
) -> None:
    line, notes = build({"left": Belt()})
    runtime = Runtime(monkeypatch, others["good"], building=True)
    with hanging(line, runtime):
        with pytest.raises(BadModel) as refusal:
            line.models.start_shadow(others["good"], role="candidate")
        assert refusal.value.code == "shadow-hangs" and line.pipeline.beside is None
        runtime.come_back.set()
        until(lambda: others["good"].digest in runtime.closed)
        assert line.shadow._beside is None
    assert as_drawn(notes)


def test_a_trial_goes_on_alone_while_the_model_before_hangs(
    build: Build, others: dict[str, ModelPackage], tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, _ = build({"left": Belt()})
    before = ModelPackage.load(tiny_model)
    runtime = Runtime(monkeypatch, others["end2end"])  # in its place: the real one judged until now
    with hanging(line, runtime):
        assert line.models.active() == before.digest
        line.models.swap(others["good"], trial=True)
        line.models.start_shadow(others["end2end"], role="predecessor")
        until(lambda: line.shadow.hangs)
        assert line.models.trial_report().beside == ShadowReport()
        limits = TrialLimits(parts=20, least_s=0)
        until(lambda: trial_verdict(line.models.trial_report(), limits) == "keep")
        line.models.stop_shadow()
        line.models.end_trial()


def test_the_end_does_not_wait_for_a_model_that_hangs(
    build: Build, others: dict[str, ModelPackage], monkeypatch: pytest.MonkeyPatch
) -> None:
    line, notes = build({"left": Belt()}, deliver=True)
    runtime = Runtime(monkeypatch, others["good"])
    with capture_logs() as told, hanging(line, runtime):
        line.models.start_shadow(others["good"], role="candidate")
        until(lambda: line.shadow.hangs)
    left = [entry["thread"] for entry in told if entry["event"] == "thread.does_not_end"]
    assert left == ["shadow"] and as_drawn(notes)
    with sqlite3.connect(f"file:{line.config.state_dir / FILE_NAME}?mode=ro", uri=True) as db:
        (reports,) = db.execute("SELECT count(*) FROM report").fetchone()
    assert reports == sum(judged.verdict.kind.value == "NG" for judged in notes.judged_parts)


def test_a_camera_that_comes_late_to_a_busy_line_is_judged_beside_too(
    build: Build, others: dict[str, ModelPackage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_inspect.capture.grab.FIRST_WAIT_S", 0.02)
    late = StageCamera()
    late.scene = "lost"
    line, _ = build({"left": Belt(), "late": late})
    line.shadow._share = 1.0
    monkeypatch.setattr(line.shadow, "_next_job", lambda found=line.shadow._next_job: busy(found))
    with running(line):
        line.models.start_shadow(others["good"], role="candidate")
        late.scene = "good"
        until(lambda: line.shadow._beside is not None and "late" in line.shadow._beside.fitted)
        before = line.models.shadow_report().parts
        until(lambda: line.models.shadow_report().parts > before)


def busy(next_job: Callable[[], Any]) -> Any:
    """As on a line where there is always a frame to judge: never an empty hand."""
    while (job := next_job()) is None:
        continue
    return job


class Fading(Pipeline):
    """Whose `beside` is taken away by another thread between any two looks at it."""

    _looks = 0

    @property
    def beside(self) -> Any:
        self._looks += 1
        return self.__dict__.get("beside") if self._looks % 2 else None

    @beside.setter
    def beside(self, value: Any) -> None:
        self.__dict__["beside"] = value


def test_a_shadow_may_be_taken_away_in_the_middle_of_a_frame(build: Build, others: dict[str, ModelPackage]) -> None:
    line, notes = build({"left": Belt()})
    with running(line):
        line.pipeline.__class__ = Fading
        line.models.start_shadow(others["good"], role="candidate")
        seen = len(notes.judged_parts)
        until(lambda: len(notes.judged_parts) > seen + 30)
    assert as_drawn(notes)


class Shared(deque[Shown]):
    """From which another thread takes one, too, each time."""

    taken = 0

    def popleft(self) -> Shown:
        first = super().popleft()
        if self:
            super().popleft()
            self.taken += 1
        return first


def test_a_buffer_that_the_other_thread_took_first_is_no_error() -> None:
    frames = Frames()
    frames.free = Shared(frames.free)
    frames.make_room(64)
    assert frames.free.taken and len(frames.free) + frames.free.taken == BUFFERS
    while frames.free:
        assert frames.take(64) is not None or not frames.free
    assert frames.take(64) is None
