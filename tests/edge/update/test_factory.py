"""What becomes of the factory's package on the disk is told, and changes nothing for whoever judges."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edge_inspect.errors import BadModel
from edge_inspect.update.requests import Request, ask, wait_for
from edge_inspect.update.stages import Stage
from edge_inspect.update.store import STATE_NAME
from edge_inspect.update.updater import MOST_TRIES_HOME, Updater
from tests.edge.update.box import GOOD_TRIAL, Box
from tests.edge.update.test_store import spoil, updated

MANIFEST = "manifest.json"


def look(box: Box, updater: Updater, times: int = 3) -> None:
    """From IDLE to FETCH and back, so often."""
    for _ in range(times):
        box.source.is_news = True
        updater.step()
        updater.step()


def judges(box: Box, name: str) -> bool:
    """It does, by what is loaded and by what is written down, and nothing else is wanted."""
    assert box.live is not None and box.store is not None
    assert box.store.state.stage is Stage.IDLE
    return box.live.judging == (box.store.state.active or box.digests["factory"]) == box.digests[name]


def alarms(updater: Updater) -> list[str]:
    return [code for code, _ in updater.alarms()]


@pytest.mark.parametrize("rehash_s", [0.0, 1e6], ids=["found by the weekly look", "not found yet"])
def test_factory_that_vanishes_goes_on_judging_and_nothing_is_written(
    rehash_s: float, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_inspect.update.acts.REHASH_S", rehash_s)
    updater = box.start()
    look(box, updater)
    before = (box.state_dir / STATE_NAME).stat().st_mtime_ns
    (box.factory / MANIFEST).rename(box.root / MANIFEST)
    look(box, updater)
    assert judges(box, "factory") and alarms(updater) == ([] if rehash_s else ["model-factory"])
    assert (box.state_dir / STATE_NAME).stat().st_mtime_ns == before
    (box.root / MANIFEST).rename(box.factory / MANIFEST)
    look(box, updater, 1)
    assert judges(box, "factory") and not alarms(updater)


def test_factory_that_is_replaced_by_another_good_package_counts_from_the_next_start_on(
    box: Box, models: dict[str, Path]
) -> None:
    updater = box.start()
    shutil.rmtree(box.factory)
    shutil.copytree(models["c"], box.factory)
    look(box, updater)
    assert judges(box, "factory")
    box.start()
    assert box.live is not None and box.live.judging == box.digests["c"]


def test_person_is_served_while_the_factory_cannot_be_read_and_another_one_judges(box: Box) -> None:
    updated(box)
    box.trial = type(GOOD_TRIAL)(parts=9, known_answer_failures=1)
    box.release("c", 2)
    box.run()
    box.trial = GOOD_TRIAL
    box.source.rollout = None
    (box.factory / MANIFEST).unlink()
    updater = box.start()
    assert "model-factory" in alarms(updater)
    number = ask(box.state_dir, Request(kind="activate", digest=box.digests["c"], by="anna"))
    for _ in range(7):
        updater.step()
    answer = wait_for(box.state_dir, number, 20.0)
    assert answer is not None and answer.ok and judges(box, "c")


def test_rotten_byte_of_the_factory_is_an_alarm_and_no_way_home_is_needed(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_inspect.update.acts.REHASH_S", 0.0)
    updater = box.start()
    spoil(box.factory)
    look(box, updater)
    assert judges(box, "factory") and alarms(updater) == ["model-factory"]
    spoil(box.factory)  # the same bit again: as it was
    look(box, updater)
    assert not alarms(updater)


def test_weekly_look_reads_the_way_back_too(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    updated(box)
    monkeypatch.setattr("edge_inspect.update.acts.REHASH_S", 0.0)
    updater = box.start()
    box.source.rollout = None
    spoil(box.factory)
    look(box, updater)
    assert judges(box, "b") and alarms(updater) == ["model-factory"]


def test_candidate_is_not_blamed_for_a_factory_that_rots(box: Box) -> None:
    updater = box.start()
    spoil(box.factory)
    box.release("b")
    for _ in range(5):
        updater.step()
    assert judges(box, "factory") and "model-factory" in alarms(updater)
    assert box.store is not None and box.store.state.refusal_of(box.digests["b"]) is None


def test_nobody_is_sent_back_to_a_factory_that_does_not_verify(box: Box) -> None:
    updated(box)
    box.source.rollout = None
    updater = box.start()
    spoil(box.factory)
    number = ask(box.state_dir, Request(kind="rollback", by="anna"))
    look(box, updater, 1)
    answer = wait_for(box.state_dir, number, 20.0)
    assert answer is not None and not answer.ok and answer.code == "digest-mismatch" and judges(box, "b")


def test_home_that_cannot_be_reached_ends_the_process_instead_of_going_in_circles(box: Box) -> None:
    """Its engine cannot be built, say: a refusal each time."""

    def cannot() -> None:
        raise BadModel("provider-missing", "no room for a second engine")

    updated(box)
    box.source.rollout = None
    updater = box.start()
    box.faults.by_stage[Stage.REVERT] = [cannot] * 99
    ask(box.state_dir, Request(kind="rollback", by="anna"))
    steps = 0
    with pytest.raises(BadModel) as raised:
        for steps in range(99):  # noqa: B007
            updater.step()
    assert raised.value.code == "no-way-home" and steps == MOST_TRIES_HOME
    box.faults.by_stage.clear()
    box.start()
    assert box.live is not None and box.live.judging == box.digests["factory"]
