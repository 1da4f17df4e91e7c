"""The outbox against a small model: put, send, acknowledge, prune, reopen, kill around a commit, lose the file."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge_inspect.delivery.outbox import Outbox
from edge_inspect.delivery.outbox_file import ACKED, PENDING, SENT
from edge_inspect.errors import StorageFailing
from edge_wire.messages import DefectReport, ReportId
from tests.edge.delivery.mortal import Killed, Mortal, outboxes_are_mortal
from tests.edge.delivery.reports import DEVICE, UTC_NS, report

RETAIN_S = 3600.0
OTHER_EPOCH = "000000000001-00000000000000aa"
RANGE = st.tuples(st.integers(1, 30), st.integers(0, 12)).map(lambda pair: (pair[0], pair[0] + pair[1]))
RANGES = st.lists(RANGE, min_size=1, max_size=4)


def within(seq: int, ranges: list[tuple[int, int]]) -> bool:
    return any(first <= seq <= last for first, last in ranges)


@dataclass
class Kept:
    id: ReportId
    part: int
    state: int = PENDING
    sent_ns: int = 0
    acked_ns: int = 0

    def is_on_its_way(self, since_ns: int, now_ns: int) -> bool:
        return self.state == PENDING or (self.state == SENT and since_ns < self.sent_ns <= now_ns)


class OutboxMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="outbox-machine-"))
        self.patches = outboxes_are_mortal()
        for each in self.patches:
            each.start()
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
        with patch.object(Mortal, "after" if reached_the_disk else "before", staticmethod(fail)):
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
        with patch.object(Mortal, "after" if committed else "before", staticmethod(kill)):
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
            entry.state, entry.sent_ns = SENT, self.now_ns

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
        ranges = data.draw(RANGES)  # single, many, overlapping, of numbers nobody gave
        hit = [e for e in self.live() if e.id.epoch == epoch and within(e.id.seq, ranges)]
        assert self.box.ack_ranges(epoch, ranges) == len(hit)
        assert self.box.ack_ranges(epoch, ranges) == self.box.ack_ranges(OTHER_EPOCH, ranges) == 0
        for entry in hit:
            entry.state, entry.acked_ns = ACKED, self.now_ns

    @precondition(lambda self: self.ever)
    @rule(data=st.data(), limit=st.integers(1, 5), sent_for_s=st.sampled_from([0.0, 600.0]))
    def ask_again(self, data: st.DataObject, limit: int, sent_for_s: float) -> None:
        """Of acknowledged, waiting, forgotten and never given numbers, and of files that are lost."""
        epoch = data.draw(st.sampled_from([*sorted({number.epoch for number in self.ever}), OTHER_EPOCH]))
        first, last = data.draw(RANGE)
        length = last - first + 1
        wanted = {e.id.seq: e for e in self.kept if e.id.epoch == epoch and first <= e.id.seq <= last}
        before_ns = self.now_ns - round(sent_for_s * 1e9)
        gone: list[tuple[int, int]] = []
        while first <= last:
            again = self.box.send_again(epoch, first, last, limit=limit, sent_for_s=sent_for_s)
            looked_at = [entry for seq, entry in wanted.items() if first <= seq <= again.upto]
            asked = [e for e in looked_at if not e.is_on_its_way(before_ns, self.now_ns)]
            assert (again.looked_at, again.reports) == (len(looked_at), len(asked)) and again.upto >= first
            for entry in asked:
                entry.state = PENDING
            gone += again.gone
            first = again.upto + 1
        assert not any(within(seq, gone) for seq in wanted)
        assert sum(end - begin + 1 for begin, end in gone) == length - len(wanted)

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
        for each in self.patches:
            each.stop()
        shutil.rmtree(self.root)


TestOutboxMachine = OutboxMachine.TestCase
TestOutboxMachine.settings = settings(
    max_examples=30, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
