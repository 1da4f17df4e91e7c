"""Where a repository may lie, and what becomes of publishing when that place is full, locked or breaks off."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from pathlib import Path

import pytest

from cloud_inspect.errors import BadRelease, StoreGone
from cloud_inspect.release.publish import resign
from cloud_inspect.release.repository import load
from cloud_inspect.release.store import open_store
from cloud_inspect.release.verify import verify
from tests.cloud.release.plant import Plant


@pytest.mark.parametrize("url", ["memory://{name}/models", "file://{folder}/models", "local://{folder}/models"])
def test_a_repository_may_lie_anywhere_fsspec_goes(tmp_path: Path, url: str) -> None:
    plant = Plant(tmp_path, url.format(name=uuid.uuid4().hex, folder=tmp_path))
    plant.release("1.0.0")
    plant.release("1.1.0")
    assert plant.reader().version() == "1.1.0"
    assert verify(plant.store, plant.root).troubles == ()
    assert plant.staged.names("") == [] or plant.staged.names("metadata") == []


def test_repository_in_an_archive_is_read_and_a_write_to_it_is_one_line(plant: Plant) -> None:
    plant.release("1.0.0")
    archive = shutil.make_archive(str(plant.folder / "models"), "zip", plant.url)
    stores = [open_store(f"zip://::{archive}") for _ in range(2)]
    assert verify(stores[0], plant.root).troubles == ()
    with pytest.raises(StoreGone, match=r"\[store-gone\]$") as raised:
        resign(stores[1], plant.signers("online"), plant.now, force=True)
    assert "\n" not in str(raised.value)
    with pytest.raises(BadRelease, match=r"\[store-unknown\]$"):
        open_store(f"zip://::{plant.folder}/none.zip")


def test_file_that_breaks_off_far_away_is_one_line(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clients below fsspec raise what they like, e.g. aiohttp.ClientPayloadError."""
    from fsspec.implementations.memory import MemoryFile

    far = Plant(plant.folder / "far", f"memory://{uuid.uuid4().hex}")
    far.release("1.0.0")

    def breaks_off(*_: object) -> bytes:
        raise RuntimeError("payload is not completed")

    monkeypatch.setattr(MemoryFile, "read", breaks_off)
    with pytest.raises(StoreGone, match="payload is not completed") as raised:
        load(far.store)
    assert raised.value.code == "store-gone"


def test_beginnings_of_files_that_a_killed_writer_left_are_swept(plant: Plant) -> None:
    left = Path(plant.url) / "targets/p/.model.onnx.1.part"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    plant.release("1.0.0")
    assert not left.exists()


def test_second_writer_is_refused_while_the_first_is_at_it(plant: Plant) -> None:
    plant.sign("1.0.0")
    with plant.store.lock():
        with pytest.raises(StoreGone, match="is writing") as raised:
            plant.publish()
    assert raised.value.code == "locked"
    plant.publish()


def test_lock_of_a_dead_writer_on_an_object_store_can_be_broken(tmp_path: Path) -> None:
    plant = Plant(tmp_path, f"memory://{uuid.uuid4().hex}")
    plant.sign("1.0.0")
    plant.store.write(".lock", b'{"user": "x", "host": "y", "pid": 1, "since": "z"}')
    with pytest.raises(StoreGone, match="x on y") as raised:
        plant.publish()
    assert raised.value.code == "locked"
    plant.store.break_lock()
    plant.publish()


def test_full_disk_is_one_line_and_publishing_can_be_repeated(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant.sign("1.0.0")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreGone, match="No space left") as raised:
            plant.publish()
    assert raised.value.code == "disk-full"
    plant.publish()
    assert plant.reader().version() == "1.0.0"
