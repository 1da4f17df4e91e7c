"""The thread that judges never waits for the disk, and what a failing disk cost is counted and said."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import structlog

from edge_inspect.delivery.outbox import Outbox, OutboxFull
from edge_inspect.delivery.outbox_reserve import Room
from edge_inspect.delivery.writer import OutboxWriter
from edge_inspect.errors import StorageFailing
from edge_wire.messages import DefectReport, ReportId
from tests.edge.delivery.reports import DEVICE, part_numbers, report


class Disk(Outbox):
    """An outbox whose disk can be slow or fail."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, device=DEVICE)
        self.error: StorageFailing | None = None
        self.free = threading.Event()
        self.free.set()
        self.batches: list[int] = []
        self.tried = threading.Semaphore(0)
        self.rooms = Room(1 << 30, 0, 1 << 40, 1 << 39, 10**6, 1 << 22)

    def put_many(self, reports: Sequence[DefectReport]) -> list[ReportId]:
        self.tried.release()
        assert self.free.wait(30)
        if self.error is not None:
            raise self.error
        self.batches.append(len(reports))
        return super().put_many(reports)

    def room(self) -> Room:
        return self.rooms

    def parts(self) -> list[int]:
        return part_numbers([self.payload(row.number) for row in self.window(100_000)])


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with closing(Disk(tmp_path / "outbox.sqlite3")) as box:
        yield box


@contextmanager
def running(writer: OutboxWriter) -> Iterator[threading.Event]:
    stop = threading.Event()
    thread = threading.Thread(target=writer.run, args=(stop,), name="outbox")
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join(timeout=30)
        assert not thread.is_alive() and writer.beat_ns is None


def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.005)


def test_reports_are_kept_in_order_and_the_courier_is_woken(disk: Disk) -> None:
    woken = threading.Event()
    writer = OutboxWriter(disk, wake=woken.set)
    with running(writer):
        for number in range(1, 101):
            assert writer.hand_over(report(number))
        assert woken.wait(20)
        until(lambda: writer.waiting == 0)
    assert disk.parts() == list(range(1, 101))


def test_what_was_handed_over_before_the_end_is_kept(disk: Disk) -> None:
    writer = OutboxWriter(disk, wake=lambda: None)
    disk.free.clear()
    with running(writer) as stop:
        for number in range(1, 201):
            writer.hand_over(report(number))
        stop.set()
        disk.free.set()
    assert disk.parts() == list(range(1, 201)) and writer.dropped == 0


def test_a_slow_disk_makes_larger_commits_not_a_slower_judge(disk: Disk) -> None:
    writer = OutboxWriter(disk, wake=lambda: None)
    disk.free.clear()
    with running(writer):
        assert writer.hand_over(report(1)) and disk.tried.acquire(timeout=20)
        for number in range(2, 50):
            assert writer.hand_over(report(number))  # returns though the disk hangs
        disk.free.set()
        until(lambda: writer.waiting == 0)
    assert disk.parts() == list(range(1, 50)) and max(disk.batches) >= 48


def test_a_failing_disk_is_said_once_down_and_once_up_and_costs_nothing(disk: Disk) -> None:
    writer = OutboxWriter(disk, wake=lambda: None)
    disk.error = StorageFailing("disk I/O error")
    with structlog.testing.capture_logs() as lines, running(writer):
        for number in range(1, 6):
            writer.hand_over(report(number))
        for _ in range(3):
            assert disk.tried.acquire(timeout=20)
        until(lambda: bool(writer.alarms()))
        assert [alarm.code for alarm in writer.alarms()] == ["storage-failing"]
        disk.error = None
        until(lambda: writer.waiting == 0 and not writer.alarms())
    assert disk.parts() == [1, 2, 3, 4, 5] and writer.dropped == 0
    assert [line["event"] for line in lines] == ["outbox.failing", "outbox.works_again"]


def test_a_full_outbox_has_its_own_alarm(disk: Disk) -> None:
    writer = OutboxWriter(disk, wake=lambda: None)
    disk.error = OutboxFull("full")
    with running(writer):
        writer.hand_over(report(1))
        until(lambda: [alarm.code for alarm in writer.alarms()] == ["outbox-full"])
        disk.error = None
    assert disk.parts() == [1]


def test_at_the_bound_pictures_go_first_and_then_every_loss_is_counted(disk: Disk) -> None:
    writer = OutboxWriter(disk, wake=lambda: None, bound=10)
    disk.free.clear()
    with structlog.testing.capture_logs() as lines, running(writer):
        writer.hand_over(report(1, picture_bytes=10))
        assert disk.tried.acquire(timeout=20)
        taken = [writer.hand_over(report(number, picture_bytes=10)) for number in range(2, 16)]
        assert taken == [True] * 9 + [False] * 5
        assert writer.dropped == 5 and [alarm.code for alarm in writer.alarms()] == ["reports-dropped"]
        vitals = writer.vitals()
        assert vitals is not None and vitals.dropped == 5
        disk.free.set()
        until(lambda: writer.waiting == 0)
    kept = [DefectReport.from_bytes(disk.payload(row.number)) for row in disk.window(100)]
    assert [entry.part.number for entry in kept] == list(range(1, 11))
    assert [bool(entry.thumbnail and entry.thumbnail.jpeg) for entry in kept] == [True] * 5 + [False] * 5
    assert [line["event"] for line in lines] == ["outbox.report_dropped", "outbox.works_again"]


def test_what_a_dead_disk_costs_at_the_end_is_counted_and_said(disk: Disk) -> None:
    writer = OutboxWriter(disk, wake=lambda: None)
    disk.error = StorageFailing("disk I/O error")
    with structlog.testing.capture_logs() as lines, running(writer):
        writer.hand_over(report(1))
        assert disk.tried.acquire(timeout=20)
    assert writer.dropped == 1
    assert lines[-1]["event"] == "outbox.reports_lost_at_stop" and lines[-1]["reports"] == 1


def test_old_acknowledged_reports_are_pruned_in_passing(disk: Disk) -> None:
    now_s = [0.0]
    pruned = threading.Event()
    disk.prune = lambda: pruned.set() or 0  # type: ignore[method-assign,func-returns-value]
    writer = OutboxWriter(disk, wake=lambda: None, monotonic_s=lambda: now_s[0])
    with running(writer):
        now_s[0] = 61.0
        writer.hand_over(report(1))
        assert pruned.wait(20)


def test_vitals_are_none_while_the_file_cannot_be_read(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = OutboxWriter(disk, wake=lambda: None)

    def broken() -> None:
        raise StorageFailing("disk I/O error")

    monkeypatch.setattr(disk, "stats", broken)
    assert writer.vitals() is None


@pytest.mark.parametrize(
    ("room", "codes"),
    [
        (Room(1000, 799, 10**6, 10**5, None, 1), []),
        (Room(1000, 800, 10**6, 10**5, None, 1), ["outbox-nearly-full"]),
        (Room(10**5, 0, 10**6, 200_001, 10**6, 1), []),
        (Room(10**5, 0, 10**6, 200_000, 10**6, 1), ["disk-nearly-full"]),
        (Room(10**3, 0, 10**6, 200_000, 10**6, 1), []),  # little in per cent, a lot for this outbox
        (Room(10**3, 0, 10**6, 10**6, 99, 1), ["disk-nearly-full"]),  # bytes, but no inodes
    ],
)
def test_little_room_is_an_alarm_from_80_percent_on_said_once_and_taken_back(
    disk: Disk, room: Room, codes: list[str]
) -> None:
    now_s = [0.0]
    disk.rooms = room
    writer = OutboxWriter(disk, wake=lambda: None, monotonic_s=lambda: now_s[0])
    with structlog.testing.capture_logs() as lines, running(writer):
        until(lambda: writer._room is not None)
        assert [alarm.code for alarm in writer.alarms()] == codes
        disk.rooms = Room(1000, 0, 10**6, 10**6, None, 1)
        now_s[0] += 60
        until(lambda: not writer.alarms() and writer._room == disk.rooms)
    said = [(line["event"], line["code"]) for line in lines]
    assert said == [(f"outbox.{event}", code) for event in ("little_room", "room_again") for code in codes]


def test_vitals_do_not_wait_for_a_write_that_hangs(disk: Disk) -> None:
    writer = OutboxWriter(disk, wake=lambda: None)
    disk.free.clear()
    with running(writer):
        writer.hand_over(report(1))
        assert disk.tried.acquire(timeout=20)
        with disk._file.mutex:
            until(lambda: writer._stands_still(1.5))
            assert writer.vitals() is None
        disk.free.set()
        until(lambda: writer.vitals() is not None)
