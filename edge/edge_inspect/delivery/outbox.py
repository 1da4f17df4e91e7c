"""Every report is on disk before anyone may believe it is safe, and stays there until it is known to have arrived.

1. `put` returns after the commit. What it returned survives a kill and a power cut (WAL, synchronous FULL).
2. A report's number (device, epoch, seq) is given once. A new file begins a new epoch, so numbers never repeat even if
   the file is lost; within an epoch seq goes 1, 2, 3 ... without gaps.
3. After a failed write the connection is dropped, and what it may have left half-synced is written again before the
   next commit. Calling `put_many` again with the same reports, in the same order, is then safe: none is kept twice.
4. States only go forward: pending -> sent -> acked, until the plant asks for a report again (`send_again`). Acked rows
   stay `retain_s` for that, then go.
5. At the cap, pictures of acked reports go first, then acked reports, then pictures that wait, oldest first, then the
   new report's own. Metadata that has not arrived is never dropped: `put` raises OutboxFull instead.

    outbox = Outbox(state_dir / "outbox.sqlite3", device="edge-0017")
    outbox.put(report)                              # StorageFailing: still the caller's
    for row in outbox.window(50): ...               # oldest first, whatever is not acked
    outbox.ack_rows([row.number for row in ...])

One instance is shared by the threads that put and send; every call holds its lock for one short transaction.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edge_inspect.delivery import outbox_file as file
from edge_inspect.delivery.outbox_file import ACKED, PENDING, SENT, Salvage
from edge_inspect.delivery.outbox_resync import Again, send_again
from edge_inspect.delivery.outbox_stats import Stats, read_stats, used_bytes
from edge_inspect.errors import Refusal, StorageFailing
from edge_wire.fields import BIG
from edge_wire.messages import DefectReport, ReportId, join

FILE_NAME = "outbox.sqlite3"
RETAIN_S = 72 * 3600.0
CAP_BYTES = 1 << 30
BATCH = 64
"""Rows touched by one step of shedding or pruning: keeps every transaction short."""


class OutboxFull(StorageFailing):
    """The cap is reached by reports that have not arrived; nothing more can be given up for a new one."""


@dataclass(frozen=True, slots=True)
class Row:
    """A report on its way. `number` is the sending order."""

    number: int
    state: int
    sends: int
    sent_ns: int | None


class Outbox:
    """See the module. Raises Refusal for a second daemon, a newer file, or undelivered reports of another device.

    A disk that fails while opening does not raise: the next call tries again.
    """

    def __init__(
        self,
        path: Path,
        *,
        device: str,
        cap_bytes: int = CAP_BYTES,
        retain_s: float = RETAIN_S,
        utc_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.path = path
        self.salvage: Salvage | None = None
        """The last time a broken file was set aside by this process."""
        self.epoch: str | None = None
        """Of the reports put next; None until the file could be opened."""
        self.cap_bytes = cap_bytes
        self.payload_limit_bytes = BIG
        """What the broker takes, as far as that is known: a report that is larger is kept without its picture."""
        self.pictures_left = 0
        """How many pictures were left for that."""
        self._device = device
        self._retain_ns = round(retain_s * 1e9)
        self._utc_ns = utc_ns
        self._mutex = threading.RLock()
        self._db: sqlite3.Connection | None = None
        self._epoch_number = 0
        self._last_seq = 0
        self._check: file.Check = "quick_check"  # at the next opening
        self._suspect = False  # a commit failed: what it left must be written again before the next one
        self._lock_handle = file.hold_lock(path)
        try:
            self._write_back_if_possible()
        except StorageFailing:
            pass  # the thread that writes meets it again, says so and goes on trying
        except BaseException:
            os.close(self._lock_handle)
            raise

    def close(self) -> None:
        """Close file and lock; waits for a call in another thread. Nothing can be called after."""
        with self._mutex:
            self._drop()
            if self._lock_handle >= 0:
                os.close(self._lock_handle)
                self._lock_handle = -1

    def put(self, report: DefectReport) -> ReportId:
        """Keep one report; see `put_many`."""
        return self.put_many([report])[0]

    def put_many(self, reports: Sequence[DefectReport]) -> list[ReportId]:
        """Number the reports and keep them, all or none, in one commit.

        Raises StorageFailing or OutboxFull: none of them is kept for sure; call again with the same reports first.
        """
        with self._mutex:
            with_pictures = self._make_room(reports)
            with self._writing() as db:
                for seq, report in enumerate(reports, start=self._last_seq + 1):
                    self._insert(db, report, seq, with_pictures)
                last_seq = self._last_seq + len(reports)
                db.execute(
                    "UPDATE epoch SET last_seq = max(last_seq, ?) WHERE number = ?", (last_seq, self._epoch_number)
                )
            first_seq, self._last_seq = self._last_seq + 1, last_seq
            assert self.epoch is not None
            return [ReportId(self._device, self.epoch, seq) for seq in range(first_seq, last_seq + 1)]

    def window(self, limit: int, *, first: int = 0, last: int = BIG, max_bytes: int = BIG) -> list[Row]:
        """The `limit` oldest reports that are not acked, in sending order. Raises StorageFailing.

        Only those numbered `first` to `last` that take no more than `max_bytes` without their picture.
        """
        query = (
            f"SELECT row, state, sends, sent_ns FROM report WHERE state < {ACKED} AND row BETWEEN ? AND ? "
            "AND length(payload) <= ? ORDER BY row LIMIT ?"
        )
        with self._reading() as db:
            return [Row(*found) for found in db.execute(query, (first, last, max_bytes, limit))]

    def newest(self) -> int:
        """Number of the report put last, 0 without any. Raises StorageFailing."""
        with self._reading() as db:
            return int(db.execute("SELECT max(row) FROM report").fetchone()[0] or 0)

    def larger_than(self, max_bytes: int) -> int:
        """How many reports that are not acked take more than that without their picture. Raises StorageFailing."""
        query = f"SELECT count(*) FROM report WHERE state < {ACKED} AND length(payload) > ?"
        with self._reading() as db:
            return int(db.execute(query, (max_bytes,)).fetchone()[0])

    def payload(self, row: int, *, picture: bool = True) -> bytes:
        """What travels: the report with its picture, if that was not shed. Raises StorageFailing, KeyError."""
        query = "SELECT r.payload, p.jpeg FROM report r LEFT JOIN picture p ON p.row = r.row WHERE r.row = ?"
        with self._reading() as db:
            found = db.execute(query, (row,)).fetchone()
        if found is None:
            raise KeyError(row)
        return join(found[0], found[1] if picture else None)

    def mark_sent(self, rows: Iterable[int]) -> None:
        """The broker has taken these rows (again). Raises StorageFailing."""
        now_ns = self._utc_ns()
        with self._writing() as db:
            db.executemany(
                f"UPDATE report SET state = {SENT}, sent_ns = ?, sends = sends + 1 WHERE row = ? AND state < {ACKED}",
                [(now_ns, row) for row in rows],
            )

    def ack_rows(self, rows: Iterable[int]) -> None:
        """These rows have arrived where they should be. Raises StorageFailing."""
        now_ns = self._utc_ns()
        with self._writing() as db:
            db.executemany(
                f"UPDATE report SET state = {ACKED}, acked_ns = ? WHERE row = ? AND state < {ACKED}",
                [(now_ns, row) for row in rows],
            )

    def ack_ranges(self, epoch: str, ranges: Iterable[tuple[int, int]]) -> int:
        """Every seq from first to last, both included, has arrived; how many are news. Raises StorageFailing."""
        now_ns = self._utc_ns()
        with self._writing() as db:
            return sum(
                db.execute(
                    f"UPDATE report SET state = {ACKED}, acked_ns = ? WHERE state < {ACKED} AND seq BETWEEN ? AND ? "
                    "AND epoch = (SELECT number FROM epoch WHERE name = ?)",
                    (now_ns, first, last, epoch),
                ).rowcount
                for first, last in ranges
            )

    def send_again(self, epoch: str, first: int, last: int, *, limit: int = BATCH, sent_for_s: float = 0.0) -> Again:
        """The plant wants these reports (again); what the broker took less than `sent_for_s` ago is on its way.

        Looks at `limit` reports at most: go on above what it returns as `upto`. Raises StorageFailing.
        """
        now_ns = self._utc_ns()
        before_ns = now_ns - round(sent_for_s * 1e9)
        with self._writing() as db:
            return send_again(db, epoch, first, last, limit=limit, sent_before_ns=before_ns, now_ns=now_ns)

    def prune(self) -> int:
        """Forget reports that were acked more than `retain_s` ago; how many. Raises StorageFailing."""
        before_ns = self._utc_ns() - self._retain_ns
        total = 0
        while True:
            with self._writing() as db:
                gone = _forget(
                    db, f"SELECT row FROM report WHERE state = {ACKED} AND acked_ns < {before_ns} LIMIT {BATCH}"
                )
            total += gone
            if gone < BATCH:
                return total

    def stats(self) -> Stats:
        """What lies in the file now. Raises StorageFailing."""
        with self._reading() as db:
            return read_stats(db, self._utc_ns())

    def _insert(self, db: sqlite3.Connection, report: DefectReport, seq: int, with_picture: bool) -> None:
        assert self.epoch is not None
        if report.device != self._device:
            raise ValueError(f"a report of {report.device} in the outbox of {self._device}")
        payload, jpeg = report.numbered(self.epoch, seq).split()
        new = db.execute(
            f"INSERT INTO report (epoch, seq, state, put_ns, payload) VALUES (?, ?, {PENDING}, ?, ?) "
            "ON CONFLICT (epoch, seq) DO NOTHING",
            (self._epoch_number, seq, self._utc_ns(), payload),
        )
        if jpeg is not None and len(payload) + len(jpeg) * 4 // 3 + 4 > self.payload_limit_bytes:
            jpeg = None
            self.pictures_left += 1
        if new.rowcount == 0:
            self._insist_on_same(db, seq, payload)
        elif jpeg is not None and with_picture:
            db.execute("INSERT INTO picture (row, jpeg) VALUES (?, ?)", (new.lastrowid, jpeg))
        elif jpeg is not None:
            self._count_shed(db, 1)

    def _insist_on_same(self, db: sqlite3.Connection, seq: int, payload: bytes) -> None:
        """A commit that was reported as failed had reached the file after all: this must be the same report again."""
        query = "SELECT payload FROM report WHERE epoch = ? AND seq = ?"
        (stored,) = db.execute(query, (self._epoch_number, seq)).fetchone()
        if bytes(stored) != payload:
            raise RuntimeError(f"{self.path}: seq {seq} is another report: they were put again in another order")

    def _make_room(self, reports: Sequence[DefectReport]) -> bool:
        """Give up what may be given up until the new reports fit; False: only without pictures. Raises OutboxFull."""
        for with_pictures in (True, False):
            need = sum(_space_for(report, with_pictures) for report in reports)
            while self._used_bytes() + need > self.cap_bytes:
                if not self._give_up_some():
                    break
            else:
                return with_pictures
        raise OutboxFull(f"{self.path}: {self.cap_bytes} bytes are full of reports that have not arrived")

    def _give_up_some(self) -> int:
        with self._writing() as db:
            acked = f"SELECT p.row FROM picture p JOIN report r ON r.row = p.row WHERE r.state = {ACKED} LIMIT {BATCH}"
            if gone := _shed(db, acked):
                return gone
            if gone := _forget(db, f"SELECT row FROM report WHERE state = {ACKED} ORDER BY acked_ns LIMIT {BATCH}"):
                return gone
            gone = _shed(db, f"SELECT row FROM picture ORDER BY row LIMIT {BATCH}")
            self._count_shed(db, gone)
            return gone

    def _count_shed(self, db: sqlite3.Connection, pictures: int) -> None:
        db.execute(
            "UPDATE epoch SET pictures_shed = pictures_shed + ? WHERE number = ?", (pictures, self._epoch_number)
        )

    def _used_bytes(self) -> int:
        with self._reading() as db:
            return used_bytes(db)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._mutex:
            try:
                yield self._connection()
            except sqlite3.Error as err:
                raise self._dropped(err) from err

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction; whatever goes wrong in it, nothing of it counts."""
        with self._mutex:
            try:
                db = self._connection()
                if self._suspect:
                    if not file.write_back(db):
                        raise StorageFailing(f"{self.path}: in use by another program after a failed write")
                    self._suspect = False
                db.execute("BEGIN IMMEDIATE")
                yield db
                db.execute("COMMIT")
            except sqlite3.Error as err:
                self._suspect = True
                raise self._dropped(err) from err
            except BaseException:
                self._drop()  # and with it whatever the transaction had done
                raise

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

    def _connection(self) -> sqlite3.Connection:
        if self._lock_handle < 0:
            raise RuntimeError("the outbox is closed")
        if self._db is None:
            pages = self.cap_bytes // 4096
            try:
                db = file.connect(self.path, page_limit=pages, check=self._check)
            except file.Broken as err:
                self.salvage = file.replace(self.path, str(err), device=self._device, now_ns=self._utc_ns())
                db = file.connect(self.path, page_limit=pages, check="")
            try:
                self._enter_epoch(db)
            except BaseException:
                file.close_quietly(db)
                raise
            self._db, self._check = db, ""
        return self._db

    def _enter_epoch(self, db: sqlite3.Connection) -> None:
        """Go on in the file's newest epoch, or begin one if there is none of this device. Raises Refusal."""
        newest_first = "SELECT number, name, device, last_seq FROM epoch ORDER BY number DESC LIMIT 1"
        newest = db.execute(newest_first).fetchone()
        if newest is None or newest[2] != self._device:
            self._refuse_foreign_reports(db)
            file.begin_epoch(db, self._device, self._utc_ns())
            newest = db.execute(newest_first).fetchone()
        if newest[1] != self.epoch:  # the same again: what we last gave counts, not what a failed commit left
            self._epoch_number, self.epoch, _, self._last_seq = newest

    def _refuse_foreign_reports(self, db: sqlite3.Connection) -> None:
        query = (
            "SELECT count(*), min(e.device) FROM report r JOIN epoch e ON e.number = r.epoch "
            f"WHERE r.state < {ACKED} AND e.device <> ?"
        )
        waiting, device = db.execute(query, (self._device,)).fetchone()
        if waiting:
            raise Refusal(
                f"{self.path}: holds {waiting} undelivered reports of device {device}, this is {self._device}; "
                "let them be delivered under the old name, or move the file away"
            )

    def _write_back_if_possible(self) -> None:
        try:
            with self._reading() as db:
                file.write_back(db)
        except StorageFailing:
            self._suspect = True
            raise


def _space_for(report: DefectReport, with_picture: bool) -> int:
    """A generous guess of what a report takes in the file."""
    picture = report.thumbnail.jpeg_base64 if report.thumbnail and with_picture else None
    return 4096 + 400 * len(report.defects) + (0 if picture is None else 4096 + len(picture) * 3 // 4)


def _shed(db: sqlite3.Connection, which: str) -> int:
    return db.execute(f"DELETE FROM picture WHERE row IN ({which})").rowcount


def _forget(db: sqlite3.Connection, which: str) -> int:
    rows = db.execute(which).fetchall()
    db.executemany("DELETE FROM picture WHERE row = ?", rows)
    db.executemany("DELETE FROM report WHERE row = ?", rows)
    return len(rows)
