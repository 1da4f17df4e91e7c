"""The outbox's file: one owner, every commit on disk, whole or set aside.

1. One process owns the file: a lock beside it (`outbox.sqlite3.lock`) refuses the second with one line.
2. Journal WAL and synchronous FULL are read back after every opening; without them there is no outbox.
3. A file that SQLite finds broken is renamed (`...broken-<UTC>`), never deleted; what can be read of it and was not
   acknowledged is carried over under its old numbers. The new file begins a new epoch. A kill in between changes
   nothing: the new file is complete before the old one is moved.
4. A file of a newer program is left untouched and refused.

Tables: `epoch` (one row a life of the file, the newest is current), `report` (metadata; `row` is the sending order),
`picture` (JPEGs apart, so that they can be shed without touching a report).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Literal

from edge_inspect.errors import Refusal, StorageFailing
from edge_wire.messages import BadMessage, DefectReport

SCHEMA = 1
PENDING, SENT, ACKED = 0, 1, 2
"""Not taken by the broker yet; taken by the broker; known to be where it should be."""
BUSY_S = 5.0

_TABLES = """
CREATE TABLE epoch (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    device TEXT NOT NULL,
    last_seq INTEGER NOT NULL,
    pictures_shed INTEGER NOT NULL
);
CREATE TABLE report (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    epoch INTEGER NOT NULL REFERENCES epoch (number),
    seq INTEGER NOT NULL,
    state INTEGER NOT NULL,
    put_ns INTEGER NOT NULL,
    sent_ns INTEGER,
    sends INTEGER NOT NULL DEFAULT 0,
    acked_ns INTEGER,
    payload BLOB NOT NULL,
    UNIQUE (epoch, seq)
);
CREATE INDEX report_not_acked ON report (row, state) WHERE state < 2;
CREATE INDEX report_acked ON report (acked_ns) WHERE state = 2;
CREATE TABLE picture (row INTEGER PRIMARY KEY REFERENCES report (row), jpeg BLOB NOT NULL);
"""
_TABLE_NAMES = {"epoch", "report", "picture"}


Check = Literal["", "quick_check", "integrity_check"]


class Broken(Exception):
    """SQLite cannot read this file as an outbox."""


@dataclass(frozen=True, slots=True)
class Salvage:
    """A broken file was set aside."""

    set_aside: Path
    reason: str
    reports: int
    """Not yet acknowledged reports that could be carried over; any others are lost and only lie in the file."""


def new_epoch(now_ns: int) -> str:
    """A name that never comes twice, whatever the clock says: milliseconds since 1970 and 64 random bits, in hex."""
    return f"{max(0, now_ns) // 1_000_000 & 0xFFFF_FFFF_FFFF:012x}-{secrets.token_hex(8)}"


def is_broken(err: sqlite3.Error) -> bool:
    """SQLITE_CORRUPT and SQLITE_NOTADB come as a bare DatabaseError; a failing disk comes as OperationalError."""
    return type(err) is sqlite3.DatabaseError


def hold_lock(path: Path) -> int:
    """Become the only owner of the outbox at `path` until the returned descriptor is closed. Raises Refusal."""
    lock_path = _beside(path, ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as err:
        raise Refusal(f"{lock_path}: cannot be opened: {err.strerror}") from err
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    except OSError as err:
        owner = os.pread(lock, 20, 0).decode(errors="replace").strip()
        os.close(lock)
        if isinstance(err, BlockingIOError):
            raise Refusal(f"{path}: another daemon (process {owner or '?'}) is using this outbox") from err
        raise Refusal(f"{lock_path}: cannot be locked: {err.strerror}") from err
    return lock


def connect(path: Path, *, page_limit: int, check: Check) -> sqlite3.Connection:
    """Open or create the file: WAL and FULL read back, checked as far as asked for, our tables there.

    Raises Broken, StorageFailing, or Refusal (newer schema, no WAL here).
    """
    fresh = _fresh(path)
    if fresh.exists() and not path.exists():  # killed just before the last step of `replace`
        fresh.rename(path)
    try:
        db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as err:
        raise _translated(err, path) from err
    try:
        _insist_on_durability(db, path)
        if check and (found := str(_pragma(db, f"{check}(1)"))) != "ok":
            raise Broken(" ".join(found.split())[:200])
        _insist_on_schema(db, path)
        db.execute(f"PRAGMA max_page_count = {max(page_limit, 64)}")
    except BaseException as err:
        close_quietly(db)
        if isinstance(err, sqlite3.Error):
            raise _translated(err, path) from err
        raise
    return db


def write_back(db: sqlite3.Connection) -> bool:
    """Write what stands in the WAL once more, into the main file, and sync that; False if a reader was in the way.

    After a failed sync the kernel may call pages clean that never reached the disk (they read fine until the power
    goes); written anew they are either on disk or fail again.
    """
    return int(db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]) == 0


def close_quietly(db: sqlite3.Connection) -> None:
    """Close a connection that may be past saving; a failure here tells nothing that was not known."""
    with contextlib.suppress(sqlite3.Error):
        db.close()


def _translated(err: sqlite3.Error, path: Path) -> Exception:
    return Broken(str(err)) if is_broken(err) else StorageFailing(f"{path}: {err}")


def _pragma(db: sqlite3.Connection, name: str) -> Any:
    return db.execute(f"PRAGMA {name}").fetchone()[0]


def _insist_on_durability(db: sqlite3.Connection, path: Path) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    mode, level = _pragma(db, "journal_mode"), _pragma(db, "synchronous")
    if mode != "wal" or level != 2:
        raise Refusal(
            f"{path}: journal_mode is {mode} and synchronous {level}, must be wal and 2: no report would be safe"
        )


def _insist_on_schema(db: sqlite3.Connection, path: Path) -> None:
    version = _pragma(db, "user_version")
    if version > SCHEMA:
        raise Refusal(
            f"{path}: was written by a newer program (schema {version}, this one knows {SCHEMA}); left untouched"
        )
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if version == 0 and not tables:
        db.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {SCHEMA}; COMMIT")
        _sync_folder(path.parent)
    elif version != SCHEMA or not tables >= _TABLE_NAMES:
        raise Broken("a database, but not an outbox")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def begin_epoch(db: sqlite3.Connection, device: str, now_ns: int) -> None:
    """From here on reports are numbered anew, from 1."""
    name = new_epoch(now_ns)
    db.execute("INSERT INTO epoch (name, device, last_seq, pictures_shed) VALUES (?, ?, 0, 0)", (name, device))


def replace(path: Path, reason: str, *, device: str, now_ns: int) -> Salvage:
    """Put a new file in the place of a broken one and set that aside. Raises StorageFailing."""
    fresh = _fresh(path)
    moment = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=now_ns // 1000)
    kept = path.with_name(f"{path.name}.broken-{moment:%Y%m%dT%H%M%S}-{secrets.token_hex(2)}")
    try:
        for suffix in ("-wal", "-shm", ""):
            _beside(fresh, suffix).unlink(missing_ok=True)
        reports = _carry_over(path, fresh, device, now_ns)
        for suffix in ("-wal", "-shm", ""):
            if _beside(path, suffix).exists():
                _beside(path, suffix).rename(_beside(kept, suffix))
        fresh.rename(path)
        _sync_folder(path.parent)
    except (OSError, sqlite3.Error, Broken) as err:
        raise StorageFailing(f"{path}: is broken ({reason}) and cannot be replaced: {err}") from err
    return Salvage(kept, reason, reports)


def _fresh(path: Path) -> Path:
    return _beside(path, ".new")


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _carry_over(broken: Path, fresh: Path, device: str, now_ns: int) -> int:
    """Fill a new file with what can still be read whole and was not acknowledged; how many reports.

    Rows are read forwards until SQLite stumbles, then backwards from the end until it stumbles again.
    """
    with (
        contextlib.closing(connect(fresh, page_limit=2**31, check="")) as db,
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


def read_only(path: Path) -> sqlite3.Connection:
    """Look without touching, also while another process writes. Raises sqlite3.Error."""
    # Without a WAL file nobody is writing, and a folder we may not write to would be no place for SQLite's -shm file.
    alone = "" if _beside(path, "-wal").exists() else "&immutable=1"
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro{alone}", uri=True, timeout=BUSY_S, isolation_level=None)


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
