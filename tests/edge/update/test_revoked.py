"""Who has revoked a model, and why: on the device, where somebody asks why the line has another one."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from edge_inspect.update.history import Entry
from edge_inspect.update.revoked import UNKNOWN, why_revoked, with_revoked
from edge_inspect.update.stages import Stage
from edge_inspect.update.state import State
from edge_inspect.update.updater import Updater
from edge_wire.release import ReleasedModel, Rollout
from tests.edge.update.box import Box

NOW = datetime(2026, 11, 22, 8, 0, tzinfo=timezone.utc)
WHY = "tiny 1.1.0 was revoked by A. Berg (tiny/stable no. 2): misses dents"


def kept(box: Box) -> None:
    box.release("b", 1)
    box.run()
    box.end()


def revoke(box: Box) -> None:
    box.release("b", 2, revoked=(box.digests["b"],), released_by="A. Berg", reason="misses dents")


def newest(box: Box) -> Entry:
    assert box.store is not None
    return box.store.history.entries[-1]


def told(updater: Updater) -> list[tuple[str, str]]:
    return [alarm for alarm in updater.alarms() if alarm[0] == "model-revoked"]


def test_history_and_alarm_say_which_model_was_revoked_by_whom_and_why(box: Box) -> None:
    kept(box)
    revoke(box)
    updater = box.start()
    for _ in range(4):
        updater.step()
    assert box.live is not None and box.live.judging == box.digests["factory"]
    assert (newest(box).code, newest(box).why) == ("revoked", WHY)
    assert told(updater) == [("model-revoked", f"tiny 1.0.0 judges; {WHY}")]
    box.source.rollout = None
    assert told(box.start())  # also after the next start
    box.release("c", 3, revoked=(box.digests["b"],))
    box.run()
    assert not told(box.start())


def test_reason_outlives_a_power_cut_right_after_it_came(box: Box) -> None:
    kept(box)
    revoke(box)
    updater = box.start()
    while box.store is not None and not box.store.state.revoked:
        updater.step()
    box.start()
    assert newest(box).code == "revoked" and newest(box).why.startswith(WHY)


@pytest.mark.parametrize("stage", [Stage.SHADOW, Stage.TRIAL])
def test_candidate_that_is_revoked_while_it_is_tried_says_why(stage: Stage, box: Box) -> None:
    box.release("b", 1)
    updater = box.start()
    assert box.store is not None and box.live is not None
    while box.store.state.stage is not stage:
        updater.step()
    box.live.shadow = type(box.live.shadow)()  # nothing to decide on yet
    box.live.trial = type(box.live.trial)()
    box.source.is_news = True
    revoke(box)
    for _ in range(2):
        updater.step()
    refused = [entry for entry in box.store.history.entries if entry.code == "revoked"]
    assert refused and refused[0].why == WHY


def test_model_that_was_revoked_before_it_came_says_why(box: Box) -> None:
    revoke(box)
    box.run()
    assert newest(box).event == "refused" and "A. Berg's: misses dents" in newest(box).why


def rollout(sequence: int, reason: str, *revoked: str) -> Rollout:
    model = ReleasedModel(name="tiny", version="1.2.0", digest="sha256:" + "c" * 64)
    return Rollout(
        product="tiny", channel="stable", sequence=sequence, model=model, revoked=revoked, released_by="anna",
        released_at=NOW, reason=reason,
    )  # fmt: skip


def test_a_later_rollouts_reason_is_not_taken_for_the_revocations() -> None:
    """Every later rollout of a product repeats what was revoked, and has a reason of its own."""
    b, d = "sha256:" + "b" * 64, "sha256:" + "d" * 64
    state = State(since=NOW)
    seen = state.model_copy(update=with_revoked(state, rollout(1, "misses dents", b)))
    later = seen.model_copy(update=with_revoked(seen, rollout(7, "faster", b, d)))
    assert why_revoked(later, b).endswith(" was revoked by anna (tiny/stable no. 1): misses dents")
    assert "was revoked in tiny/stable no. 7 or before; that one is anna's: faster" in why_revoked(later, d)
    assert later.revoked == (b, d) and why_revoked(later, "sha256:" + "e" * 64) == UNKNOWN


def test_words_fit_into_a_line_whatever_is_said() -> None:
    b = "sha256:" + "b" * 64
    said = rollout(1, "x" * 200, b).model_copy(update={"released_by": "y" * 200})
    assert len(why_revoked(State(since=NOW), b, said)) == 200
