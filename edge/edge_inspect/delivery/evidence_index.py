"""The index of the evidence: which pictures there are, in the order in which they were kept.

1. A row means: the file is there, whole. A row is written after its file, and removed before it; a process that dies in
   between leaves a file without a row, never a row without a file. (Only on a disk so full that no row can be removed
   files go first.)
2. The index is derived from the files and can be lost: one that SQLite finds broken is deleted and made anew from the
   records inside the pictures.
3. Not synced at each row (WAL, `synchronous = NORMAL`): a power cut may take the newest rows, the file stays readable.

Sizes are counted in whole disk blocks of BLOCK bytes, as the disk does.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from edge_inspect.delivery.evidence_file import TEMPORARY, Damaged, Record, is_safe, read_picture
from edge_inspect.errors import StorageFailing

FILE_NAME = "index.sqlite3"
SCHEMA = 1
BLOCK = 4096
BUSY_S = 2.0
_SIDE_FILES = ("", "-wal", "-shm", "-journal")
_TABLES = """
CREATE TABLE picture (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    file TEXT NOT NULL UNIQUE,
    id TEXT NOT NULL,
    camera TEXT NOT NULL,
    part INTEGER NOT NULL,
    verdict TEXT NOT NULL,
    reason TEXT NOT NULL,
    what TEXT NOT NULL,
    captured_utc_ns INTEGER NOT NULL,
    captured_ns INTEGER NOT NULL,
    model_digest TEXT NOT NULL,
    recipe_digest TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    record TEXT NOT NULL
);
CREATE INDEX picture_verdict ON picture (verdict);
CREATE INDEX picture_id ON picture (id);
CREATE INDEX picture_captured ON picture (captured_utc_ns);
"""


class IndexBroken(Exception):
    """SQLite cannot read this file as an index of ours."""


class Kept(NamedTuple):
    row: int
    file: str
    bytes: int


def on_disk(size_bytes: int) -> int:
    return -(-size_bytes // BLOCK) * BLOCK


class EvidenceIndex:
    """One connection, used by one thread. Every method raises StorageFailing, or IndexBroken."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / FILE_NAME
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as err:
            raise StorageFailing(f"{folder}: {err.strerror or err}") from err
        try:
            self._db = sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as err:
            raise StorageFailing(f"{self._path}: {err}") from err
        try:
            with self._translated():
                self._prepare()
                self.pictures, self.picture_bytes = self._count()
        except BaseException:
            self.close()
            raise

    @property
    def is_there(self) -> bool:
        """False when somebody deleted the file: SQLite would go on writing into nothing."""
        return self._path.exists()

    @property
    def size_bytes(self) -> int:
        """Pictures and the index itself, in whole blocks."""
        return self.picture_bytes + sum(on_disk(_size(self._path, suffix)) for suffix in _SIDE_FILES)

    def add(self, file: str, stored: bytes, record: Record) -> None:
        """A file that lies there now. Known already: counted anew."""
        with self._translated():
            known = self._db.execute("SELECT bytes FROM picture WHERE file = ?", (file,)).fetchone()
            self._db.execute(
                "INSERT OR REPLACE INTO picture (file, id, camera, part, verdict, reason, what, captured_utc_ns, "
                "captured_ns, model_digest, recipe_digest, bytes, sha256, record) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    file, record.id, record.camera, record.part, record.verdict, record.reason, record.what,
                    record.captured_utc_ns, record.captured_ns, record.model_digest, record.recipe_digest,
                    len(stored), hashlib.sha256(stored).hexdigest(), record.model_dump_json(),
                ),
            )  # fmt: skip
        self.pictures += known is None
        self.picture_bytes += on_disk(len(stored)) - (on_disk(known[0]) if known else 0)

    def forget(self, kept: Sequence[Kept]) -> None:
        """These files are about to go."""
        with self._translated():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany("DELETE FROM picture WHERE row = ?", [(each.row,) for each in kept])
                self._db.execute("COMMIT")
            except sqlite3.Error:
                with contextlib.suppress(sqlite3.Error):  # a full disk has already rolled it back
                    self._db.execute("ROLLBACK")
                raise
        self.pictures -= len(kept)
        self.picture_bytes -= sum(on_disk(each.bytes) for each in kept)

    def first_to_go(self, need_bytes: int, *, only_ok: bool = False) -> list[Kept]:
        """The oldest pictures that together free so much; samples of OK parts before all others."""
        going: list[Kept] = []
        for choice in ("verdict = 'OK'",) if only_ok else ("verdict = 'OK'", "verdict <> 'OK'"):
            with self._translated():
                found = self._db.execute(f"SELECT row, file, bytes FROM picture WHERE {choice} ORDER BY row")
                for row in found:
                    if need_bytes <= 0:
                        return going
                    going.append(Kept(*row))
                    need_bytes -= on_disk(row[2])
        return going

    def older_than(self, utc_ns: int, limit: int) -> list[Kept]:
        """The first pictures captured before a moment."""
        with self._translated():
            found = self._db.execute(
                "SELECT row, file, bytes FROM picture WHERE captured_utc_ns < ? ORDER BY captured_utc_ns LIMIT ?",
                (utc_ns, limit),
            )
            return [Kept(*row) for row in found]

    def in_folder(self, day: str) -> dict[str, Kept]:
        """What should lie in one day's folder, by file name with the day."""
        with self._translated():
            found = self._db.execute(
                "SELECT row, file, bytes FROM picture WHERE file >= ? AND file < ?", (f"{day}/", f"{day}0")
            )
            return {row[1]: Kept(*row) for row in found}

    def days(self) -> set[str]:
        with self._translated():
            return {day for (day,) in self._db.execute("SELECT DISTINCT substr(file, 1, 10) FROM picture")}

    def close(self) -> None:
        """A failure here tells nothing that was not known."""
        with contextlib.suppress(sqlite3.Error):
            self._db.close()

    def _prepare(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("PRAGMA wal_autocheckpoint = 250")
        self._db.execute(f"PRAGMA journal_size_limit = {1 << 20}")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        tables = [name for (name,) in self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        if version == 0 and not tables:
            self._db.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {SCHEMA}; COMMIT")
        elif version != SCHEMA or "picture" not in tables:
            raise IndexBroken(f"schema {version}, this program writes {SCHEMA}")
        (found,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise IndexBroken(" ".join(str(found).split())[:200])

    def _count(self) -> tuple[int, int]:
        pictures, size_bytes = self._db.execute(
            f"SELECT count(*), coalesce(sum((bytes + {BLOCK - 1}) / {BLOCK} * {BLOCK}), 0) FROM picture"
        ).fetchone()
        return int(pictures), int(size_bytes)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as err:
            # SQLITE_CORRUPT and SQLITE_NOTADB come as a bare DatabaseError; a failing disk as OperationalError.
            if type(err) is sqlite3.DatabaseError:
                raise IndexBroken(str(err)) from err
            raise StorageFailing(f"{self._path}: {err}") from err


def delete_index(folder: Path) -> None:
    """It will be made anew. Raises StorageFailing."""
    for suffix in _SIDE_FILES:
        try:
            (folder / (FILE_NAME + suffix)).unlink(missing_ok=True)
        except OSError as err:
            raise StorageFailing(f"{folder / FILE_NAME}{suffix}: {err.strerror or err}") from err


class Mended(NamedTuple):
    """What had to be put right between the files and the index."""

    adopted: int
    """Pictures that no row told of."""
    forgotten: int
    """Rows whose file was gone, or not of the size that was written."""
    removed: int
    """Unfinished or damaged files."""


def mend(folder: Path, index: EvidenceIndex, moved: Callable[[], bool]) -> Mended:
    """Make index and files agree, a day's folder at a time. `moved` is called at each file; False ends it early.

    Raises StorageFailing, IndexBroken.
    """
    adopted = forgotten = removed = 0
    try:
        days = _days(folder)
        for day in sorted(days | index.days()):
            known = index.in_folder(day)
            found = _files(folder / day) if day in days else {}
            lost = [kept for file, kept in known.items() if found.get(file.partition("/")[2]) != kept.bytes]
            if lost:
                index.forget(lost)
                forgotten += len(lost)
            gone = {kept.file for kept in lost}
            for name in sorted(found):
                if not moved():
                    return Mended(adopted, forgotten, removed)
                file = f"{day}/{name}"
                if file in known and file not in gone:
                    continue
                if _adopt(folder, file, index):
                    adopted += 1
                elif name.endswith((TEMPORARY, ".jpg")):
                    (folder / file).unlink(missing_ok=True)
                    removed += 1
            if day in days:
                with contextlib.suppress(OSError):  # only an empty folder goes
                    (folder / day).rmdir()
    except OSError as err:
        raise StorageFailing(f"{err.filename or folder}: {err.strerror or err}") from err
    return Mended(adopted, forgotten, removed)


def shed_by_name(folder: Path, need_bytes: int) -> int:
    """Remove the oldest pictures without the index, which cannot be opened on a full disk; how many. `mend` is next.

    Raises StorageFailing.
    """
    try:
        found = [path for day in _days(folder) for path in (folder / day).iterdir() if path.is_file()]
        shed = 0
        for path in sorted(found, key=lambda each: ("_OK_" not in each.name, each)):
            if need_bytes <= 0:
                break
            need_bytes -= on_disk(path.stat().st_size)
            path.unlink()
            shed += 1
    except OSError as err:
        raise StorageFailing(f"{err.filename or folder}: {err.strerror or err}") from err
    return shed


def _days(folder: Path) -> set[str]:
    """Folders whose names are ours; any others are nobody's business here."""
    with os.scandir(folder) as entries:
        return {
            entry.name for entry in entries if is_safe(f"{entry.name}/0.jpg") and entry.is_dir(follow_symlinks=False)
        }


def _files(day: Path) -> dict[str, int]:
    with os.scandir(day) as entries:
        return {
            entry.name: entry.stat(follow_symlinks=False).st_size
            for entry in entries
            if entry.is_file(follow_symlinks=False)
        }


def _adopt(folder: Path, file: str, index: EvidenceIndex) -> bool:
    """Whether the file is a whole picture of ours; then it has a row now."""
    try:
        stored, record = read_picture(folder, file)
    except (Damaged, FileNotFoundError):
        return False
    index.add(file, stored, record)
    return True


def _size(path: Path, suffix: str) -> int:
    try:
        return path.with_name(path.name + suffix).stat().st_size
    except OSError:
        return 0
