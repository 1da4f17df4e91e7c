"""A disk that fails at one moment of an update: the box goes on, and nothing is the model's fault that is the disk's.

At every moment, by strace: `python -m tests.campaign.updates_disk_faults`.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from edge_inspect.durable import MORE_TRIES
from edge_inspect.errors import StorageFailing
from edge_inspect.update import store as store_module
from edge_inspect.update.history import FILE_NAME, History, read_history
from edge_inspect.update.stages import Stage
from edge_inspect.update.store import STATE_NAME, look
from tests.edge.update.box import Box, history_of, judging, lines_of, updated


def test_a_disk_that_fails_once_does_not_cost_the_state(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    updated(box)
    content = (box.state_dir / STATE_NAME).read_bytes()
    _unreadable(monkeypatch, 1)
    assert judging(box) == "b"
    assert box.store is not None and not box.store.quarantined
    box.end()
    _unreadable(monkeypatch, MORE_TRIES + 1)
    assert judging(box) == "factory"
    assert box.store is not None and "Input/output error" in box.store.quarantined
    assert box.store.state.floors["tiny/stable"].sequence == 1
    aside = list(box.state_dir.glob("*.broken-*"))
    assert [path.read_bytes() for path in aside] == [content]


def test_a_state_that_cannot_be_put_aside_is_not_written_over(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    updated(box)
    content = (box.state_dir / STATE_NAME).read_bytes()
    _unreadable(monkeypatch, MORE_TRIES + 1)
    rename = Path.rename

    def stuck(path: Path, target: Path) -> Path:
        if ".broken-" in str(target):
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", stuck)
    updater = box.start()
    box.release("c", 2)
    for _ in range(4):
        box.source.is_news = True
        updater.step()
    assert (box.state_dir / STATE_NAME).read_bytes() == content
    assert {"model-state-lost", "model-storage"} <= {code for code, _ in updater.alarms()}
    monkeypatch.undo()
    assert judging(box) == "b"  # it was only a moment's trouble


def test_a_history_that_the_disk_does_not_give_stops_nothing_and_goes_on_later(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    updated(box)
    before = lines_of(box)
    _unreadable(monkeypatch, 3 * (MORE_TRIES + 1), FILE_NAME)
    updater = box.start()
    assert {code for code, _ in updater.alarms()} == {"model-history", "model-storage"}
    assert box.store is not None
    for _ in range(2):
        box.store.note_active(box.store.package(None))
    assert "model-history" not in {code for code, _ in updater.alarms()}
    after = lines_of(box)
    assert after[: len(before)] == before and len(after) == len(before) + 1
    assert not read_history(history_of(box)).broken


def test_a_model_that_the_disk_does_not_give_is_tried_again_and_no_fault_of_the_model(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    updated(box)
    monkeypatch.setattr(store_module, "TRY_AGAIN_S", 0.0)
    for times, judges in ((MORE_TRIES, "b"), (MORE_TRIES + 1, "factory")):
        _no_bytes_of(monkeypatch, box.folder_of(box.digests["b"]), times)
        assert judging(box) == judges
        box.end()
    state, _ = look(box.state_dir)
    assert state is not None and not state.refused and not state.floors["tiny/stable"].settled


def _no_bytes_of(monkeypatch: pytest.MonkeyPatch, folder: Path, times: int) -> None:
    opened, failed = os.open, []

    def failing(path: Any, *how: Any, **more: Any) -> int:
        if Path(path).suffix == ".onnx" and folder in Path(path).parents and len(failed) < times:
            failed.append(path)
            raise OSError(errno.EIO, "Input/output error")
        return opened(path, *how, **more)

    monkeypatch.setattr(os, "open", failing)


def _unreadable(monkeypatch: pytest.MonkeyPatch, times: int, name: str = STATE_NAME) -> None:
    read, failed = Path.read_bytes, []

    def failing(path: Path) -> bytes:
        if path.name == name and len(failed) < times:
            failed.append(path)
            raise OSError(errno.EIO, "Input/output error")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", failing)


def test_what_a_disk_did_not_let_go_goes_after_the_next_look_and_once(box: Box) -> None:
    def stuck() -> None:
        raise StorageFailing("packages: Input/output error")

    box.faults.by_stage[Stage.KEEP] = [stuck]
    box.release("b")
    box.run()
    assert box.updater is not None and not box.source.tidied
    for _ in range(2):
        box.source.is_news = True
        while box.source.is_news or box.updater.block().stage != "idle":
            box.updater.step()
        assert box.source.tidied == [{box.digests["b"]}]


@pytest.mark.parametrize("call", ["fstat", "ftruncate", "pwrite", "fsync", "folder"])
def test_a_line_that_the_disk_did_not_take_is_not_in_the_history(
    call: str, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    updated(box)
    entry = History(history_of(box)).entries[0]
    history_of(box).unlink()
    history = History(history_of(box))
    with monkeypatch.context() as patch:
        _fail(patch, call)
        with pytest.raises(StorageFailing, match="No space left on device"):
            history.append(entry)
    for _ in range(2):
        history.append(entry)
    checked = read_history(history_of(box), history.head)
    assert not checked.broken and not checked.torn_bytes and len(checked.entries) == 2


def _fail(patch: pytest.MonkeyPatch, call: str) -> None:
    fsync, synced = os.fsync, []

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def full_for_the_folder(handle: int) -> None:
        synced.append(handle)
        if len(synced) > 1:
            full()
        fsync(handle)

    patch.setattr(os, "fsync" if call == "folder" else call, full_for_the_folder if call == "folder" else full)
