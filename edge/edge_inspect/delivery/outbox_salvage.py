"""A file that SQLite finds broken: set aside under another name, and what can still be read of it carried over.

1. The broken file is renamed (`...broken-<UTC>`), never deleted. Reports that can be read whole and were not
   acknowledged are carried over under their old numbers; the new file begins a new epoch.
2. A kill in between changes nothing: the new file is complete before the old one is moved.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_inspect.delivery.outbox_file import (
    ACKED,
    Broken,
    begin_epoch,
    beside,
    connect,
    fresh_of,
    name_aside,
    read_only,
)
from edge_inspect.durable import sync_folder
from edge_inspect.errors import StorageFailing
from edge_wire.messages import BadMessage, DefectReport


@dataclass(frozen=True, slots=True)
class Salvage:
    """A broken file was set aside."""

    set_aside: Path
    reason: str
    reports: int
    """Not yet acknowledged reports that could be carried over; any others are lost and only lie in the file."""


def replace(path: Path, reason: str, *, device: str, now_ns: int) -> Salvage:
    """Put a new file in the place of a broken one and set that aside. Raises StorageFailing."""
    fresh, kept = fresh_of(path), name_aside(path, ".broken-", now_ns)
    try:
        for suffix in ("-wal", "-shm", ""):
            beside(fresh, suffix).unlink(missing_ok=True)
        reports = _carry_over(path, fresh, device, now_ns)
        for suffix in ("-wal", "-shm", ""):
            if beside(path, suffix).exists():
                beside(path, suffix).rename(beside(kept, suffix))
        fresh.rename(path)
        sync_folder(path.parent)
    except (OSError, sqlite3.Error, Broken) as err:
        raise StorageFailing(f"{path}: is broken ({reason}) and cannot be replaced: {err}") from err
    return Salvage(kept, reason, reports)


def keep_wal(path: Path, reason: str, now_ns: int) -> Salvage:
    """Set a copy of a damaged WAL aside, if there is room, before SQLite writes over what lies behind its damage."""
    kept = name_aside(path, ".broken-", now_ns)
    try:
        shutil.copyfile(beside(path, "-wal"), beside(kept, "-wal"))
        shutil.copyfile(path, kept)
    except OSError as err:
        reason = f"{reason}; no copy could be kept: {err.strerror}"
    return Salvage(kept, reason, 0)


def _carry_over(broken: Path, fresh: Path, device: str, now_ns: int) -> int:
    """Fill a new file with what can still be read whole and was not acknowledged; how many reports.

    Rows are read forwards until SQLite stumbles, then backwards from the end until it stumbles again.
    """
    with (
        contextlib.closing(connect(fresh, check="")) as db,
        contextlib.closing(read_only(broken)) as source,
    ):
        rows: dict[int, tuple[Any, ...]] = {}
        for direction in ("ASC", "DESC"):
            for row in _readable(source, direction):
                if row[0] in rows:
                    break
                rows[row[0]] = row
        db.execute("BEGIN IMMEDIATE")
        kept = sum(_carry(db, rows[number], _picture(source, number)) for number in sorted(rows))
        begin_epoch(db, device, now_ns)
        db.execute("COMMIT")
    return kept


def _readable(source: sqlite3.Connection, direction: str) -> Iterator[tuple[Any, ...]]:
    with contextlib.suppress(sqlite3.Error):  # the end of what can be read
        yield from source.execute(
            "SELECT row, state, put_ns, sent_ns, sends, payload FROM report NOT INDEXED "
            f"WHERE state < {ACKED} ORDER BY row {direction}"
        )


def _picture(source: sqlite3.Connection, row: int) -> bytes | None:
    with contextlib.suppress(sqlite3.Error):  # its page is gone: the report travels without it
        found = source.execute("SELECT jpeg FROM picture WHERE row = ?", (row,)).fetchone()
        return None if found is None else bytes(found[0])
    return None


def _carry(db: sqlite3.Connection, row: tuple[Any, ...], jpeg: bytes | None) -> bool:
    _, state, put_ns, sent_ns, sends, payload = row
    try:
        device, epoch, seq = DefectReport.from_bytes(bytes(payload)).id
    except (BadMessage, TypeError):
        return False
    db.execute(
        "INSERT OR IGNORE INTO epoch (name, device, last_seq, pictures_shed) VALUES (?, ?, 0, 0)", (epoch, device)
    )
    db.execute("UPDATE epoch SET last_seq = max(last_seq, ?) WHERE name = ?", (seq, epoch))
    new = db.execute(
        "INSERT OR IGNORE INTO report (epoch, seq, state, put_ns, sent_ns, sends, payload) "
        "SELECT number, ?, ?, ?, ?, ?, ? FROM epoch WHERE name = ?",
        (seq, state, put_ns, sent_ns, sends, payload, epoch),
    )
    if jpeg is not None and new.rowcount == 1:
        db.execute("INSERT INTO picture (row, jpeg) VALUES (?, ?)", (new.lastrowid, jpeg))
    return new.rowcount == 1
