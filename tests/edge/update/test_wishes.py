"""A download of hours keeps nobody from judging a trial, and no person from being heard."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from edge_inspect.errors import SourceGone
from edge_inspect.update.pace import Interrupt
from edge_inspect.update.requests import Request, ask, wait_for
from edge_inspect.update.source import Offers
from edge_inspect.update.stages import Stage
from edge_inspect.update.trial import TrialReport
from edge_wire.release import Rollout
from tests.edge.update.box import Box
from tests.edge.update.boxes import QUICK, settings_for
from tests.edge.update.test_store import updated
from tests.sim.tuf_repository import TufRepository, TufServer

PATIENCE_S = 30.0
YOUNG = TrialReport(parts=1, seconds=1.0, frames=1)


def endless(begins: Callable[[], object]) -> Callable[[threading.Event], Rollout | None]:
    """Bytes that never end; once they have begun something happens."""

    def bring(stop: threading.Event) -> Rollout | None:
        begins()
        assert stop.wait(PATIENCE_S), "nobody ended it"
        raise SourceGone("stopped", "was stopped")

    return bring


def until_stage(box: Box, stage: Stage) -> None:
    assert box.updater is not None and box.store is not None
    while box.store.state.stage is not stage:
        box.updater.step()


def slow(box: Box, begins: Callable[[], object]) -> None:
    """From now on whatever is asked of the repository takes for ever."""
    box.source.is_news = True
    box.source.brought = box.source.looked = endless(begins)


def test_trial_that_answers_nonsense_goes_back_while_a_newer_rollout_comes(box: Box) -> None:
    box.release("b")
    box.trial = YOUNG
    updater = box.start()
    until_stage(box, Stage.TRIAL)

    def nonsense() -> None:
        assert box.live is not None
        box.live.trial = replace(YOUNG, non_finite_in_row=3)

    slow(box, nonsense)
    updater.step()
    updater.step()
    assert box.store is not None and box.live is not None
    refusal = box.store.state.refusal_of(box.digests["b"])
    assert refusal is not None and refusal.code == "trial-non-finite"
    assert box.live.judging == box.digests["factory"]


@pytest.mark.parametrize("stage", [Stage.SHADOW, Stage.TRIAL])
def test_person_is_heard_while_a_newer_rollout_is_looked_for(stage: Stage, box: Box) -> None:
    box.release("b")
    box.shadow, box.trial = type(box.shadow)(), YOUNG
    if stage is Stage.TRIAL:
        box.shadow = type(box.shadow)(parts=200, same=200, active_ok=190, active_ng=10)
    updater = box.start()
    until_stage(box, stage)
    numbers = []
    slow(box, lambda: numbers.append(ask(box.state_dir, Request(kind="rollback", by="anna"))))
    updater.step()
    updater.step()
    answer = wait_for(box.state_dir, numbers[0], PATIENCE_S)
    assert answer is not None and answer.ok
    assert box.store is not None and box.store.state.last_refusal is not None
    assert box.store.state.last_refusal.code == "rolled-back"


def test_persons_rollback_ends_a_download_which_then_goes_on(box: Box) -> None:
    updated(box)
    updater = box.start()
    numbers = []
    slow(box, lambda: numbers.append(ask(box.state_dir, Request(kind="rollback", by="anna"))))
    for _ in range(4):  # FETCH, IDLE, REVERT, IDLE
        updater.step()
    answer = wait_for(box.state_dir, numbers[0], PATIENCE_S)
    assert answer is not None and answer.ok
    assert box.live is not None and box.live.judging == box.digests["factory"]
    assert not updater.alarms()  # that it broke off is nothing wrong
    box.source.brought, box.source.rollout = None, None
    assert box.store is not None and box.store.state.stage is Stage.IDLE
    updater.step()
    assert box.store.state.stage is Stage.FETCH, "it looks again at once"


def test_end_of_the_daemon_ends_a_download(box: Box) -> None:
    updater = box.start()
    slow(box, updater.pulse.stop.set)
    stop = updater.pulse.stop
    updater.run(stop)  # returns
    assert stop.is_set()


def test_person_who_asked_during_the_probe_is_heard_after_it(box: Box) -> None:
    box.release("b")
    updater = box.start()
    until_stage(box, Stage.PROBE)
    number = ask(box.state_dir, Request(kind="rollback", by="anna"))
    updater.step()
    assert box.store is not None and box.store.state.stage is Stage.REVERT
    updater.step()
    answer = wait_for(box.state_dir, number, PATIENCE_S)
    assert answer is not None and answer.ok


def test_newer_rollout_still_overtakes_a_candidate(box: Box) -> None:
    box.release("b")
    box.trial = YOUNG
    updater = box.start()
    until_stage(box, Stage.TRIAL)
    box.release("c", 2)
    box.source.is_news = True
    updater.step()
    assert box.store is not None and box.store.state.last_refusal is not None
    assert box.store.state.last_refusal.code == "overtaken"
    box.trial = type(box.trial)(seconds=120.0, frames=900, parts=600, ng=30)
    assert box.live is not None
    box.live.trial = box.trial
    for _ in range(9):
        updater.step()
        if box.store.state.active == box.digests["c"] and box.store.state.stage is Stage.IDLE:
            return
    raise AssertionError(box.chain)


def test_looks_that_fail_again_and_again_are_told_once_and_once_when_they_work_again(box: Box) -> None:
    box.release("b")
    box.trial = YOUNG
    updater = box.start()
    until_stage(box, Stage.TRIAL)
    looks = []

    def gone(stop: threading.Event) -> Rollout | None:
        looks.append(1)
        box.source.is_news = len(looks) < 5
        if len(looks) < 4:
            raise SourceGone("unreachable", "no network")
        assert box.live is not None
        if len(looks) == 5:
            box.live.trial = replace(YOUNG, known_answer_failures=1)
        return box.source.rollout

    box.source.is_news, box.source.looked = True, gone
    with capture_logs() as lines:
        updater.step()
    told = [line["event"] for line in lines if "newer rollout" in line["event"]]
    assert len(looks) == 5
    assert told == ["could not look for a newer rollout", "looking for a newer rollout works again"]


def test_trouble_that_is_over_is_told(box: Box) -> None:
    def gone(stop: threading.Event) -> Rollout | None:
        raise SourceGone("unreachable", "no network")

    updater = box.start()
    box.source.brought = gone
    with capture_logs() as lines:
        for _ in range(3):
            box.source.is_news = True
            updater.step()
            updater.step()
        box.source.brought = None
        box.source.is_news = True
        updater.step()
        updater.step()
    told = [line["event"] for line in lines if line["event"].startswith("update.trouble")]
    assert told == ["update.trouble", "update.trouble_over"]


def test_real_download_breaks_off_for_a_person_and_goes_on_later(models: dict[str, Path], tmp_path: Path) -> None:
    """2 kB/s, so that it takes a while."""
    repository = TufRepository()
    rollout = repository.release(models["b"])
    with TufServer(repository) as server:
        limits = replace(QUICK, rate_bytes_per_s=2000, deadline_s=3600)
        settings = settings_for(tmp_path / "models", repository, server.url, limits=limits)
        source, began, begins = Offers(settings, asks=True), threading.Event(), []

        def progress(share: float) -> None:
            if share:
                begins.append(time.monotonic())
                began.set()

        assert source.newest(threading.Event(), lambda: None) == rollout
        assert not list((tmp_path / "models" / "packages").glob("*")), "a look brings no package"
        with pytest.raises(SourceGone) as raised:
            source.fetch(Interrupt(threading.Event(), began.is_set), progress)
        assert raised.value.code == "stopped" and time.monotonic() - begins[0] < PATIENCE_S
        source = Offers(replace(settings, limits=QUICK), asks=True)
        assert source.fetch(threading.Event(), lambda share: None) == rollout
