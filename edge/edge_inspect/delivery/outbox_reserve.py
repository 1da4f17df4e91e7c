"""Room that a full disk cannot take from the outbox: reports without pictures go on being kept for a known while.

1. The file never grows by itself: `grow` gives it written pages, or fails before anything depends on them. Whatever was
   committed can therefore be moved from the WAL into the file, and the WAL begun anew, on a disk without a free block.
2. While the disk has room, the file holds RESERVE_BYTES of filler inside its cap, and its WAL beside it as many blocks
   as the commits between two checkpoints need. Both stay through restarts.
3. When the disk is full the filler is deleted piece by piece, which needs no new block; its pages take at least
   RESERVE_REPORTS reports of usual size without their pictures, whoever else fills the disk meanwhile.
4. When the disk has room again the filler is written again.

Holds where files are overwritten in place (ext4, xfs, tmpfs); a copy-on-write file system (btrfs, zfs) promises nothing
once it is full.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from edge_inspect.errors import StorageFailing

PAGE_BYTES = 4096
GROW_PAGES = 256
"""The file grows by 1 MB at a time."""
ENOUGH_PAGES = 4096
"""More than any one put takes: 64 reports of the largest size."""
RESERVE_BYTES = 5 << 20
RESERVE_REPORTS = 2000
"""Of up to three defects each (2.1 kB in the file); shown by `tests/edge/delivery/test_storage_faults.py`."""
WAL_BYTES = 6 << 20
"""SQLite begins the WAL anew after 1000 pages (4.1 MB); the rest is for the transaction that goes over."""
ALARM_SHARE = 0.8
ROOMY = 4
"""A disk with this many times `cap_bytes` free is not nearly full, whatever its share."""

PIECE_BYTES = 1 << 17
"""The filler lies in rows of this size: giving up one needs little of the WAL."""
_GROWING = 1
"""The row of the table `reserve` that comes and goes while the file grows; the filler lies in those above it."""
_INDEX_BYTES = 1 << 15
"""What SQLite takes for the index of a WAL of up to 4062 pages."""
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_CANNOT_HERE = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


@dataclass(frozen=True, slots=True)
class Room:
    """How much room there is, from the outbox's own view."""

    cap_bytes: int
    waiting_bytes: int
    """An estimate of what reports that are not acked take: by their share of all rows."""
    disk_bytes: int
    disk_free_bytes: int
    """Of the file system, for us: without what is reserved for root."""
    disk_free_inodes: int | None
    """None where the file system does not count them."""
    reserve_bytes: int
    """0: the reserve is in use, or could not be made."""

    @property
    def outbox_nearly_full(self) -> bool:
        return self.waiting_bytes >= ALARM_SHARE * self.cap_bytes

    @property
    def disk_nearly_full(self) -> bool:
        """From 80 % on, unless what is free is ROOMY times what the outbox may take."""
        few_inodes = self.disk_free_inodes is not None and self.disk_free_inodes < 100
        share = 1 - self.disk_free_bytes / max(1, self.disk_bytes)
        return few_inodes or (share >= ALARM_SHARE and self.disk_free_bytes < ROOMY * self.cap_bytes)


def size_for(cap_bytes: int) -> int:
    """How much filler an outbox of this cap holds: small outboxes give an eighth."""
    return min(RESERVE_BYTES, cap_bytes // 8) // PIECE_BYTES * PIECE_BYTES


def held_bytes(db: sqlite3.Connection) -> int:
    """Bytes of filler in the file now; any connection will do, also to a file that never had any."""
    if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'reserve'").fetchone() is None:
        return 0
    query = f"SELECT coalesce(sum(length(filler)), 0) FROM reserve WHERE number > {_GROWING}"
    (held,) = db.execute(query).fetchone()
    return int(held)


def fill(db: sqlite3.Connection) -> None:
    """Hold one more piece of filler, inside the caller's transaction."""
    _make_table(db)
    db.execute(
        f"INSERT INTO reserve (number, filler) SELECT max({_GROWING}, coalesce(max(number), 0)) + 1, "
        f"zeroblob({PIECE_BYTES}) FROM reserve"
    )


def spend(db: sqlite3.Connection) -> bool:
    """Give the pages of a piece to the reports, inside the caller's transaction; False if there is none left."""
    if held_bytes(db) == 0:
        return False
    return db.execute("DELETE FROM reserve WHERE number = (SELECT max(number) FROM reserve)").rowcount > 0


def tidy(db: sqlite3.Connection) -> None:
    """After a kill in `grow`: give the new pages free, inside the caller's transaction."""
    _make_table(db)
    db.execute(f"DELETE FROM reserve WHERE number = {_GROWING}")


def _make_table(db: sqlite3.Connection) -> None:
    db.execute("CREATE TABLE IF NOT EXISTS reserve (number INTEGER PRIMARY KEY, filler BLOB NOT NULL)")


def free_pages(db: sqlite3.Connection) -> int:
    """Pages of the file that hold nothing."""
    return int(db.execute("PRAGMA freelist_count").fetchone()[0])


def limit(db: sqlite3.Connection, more_pages: int = 0) -> int:
    """Let the file have so many pages more than now and no others; how many pages it has."""
    pages = int(db.execute("PRAGMA page_count").fetchone()[0])
    db.execute(f"PRAGMA max_page_count = {pages + more_pages}")
    return pages


def grow(db: sqlite3.Connection, handle: int, more: int) -> bool:
    """Give the file `more` free pages; False if the disk has no room for them.

    `handle` is an open descriptor of the file. Raises StorageFailing, sqlite3.Error (SQLITE_FULL: the WAL has no room).
    """
    if not _allocate(handle, (limit(db) + more) * PAGE_BYTES):
        return False
    limit(db, more)
    try:
        db.execute("BEGIN IMMEDIATE")
        _make_table(db)
        # An overflow page takes 4092 bytes of a blob. A table's leaf or two are left: not every page has to be written.
        filler_bytes = max(1, free_pages(db) + more - 3) * (PAGE_BYTES - 4)
        db.execute(f"INSERT OR REPLACE INTO reserve (number, filler) VALUES ({_GROWING}, zeroblob(?))", (filler_bytes,))
        db.execute("COMMIT")
        db.execute(f"DELETE FROM reserve WHERE number = {_GROWING}")
    finally:
        limit(db)
    return True


def open_beside(path: Path) -> list[int]:
    """Descriptors of the open database and of its -shm, whose blocks are held from now on.

    To be closed after the last connection: with any descriptor go all locks that this process has on the file.
    Raises StorageFailing.
    """
    handles: list[int] = []
    try:
        for name in (path.name, path.name + "-shm"):
            handles.append(os.open(path.with_name(name), os.O_RDWR | os.O_CLOEXEC))
        _allocate(handles[1], _INDEX_BYTES)
    except (OSError, StorageFailing) as err:
        for handle in handles:
            os.close(handle)
        raise StorageFailing(f"{path}: {err}") from err
    return handles


def insist_on_room_for_index(path: Path) -> None:
    """Raises StorageFailing where opening on a full disk could end the process.

    SQLite maps the WAL's index (-shm) after writing one byte into each 4 kB. Where blocks are smaller, the others are
    allocated by the access to memory: SIGBUS if there are none.
    """
    disk = os.statvfs(path.parent)
    if disk.f_frsize < PAGE_BYTES and disk.f_bavail * disk.f_frsize < 2 * _INDEX_BYTES:
        raise StorageFailing(f"{path}: cannot be opened on a full disk with blocks of {disk.f_frsize} bytes")


def hold_wal(path: Path) -> bool:
    """Hold blocks for the WAL that is open beside the database `path`; False if there is no room for them now.

    SQLite takes what lies behind its last commit for nothing, and locks other files than this. Raises StorageFailing.
    """
    wal = path.with_name(path.name + "-wal")
    try:
        handle = os.open(wal, os.O_RDWR | os.O_CLOEXEC)
        try:
            if os.fstat(handle).st_size >= WAL_BYTES:
                return True
            held = _allocate(handle, WAL_BYTES)
            os.fsync(handle)  # also makes a truncation before it last
            return held
        finally:
            os.close(handle)
    except FileNotFoundError:
        return False
    except OSError as err:
        raise StorageFailing(f"{wal}: {err.strerror}") from err


def _allocate(handle: int, size_bytes: int) -> bool:
    """Hold blocks for the first `size_bytes` of a file; False if there is no room for them now."""
    try:
        os.posix_fallocate(handle, 0, size_bytes)
    except OSError as err:
        if err.errno in _NO_ROOM:
            return False
        if err.errno not in _CANNOT_HERE:
            raise StorageFailing(f"allocating {size_bytes} bytes: {err.strerror}") from err
    return True


def disk_of(path: Path) -> tuple[int, int, int | None]:
    """Size and free bytes of the file system below `path`, and its free inodes if it counts them, as `df` sees them.

    Raises StorageFailing.
    """
    try:
        found = os.statvfs(path)
    except OSError as err:
        raise StorageFailing(f"{path}: {err.strerror}") from err
    ours = found.f_blocks - (found.f_bfree - found.f_bavail)
    return ours * found.f_frsize, found.f_bavail * found.f_frsize, found.f_favail if found.f_files else None
