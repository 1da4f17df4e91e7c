"""State and history on disk: what a start makes of them, whatever lies there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from edge_inspect.errors import BadModel, InUse, SourceGone, StorageFailing
from edge_inspect.update import store as store_module
from edge_inspect.update.history import Entry, History
from edge_inspect.update.stages import Stage
from edge_inspect.update.state import MOST_REFUSED
from edge_inspect.update.store import STATE_NAME, Store, look
from tests.edge.update.box import GOOD_TRIAL, Box, history_of, judging, updated


def spoil(folder: Path, name: str = "model.onnx") -> None:
    """One bit of it is not what it was."""
    path = folder / name
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_the_first_start_judges_by_the_factorys_model(box: Box) -> None:
    assert judging(box) == "factory"
    assert box.store is not None
    assert [entry.code for entry in box.store.history.entries] == ["start"]


def test_a_start_goes_on_with_what_was_kept(box: Box) -> None:
    updated(box)
    assert judging(box) == "b"


def test_bit_rot_of_the_active_model_falls_back_and_it_may_come_again(box: Box) -> None:
    updated(box)
    spoil(box.folder_of(box.digests["b"]))
    assert judging(box) == "factory"
    assert box.store is not None
    assert not box.store.state.floors["tiny/stable"].settled and not box.store.state.refused
    assert box.store.history.entries[-1].code == "digest-mismatch"


def test_bit_rot_is_found_while_it_judges_too(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a week; here at once."""
    updated(box)
    monkeypatch.setattr("edge_inspect.update.acts.REHASH_S", 0.0)
    updater = box.start()
    spoil(box.folder_of(box.digests["b"]))
    box.source.rollout = None
    for _ in range(2):
        updater.step()
    assert box.live is not None and box.live.swaps == [box.digests["factory"]]
    assert box.store is not None and not box.store.state.refused and not box.store.state.floors["tiny/stable"].settled
    assert box.store.history.entries[-1].code == "digest-mismatch"


def test_of_three_the_one_before_judges_when_the_newest_rots(box: Box) -> None:
    updated(box)
    updated(box, "c", 2)
    spoil(box.folder_of(box.digests["c"]))
    assert judging(box) == "b"


def test_the_factorys_model_is_the_floor(box: Box) -> None:
    updated(box)
    updated(box, "c", 2)
    for name in ("b", "c"):
        shutil.rmtree(box.folder_of(box.digests[name]))
    assert judging(box) == "factory"


def test_no_model_no_results(box: Box) -> None:
    updated(box)
    spoil(box.folder_of(box.digests["b"]))
    spoil(box.factory)
    with pytest.raises(BadModel, match="no model verifies") as raised:
        box.start()
    assert raised.value.code == "no-model" and raised.value.exit_code == 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "EOF"),
        (b"\0" * 500, "expected value"),
        (b"{}", "since"),
        (b'{"format": 2}', "format"),
        (b'{"format": 1, "since": "2026-11-22T08:00:00Z", "news": 1}', "newer version"),
        (b"[" * 100_000, ""),
        (b" " * (store_module.MOST_STATE_BYTES + 1), "bytes"),
    ],
    ids=["empty", "zeros", "nothing", "newer", "unknown key", "nested", "huge"],
)
def test_a_state_that_cannot_be_read_is_put_aside_and_floors_come_back(box: Box, content: bytes, says: str) -> None:
    updated(box)
    box.shadow = type(box.shadow)(parts=200, same=150, new_ok=50, active_ok=100, active_ng=100)
    box.release("c", 7)
    box.run()
    box.end()
    (box.state_dir / STATE_NAME).write_bytes(content)
    assert judging(box) == "factory"
    assert box.store is not None
    state = box.store.state
    assert says in box.store.quarantined
    assert state.floors["tiny/stable"].sequence == 7 and state.refusal_of(box.digests["c"]) is not None
    aside = [path for path in box.state_dir.iterdir() if ".broken-" in path.name]
    assert [path.read_bytes() for path in aside] == [content]
    box.end()
    assert judging(box) == "factory"  # no loop: the next start finds a good one
    assert not box.store.quarantined and len(list(box.state_dir.glob("*.broken-*"))) == 1


def test_floors_come_back_though_the_process_ended_right_after_it_put_the_state_aside(box: Box) -> None:
    updated(box, "c", 7)
    (box.state_dir / STATE_NAME).write_text("{")
    Store.open(box.state_dir, box.models_dir, box.factory).close()
    assert not (box.state_dir / STATE_NAME).exists() and judging(box) == "factory"
    assert box.store is not None and box.store.state.floors["tiny/stable"].sequence == 7


def test_two_processes_cannot_have_it(box: Box) -> None:
    box.start()
    with pytest.raises(InUse, match=rf"another process \({os.getpid()}\)"):
        Store.open(box.state_dir, box.models_dir, box.factory)


def test_a_rollout_older_than_one_seen_is_not_taken(box: Box) -> None:
    updated(box, "c", 5)
    box.release("b", 4)
    box.run()
    assert box.store is not None and box.live is not None
    assert box.live.judging == box.digests["c"] and box.store.state.floors["tiny/stable"].sequence == 5
    assert box.store.state.last_refusal is not None and box.store.state.last_refusal.code == "rollout-older"


def test_what_was_taken_back_comes_again_only_by_a_rollback_that_names_it(box: Box) -> None:
    box.release("b", 1)
    box.trial = type(box.trial)(parts=9, known_answer_failures=1)
    box.run()
    box.trial = GOOD_TRIAL
    for sequence in (1, 2):
        box.release("b", sequence)
        box.run()
        assert box.live is not None and box.live.judging == box.digests["factory"]
    box.release("b", 3, action="rollback")
    box.run()
    assert box.live.judging == box.digests["b"] or judging(box) == "b"
    assert box.store is not None and box.store.state.refusal_of(box.digests["b"]) is None


def test_a_revoked_model_goes_back(box: Box) -> None:
    updated(box)
    box.release("b", 2, revoked=(box.digests["b"],))
    updater = box.start()
    for _ in range(4):
        updater.step()
    assert box.live is not None and box.live.judging == box.digests["factory"]
    assert judging(box) == "factory"


def test_a_disk_that_takes_no_state_stops_the_update_and_nothing_else(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.release("b")
    updater = box.start()

    def full(path: Path, content: bytes) -> None:
        raise StorageFailing(f"{path}: No space left on device")

    updater.step()
    monkeypatch.setattr(store_module, "write_durably", full)
    updater.step()
    assert box.store is not None and box.live is not None
    assert box.store.state.stage is Stage.IDLE and box.live.judging == box.digests["factory"]
    assert "No space" in box.store.failing and ("model-storage", box.store.failing) in updater.alarms()
    monkeypatch.undo()
    box.run()
    assert box.live.judging == box.digests["b"]  # it recovers alone


def test_a_trial_that_cannot_be_confirmed_goes_on(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    box.release("b")
    updater = box.start()
    while box.store is not None and box.store.state.stage is not Stage.TRIAL:
        updater.step()

    def full(path: Path, content: bytes) -> None:
        raise StorageFailing(f"{path}: No space left on device")

    monkeypatch.setattr(store_module, "write_durably", full)
    for _ in range(3):
        updater.step()
    assert box.store is not None and box.live is not None
    assert box.store.state.stage is Stage.TRIAL and box.live.judging == box.digests["b"] and box.live.on_trial
    monkeypatch.undo()
    box.source.rollout = None
    updater.step()
    assert box.store.state.stage is Stage.KEEP


def test_a_bad_trial_goes_home_though_the_disk_is_full(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    box.release("b")
    box.trial = type(box.trial)(parts=9, known_answer_failures=1)
    updater = box.start()
    while box.store is not None and box.store.state.stage is not Stage.TRIAL:
        updater.step()

    def full(path: Path, content: bytes) -> None:
        raise StorageFailing(f"{path}: No space left on device")

    monkeypatch.setattr(store_module, "write_durably", full)
    for _ in range(2):
        updater.step()
    assert box.store is not None and box.live is not None
    assert box.store.state.stage is Stage.IDLE and box.live.judging == box.digests["factory"]
    monkeypatch.undo()
    assert judging(box) == "b"  # the disk knows of a trial only: this start is counted, and the trial finds it again
    box.run()
    assert box.live.judging == box.digests["factory"]


def test_a_trial_whose_start_cannot_be_counted_is_not_tried(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    box.release("b")
    updater = box.start()
    while box.store is not None and box.store.state.stage is not Stage.TRIAL:
        updater.step()

    def failing(path: Path, content: bytes) -> None:
        raise StorageFailing(f"{path}: Read-only file system")

    monkeypatch.setattr(store_module, "write_durably", failing)
    assert judging(box) == "factory"


# --- what could not be read again ------------------------------------------------------------


def test_more_refusals_than_a_state_may_hold_do_not_lose_it_again_and_again(box: Box) -> None:
    updated(box)
    history = History(history_of(box))
    digests = [f"sha256:{number:064x}" for number in range(MOST_REFUSED + 5)]
    entries = [
        Entry(at=box.tick(), event="refused", digest=digest, role="candidate", code="made-up") for digest in digests
    ]
    for entry in [*entries, entries[0]]:
        history.append(entry)
    (box.state_dir / STATE_NAME).write_bytes(b"nonsense")
    for _ in range(2):
        assert judging(box) == "factory"
        box.end()
        state, _ = look(box.state_dir)
        assert state is not None and len(state.refused) == MOST_REFUSED
        assert state.refused[-1].digest == digests[0] and state.refusal_of(digests[-1]) is not None
    assert len(list(box.state_dir.glob("*.broken-*"))) == 1


def test_a_state_that_could_not_be_read_again_never_reaches_the_disk(box: Box) -> None:
    updated(box)
    before = (box.state_dir / STATE_NAME).read_bytes()
    box.start()
    assert box.store is not None
    broken = box.store.state.model_copy(update={"revoked": ("not a digest",)})
    with pytest.raises(StorageFailing, match="could not be read again"):
        box.store.save(broken)
    assert (box.state_dir / STATE_NAME).read_bytes() == before and "revoked" in box.store.failing


def test_merely_looking_writes_nothing_and_a_power_cut_then_finds_the_same(box: Box) -> None:
    updated(box)
    updater = box.start()
    path = box.state_dir / STATE_NAME
    stages = []
    for number in range(6):
        box.source.is_news = True
        updater.step()
        assert box.store is not None
        stages.append(box.store.state.stage)
        if number == 1:  # the first look after a start forgets what the last life had in mind
            before = path.stat().st_ino, path.stat().st_mtime_ns
    assert stages == [Stage.FETCH, Stage.IDLE] * 3
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == before
    box.source.is_news = True
    updater.step()
    assert box.store.state.stage is Stage.FETCH  # and here the power goes
    assert judging(box) == "b" and box.store.state.stage is Stage.IDLE


# --- reasons ----------------------------------------------------------------------------------------------------------


def test_history_names_no_reason_that_was_another_ones(box: Box, models: dict[str, Path]) -> None:
    """The repository cannot be reached for a while; then somebody installs another factory model."""

    def gone(stop: object) -> None:
        raise SourceGone("unreachable", "no network")

    updater = box.start()
    box.source.brought = gone
    updater.step()
    updater.step()
    assert box.store is not None and box.store.state.reason is None
    shutil.rmtree(box.factory)
    shutil.copytree(models["c"], box.factory)
    box.start()
    assert box.store.history.entries[-1].code == "start" and box.store.history.entries[-1].why == ""


def test_a_reason_of_a_trial_long_ago_refuses_no_good_model_after_a_lost_state(
    box: Box, models: dict[str, Path]
) -> None:
    updated(box)
    box.trial = type(box.trial)(parts=9, known_answer_failures=1)
    box.release("c", 2)
    box.run()
    box.trial = GOOD_TRIAL
    assert box.store is not None and box.store.state.reason is None
    codes = [entry.code for entry in box.store.history.entries if entry.event == "activated"]
    assert codes == ["start", "rollout", "rollout", "trial-known-answer"]
    box.end()
    (box.state_dir / STATE_NAME).write_bytes(b"nonsense")
    assert judging(box) == "factory"
    box.end()
    (box.state_dir / STATE_NAME).write_bytes(b"nonsense")
    box.start()
    assert box.store.state.refusal_of(box.digests["b"]) is None
    assert box.store.state.refusal_of(box.digests["c"]) is not None


def test_on_the_way_home_the_reason_stays_what_sent_it_there(box: Box) -> None:
    def failing() -> None:
        raise StorageFailing("input/output error")

    box.release("b")
    box.trial = type(box.trial)(parts=9, known_answer_failures=1)
    box.faults.by_stage = {Stage.REVERT: [failing, failing]}
    box.run()
    assert box.store is not None
    last = box.store.history.last("activated")
    assert last is not None and last.code == "trial-known-answer"
