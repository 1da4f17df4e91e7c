"""The outbox's file: one owner, every commit on disk, whole or set aside.

1. One process owns the file: a lock beside it (`outbox.sqlite3.lock`) refuses the second with one line.
2. Journal WAL and synchronous FULL are read back after every opening; without them there is no outbox.
3. A file that SQLite finds broken is told from a disk that fails: the one is replaced (`outbox_salvage`), the other
   tried again.
4. A file of a newer program is not touched: it is set aside before it would be opened (`outbox_newer`), else refused.
5. While it lies closed, the blocks of its WAL stay held for a full disk (`outbox_reserve`).

Tables: `epoch` (one row a life of the file, the newest is current), `report` (metadata; `row` is the sending order),
`picture` (JPEGs apart, so that they can be shed without touching a report).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import sqlite3
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Literal, NamedTuple

from edge_inspect.delivery.outbox_reserve import hold_wal, insist_on_room_for_index
from edge_inspect.durable import sync_folder
from edge_inspect.errors import InUse, Refusal, StorageFailing

SCHEMA = 1
PENDING, SENT, ACKED = 0, 1, 2
"""Not taken by the broker yet; taken by the broker; known to be where it should be."""
BUSY_S = 5.0
MAY_PASS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""What the operating system says of a disk or machine in trouble, not of a wrong path."""

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


class Epoch(NamedTuple):
    """One life of the file: reports are numbered from 1 on."""

    number: int
    name: str
    last_seq: int


def new_epoch(now_ns: int) -> str:
    """A name that never comes twice, whatever the clock says: milliseconds since 1970 and 64 random bits, in hex."""
    return f"{max(0, now_ns) // 1_000_000 & 0xFFFF_FFFF_FFFF:012x}-{secrets.token_hex(8)}"


def is_broken(err: sqlite3.Error) -> bool:
    """SQLITE_CORRUPT and SQLITE_NOTADB come as a bare DatabaseError; a failing disk comes as OperationalError."""
    return type(err) is sqlite3.DatabaseError


def is_full(err: sqlite3.Error) -> bool:
    """SQLITE_FULL: a write found no room, or the page limit; unlike after other errors nothing of it can come back."""
    return str(err) == "database or disk is full"


def hold_lock(path: Path) -> int:
    """Become the only owner of the outbox at `path` until the returned descriptor is closed.

    Raises InUse, Refusal, or StorageFailing for what may pass: no room, no descriptors, a disk that fails or is
    read-only.
    """
    lock_path = beside(path, ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as err:
        kind = StorageFailing if err.errno in MAY_PASS else Refusal
        raise kind(f"{lock_path}: cannot be opened: {err.strerror}") from err
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as err:
        owner = os.pread(lock, 20, 0).decode(errors="replace").strip()
        os.close(lock)
        raise InUse(f"{path}: another daemon (process {owner or '?'}) is using this outbox") from err
    except OSError as err:
        os.close(lock)
        raise StorageFailing(f"{lock_path}: cannot be locked: {err.strerror}") from err
    with contextlib.suppress(OSError):  # only so that a second daemon can name us; the lock itself is held
        os.pwrite(lock, f"{os.getpid():<19}\n".encode(), 0)
    return lock


def connect(path: Path, *, check: Check) -> sqlite3.Connection:
    """Open or create the file: WAL and FULL read back, checked as far as asked for, our tables there.

    Raises Broken, StorageFailing, or Refusal (newer schema, no WAL here).
    """
    fresh = fresh_of(path)
    try:
        if fresh.exists() and not path.exists():  # killed just before the last step of `replace`
            fresh.rename(path)
        insist_on_room_for_index(path)
        db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    except (sqlite3.Error, OSError) as err:
        raise _translated(err, path) from err
    try:
        _insist_on_durability(db, path)
        if check and (found := str(_pragma(db, f"{check}(1)"))) != "ok":
            raise Broken(" ".join(found.split())[:200])
        _insist_on_schema(db, path)
    except BaseException as err:
        close_quietly(db)
        if isinstance(err, sqlite3.Error | OSError):
            raise _translated(err, path) from err
        raise
    return db


def size_bytes(path: Path) -> int:
    """0 without a file. Raises StorageFailing."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
    except OSError as err:
        raise StorageFailing(f"{path}: {err.strerror}") from err


def readable(path: Path) -> bool:
    """Does the disk give every byte of the file and of its WAL? To be asked while nothing of it is open."""
    try:
        for name in (path, beside(path, "-wal")):
            if name.exists():
                handle = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    at = 0
                    while got := len(os.pread(handle, 1 << 20, at)):
                        at += got
                finally:
                    os.close(handle)
    except OSError:
        return False
    return True


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


def close_in_place(db: sqlite3.Connection, path: Path) -> None:
    """Close the last connection so that the blocks of the WAL stay ours; all it holds is in the main file, too.

    SQLite deletes the WAL with the last connection that could; one that may only read cannot.
    """
    with contextlib.suppress(sqlite3.Error, OSError, StorageFailing):
        if write_back(db) and hold_wal(path):
            with contextlib.closing(read_only(path)) as look:
                look.execute("SELECT count(*) FROM epoch").fetchone()
                db.close()
    close_quietly(db)


def _translated(err: sqlite3.Error | OSError, path: Path) -> Exception:
    broken = isinstance(err, sqlite3.Error) and is_broken(err)
    return Broken(str(err)) if broken else StorageFailing(f"{path}: {err}")


def _pragma(db: sqlite3.Connection, name: str) -> Any:
    return db.execute(f"PRAGMA {name}").fetchone()[0]


def _insist_on_durability(db: sqlite3.Connection, path: Path) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA secure_delete = OFF")  # Debian's SQLite would write every page that becomes free
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
        sync_folder(path.parent)
    elif version != SCHEMA or not tables >= _TABLE_NAMES:
        raise Broken("a database, but not an outbox")


def begin_epoch(db: sqlite3.Connection, device: str, now_ns: int) -> None:
    """From here on reports are numbered anew, from 1."""
    name = new_epoch(now_ns)
    db.execute("INSERT INTO epoch (name, device, last_seq, pictures_shed) VALUES (?, ?, 0, 0)", (name, device))


def enter_epoch(db: sqlite3.Connection, path: Path, device: str, now_ns: int) -> Epoch:
    """The file's newest epoch, or a new one if there is none of this device. Raises Refusal."""
    newest_first = "SELECT number, name, last_seq, device FROM epoch ORDER BY number DESC LIMIT 1"
    newest = db.execute(newest_first).fetchone()
    if newest is None or newest[3] != device:
        _refuse_foreign_reports(db, path, device)
        begin_epoch(db, device, now_ns)
        newest = db.execute(newest_first).fetchone()
    return Epoch(*newest[:3])


def _refuse_foreign_reports(db: sqlite3.Connection, path: Path, ours: str) -> None:
    query = (
        "SELECT count(*), min(e.device) FROM report r JOIN epoch e ON e.number = r.epoch "
        f"WHERE r.state < {ACKED} AND e.device <> ?"
    )
    waiting, device = db.execute(query, (ours,)).fetchone()
    if waiting:
        raise Refusal(
            f"{path}: holds {waiting} undelivered reports of device {device}, this is {ours}; "
            "let them be delivered under the old name, or move the file away"
        )


def schema_of(path: Path) -> int:
    """Which schema the file has, without touching it; 0 for none that can be read. Raises StorageFailing: no room."""
    try:
        if not path.exists():
            return 0
        insist_on_room_for_index(path)
        with contextlib.closing(read_only(path)) as db:
            return int(_pragma(db, "user_version"))
    except (sqlite3.Error, OSError):
        return 0  # whoever opens it finds out what is wrong with it


def name_aside(path: Path, mark: str, now_ns: int) -> Path:
    """A name of its own beside `path` for a file that makes room, with the moment in it."""
    moment = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=now_ns // 1000)
    return path.with_name(f"{path.name}{mark}{moment:%Y%m%dT%H%M%S}-{secrets.token_hex(2)}")


def fresh_of(path: Path) -> Path:
    return beside(path, ".new")


def beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def read_only(path: Path) -> sqlite3.Connection:
    """Look without touching, also while another process writes. Raises sqlite3.Error, OSError."""
    # Without a WAL file nobody is writing, and a folder we may not write to would be no place for SQLite's -shm file.
    alone = "" if beside(path, "-wal").exists() else "&immutable=1"
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro{alone}", uri=True, timeout=BUSY_S, isolation_level=None)
