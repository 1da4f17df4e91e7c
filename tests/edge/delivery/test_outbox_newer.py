"""A newer program's outbox, after the software was put back: kept as it is, said, delivered by the newer one."""

from __future__ import annotations

import json
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from edge_inspect.cli import run_command
from edge_inspect.delivery import outbox_file, outbox_newer
from edge_inspect.delivery.outbox import FILE_NAME, Outbox
from edge_inspect.delivery.writer import OutboxWriter
from edge_inspect.errors import InUse, Refusal
from tests.edge.delivery.reports import DEVICE, UTC_NS, part_numbers, report

Bytes = dict[str, bytes]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / FILE_NAME


def written_by_a_newer_program(path: Path, parts: range) -> tuple[str, Bytes]:
    """Its epoch, and what lies there: the last reports stand only in the WAL, as after a kill."""
    box = Outbox(path, device=DEVICE)
    epoch = box.epoch
    assert epoch is not None
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(f"PRAGMA user_version = {outbox_file.SCHEMA + 1}")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    box.put_many([report(number) for number in parts])
    copies = {suffix: outbox_file.beside(path, suffix).read_bytes() for suffix in ("", "-wal")}
    box.close()
    for suffix, content in copies.items():
        outbox_file.beside(path, suffix).write_bytes(content)
    assert len(copies["-wal"]) > 4096
    return epoch, copies


def waiting(path: Path) -> list[int]:
    with closing(Outbox(path, device=DEVICE)) as box:
        return part_numbers([box.payload(row.number) for row in box.window(1000)])


def set_aside(path: Path) -> Path:
    (kept,) = outbox_newer.lying_aside(path)
    return kept


def test_it_is_set_aside_to_the_byte_and_new_reports_go_into_a_new_file_and_epoch(path: Path) -> None:
    epoch, before = written_by_a_newer_program(path, range(1, 6))
    with closing(Outbox(path, device=DEVICE)) as box:
        first = box.put(report(6))
        assert first.seq == 1 and first.epoch != epoch and box.salvage is None
        assert box.newer == [set_aside(path)]
        (alarm,) = OutboxWriter(box, wake=lambda: None).alarms()
    assert (alarm.code, set_aside(path).name in alarm.detail) == ("outbox-newer-schema", True)
    kept = {suffix: outbox_file.beside(set_aside(path), suffix).read_bytes() for suffix in before}
    assert kept == before
    with closing(Outbox(path, device=DEVICE)) as again:  # at every start, until somebody does something about it
        assert again.newer == [set_aside(path)] and again.put(report(7)).seq == 2


def test_a_kill_between_the_moves_is_made_good_at_the_next_start(path: Path) -> None:
    _, before = written_by_a_newer_program(path, range(1, 6))
    kept = outbox_file.name_aside(path, ".newer-", UTC_NS)
    outbox_file.beside(path, "-wal").rename(outbox_file.beside(kept, "-wal"))
    with closing(Outbox(path, device=DEVICE)) as box:
        assert box.newer == [kept] and box.put(report(6)).seq == 1
    assert {suffix: outbox_file.beside(kept, suffix).read_bytes() for suffix in before} == before


def test_the_newer_program_delivers_it_after_put_back(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written_by_a_newer_program(path, range(1, 6))
    with closing(Outbox(path, device=DEVICE)) as box:
        box.put(report(6))
        with pytest.raises(InUse):
            outbox_newer.put_back(path, set_aside(path).name, UTC_NS)
    name = set_aside(path).name
    with pytest.raises(Refusal, match="install the newer one first"):
        outbox_newer.put_back(path, name, UTC_NS)
    monkeypatch.setattr(outbox_file, "SCHEMA", outbox_file.SCHEMA + 1)
    with closing(sqlite3.connect(path)) as db:  # the newer program takes over the older one's file
        db.execute(f"PRAGMA user_version = {outbox_file.SCHEMA}")
    with pytest.raises(Refusal, match="holds 1 reports that were not delivered"):
        outbox_newer.put_back(path, name, UTC_NS)
    with closing(Outbox(path, device=DEVICE)) as box:
        box.ack_rows([row.number for row in box.window(10)])
    command = ["outbox", "put-back", name, "--state", str(path.parent), "--json"]
    assert run_command(command) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["put_back"] == name and (path.parent / said["before"]).is_file()
    assert waiting(path) == [1, 2, 3, 4, 5] and outbox_newer.lying_aside(path) == []
    assert run_command(command) == 1  # there is none of that name any more


def test_a_kill_while_it_is_put_back_leaves_it_set_aside(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, before = written_by_a_newer_program(path, range(1, 6))
    with closing(Outbox(path, device=DEVICE)):
        pass
    kept = set_aside(path)
    for suffix in ("", "-wal", "-shm"):
        outbox_file.beside(path, suffix).unlink(missing_ok=True)
    kept.rename(path)  # and its WAL does not follow
    monkeypatch.setattr(outbox_file, "SCHEMA", outbox_file.SCHEMA + 1)
    with closing(Outbox(path, device=DEVICE)) as box:
        assert box.newer == [kept] and box.stats().depth == 0
    assert {suffix: outbox_file.beside(kept, suffix).read_bytes() for suffix in before} == before


def test_status_names_it(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written_by_a_newer_program(path, range(1, 6))
    with closing(Outbox(path, device=DEVICE)):
        assert run_command(["outbox", "status", "--state", str(path.parent), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["newer"] == [set_aside(path).name]


def test_a_full_file_set_aside_takes_nothing_of_the_new_ones_cap(path: Path) -> None:
    written_by_a_newer_program(path, range(1, 400))
    with closing(Outbox(path, device=DEVICE, cap_bytes=1 << 20)) as box:
        for number in range(400, 700, 10):
            box.put_many([report(number + step) for step in range(10)])
        assert box.stats().depth == 300


def test_the_writer_goes_on_beside_it(path: Path) -> None:
    written_by_a_newer_program(path, range(1, 6))
    stop = threading.Event()
    with closing(Outbox(path, device=DEVICE)) as box:
        writer = OutboxWriter(box, wake=lambda: None)
        thread = threading.Thread(target=writer.run, args=(stop,))
        thread.start()
        writer.hand_over(report(6))
        stop.set()
        thread.join(60)
        assert box.stats().depth == 1 and writer.dropped == 0
