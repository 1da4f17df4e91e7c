"""Disks in trouble: full, read-only, failing, without inodes or descriptors: inspection goes on, and all is told."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from edge_inspect.delivery import outbox_file, outbox_reserve
from edge_inspect.delivery.outbox import FILE_NAME, Outbox
from edge_inspect.delivery.outbox_db import DiskFull
from edge_inspect.delivery.outbox_reserve import RESERVE_BYTES, RESERVE_REPORTS
from edge_inspect.delivery.outbox_stats import read_only_stats
from edge_inspect.delivery.writer import OutboxWriter
from edge_inspect.errors import Refusal, StorageFailing
from edge_wire.messages import DefectReport
from tests.edge.delivery.reports import DEVICE, UTC_NS, part_numbers, report

Mount = Callable[..., Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a small file system for the test; skips where we may not."""
    made: list[Path] = []

    def make(*options: str) -> Path:
        at = tmp_path / f"disk-{len(made)}"
        at.mkdir()
        done = subprocess.run(["mount", *options, str(at)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"mounting is not possible here: {done.stderr.strip()}")
        made.append(at)
        return at

    yield make
    for at in made:
        subprocess.run(["umount", "-l", str(at)], check=True, capture_output=True)


def large(number: int) -> DefectReport:
    """With three defects, and a picture that a full disk has no room for."""
    one = report(number, picture_bytes=5000)
    return one.model_copy(update={"defects": one.defects * 3})


def fill(disk: Path) -> None:
    """Another program takes every block that is free."""
    handle = os.open(disk / "hog", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        while True:
            os.write(handle, b"x" * 4096)
    except OSError as err:
        assert err.errno == errno.ENOSPC
    finally:
        os.close(handle)


def parts(box: Outbox) -> list[int]:
    return part_numbers([box.payload(row.number) for row in box.window(1_000_000)])


@contextmanager
def running(writer: OutboxWriter) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=writer.run, args=(stop,), name="outbox")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=60)
        assert not thread.is_alive()


def until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)


def test_a_full_disk_takes_the_promised_number_of_reports_through_a_restart_and_an_endless_hog(mount: Mount) -> None:
    disk = mount("-t", "tmpfs", "-o", "size=40m", "tmpfs")
    path = disk / FILE_NAME
    box = Outbox(path, device=DEVICE)
    assert box.stats().reserve_bytes == RESERVE_BYTES and not box.disk_full
    fill(disk)
    taken = 0
    while taken < RESERVE_REPORTS:
        box.put_many([large(taken + 1 + step) for step in range(10)])
        taken += 10
        if taken % 100 == 0:
            fill(disk)
        if taken == RESERVE_REPORTS // 2:
            box.close()
            box = Outbox(path, device=DEVICE)
            assert box.disk_full
    assert box.disk_full and parts(box) == list(range(1, taken + 1))
    with pytest.raises(DiskFull):
        while True:
            box.put(large(taken + 1))
            taken += 1
    box.ack_rows([row.number for row in box.window(100)])  # what was delivered still makes room
    box.put(large(taken + 1))
    (disk / "hog").unlink()
    assert box.refill() and not box.disk_full and box.stats().reserve_bytes == RESERVE_BYTES
    box.put(report(taken + 2, picture_bytes=5000))
    last = DefectReport.from_bytes(box.payload(box.window(1_000_000)[-1].number))
    assert last.thumbnail is not None and last.thumbnail.jpeg is not None
    assert parts(box) == list(range(101, taken + 3))
    box.close()


def test_a_full_disk_is_an_alarm_until_there_is_room_and_costs_no_report(mount: Mount) -> None:
    disk = mount("-t", "tmpfs", "-o", "size=40m", "tmpfs")
    now_s = [0.0]
    with closing(Outbox(disk / FILE_NAME, device=DEVICE)) as box:
        writer = OutboxWriter(box, wake=lambda: None, monotonic_s=lambda: now_s[0])
        with running(writer):
            fill(disk)
            for number in range(1, 401):
                assert writer.hand_over(report(number, picture_bytes=20_000))
            until(lambda: "disk-full" in [alarm.code for alarm in writer.alarms()])
            now_s[0] += 10
            until(lambda: "disk-nearly-full" in [alarm.code for alarm in writer.alarms()])
            (disk / "hog").unlink()
            until(lambda: writer.waiting == 0)
            now_s[0] += 10
            until(lambda: not box.disk_full)
            now_s[0] += 10
            until(lambda: "disk-full" not in [alarm.code for alarm in writer.alarms()])
        assert parts(box) == list(range(1, 401)) and writer.dropped == 0


def test_what_a_full_disk_costs_in_the_end_is_counted_exactly(mount: Mount) -> None:
    """Handed over = kept + dropped, when the reserve, the pictures and the memory are all used up."""
    disk = mount("-t", "tmpfs", "-o", "size=24m", "tmpfs")
    with closing(Outbox(disk / FILE_NAME, device=DEVICE, cap_bytes=1 << 20)) as box:
        writer = OutboxWriter(box, wake=lambda: None, bound=50)
        fill(disk)
        taken = 0
        with running(writer):
            for number in range(1, 3001):
                taken += writer.hand_over(large(number))
                if number % 40 == 0:
                    until(lambda: writer.waiting < 40 or bool(writer._failure_code))
        kept = parts(box)
        assert writer.dropped > 0 and taken < 3000
        assert len(kept) + writer.dropped == 3000 and kept == sorted(set(kept))


def test_a_file_system_that_turned_read_only_is_waited_for(mount: Mount, tmp_path: Path) -> None:
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("mkfs.ext4 is not installed")
    image = tmp_path / "image"
    image.touch()
    os.truncate(image, 40 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-b", "4096", str(image)], check=True, capture_output=True)
    disk = mount("-o", "loop", str(image))
    with closing(Outbox(disk / FILE_NAME, device=DEVICE)) as box:
        box.put(report(1))
    remount = ["mount", "-o"]
    if subprocess.run([*remount, "remount,ro", str(disk)], capture_output=True, check=False).returncode != 0:
        pytest.skip("remounting is not possible here")
    with closing(Outbox(disk / FILE_NAME, device=DEVICE)) as box:  # the daemon starts all the same
        for _ in range(3):
            with pytest.raises(StorageFailing, match=r"[Rr]ead-only|readonly|unable to open"):
                box.put(report(2))
        subprocess.run([*remount, "remount,rw", str(disk)], check=True, capture_output=True)
        assert box.put(report(2)).seq == 2
        assert parts(box) == [1, 2]


def test_no_inode_left_is_waited_for(mount: Mount) -> None:
    disk = mount("-t", "tmpfs", "-o", "size=40m,nr_inodes=3", "tmpfs")  # the root, the lock, and one more
    with closing(Outbox(disk / FILE_NAME, device=DEVICE)) as box:
        with pytest.raises(StorageFailing):
            box.put(report(1))
        subprocess.run(["mount", "-o", "remount,nr_inodes=100", str(disk)], check=True, capture_output=True)
        assert box.put(report(1)).seq == 1


def test_no_descriptor_left_is_waited_for(tmp_path: Path) -> None:
    box = Outbox(tmp_path / FILE_NAME, device=DEVICE)
    box.put(report(1))
    box._file._drop()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
        with pytest.raises(StorageFailing):
            box.put(report(2))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert box.put(report(2)).seq == 2 and parts(box) == [1, 2]
    box.close()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EMFILE])
def test_a_disk_in_trouble_at_start_does_not_keep_the_daemon_from_inspecting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    real = os.open

    def failing(path: str | Path, *arguments: int, **named: int) -> int:
        if str(path).endswith(".lock"):
            raise OSError(code, os.strerror(code))
        return real(path, *arguments, **named)

    monkeypatch.setattr(os, "open", failing)
    box = Outbox(tmp_path / FILE_NAME, device=DEVICE)
    with pytest.raises(StorageFailing, match=os.strerror(code)):
        box.put(report(1))
    monkeypatch.undo()
    assert box.put(report(1)).seq == 1
    with pytest.raises(Refusal, match="another daemon"):
        Outbox(tmp_path / FILE_NAME, device=DEVICE)
    box.close()


def test_a_folder_we_may_not_write_to_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*arguments: object, **named: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(Refusal, match="cannot be opened: Permission denied"):
        Outbox(tmp_path / FILE_NAME, device=DEVICE)


def test_a_file_of_no_length_is_a_new_outbox(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).touch()
    with closing(Outbox(tmp_path / FILE_NAME, device=DEVICE)) as box:
        assert box.salvage is None and box.put(report(1)).seq == 1


@pytest.mark.parametrize("wal", [b"", b"no WAL at all" * 1000, b"\x37\x7f\x06\x82" + b"\xff" * 9000])
def test_a_wal_that_is_none_costs_nothing_that_was_in_the_file(tmp_path: Path, wal: bytes) -> None:
    with closing(Outbox(tmp_path / FILE_NAME, device=DEVICE)) as box:
        box.put(report(1))
    (tmp_path / f"{FILE_NAME}-wal").write_bytes(wal)
    with closing(Outbox(tmp_path / FILE_NAME, device=DEVICE)) as box:
        box.put(report(2))
        assert parts(box) == [1, 2]


def test_the_wal_of_another_database_invents_nothing_and_stops_nothing(tmp_path: Path) -> None:
    other = tmp_path / "other.sqlite3"
    with closing(sqlite3.connect(other, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE sheep (name TEXT)")
        db.executemany("INSERT INTO sheep VALUES (?)", [("dolly" * 500,)] * 50)
        wal = other.with_name("other.sqlite3-wal").read_bytes()
    with closing(Outbox(tmp_path / FILE_NAME, device=DEVICE)) as box:
        box.put(report(1))
        epoch = box.epoch
    (tmp_path / f"{FILE_NAME}-wal").write_bytes(wal)
    with closing(Outbox(tmp_path / FILE_NAME, device=DEVICE)) as box:
        new = box.put(report(2))
        assert parts(box) in ([2], [1, 2]) and (new.epoch, new.seq) != (epoch, 1)
        assert box.salvage is not None and box.salvage.set_aside.exists()


def crashed(folder: Path, puts: int) -> Path:
    """What a kill leaves: every put in the WAL, one commit each."""
    with closing(Outbox(folder / "a" / FILE_NAME, device=DEVICE, cap_bytes=1 << 20)) as box:
        for number in range(1, puts + 1):
            box.put(report(number))
        shutil.copytree(folder / "a", folder / "b")
    (folder / "b" / f"{FILE_NAME}-shm").unlink()
    return folder / "b" / FILE_NAME


def flip_in_commit(wal: Path, part: int) -> None:
    content = bytearray(wal.read_bytes())
    at = content.rindex(b'"number":%d,' % part)
    content[at + 1] ^= 0xFF
    wal.write_bytes(content)


def test_damage_inside_the_wal_is_told_and_no_number_is_given_again(tmp_path: Path) -> None:
    path = crashed(tmp_path, 9)
    wal = path.with_name(f"{FILE_NAME}-wal")
    flip_in_commit(wal, 9)
    flip_in_commit(wal, 4)
    damaged = wal.read_bytes()
    with closing(Outbox(path, device=DEVICE, cap_bytes=1 << 20)) as box:
        assert box.salvage is not None and "commits in the WAL cannot be read" in box.salvage.reason
        kept = box.salvage.set_aside
        assert kept.with_name(kept.name + "-wal").read_bytes() == damaged
        old = {DefectReport.from_bytes(box.payload(row.number)).id for row in box.window(100)}
        new = box.put(report(100))
        assert new.seq == 1 and new.epoch not in {found.epoch for found in old}


def test_a_commit_torn_by_a_power_cut_is_no_alarm_and_its_number_is_not_given_again(tmp_path: Path) -> None:
    path = crashed(tmp_path, 5)
    flip_in_commit(path.with_name(f"{FILE_NAME}-wal"), 5)
    with closing(Outbox(path, device=DEVICE, cap_bytes=1 << 20)) as box:
        assert box.salvage is None and parts(box) == [1, 2, 3, 4]
        assert box.put(report(6)).seq == 1


def test_a_hang_of_the_disk_is_an_alarm_and_not_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_inspect.delivery.writer.STUCK_S", 0.2)
    with closing(Outbox(tmp_path / FILE_NAME, device=DEVICE)) as box:
        writer = OutboxWriter(box, wake=lambda: None)
        with running(writer):
            with box._file.mutex:  # as a write that does not come back
                for number in range(1, 6):
                    assert writer.hand_over(report(number))
                until(lambda: [alarm.code for alarm in writer.alarms()][:1] == ["storage-stuck"])
            until(lambda: writer.waiting == 0)
            until(lambda: "storage-stuck" not in [alarm.code for alarm in writer.alarms()])
        assert parts(box) == [1, 2, 3, 4, 5] and writer.dropped == 0


def test_an_outbox_of_the_version_before_the_reserve_gets_one(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    with closing(Outbox(path, device=DEVICE)) as box:
        box.put(report(1))
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP TABLE reserve")
        db.commit()
        db.execute("VACUUM")
    assert read_only_stats(path, UTC_NS).reserve_bytes == 0
    with closing(Outbox(path, device=DEVICE)) as box:
        assert box.stats().reserve_bytes == RESERVE_BYTES and parts(box) == [1]


def test_blocks_smaller_than_a_page_do_not_end_the_process_on_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    full = os.statvfs_result((1024, 1024, 1000, 10, 10, 100, 100, 100, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    with pytest.raises(StorageFailing, match="blocks of 1024 bytes"):
        outbox_reserve.insist_on_room_for_index(Path("/nowhere/outbox.sqlite3"))


def test_the_lock_says_who_holds_it_also_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    os.close(outbox_file.hold_lock(tmp_path / FILE_NAME))


def test_room_counts_what_waits_and_not_what_was_delivered(tmp_path: Path) -> None:
    with closing(Outbox(tmp_path / FILE_NAME, device=DEVICE, cap_bytes=2 << 20)) as box:
        number = 0
        while box.stats().size_bytes < 0.82 * box.cap_bytes:
            assert not box.room().outbox_nearly_full or box.room().waiting_bytes >= 0.8 * box.cap_bytes
            box.put_many([report(number + step, picture_bytes=9000) for step in range(1, 5)])
            number += 4
        assert box.room().outbox_nearly_full and box.stats().pictures_shed == 0
        box.ack_rows([row.number for row in box.window(number // 2)])
        assert not box.room().outbox_nearly_full and box.room().waiting_bytes > 0


def test_the_largest_put_finds_its_place_without_touching_the_reserve(tmp_path: Path) -> None:
    with closing(Outbox(tmp_path / FILE_NAME, device=DEVICE)) as box:
        box.put_many([report(number, picture_bytes=60_000) for number in range(1, 65)])
        stats = box.stats()
        assert stats.reserve_bytes == RESERVE_BYTES and not box.disk_full and stats.pictures_shed == 0
        assert parts(box) == list(range(1, 65))
