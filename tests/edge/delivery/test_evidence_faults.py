"""The ring of pictures on disks that are full, gone, torn or wrong, and through kills at any moment."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edge_inspect.delivery import evidence
from edge_inspect.delivery.evidence import EvidenceStore
from edge_inspect.delivery.evidence_file import TEMPORARY, is_safe, read_picture
from edge_inspect.delivery.evidence_index import FILE_NAME
from edge_inspect.errors import StorageFailing
from tests.edge.delivery.evidence_parts import (
    assert_agrees,
    keep,
    keep_offered,
    new_store,
    noise,
    parts_kept,
    pictures,
    rows,
    running,
    subject,
    used_bytes,
)

DEADLINE_S = 60.0


class Hand:
    """A monotonic clock that jumps over every back-off."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        self.now_s += 120.0
        return self.now_s


def mend_now(store: EvidenceStore) -> None:
    """Run the thread until it has opened its index and tidied."""
    with running(store):
        until = time.monotonic() + DEADLINE_S
        while store._index is None and time.monotonic() < until:
            time.sleep(0.01)


def test_a_folder_that_cannot_be_made_is_an_alarm_until_it_can(tmp_path: Path) -> None:
    folder = tmp_path / "evidence"
    folder.write_text("in the way")
    store = new_store(folder, monotonic_s=Hand())
    for part in range(3):
        keep(store, part)
    assert store.failed == 3
    assert [alarm.code for alarm in store.alarms()] == ["evidence-failing"]
    assert str(folder) in store.alarms()[0].detail
    folder.unlink()
    keep(store, 3)
    assert not store.alarms() and parts_kept(folder) == [3]


def test_while_the_disk_fails_pictures_are_not_even_copied(tmp_path: Path) -> None:
    folder = tmp_path / "evidence"
    folder.write_text("in the way")
    store = new_store(folder)
    keep(store, 0)
    assert [keep(store, part) for part in range(1, 5)] == [False] * 4
    assert (store.failed, store.skipped) == (1, 4)


def test_it_works_again_without_a_part_that_tries(tmp_path: Path) -> None:
    folder = tmp_path / "evidence"
    folder.write_text("in the way")
    store = new_store(folder, monotonic_s=Hand())
    keep(store, 0)
    folder.unlink()
    with running(store):
        until = time.monotonic() + DEADLINE_S
        while store.alarms() and time.monotonic() < until:
            time.sleep(0.01)
        assert not store.alarms()
    assert pictures(folder) == set()


@pytest.mark.parametrize("damage", ["garbage", "empty", "cut", "a-page", "not-ours", "gone"])
def test_a_broken_index_is_made_anew_from_the_pictures(tmp_path: Path, damage: str) -> None:
    store = new_store(tmp_path)
    for part in range(30):
        keep(store, part, "NG" if part % 2 else "UNKNOWN")
    before = sorted(rows(tmp_path))
    index = tmp_path / FILE_NAME
    for suffix in ("-wal", "-shm"):
        index.with_name(index.name + suffix).unlink(missing_ok=True)
    whole = index.read_bytes()
    if damage == "gone":
        index.unlink()
    elif damage == "not-ours":
        index.unlink()
        with closing(sqlite3.connect(index)) as db:
            db.execute("CREATE TABLE other (x)")
    else:
        torn = {
            "garbage": os.urandom(9000),
            "empty": b"",
            "cut": whole[: len(whole) // 2],
            "a-page": whole[:8192] + os.urandom(8192) + whole[16384:],
        }
        index.write_bytes(torn[damage])
    store = new_store(tmp_path)
    mend_now(store)
    assert not store.alarms()
    assert sorted(rows(tmp_path)) == before
    assert_agrees(tmp_path)


def test_an_index_that_breaks_while_in_use_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = new_store(tmp_path, monotonic_s=Hand())
    keep(store, 0)
    with monkeypatch.context() as patch:
        breaks = evidence.IndexBroken("database disk image is malformed")

        def broken(*_: object, **__: object) -> None:
            raise breaks

        patch.setattr(evidence.EvidenceIndex, "add", broken)
        keep(store, 1)
    assert store.failed == 1 and store.alarms()
    (tmp_path / FILE_NAME).write_bytes(os.urandom(5000))
    mend_now(store)
    keep(store, 2)
    assert not store.alarms()
    assert parts_kept(tmp_path) == [0, 2]
    assert_agrees(tmp_path)


def test_what_a_crash_left_is_put_right_at_the_next_start(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    for part in range(5):
        keep(store, part)
    day = next(tmp_path.glob("2*"))
    frames = sorted(day.glob("*_frame.jpg"))
    (day / f"{frames[0].name}{TEMPORARY}").write_bytes(b"half a pict")  # killed while writing
    frames[1].unlink()  # a power cut: the name never reached the disk
    frames[2].write_bytes(b"")  # a power cut: the contents never did
    frames[3].write_bytes(frames[3].read_bytes()[:1000])
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as db:  # killed between file and row
        db.execute("DELETE FROM picture WHERE file LIKE ?", (f"%{frames[4].name}",))
        db.commit()
    (tmp_path / "note.txt").write_text("somebody's")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "holiday.jpg").write_bytes(b"not ours")
    store = new_store(tmp_path)
    mend_now(store)
    kept = {(row[4], row[5]) for row in rows(tmp_path)}
    assert kept == {(part, "crop") for part in range(5)} | {(0, "frame"), (4, "frame")}
    shutil.rmtree(tmp_path / "other")
    assert_agrees(tmp_path)
    assert (tmp_path / "note.txt").exists()


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "holiday.jpg").write_bytes(b"not ours")
    mend_now(new_store(tmp_path))
    assert (tmp_path / "other" / "holiday.jpg").read_bytes() == b"not ours"


@pytest.mark.parametrize(
    "file",
    ["../../etc/passwd", "/etc/passwd", "2026-11-22/../../x.jpg", "2026-11-22/.hidden.jpg", "2026-11-22/a/b.jpg",
     "2026-11-22/a.png", "2026-11-22/a\n.jpg", "2026-11-22/a.jpg\n", "", "a.jpg"],
)  # fmt: skip
def test_a_name_in_the_index_leads_nowhere_else(tmp_path: Path, file: str) -> None:
    assert not is_safe(file)
    with pytest.raises(Exception, match="not a name"):
        read_picture(tmp_path, file)


def test_the_last_of_the_disk_is_never_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk of 3 MB on which somebody else writes, too."""
    others = 0
    monkeypatch.setattr(evidence, "free_bytes", lambda folder: 3_000_000 - others - used_bytes(folder))
    store = new_store(tmp_path, min_free_bytes=1_000_000, monotonic_s=Hand())
    for part in range(60):
        keep(store, part)
        # What the index itself grows by at the last write is the only thing that is not known before.
        assert evidence.free_bytes(tmp_path) >= 1_000_000 - evidence.INDEX_GROWS_BYTES
    assert store.pruned > 0 and not store.alarms()
    assert 59 in parts_kept(tmp_path)
    others = 1_000_000
    keep(store, 60)
    assert evidence.free_bytes(tmp_path) >= 1_000_000 - evidence.INDEX_GROWS_BYTES
    others = 2_900_000
    keep(store, 61)
    assert [alarm.code for alarm in store.alarms()] == ["evidence-failing"]
    assert "never taken" in store.alarms()[0].detail
    assert pictures(tmp_path) == set(), "reports come first"
    others = 0
    keep(store, 62)
    assert not store.alarms() and parts_kept(tmp_path) == [62]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 2 MB."""
    libc = ctypes.CDLL(None, use_errno=True)
    folder = tmp_path / "disk"
    folder.mkdir()
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, b"size=2m") != 0:
        pytest.skip(f"a tmpfs cannot be mounted here: {os.strerror(ctypes.get_errno())}")
    yield folder
    assert libc.umount2(os.fsencode(folder), 2) == 0


def test_a_full_disk_costs_pictures_and_nothing_else(tiny_disk: Path) -> None:
    store = new_store(tiny_disk / "evidence", monotonic_s=Hand())
    for part in range(60):  # far more than fits
        keep(store, part)
        assert used_bytes(tiny_disk) <= 2 << 20
    assert 59 in parts_kept(tiny_disk / "evidence")
    assert_agrees(tiny_disk / "evidence")


def test_a_disk_that_others_filled_to_the_last_byte_is_left_and_taken_up_again(tiny_disk: Path) -> None:
    folder = tiny_disk / "evidence"
    store = new_store(folder, min_free_bytes=300_000, monotonic_s=Hand())
    for part in range(10):
        keep(store, part)
    with (tiny_disk / "others").open("wb", buffering=0) as others:
        try:
            while others.write(bytes(4096)):
                pass
        except OSError:
            pass
    keep(store, 10)
    disk = os.statvfs(tiny_disk)
    assert disk.f_bavail * disk.f_frsize >= 300_000, "pictures made way"
    (tiny_disk / "others").unlink()
    keep(store, 11)
    keep(store, 12)
    assert not store.alarms()
    assert 12 in parts_kept(folder)
    assert_agrees(folder)


def test_files_that_may_not_grow_are_failing_and_leave_nothing_half(tmp_path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    store = new_store(tmp_path, monotonic_s=Hand())
    keep(store, 0)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, limit[1]))
        keep(store, 1)
        assert store.alarms()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    mend_now(store)
    keep(store, 2)
    assert not store.alarms()
    assert {0, 2} <= set(parts_kept(tmp_path))
    assert_agrees(tmp_path)


def test_a_folder_deleted_under_the_daemon_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "evidence"
    store = new_store(folder, monotonic_s=Hand(), full_frames=False)  # one picture a part
    with running(store):
        for part in range(40):
            until = time.monotonic() + DEADLINE_S
            done = store.stored + store.failed
            store.offer(subject(part), noise(part))
            while store.stored + store.failed == done and time.monotonic() < until:
                time.sleep(0.005)
            if part == 10:
                shutil.rmtree(folder)
        assert set(range(12, 40)) <= set(parts_kept(folder)), "it did not go on writing into a deleted file"
    assert not store.alarms()
    assert_agrees(folder)


def test_stop_ends_a_rebuild_early(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    for part in range(10):
        keep(store, part)
    (tmp_path / FILE_NAME).unlink()
    keep_offered(new_store(tmp_path))  # stopped before it began
    mend_now(new_store(tmp_path))
    assert_agrees(tmp_path)
    assert len(pictures(tmp_path)) == 20


@pytest.mark.slow
@pytest.mark.parametrize("kill", range(8))
def test_a_kill_leaves_no_row_without_its_picture(tmp_path: Path, kill: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.edge.delivery.evidence_forever", str(tmp_path), str(kill)],
        stdout=subprocess.PIPE, text=True,
    ) as writing:  # fmt: skip
        assert writing.stdout is not None
        assert writing.stdout.readline() == "pruning\n"  # writing and removing by now
        threading.Event().wait(0.013 * kill)
        writing.kill()
    for file, size, *_ in rows(tmp_path):  # as the crash left it, before anything is put right
        stored, _ = read_picture(tmp_path, file)
        assert len(stored) == size
    store = new_store(tmp_path, cap_bytes=4 << 20)
    mend_now(store)
    assert_agrees(tmp_path)
    assert used_bytes(tmp_path) <= 4 << 20
    assert not store.alarms()


KILLS = [
    ("rename", 1), ("rename", 30), ("unlink", 1), ("unlink", 8), ("mkdir", 2), ("write", 3), ("write", 40),
    ("pwrite64", 1), ("pwrite64", 9), ("pwrite64", 77), ("pwrite64", 400), ("ftruncate", 1),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize(("call", "number"), KILLS)
def test_a_kill_inside_a_system_call_leaves_no_lie(tmp_path: Path, call: str, number: int) -> None:
    """The process dies in its thread's n-th call of this kind, before the call does anything."""
    kill = f"inject={call}:signal=KILL:when={number}"
    with subprocess.Popen(
        ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", kill,
         sys.executable, "-m", "tests.edge.delivery.evidence_forever", str(tmp_path), "1"],
        stdout=subprocess.PIPE, text=True,
    ) as writing:  # fmt: skip
        try:
            writing.wait(timeout=60)
        except subprocess.TimeoutExpired:
            writing.kill()
            pytest.fail(f"it never came to {call} number {number}")
    assert writing.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
    if (tmp_path / FILE_NAME).exists():
        for file, size, *_ in as_left(tmp_path):
            assert len(read_picture(tmp_path, file)[0]) == size
    store = new_store(tmp_path, cap_bytes=4 << 20)
    mend_now(store)
    assert_agrees(tmp_path)
    assert not store.alarms()


def as_left(folder: Path) -> list[tuple[object, ...]]:
    try:
        return rows(folder)
    except sqlite3.OperationalError:  # killed before its tables were made
        return []


def test_failures_are_of_the_world_and_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(StorageFailing, match="nowhere"):
        evidence.free_bytes(tmp_path / "nowhere")
