"""Takes reports from the thread that inspects and gets them onto the disk, however slow the disk is.

1. `hand_over` never waits: it appends to a bounded queue in memory and returns.
2. Everything that gathered while the disk was busy goes in one commit; then whoever sends is woken.
3. A failing disk is tried again for ever with back-off, with the same reports in the same order; one line when it
   begins to fail, one when it works again.
4. From half the bound on, reports wait without their picture. At the bound a report is lost: counted in `dropped`, an
   alarm, and said at once. That is the only place where a judged part's report can be lost.
5. First of all what an earlier life told the line and had not put when it was killed is put (`told`).
   At the end everything handed over before `stop` is put, or counted as dropped and said. So at any time: handed over
   = put + waiting + dropped, exactly.
6. From 80 % of the outbox's cap or of the disk on there is an alarm, before a picture that waits is given up; on a full
   disk another, while reports go into the reserve. One line when each begins, one when it ends.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

import structlog

from edge_inspect.backoff import Backoff
from edge_inspect.delivery.outbox import Outbox, OutboxFull
from edge_inspect.delivery.outbox_db import DiskFull
from edge_inspect.delivery.outbox_reserve import RESERVE_REPORTS, Room
from edge_inspect.delivery.outbox_rows import BATCH
from edge_inspect.errors import StorageFailing
from edge_wire.messages import DefectReport, Degraded, OutboxVitals

log = structlog.get_logger(__name__)

BOUND = 1000
STUCK_S = 10.0
HANGING_S = 1.5
TEND_EVERY_S = 5.0
PRUNE_EVERY_S = 60.0
LOOK_EVERY_S = 0.5
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 10.0


class OutboxWriter:
    """One thread's `run(stop)`; `hand_over`, `alarms` and `vitals` may be called from any thread."""

    def __init__(
        self,
        outbox: Outbox,
        *,
        wake: Callable[[], None],
        bound: int = BOUND,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.dropped = 0
        """Reports lost because the disk failed for longer than memory could hold them."""
        self.recovered = 0
        """Reports of what the line was told by an earlier life, which was killed before it could put them."""
        self.beat_ns: int | None = time.monotonic_ns()
        """When the thread last moved; None once it has ended."""
        self._outbox = outbox
        self._wake = wake
        self._bound = bound
        self._monotonic_s = monotonic_s
        self._waiting: deque[DefectReport] = deque()
        self._changed = threading.Condition()
        self._failure = ""
        self._failure_code = ""
        self._dropping = False
        self._told_is_put = False
        self._backoff = Backoff(FIRST_WAIT_S, LONGEST_WAIT_S)
        self._next_tend_s = monotonic_s()
        self._next_prune_s = monotonic_s() + PRUNE_EVERY_S
        self._room: Room | None = None
        self._said: set[str] = set()  # alarms about room that stand in the log

    def hand_over(self, report: DefectReport) -> bool:
        """Take a report to be kept; False if it had to be dropped. Never waits for the disk."""
        with self._changed:
            if len(self._waiting) >= self._bound:
                self.dropped += 1
                first, self._dropping = not self._dropping, True
            else:
                late = len(self._waiting) >= self._bound // 2
                self._waiting.append(report.without_picture() if late else report)
                self._changed.notify()
                return True
        if first:
            log.error("outbox.report_dropped", bound=self._bound, why=self._failure or "the disk is too slow")
        return False

    @property
    def waiting(self) -> int:
        """Reports that are not on disk yet."""
        return len(self._waiting)

    def run(self, stop: threading.Event) -> None:
        """Put reports until `stop`, then those that are left."""
        try:
            while not stop.is_set():
                self.beat_ns = time.monotonic_ns()
                self._told_is_put = self._told_is_put or self._put_told()
                with self._changed:
                    if not self._waiting and self._told_is_put:
                        self._changed.wait(LOOK_EVERY_S)
                if not self._told_is_put or (self._waiting and not self._put_some()):
                    self._pause(stop)
                self._tend_if_due()
            while self._waiting and self._put_some():
                pass
            self._give_up_the_rest()
        finally:
            self.beat_ns = None

    def alarms(self) -> list[Degraded]:
        """What is wrong with keeping reports, for the device's state."""
        found = []
        if self._waiting and self._stands_still(STUCK_S):
            found.append(Degraded(code="storage-stuck", detail=f"{self.waiting} reports wait for a write that hangs"))
        if self._failure_code:
            found.append(Degraded(code=self._failure_code, detail=self._failure[:200]))
        if self.dropped:
            found.append(
                Degraded(code="reports-dropped", detail=f"{self.dropped} reports were lost: the disk failed too long")
            )
        if (salvage := self._outbox.salvage) is not None:
            detail = f"{salvage.set_aside.name}: {salvage.reason}; {salvage.reports} reports carried over"
            found.append(Degraded(code="outbox-was-broken", detail=detail[:200]))
        if newer := self._outbox.newer:
            detail = f"{newer[-1].name}: its reports wait for the newer program; `edge-inspect outbox put-back`"
            more = f"; {len(newer)} such files" if len(newer) > 1 else ""
            found.append(Degraded(code="outbox-newer-schema", detail=(detail + more)[:200]))
        return found + self._little_room()

    def _little_room(self) -> list[Degraded]:
        found = []
        if self._outbox.disk_full:
            detail = f"reports are kept without pictures; there is room for {RESERVE_REPORTS} at least, then none"
            found.append(Degraded(code="disk-full", detail=detail))
        if (room := self._room) is None:
            return found
        if room.outbox_nearly_full:
            detail = f"{room.waiting_bytes} of {room.cap_bytes} bytes hold reports that were not delivered"
            found.append(Degraded(code="outbox-nearly-full", detail=detail))
        if room.disk_nearly_full:
            inodes = "" if room.disk_free_inodes is None else f", {room.disk_free_inodes} inodes"
            detail = f"{room.disk_free_bytes} of {room.disk_bytes} bytes{inodes} free below the outbox"
            found.append(Degraded(code="disk-nearly-full", detail=detail))
        return found

    def _stands_still(self, for_s: float) -> bool:
        beat_ns = self.beat_ns
        return beat_ns is not None and time.monotonic_ns() - beat_ns > for_s * 1e9

    def vitals(self) -> OutboxVitals | None:
        """Counts for the device's vitals; None while the file cannot be read, or a write hangs: this must not."""
        if self._waiting and self._stands_still(HANGING_S):
            return None
        try:
            stats = self._outbox.stats()
        except StorageFailing:
            return None
        return OutboxVitals(
            epoch=stats.epoch,
            last_seq=stats.last_seq,
            depth=stats.depth,
            oldest_age_s=stats.oldest_age_s,
            size_bytes=stats.size_bytes,
            pictures_shed=stats.pictures_shed,
            dropped=self.dropped,
            recovered=self.recovered,
        )

    def _put_told(self) -> bool:
        """Put what an earlier life has told and not put; False if that failed. It stays in the journal until then."""
        try:
            recovered = self._outbox.put_told()
        except StorageFailing as err:
            self._failed(err)
            return False
        if recovered:
            self.recovered += recovered
            log.warning("outbox.told_recovered", reports=recovered, why="an earlier life told the line, and was killed")
            self._wake()
        return True

    def _put_some(self) -> bool:
        """Put what waits, or after a failure only the oldest report; False if that failed."""
        with self._changed:
            reports = [self._waiting[index] for index in range(min(len(self._waiting), 1 if self._failure else BATCH))]
        try:
            self._outbox.put_many(reports)
        except StorageFailing as err:
            self._failed(err)
            return False
        with self._changed:
            for _ in reports:
                self._waiting.popleft()
        self._works_again()
        self._wake()
        return True

    def _failed(self, err: StorageFailing) -> None:
        codes: dict[type[StorageFailing], str] = {OutboxFull: "outbox-full", DiskFull: "disk-full"}
        code = codes.get(type(err), "storage-failing")
        if code != self._failure_code:
            log.error("outbox.failing", code=code, why=str(err), waiting=self.waiting)
        self._failure, self._failure_code = str(err), code

    def _works_again(self) -> None:
        room_again = self._dropping and self.waiting < self._bound // 2
        if self._failure_code or room_again:
            log.warning("outbox.works_again", after=self._failure_code, waiting=self.waiting, dropped=self.dropped)
        self._failure = self._failure_code = ""
        self._dropping = self._dropping and not room_again
        self._backoff.reset()

    def _pause(self, stop: threading.Event) -> None:
        until_s = self._monotonic_s() + self._backoff.next_s()
        while (left_s := until_s - self._monotonic_s()) > 0 and not stop.wait(min(left_s, LOOK_EVERY_S)):
            self.beat_ns = time.monotonic_ns()

    def _tend_if_due(self) -> None:
        """Every few seconds: hold the reserve, see how much room there is, forget what was delivered long ago."""
        now_s = self._monotonic_s()
        if now_s < self._next_tend_s:
            return
        self._next_tend_s = now_s + TEND_EVERY_S
        try:
            self._outbox.refill()
            self._room = self._outbox.room()
            if now_s >= self._next_prune_s:
                self._next_prune_s = now_s + PRUNE_EVERY_S
                self._outbox.prune()
        except StorageFailing as err:
            self._failed(err)
            return
        if not self._waiting:
            self._works_again()
        self._say_room()

    def _say_room(self) -> None:
        now = {alarm.code: alarm.detail for alarm in self._little_room()}
        for code in now.keys() - self._said:
            log.warning("outbox.little_room", code=code, detail=now[code])
        for code in self._said - now.keys():
            log.warning("outbox.room_again", code=code)
        self._said = set(now)

    def _give_up_the_rest(self) -> None:
        with self._changed:
            lost = len(self._waiting)
            self._waiting.clear()
            self.dropped += lost
        if lost:
            log.error("outbox.reports_lost_at_stop", reports=lost, why=self._failure)
