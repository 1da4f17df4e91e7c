"""The outbox against a small model: put, send, acknowledge, prune, reopen, kill around a commit, lose the file."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge_inspect.delivery import outbox_file
from edge_inspect.delivery.outbox import Outbox
from edge_inspect.delivery.outbox_file import ACKED, PENDING, SENT
from edge_inspect.errors import StorageFailing
from edge_wire.messages import DefectReport, ReportId
from tests.edge.delivery.reports import DEVICE, UTC_NS, report

RETAIN_S = 3600.0


class Killed(BaseException):
    """The process is gone at this point."""


class AtCommit(sqlite3.Connection):
    """Does something just before or just after a commit; a kill leaves the files as they then were."""

    before: Callable[[], None] | None = None
    after: Callable[[], None] | None = None

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        commit = sql == "COMMIT"
        if commit and AtCommit.before is not None:
            AtCommit.before()
        result = super().execute(sql, *parameters)
        if commit and AtCommit.after is not None:
            AtCommit.after()
        return result


@dataclass
class Kept:
    id: ReportId
    part: int
    state: int = PENDING
    acked_ns: int = 0


class OutboxMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="outbox-machine-"))
        real = sqlite3.connect
        self.patch = patch.object(
            outbox_file.sqlite3, "connect", lambda *a, **k: real(*a, **{**k, "factory": AtCommit})
        )
        self.patch.start()
        self.lives = 0
        self.now_ns = UTC_NS
        self.kept: list[Kept] = []
        self.ever: set[ReportId] = set()
        self.parts = 0

    @initialize()
    def begin(self) -> None:
        self.folder = self.root / "0"
        self.open()

    def open(self) -> None:
        self.box = Outbox(self.folder / "outbox.sqlite3", device=DEVICE, retain_s=RETAIN_S, utc_ns=lambda: self.now_ns)

    def next_reports(self, count: int) -> list[DefectReport]:
        self.parts += count
        return [
            report(number, picture_bytes=number % 3 * 50) for number in range(self.parts - count + 1, self.parts + 1)
        ]

    def remember(self, ids: list[ReportId], reports: list[DefectReport]) -> None:
        assert not self.ever & set(ids), "a number came twice"
        self.ever |= set(ids)
        self.kept += [Kept(found, entry.part.number) for found, entry in zip(ids, reports, strict=True)]

    def live(self) -> list[Kept]:
        return [entry for entry in self.kept if entry.state != ACKED]

    @rule(count=st.integers(1, 4))
    def put(self, count: int) -> None:
        reports = self.next_reports(count)
        self.remember(self.box.put_many(reports), reports)

    @rule(count=st.integers(1, 4), reached_the_disk=st.booleans())
    def put_through_a_failing_commit(self, count: int, reached_the_disk: bool) -> None:
        def fail() -> None:
            raise sqlite3.OperationalError("disk I/O error")

        reports = self.next_reports(count)
        with patch.object(AtCommit, "after" if reached_the_disk else "before", staticmethod(fail)):
            try:
                self.box.put_many(reports)
                raise AssertionError("a failed commit was not noticed")
            except StorageFailing:
                pass
        self.remember(self.box.put_many(reports), reports)

    @rule(count=st.integers(1, 4), committed=st.booleans())
    def kill_around_a_commit(self, count: int, committed: bool) -> None:
        self.lives += 1
        after_death = self.root / str(self.lives)

        def kill() -> None:
            shutil.copytree(self.folder, after_death)
            raise Killed

        reports = self.next_reports(count)
        before = self.box.epoch, self.box.stats().last_seq
        with patch.object(AtCommit, "after" if committed else "before", staticmethod(kill)):
            try:
                self.box.put_many(reports)
                raise AssertionError("survived")
            except Killed:
                pass
        self.box.close()
        self.folder = after_death
        self.open()
        if committed:
            epoch, seq = before
            assert epoch is not None
            self.remember([ReportId(DEVICE, epoch, seq + step) for step in range(1, count + 1)], reports)

    @rule(count=st.integers(1, 5))
    def send(self, count: int) -> None:
        self.box.mark_sent([row.number for row in self.box.window(count)])
        for entry in self.live()[:count]:
            entry.state = SENT

    @rule(which=st.sets(st.integers(0, 9)))
    def acknowledge_rows(self, which: set[int]) -> None:
        rows = self.box.window(10)
        chosen = [index for index in sorted(which) if index < len(rows)]
        live = self.live()
        self.box.ack_rows([rows[index].number for index in chosen])
        for index in chosen:
            live[index].state, live[index].acked_ns = ACKED, self.now_ns

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def acknowledge_a_range(self, data: st.DataObject) -> None:
        epoch = data.draw(st.sampled_from(sorted({entry.id.epoch for entry in self.kept})))
        first = data.draw(st.integers(1, 30))
        last = data.draw(st.integers(first, 40))
        hit = [e for e in self.live() if e.id.epoch == epoch and first <= e.id.seq <= last]
        assert self.box.ack_ranges(epoch, [(first, last)]) == len(hit)
        for entry in hit:
            entry.state, entry.acked_ns = ACKED, self.now_ns

    @rule(minutes=st.sampled_from([1, 50, -600]))
    def time_passes(self, minutes: int) -> None:
        self.now_ns += minutes * 60 * 10**9

    @rule()
    def prune(self) -> None:
        limit = self.now_ns - round(RETAIN_S * 1e9)
        old = [entry for entry in self.kept if entry.state == ACKED and entry.acked_ns < limit]
        assert self.box.prune() == len(old)
        self.kept = [entry for entry in self.kept if entry not in old]

    @rule()
    def reopen(self) -> None:
        self.box.close()
        self.open()

    @precondition(lambda self: self.lives < 6)
    @rule()
    def lose_the_file(self) -> None:
        self.box.close()
        self.lives += 1
        self.folder = self.root / str(self.lives)
        self.open()
        self.kept = []

    @invariant()
    def what_waits_is_what_was_put_and_not_acknowledged_in_order(self) -> None:
        if not hasattr(self, "box"):
            return
        rows = self.box.window(1_000_000)
        found = [DefectReport.from_bytes(self.box.payload(row.number)) for row in rows]
        live = self.live()
        assert [(entry.id, entry.part.number) for entry in found] == [(entry.id, entry.part) for entry in live]
        assert [row.state for row in rows] == [entry.state for entry in live]
        for entry in found:
            assert (entry.thumbnail is not None and entry.thumbnail.jpeg is not None) == (entry.part.number % 3 > 0)
        assert self.box.stats().acked == len(self.kept) - len(live)

    def teardown(self) -> None:
        if hasattr(self, "box"):
            self.box.close()
        self.patch.stop()
        shutil.rmtree(self.root)


TestOutboxMachine = OutboxMachine.TestCase
TestOutboxMachine.settings = settings(
    max_examples=30, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
