"""Room that a full disk cannot take from the outbox: reports without pictures go on being kept for a known while.

1. While the disk has room, the file holds RESERVE_BYTES of filler (a row of zeros, written, not sparse) inside its cap,
   and its WAL beside it as many blocks as the commits between two checkpoints need. Both stay through restarts.
2. When the disk is full the filler is deleted, which needs no new block; its pages take at least RESERVE_REPORTS
   reports of usual size without their pictures, whoever else fills the disk meanwhile.
3. When the disk has room again the filler is written again.

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

RESERVE_BYTES = 4 << 20
RESERVE_REPORTS = 2000
"""Of up to three defects each (about 1.5 kB); shown by `test_a_full_disk_takes_the_promised_number_of_reports`."""
WAL_BYTES = 6 << 20
"""SQLite begins the WAL anew after 1000 pages (4.1 MB); the rest is for the transaction that goes over."""
ALARM_SHARE = 0.8
ROOMY = 4
"""A disk with this many times `cap_bytes` free is not nearly full, whatever its share."""

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
    """0: the disk was full and the reserve is in use, or could not be made."""

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
    return min(RESERVE_BYTES, cap_bytes // 8)


def held_bytes(db: sqlite3.Connection) -> int:
    """Bytes of filler in the file now; any connection will do, also to a file that never had any."""
    if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'reserve'").fetchone() is None:
        return 0
    (held,) = db.execute("SELECT coalesce(sum(length(filler)), 0) FROM reserve").fetchone()
    return int(held)


def fill(db: sqlite3.Connection, size_bytes: int) -> None:
    """Hold `size_bytes` of filler, inside the caller's transaction."""
    db.execute("CREATE TABLE IF NOT EXISTS reserve (number INTEGER PRIMARY KEY, filler BLOB NOT NULL)")
    db.execute("DELETE FROM reserve")
    db.execute("INSERT INTO reserve (filler) VALUES (zeroblob(?))", (size_bytes,))


def spend(db: sqlite3.Connection) -> None:
    """Give the filler's pages to the reports, inside the caller's transaction."""
    db.execute("DELETE FROM reserve")


def hold_wal(path: Path) -> bool:
    """Hold blocks for the WAL that is open beside the database `path`; False if there is no room for them now.

    SQLite takes what lies behind its last commit for nothing, and locks other files than this. Raises StorageFailing.
    """
    wal = path.with_name(path.name + "-wal")
    try:
        handle = os.open(wal, os.O_RDWR | os.O_CLOEXEC)
        try:
            if os.fstat(handle).st_size < WAL_BYTES:
                os.posix_fallocate(handle, 0, WAL_BYTES)
                os.fsync(handle)  # also makes a truncation before it last
        finally:
            os.close(handle)
    except OSError as err:
        if err.errno in _NO_ROOM | _CANNOT_HERE:
            return False
        raise StorageFailing(f"{wal}: {err.strerror}") from err
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
