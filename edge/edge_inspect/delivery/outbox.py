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
6. On a full disk reports go on being kept, without their pictures: in the room of what is given up, in that order too,
   then in the reserve (`outbox_reserve`). When that is used up `put` raises DiskFull.

    outbox = Outbox(state_dir / "outbox.sqlite3", device="edge-0017")
    outbox.put(report)                              # StorageFailing: still the caller's
    for row in outbox.window(50): ...               # oldest first, whatever is not acked
    outbox.ack_rows([row.number for row in ...])

One instance is shared by the threads that put and send; every call holds its lock for one short transaction.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from edge_inspect.delivery import outbox_reserve, outbox_rows, outbox_told
from edge_inspect.delivery.outbox_db import DiskFull, OutboxDatabase
from edge_inspect.delivery.outbox_file import ACKED, SENT
from edge_inspect.delivery.outbox_resync import Again, send_again
from edge_inspect.delivery.outbox_rows import BATCH
from edge_inspect.delivery.outbox_salvage import Salvage
from edge_inspect.delivery.outbox_stats import Stats, read_stats, used_bytes
from edge_inspect.delivery.told import ToldJournal
from edge_inspect.errors import StorageFailing
from edge_wire.fields import BIG
from edge_wire.messages import DefectReport, ReportId, join

FILE_NAME = "outbox.sqlite3"
T = TypeVar("T")
RETAIN_S = 72 * 3600.0
CAP_BYTES = 1 << 30


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
    """See the module. Raises Refusal for a second daemon (InUse) or undelivered reports of another device.

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
        self.cap_bytes = cap_bytes
        self.payload_limit_bytes = BIG
        """What the broker takes, as far as that is known: a report that is larger is kept without its picture."""
        self.pictures_left = 0
        """How many pictures were left for that."""
        self.told: ToldJournal | None = None
        """What the line was told before it came here; set before anything is put."""
        self._device = device
        self._retain_ns = round(retain_s * 1e9)
        self._utc_ns = utc_ns
        self._file = OutboxDatabase(path, device=device, cap_bytes=cap_bytes, utc_ns=utc_ns)
        try:
            with self._file.writing():
                pass  # open it, or find out why not
        except StorageFailing:
            pass  # the thread that writes meets it again, says so and goes on trying
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Close file and lock; waits for a call in another thread. Nothing can be called after."""
        self._file.close()

    @property
    def busy_until_ns(self) -> int:
        """CLOCK_MONOTONIC: whoever calls in here may have to wait so long, for a file is being checked; else 0."""
        return self._file.busy_until_ns

    @property
    def epoch(self) -> str | None:
        """Of the reports put next; None until the file could be opened."""
        return self._file.epoch and self._file.epoch.name

    @property
    def salvage(self) -> Salvage | None:
        """The last time a broken file was set aside by this process."""
        return self._file.salvage

    @property
    def newer(self) -> Sequence[Path]:
        """Files of newer programs that were set aside, by this process or earlier, and lie there still."""
        return self._file.newer

    @property
    def disk_full(self) -> bool:
        """The disk had no room: reports are kept without pictures until `refill` finds some."""
        return self._file.disk_full

    def put(self, report: DefectReport) -> ReportId:
        """Keep one report; see `put_many`."""
        return self.put_many([report])[0]

    def put_many(self, reports: Sequence[DefectReport]) -> list[ReportId]:
        """Number the reports and keep them, all or none, in one commit.

        Raises StorageFailing (OutboxFull, DiskFull): none of them is kept for sure; call again with the same reports
        first.
        """
        with self._file.mutex:
            pictures = self._make_room(reports)
            ids = self._write(lambda db: self._insert(db, reports, pictures and not self.disk_full))
            self._file.gave(ids[-1].seq)
            if self.told is not None:
                self.told.clear(self.told.numbers(reports))
            return ids

    def put_told(self) -> int:
        """Keep what earlier lives of this daemon told and did not put; how many. Raises StorageFailing: call again."""
        if self.told is None or not self.told.left:
            return 0
        with self._file.mutex:
            with self._file.reading() as db:
                self.told.clear(outbox_told.put(db, self.told.boot))
            left = [entry.report for entry in self.told.left if self.told.holds(entry.number)]
            for start in range(0, len(left), BATCH):
                self.put_many(left[start : start + BATCH])
            self.told.left.clear()
            return len(left)

    def refill(self) -> bool:
        """See whether a full disk has room again, and hold the reserve; whether it is held. Raises StorageFailing."""
        return self._file.refill_reserve()

    def room(self) -> outbox_reserve.Room:
        """What the outbox takes and the disk has left. Raises StorageFailing."""
        stats = self.stats()
        waiting_bytes = stats.size_bytes * stats.depth // max(1, stats.depth + stats.acked)
        disk = outbox_reserve.disk_of(self.path.parent)
        return outbox_reserve.Room(self.cap_bytes, waiting_bytes, *disk, stats.reserve_bytes)

    def window(
        self,
        limit: int,
        *,
        first: int = 0,
        last: int = BIG,
        max_bytes: int = BIG,
        sent_at_least: int = 0,
        sent_less_than: int = BIG,
    ) -> list[Row]:
        """The `limit` oldest reports that are not acked, in sending order. Raises StorageFailing.

        Only those numbered `first` to `last` that take no more than `max_bytes` without their picture; of those that
        the broker has taken, only those it took as often as said.
        """
        query = (
            f"SELECT row, state, sends, sent_ns FROM report WHERE state < {ACKED} AND row BETWEEN ? AND ? "
            f"AND length(payload) <= ? AND (CASE state WHEN {SENT} THEN sends ELSE 0 END) BETWEEN ? AND ? "
            "ORDER BY row LIMIT ?"
        )
        with self._file.reading() as db:
            bounds = (first, last, max_bytes, sent_at_least, sent_less_than - 1, limit)
            return [Row(*found) for found in db.execute(query, bounds)]

    def newest(self) -> int:
        """Number of the report put last, 0 without any. Raises StorageFailing."""
        with self._file.reading() as db:
            return int(db.execute("SELECT max(row) FROM report").fetchone()[0] or 0)

    def larger_than(self, max_bytes: int) -> int:
        """How many reports that are not acked take more than that without their picture. Raises StorageFailing."""
        query = f"SELECT count(*) FROM report WHERE state < {ACKED} AND length(payload) > ?"
        with self._file.reading() as db:
            return int(db.execute(query, (max_bytes,)).fetchone()[0])

    def payload(self, row: int, *, picture: bool = True) -> bytes:
        """What travels: the report with its picture, if that was not shed. Raises StorageFailing, KeyError."""
        query = "SELECT r.payload, p.jpeg FROM report r LEFT JOIN picture p ON p.row = r.row WHERE r.row = ?"
        with self._file.reading() as db:
            found = db.execute(query, (row,)).fetchone()
        if found is None:
            raise KeyError(row)
        return join(found[0], found[1] if picture else None)

    def mark_sent(self, rows: Iterable[int]) -> None:
        """The broker has taken these rows (again). Raises StorageFailing."""
        values = [(self._utc_ns(), row) for row in rows]
        query = f"UPDATE report SET state = {SENT}, sent_ns = ?, sends = sends + 1 WHERE row = ? AND state < {ACKED}"
        self._write(lambda db: db.executemany(query, values))

    def ack_rows(self, rows: Iterable[int]) -> None:
        """These rows have arrived where they should be. Raises StorageFailing."""
        values = [(self._utc_ns(), row) for row in rows]
        query = f"UPDATE report SET state = {ACKED}, acked_ns = ? WHERE row = ? AND state < {ACKED}"
        self._write(lambda db: db.executemany(query, values))

    def ack_ranges(self, epoch: str, ranges: Iterable[tuple[int, int]]) -> int:
        """Every seq from first to last, both included, has arrived; how many are news. Raises StorageFailing."""
        values = [(self._utc_ns(), first, last, epoch) for first, last in ranges]
        query = (
            f"UPDATE report SET state = {ACKED}, acked_ns = ? WHERE state < {ACKED} AND seq BETWEEN ? AND ? "
            "AND epoch = (SELECT number FROM epoch WHERE name = ?)"
        )
        return self._write(lambda db: sum(int(db.execute(query, value).rowcount) for value in values))

    def send_again(self, epoch: str, first: int, last: int, *, limit: int = BATCH, sent_for_s: float = 0.0) -> Again:
        """The plant wants these reports (again); what the broker took less than `sent_for_s` ago is on its way.

        Looks at `limit` reports at most: go on above what it returns as `upto`. Raises StorageFailing.
        """
        now_ns = self._utc_ns()
        before_ns = now_ns - round(sent_for_s * 1e9)
        return self._write(
            lambda db: send_again(db, epoch, first, last, limit=limit, sent_before_ns=before_ns, now_ns=now_ns)
        )

    def prune(self) -> int:
        """Forget reports that were acked more than `retain_s` ago; how many. Raises StorageFailing."""
        before_ns = self._utc_ns() - self._retain_ns
        total = 0
        while True:
            with self._file.writing() as db:
                gone = outbox_rows.forget(
                    db, f"SELECT row FROM report WHERE state = {ACKED} AND acked_ns < {before_ns} LIMIT {BATCH}"
                )
            total += gone
            if gone < BATCH:
                return total

    def stats(self) -> Stats:
        """What lies in the file now. Raises StorageFailing."""
        with self._file.reading() as db:
            return read_stats(db, self._utc_ns())

    def _write(self, change: Callable[[sqlite3.Connection], T]) -> T:
        """`change` in one transaction, for which the file is grown or, on a full disk, room is made."""
        with self._file.mutex:
            while True:
                try:
                    with self._file.writing() as db:
                        return change(db)
                except DiskFull:
                    if not (self._file.grow() or self._give_up_some() or self._file.spend_reserve()):
                        raise

    def _insert(self, db: sqlite3.Connection, reports: Sequence[DefectReport], pictures: bool) -> list[ReportId]:
        epoch = self._file.epoch
        assert epoch is not None
        left, limit_bytes, now_ns = 0, self.payload_limit_bytes, self._utc_ns()
        for seq, report in enumerate(reports, start=epoch.last_seq + 1):
            if report.device != self._device:
                raise ValueError(f"a report of {report.device} in the outbox of {self._device}")
            left += outbox_rows.insert(db, epoch, seq, report, picture=pictures, limit_bytes=limit_bytes, put_ns=now_ns)
        last_seq = epoch.last_seq + len(reports)
        db.execute("UPDATE epoch SET last_seq = max(last_seq, ?) WHERE number = ?", (last_seq, epoch.number))
        self.pictures_left += left
        if self.told is not None:
            outbox_told.remember(db, self.told, self.told.numbers(reports))
        return [ReportId(self._device, epoch.name, seq) for seq in range(epoch.last_seq + 1, last_seq + 1)]

    def _make_room(self, reports: Sequence[DefectReport]) -> bool:
        """Give up what may be given up until the new reports fit; False: only without pictures. Raises OutboxFull."""
        for with_pictures in (True, False):
            need = sum(outbox_rows.space_for(report, with_pictures) for report in reports)
            while self._used_bytes() + need > self.cap_bytes - self._file.reserve_bytes:
                if not self._give_up_some():
                    break
            else:
                return with_pictures
        raise OutboxFull(f"{self.path}: {self.cap_bytes} bytes are full of reports that have not arrived")

    def _give_up_some(self) -> int:
        with self._file.writing() as db:
            assert self._file.epoch is not None
            return outbox_rows.give_up_some(db, self._file.epoch.number)

    def _used_bytes(self) -> int:
        with self._file.reading() as db:
            return used_bytes(db)
