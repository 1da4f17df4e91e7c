"""What `put` returned survives; numbers never repeat; what has not arrived is never dropped; one owner only."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edge_inspect.delivery import outbox_file
from edge_inspect.delivery.outbox import Outbox, OutboxFull
from edge_inspect.delivery.outbox_stats import read_only_stats
from edge_inspect.errors import InUse, Refusal, StorageFailing
from edge_wire.messages import DefectReport
from tests.edge.delivery.reports import DEVICE, UTC_NS, part_numbers, report

HOUR_NS = 3600 * 10**9


class Clock:
    """Time as an argument."""

    def __init__(self) -> None:
        self.now_ns = UTC_NS

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "outbox.sqlite3"


@pytest.fixture
def outbox(path: Path, clock: Clock) -> Iterator[Outbox]:
    box = Outbox(path, device=DEVICE, utc_ns=clock)
    yield box
    box.close()


def waiting(box: Outbox) -> list[bytes]:
    return [box.payload(row.number) for row in box.window(1_000_000)]


def test_durability_is_asserted_and_refused_where_it_cannot_be_had(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Outbox(path, device=DEVICE)) as box:
        db = box._file._connection()
        assert db.execute("PRAGMA synchronous").fetchone() == (2,)
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)

    class Careless(sqlite3.Connection):
        """A SQLite that quietly keeps its own idea of `synchronous`."""

        def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
            return super().execute(sql.replace("synchronous = FULL", "synchronous = NORMAL"), *parameters)

    real = sqlite3.connect
    monkeypatch.setattr(outbox_file.sqlite3, "connect", lambda *a, **k: real(*a, **{**k, "factory": Careless}))
    with pytest.raises(Refusal, match="synchronous 1, must be wal and 2"):
        Outbox(path, device=DEVICE)


def test_every_commit_is_synced_before_put_returns(path: Path) -> None:
    """Counted from outside: the kernel sees an fdatasync for each put."""
    strace = "/usr/bin/strace"
    if not os.access(strace, os.X_OK):
        pytest.skip("strace is not installed")
    program = (
        "import sys; from pathlib import Path; from edge_inspect.delivery.outbox import Outbox\n"
        "from tests.edge.delivery.reports import report\n"
        f"box = Outbox(Path({str(path)!r}), device={DEVICE!r})\n"
        "for number in range(1, 11):\n"
        "    sys.stderr.write(f'put {number}\\n'); box.put(report(number)); sys.stderr.write(f'done {number}\\n')\n"
    )
    trace = path.parent.parent / "trace"
    subprocess.run(
        [strace, "-f", "-e", "trace=write,fdatasync,fsync", "-o", str(trace), sys.executable, "-c", program],
        check=True,
        capture_output=True,
        timeout=60,
    )
    if "fdatasync" not in trace.read_text():
        pytest.skip("strace cannot trace here")
    lines = trace.read_text().splitlines()
    for number in range(1, 11):
        start = next(at for at, line in enumerate(lines) if f'"put {number}\\n"' in line)
        end = next(at for at, line in enumerate(lines) if f'"done {number}\\n"' in line)
        assert any("sync(" in line and line.endswith("= 0") for line in lines[start:end])


def test_numbers_count_up_without_gaps_within_an_epoch(outbox: Outbox) -> None:
    ids = [outbox.put(report(1)), *outbox.put_many([report(2), report(3)]), outbox.put(report(4))]
    assert [found.seq for found in ids] == [1, 2, 3, 4]
    assert {found.epoch for found in ids} == {outbox.epoch} and {found.device for found in ids} == {DEVICE}
    assert [DefectReport.from_bytes(payload).id for payload in waiting(outbox)] == ids


def test_numbers_go_on_after_reopening_even_when_everything_was_pruned(
    path: Path, outbox: Outbox, clock: Clock
) -> None:
    last = outbox.put_many([report(1), report(2)])[-1]
    outbox.ack_rows([row.number for row in outbox.window(10)])
    clock.now_ns += 100 * HOUR_NS
    assert outbox.prune() == 2
    outbox.close()
    with closing(Outbox(path, device=DEVICE, utc_ns=clock)) as again:
        found = again.put(report(3))
        assert (found.epoch, found.seq) == (last.epoch, 3)
        assert [row.number for row in again.window(10)] == [3]


def test_a_lost_file_begins_a_new_epoch_even_if_the_clock_stands_still(path: Path, clock: Clock) -> None:
    epochs = set()
    for _ in range(20):
        with closing(Outbox(path, device=DEVICE, utc_ns=clock)) as box:
            epochs.add(box.put(report(1)).epoch)
        path.unlink()
    assert len(epochs) == 20


@pytest.mark.parametrize("now_ns", [0, -5, UTC_NS, 2**62])
def test_an_epoch_has_its_pattern_whatever_the_clock_says(now_ns: int) -> None:
    assert report(1).numbered(outbox_file.new_epoch(now_ns), 1).to_bytes()
    DefectReport.from_bytes(report(1).numbered(outbox_file.new_epoch(now_ns), 1).to_bytes())


def test_a_second_daemon_is_refused_with_one_line_that_names_the_first(path: Path, outbox: Outbox) -> None:
    with pytest.raises(InUse, match=rf"another daemon \(process {os.getpid()}\) is using this outbox"):
        Outbox(path, device=DEVICE)
    outbox.close()
    Outbox(path, device=DEVICE).close()


def test_the_lock_falls_with_the_process(path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from edge_inspect.delivery.outbox import Outbox\n"
        f"box = Outbox(Path({str(path)!r}), device={DEVICE!r}); print('ready', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"ready\n"
        with pytest.raises(Refusal, match=f"process {other.pid}"):
            Outbox(path, device=DEVICE)
        other.send_signal(signal.SIGKILL)
        other.wait(timeout=20)
    Outbox(path, device=DEVICE).close()


def test_undelivered_reports_of_another_device_are_not_sent_under_our_name(path: Path, outbox: Outbox) -> None:
    first = outbox.put(report(1))
    outbox.close()
    with pytest.raises(Refusal, match="holds 1 undelivered reports of device edge-1, this is edge-2"):
        Outbox(path, device="edge-2")
    with closing(Outbox(path, device=DEVICE)) as box:
        box.ack_rows([row.number for row in box.window(10)])
    with closing(Outbox(path, device="edge-2")) as renamed:
        found = renamed.put(report(2, device="edge-2"))
    assert found.seq == 1 and found.epoch != first.epoch


def test_states_only_go_forward(outbox: Outbox) -> None:
    outbox.put_many([report(number) for number in range(1, 6)])
    one, two, *_ = (row.number for row in outbox.window(10))
    outbox.mark_sent([one, two])
    assert [(row.state, row.sends) for row in outbox.window(2)] == [(outbox_file.SENT, 1)] * 2
    outbox.ack_rows([one])
    outbox.mark_sent([one])
    stats = outbox.stats()
    assert (stats.pending, stats.sent, stats.acked, stats.depth) == (3, 1, 1, 4)


def test_acknowledged_ranges_are_of_one_epoch_and_count_only_news(outbox: Outbox) -> None:
    outbox.put_many([report(number) for number in range(1, 11)])
    assert outbox.epoch is not None
    assert outbox.ack_ranges(outbox.epoch, [(1, 3), (3, 5), (9, 9)]) == 6
    assert outbox.ack_ranges(outbox.epoch, [(1, 5)]) == 0
    assert outbox.ack_ranges("000000000000-0000000000000000", [(1, 10)]) == 0
    assert part_numbers(waiting(outbox)) == [6, 7, 8, 10]
    assert outbox.ack_ranges(outbox.epoch, [(1, 2**53 - 1)]) == 4


def test_acked_reports_stay_for_a_resync_and_then_go(outbox: Outbox, clock: Clock) -> None:
    outbox.put_many([report(number, picture_bytes=100) for number in range(1, 201)])
    outbox.ack_rows([row.number for row in outbox.window(150)])
    clock.now_ns += 71 * HOUR_NS
    assert outbox.prune() == 0
    clock.now_ns += 2 * HOUR_NS
    assert outbox.prune() == 150
    assert outbox.stats().acked == 0 and part_numbers(waiting(outbox)) == list(range(151, 201))
    assert outbox._file._connection().execute("SELECT count(*) FROM picture").fetchone() == (50,)


def test_pictures_are_shed_oldest_first_and_metadata_stays(path: Path) -> None:
    with closing(Outbox(path, device=DEVICE, cap_bytes=2 << 20)) as box:
        for number in range(1, 401, 4):
            box.put_many([report(number + step, picture_bytes=20_000) for step in range(4)])
        found = [DefectReport.from_bytes(payload) for payload in waiting(box)]
        kept = [entry.part.number for entry in found if entry.thumbnail and entry.thumbnail.jpeg]
        stats = box.stats()
    assert [entry.part.number for entry in found] == list(range(1, 401))
    assert kept == list(range(401 - len(kept), 401)) and 10 < len(kept) < 100
    assert all(entry.thumbnail is not None for entry in found)
    assert stats.pictures_shed == 400 - len(kept)
    assert stats.size_bytes <= 2 << 20 and path.stat().st_size <= 2 << 20


def test_what_arrived_is_given_up_before_what_waits(path: Path) -> None:
    with closing(Outbox(path, device=DEVICE, cap_bytes=2 << 20)) as box:
        box.put_many([report(number, picture_bytes=20_000) for number in range(1, 41)])
        box.ack_rows([row.number for row in box.window(100)])
        for number in range(41, 101):
            box.put(report(number, picture_bytes=20_000))
        assert box.stats().pictures_shed == 0
        found = [DefectReport.from_bytes(payload) for payload in waiting(box)]
    assert [entry.part.number for entry in found if entry.thumbnail and entry.thumbnail.jpeg] == list(range(41, 101))


def test_a_full_outbox_refuses_loudly_keeps_all_and_recovers_when_something_arrives(path: Path) -> None:
    with closing(Outbox(path, device=DEVICE, cap_bytes=1 << 20)) as box:
        number = 0
        for size in (5, 1):
            with pytest.raises(OutboxFull):
                while True:
                    box.put_many([report(number + step, picture_bytes=5000) for step in range(1, size + 1)])
                    number += size
        assert number > 400
        assert part_numbers(waiting(box)) == list(range(1, number + 1))
        with pytest.raises(OutboxFull):
            box.put(report(number + 1))
        box.ack_rows([row.number for row in box.window(100)])
        assert box.put(report(number + 1)).seq == number + 1
        assert part_numbers(waiting(box)) == list(range(101, number + 2))


def test_a_report_of_another_device_is_our_own_mistake(outbox: Outbox) -> None:
    with pytest.raises(ValueError, match="edge-2"):
        outbox.put(report(1, device="edge-2"))
    assert outbox.put(report(1)).seq == 1


def test_stats_tell_depth_and_age_also_from_outside(path: Path, outbox: Outbox, clock: Clock) -> None:
    outbox.put_many([report(1), report(2)])
    clock.now_ns += 90 * 10**9
    stats = outbox.stats()
    assert (stats.depth, stats.oldest_age_s, stats.last_seq) == (2, 90.0, 2)
    assert read_only_stats(path, clock()) == stats
    outbox.close()
    assert read_only_stats(path, clock()).depth == 2
    with pytest.raises(Refusal, match="there is no outbox"):
        read_only_stats(path.parent / "other.sqlite3", clock())


def test_looking_from_outside_does_not_hold_up_the_daemon(path: Path, outbox: Outbox) -> None:
    outbox.put(report(1))
    with closing(outbox_file.read_only(path)) as look:
        look.execute("BEGIN")
        assert look.execute("SELECT count(*) FROM report").fetchone() == (1,)
        outbox.put(report(2))
        assert look.execute("SELECT count(*) FROM report").fetchone() == (1,)


def test_a_folder_that_cannot_be_made_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Refusal, match="cannot be opened"):
        Outbox(tmp_path / "file" / "outbox.sqlite3", device=DEVICE)


class Failing(sqlite3.Connection):
    """A disk that fails at a chosen statement, before or after it took effect."""

    fail_at = ""
    after = False

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        hit = bool(Failing.fail_at) and sql.startswith(Failing.fail_at)
        result = None if hit and not Failing.after else super().execute(sql, *parameters)
        if hit:
            raise sqlite3.OperationalError("disk I/O error")
        assert result is not None
        return result


@pytest.mark.parametrize("after", [False, True], ids=["nothing-was-written", "it-was-written-all-the-same"])
@pytest.mark.parametrize("statement", ["BEGIN", "INSERT INTO report", "INSERT INTO picture", "UPDATE epoch", "COMMIT"])
def test_putting_again_after_a_failed_commit_keeps_every_report_once(
    path: Path, monkeypatch: pytest.MonkeyPatch, statement: str, after: bool
) -> None:
    real = sqlite3.connect
    monkeypatch.setattr(outbox_file.sqlite3, "connect", lambda *a, **k: real(*a, **{**k, "factory": Failing}))
    with closing(Outbox(path, device=DEVICE)) as box:
        first = box.put(report(1, picture_bytes=10))
        batch = [report(2, picture_bytes=10), report(3)]
        monkeypatch.setattr(Failing, "fail_at", statement)
        monkeypatch.setattr(Failing, "after", after)
        for _ in range(2):
            with pytest.raises(StorageFailing, match="disk I/O error"):
                box.put_many(batch)
        monkeypatch.setattr(Failing, "fail_at", "")
        ids = box.put_many([*batch, report(4)])
        assert [found.seq for found in ids] == [2, 3, 4] and {found.epoch for found in ids} == {first.epoch}
        assert part_numbers(waiting(box)) == [1, 2, 3, 4]
        assert box.stats().last_seq == 4


def test_what_a_failed_commit_left_is_written_again_before_the_next_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only in the WAL, whose pages the kernel may have given up: in the main file, read here without the WAL."""
    real = sqlite3.connect
    monkeypatch.setattr(outbox_file, "BUSY_S", 0.1)
    monkeypatch.setattr(outbox_file.sqlite3, "connect", lambda *a, **k: real(*a, **{**k, "factory": Failing}))
    with closing(Outbox(path, device=DEVICE)) as box, closing(real(path, isolation_level=None)) as other:
        other.execute("SELECT * FROM epoch").fetchall()  # a second connection: closing ours alone writes nothing back
        monkeypatch.setattr(Failing, "fail_at", "COMMIT")
        monkeypatch.setattr(Failing, "after", True)
        with pytest.raises(StorageFailing):
            box.put(report(1))
        monkeypatch.setattr(Failing, "fail_at", "")
        other.execute("BEGIN")
        other.execute("SELECT * FROM epoch").fetchall()
        with pytest.raises(StorageFailing, match="in use by another program"):
            box.put(report(1))
        other.execute("ROLLBACK")
        box.put(report(1))
        main_file_alone = path.with_name("copy.sqlite3")
        main_file_alone.write_bytes(path.read_bytes())
        with closing(outbox_file.read_only(main_file_alone)) as look:
            assert look.execute("SELECT count(*) FROM report").fetchone() == (1,)


def test_putting_other_reports_after_a_commit_that_reached_the_disk_is_noticed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sqlite3.connect
    monkeypatch.setattr(outbox_file.sqlite3, "connect", lambda *a, **k: real(*a, **{**k, "factory": Failing}))
    with closing(Outbox(path, device=DEVICE)) as box:
        monkeypatch.setattr(Failing, "fail_at", "COMMIT")
        monkeypatch.setattr(Failing, "after", True)
        with pytest.raises(StorageFailing):
            box.put(report(1))
        monkeypatch.setattr(Failing, "fail_at", "")
        with pytest.raises(RuntimeError, match="another order"):
            box.put(report(2))


def fill(path: Path, count: int) -> None:
    with closing(Outbox(path, device=DEVICE)) as box:
        box.put_many([report(number, picture_bytes=3000) for number in range(1, count + 1)])
        box.ack_rows([row.number for row in box.window(20)])


def test_a_broken_file_is_set_aside_and_what_is_readable_is_carried_over(path: Path) -> None:
    fill(path, 200)
    size = path.stat().st_size
    with path.open("r+b") as raw:
        raw.seek(size // 2 // 4096 * 4096)
        raw.write(os.urandom(4096))
    with closing(Outbox(path, device=DEVICE)) as box:
        assert box.salvage is not None and box.salvage.set_aside.exists() and box.salvage.reports > 100
        found = [DefectReport.from_bytes(payload) for payload in waiting(box)]
        new = box.put(report(1000))
    numbers = [entry.part.number for entry in found]
    assert numbers == sorted(set(numbers)) and set(numbers) <= set(range(21, 201))
    assert len(numbers) == box.salvage.reports
    assert {entry.epoch for entry in found}.isdisjoint({new.epoch}) and new.seq == 1


@pytest.mark.parametrize(
    "content", [b"not a database at all, far from it" * 300, b"SQLite format 3\0" + b"\xff" * 5000]
)
def test_what_is_no_database_is_set_aside_and_work_goes_on(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with closing(Outbox(path, device=DEVICE)) as box:
        assert box.salvage is not None and box.salvage.set_aside.read_bytes() == content and box.salvage.reports == 0
        assert box.put(report(1)).seq == 1
    with closing(Outbox(path, device=DEVICE)) as box:
        assert box.salvage is None and part_numbers(waiting(box)) == [1]


def test_a_database_that_is_no_outbox_is_set_aside(path: Path) -> None:
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE other (x)")
    with closing(Outbox(path, device=DEVICE)) as box:
        assert box.salvage is not None and "not an outbox" in box.salvage.reason
        box.put(report(1))


def test_a_kill_while_replacing_a_broken_file_loses_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between moving the broken file away and putting the new one in its place."""
    fill(path, 60)
    with path.open("r+b") as raw:
        raw.seek(path.stat().st_size // 2 // 4096 * 4096)
        raw.write(os.urandom(4096))
    real = Path.rename

    def killed(self: Path, target: Path) -> Path:
        if self.name.endswith(".new"):
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        Outbox(path, device=DEVICE)
    monkeypatch.undo()
    assert not path.exists()
    with closing(Outbox(path, device=DEVICE)) as box:
        carried = part_numbers(waiting(box))
        assert len(carried) > 10 and box.put(report(1000)).seq == 1


def test_damage_anywhere_never_stops_the_outbox_nor_invents_reports(path: Path) -> None:
    """One byte flipped at 40 places spread over the whole file."""
    fill(path, 60)
    whole = path.read_bytes()
    for step in range(40):
        at = step * len(whole) // 40 + 7 * step
        damaged = bytearray(whole)
        damaged[at] ^= 0x55
        path.write_bytes(bytes(damaged))
        with closing(Outbox(path, device=DEVICE)) as box:
            box.put(report(500))
            rows = box.window(1000)
            assert len(rows) <= 61
        for left in path.parent.iterdir():
            left.unlink()
