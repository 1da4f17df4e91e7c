"""The one connection to an outbox's file: opened when needed, dropped when it failed, with room in reserve.

1. `writing` is one transaction, all or nothing. Any failure but a full disk drops the connection; what it may have left
   half-synced is written again, into the main file, before the next commit. A failed sync is never simply repeated.
2. A full disk is no failure of that kind: the transaction is rolled back (DiskFull), the connection stays.
3. A broken file is set aside and replaced while opening; the reserve is made while opening, if the disk has room. The
   file grows only when asked to (`grow`): a transaction that finds no free page is DiskFull, too.
4. The epoch goes on where this process last gave a number, also when a failed commit left more than that in the file.

5. A newer program's file is set aside at the first opening, and a new one begun (`outbox_newer`).

Raises Refusal for a second daemon (InUse), undelivered reports of another device; StorageFailing for the rest.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from edge_inspect.delivery import outbox_file as file
from edge_inspect.delivery import outbox_newer as newer
from edge_inspect.delivery import outbox_reserve as reserve
from edge_inspect.delivery import outbox_wal as wal
from edge_inspect.delivery.outbox_salvage import Salvage, keep_wal, replace
from edge_inspect.errors import StorageFailing

log = structlog.get_logger(__name__)

SLOWEST_CHECK_BYTES_PER_S = 5e6
UNREADABLE_TIMES = 20
"""A file that the disk fails to read is given up (and what can be read carried over) after so many tries: minutes."""


class DiskFull(StorageFailing):
    """The file system has no room for this; nothing of it was written."""


class OutboxDatabase:
    """See the module. Its `mutex` is reentrant: hold it where several transactions belong together."""

    def __init__(self, path: Path, *, device: str, cap_bytes: int, utc_ns: Callable[[], int]) -> None:
        self.path = path
        self.mutex = threading.RLock()
        self.salvage: Salvage | None = None
        """The last time a broken file was set aside by this process."""
        self.newer: list[Path] = []
        """Files of newer programs that lie beside this one, as of its first opening."""
        self.epoch: file.Epoch | None = None
        """Of the reports put next; None until the file could be opened."""
        self.reserve_bytes = reserve.size_for(cap_bytes)
        self.disk_full = False
        """The disk had no room for the file to grow, or for the reserve, when that was last tried."""
        self.busy_until_ns = 0
        """CLOCK_MONOTONIC: while a file is checked or salvaged, by when that should be over; else 0."""
        self._device = device
        self._pages = cap_bytes // 4096
        self._utc_ns = utc_ns
        self._db: sqlite3.Connection | None = None
        self._check: file.Check = "quick_check"  # at the next opening
        self._suspect = True  # what stands in the WAL must be written again before the next commit
        self._was_open = False
        self._unreadable = 0
        self._closed = False
        self._lock_handle = -1
        self._handles: list[int] = []  # of the file and of its -shm, to hold blocks for them; see `reserve.open_beside`

    def close(self) -> None:
        """Close file and lock; waits for a call in another thread."""
        with self.mutex:
            self._closed = True
            if self._db is not None:
                file.close_in_place(self._db, self.path)
            self._drop()
            if self._lock_handle >= 0:
                os.close(self._lock_handle)
                self._lock_handle = -1

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, for queries."""
        with self.mutex:
            try:
                yield self._connection()
            except sqlite3.Error as err:
                raise self._dropped(err) from err

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction; whatever goes wrong in it, nothing of it counts. Raises StorageFailing, DiskFull."""
        with self.mutex:
            try:
                db = self._trusted()
                db.execute("BEGIN IMMEDIATE")
                yield db
                db.execute("COMMIT")
            except sqlite3.Error as err:
                if file.is_full(err) and self._rolled_back():
                    raise DiskFull(f"{self.path}: {err}") from err
                self._suspect = True
                raise self._dropped(err) from err
            except BaseException:
                self._drop()  # and with it whatever the transaction had done
                raise

    def gave(self, seq: int) -> None:
        """The reports up to `seq` of this epoch are committed."""
        assert self.epoch is not None
        self.epoch = self.epoch._replace(last_seq=seq)

    def grow(self) -> bool:
        """Give the file some free pages; False at its cap or without room on the disk."""
        with self.mutex:
            try:
                db = self._trusted()
                free, left = reserve.free_pages(db), self._pages - reserve.limit(db)
                if left <= 0:
                    return False
                # Many free pages, and still no room: it is the WAL that the disk has none for.
                more = min(max(reserve.GROW_PAGES, free), left)  # twice as many as did not do
                if free < reserve.ENOUGH_PAGES and reserve.grow(db, self._handles[0], more):
                    return True
            except sqlite3.Error as err:
                if not (file.is_full(err) and self._rolled_back()):
                    self._suspect = True
                    raise self._dropped(err) from err
            self.disk_full = True
            return False

    def spend_reserve(self) -> bool:
        """Give a piece of the reserve to the reports; False if nothing is left of it."""
        with self.writing() as db:
            return reserve.spend(db)

    def refill_reserve(self) -> bool:
        """Hold the reserve (again), if the disk has room for it; whether it is held now."""
        with self.mutex:
            wal_held = reserve.hold_wal(self.path)
            _, free_bytes, _ = reserve.disk_of(self.path.parent)
            if free_bytes >= 2 * (self.reserve_bytes + reserve.WAL_BYTES):
                self.disk_full = False
            if not self.disk_full:
                self._fill_reserve()
            return wal_held and self._held_bytes() >= self.reserve_bytes

    def _tidy(self) -> None:
        try:
            with self.writing() as db:
                reserve.tidy(db)
        except DiskFull:
            pass  # the table could not be made: there is nothing to tidy, and no reserve

    def _fill_reserve(self) -> None:
        while self._held_bytes() < self.reserve_bytes:
            try:
                with self.writing() as db:
                    reserve.fill(db)
            except DiskFull:
                if not self.grow():
                    return

    def _held_bytes(self) -> int:
        with self.writing() as db:
            return reserve.held_bytes(db)

    def _rolled_back(self) -> bool:
        """After a write that found no room: nothing of it is in the file, and the connection is as good as before."""
        try:
            if self._db is not None and self._db.in_transaction:
                self._db.execute("ROLLBACK")
        except sqlite3.Error:
            return False
        return self._db is not None and not self._suspect

    def _dropped(self, err: sqlite3.Error) -> StorageFailing:
        """A connection that failed once is not asked again: the next call opens a new one."""
        self._drop()
        if file.is_broken(err):
            self._check = "integrity_check"
        return StorageFailing(f"{self.path}: {err}")

    def _drop(self) -> None:
        if self._db is not None:
            file.close_quietly(self._db)
            self._db = None
        while self._handles:
            os.close(self._handles.pop())

    def _trusted(self) -> sqlite3.Connection:
        """A connection below which nothing stands that a failed sync may have left half on the disk."""
        db = self._connection()
        if self._suspect:
            if not file.write_back(db) and self._was_open:
                raise StorageFailing(f"{self.path}: in use by another program after a failed write")
            self._suspect, self._was_open = False, True
            self._tidy()
            self.disk_full = True  # until it is seen that it is not
            self.refill_reserve()
        return self._connection()

    def _connection(self) -> sqlite3.Connection:
        if self._closed:
            raise RuntimeError("the outbox is closed")
        if self._lock_handle < 0:
            self._lock_handle = file.hold_lock(self.path)
        if self._db is None:
            # Only at the start: later the numbers that we gave are known, and a failed put is put again under its own.
            if self.epoch is None:
                self._make_way()
            commits = wal.commits(file.beside(self.path, "-wal")) if self.epoch is None else []
            db = self._opened()
            try:
                self._look_behind_the_end(db, commits)
                newest = file.enter_epoch(db, self.path, self._device, self._utc_ns())
                reserve.limit(db)
                self._handles = reserve.open_beside(self.path)
            except BaseException:
                file.close_quietly(db)
                raise
            if self.epoch is None or newest.name != self.epoch.name:  # else what we last gave counts
                self.epoch = newest
            self._db, self._check = db, ""
        return self._db

    def _make_way(self) -> None:
        """What a newer program left is not ours to write."""
        if (kept := newer.set_aside(self.path, self._utc_ns())) is not None:
            log.error("outbox.newer_set_aside", file=kept.name, then="a new file, a new epoch")
        self.newer = newer.lying_aside(self.path)

    def _look_behind_the_end(self, db: sqlite3.Connection, commits: list[int]) -> None:
        """Commits that SQLite did not find again may have had numbers: those that follow are given in a new epoch."""
        (_, accepted, _) = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        behind = sum(number > accepted for number in commits)
        if not behind or self.salvage is not None:
            return
        if behind > 1:
            self.salvage = keep_wal(self.path, f"{behind} commits in the WAL cannot be read", self._utc_ns())
        file.begin_epoch(db, self._device, self._utc_ns())

    def _opened(self) -> sqlite3.Connection:
        """Whoever waits for the mutex meanwhile is slow, it does not hang: large files on slow disks take minutes."""
        if not self._check:
            return file.connect(self.path, check="")
        size_bytes = file.size_bytes(self.path)
        self.busy_until_ns = time.monotonic_ns() + round(size_bytes / SLOWEST_CHECK_BYTES_PER_S * 1e9)
        try:
            return self._checked()
        finally:
            self.busy_until_ns = 0

    def _checked(self) -> sqlite3.Connection:
        """A file that looks broken is looked at again, thoroughly, before it is set aside.

        A disk that cannot read looks the same to SQLite. It may be well again soon, and what it holds is dear.
        """
        try:
            return file.connect(self.path, check=self._check)
        except file.Broken as err:
            self._check = "integrity_check"
            if self._unreadable < UNREADABLE_TIMES and not file.readable(self.path):
                self._unreadable += 1
                raise StorageFailing(f"{self.path}: cannot be read") from err
        try:
            db = file.connect(self.path, check=self._check)
        except file.Broken as err:
            self.salvage = replace(self.path, str(err), device=self._device, now_ns=self._utc_ns())
            db = file.connect(self.path, check="")
        self._unreadable = 0
        return db
