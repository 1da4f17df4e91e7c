"""The way of a report from the judge to the database, against everything that can befall it: a state machine.

    python -m tests.campaign.machine --examples 2000

The outbox is the real one, on a real file. Courier, broker and ingester are models of a few lines that behave as badly
as real ones may: the broker delivers twice, late, or forgets everything after its PUBACK; acknowledgements are lost.
The daemon is killed between any two calls or inside a commit; a power cut leaves any beginning of what was being
written; the clock jumps; the disk is full. Invariants, after every step:

1. Every report that was put is in the outbox, or in the database, or both: none is lost, none invented.
2. No number is given twice, and the database has a report once, with the payload that was put.
3. Only what is in the database counts as delivered.
4. What waits is in the order in which it was put.
At the end, with everything well again, all of it reaches the database.
"""

from __future__ import annotations

import argparse
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from edge_inspect.delivery import outbox_file, outbox_reserve
from edge_inspect.delivery.outbox import FILE_NAME, Outbox
from edge_inspect.delivery.outbox_file import ACKED
from edge_inspect.errors import StorageFailing
from edge_wire.messages import DefectReport, ReportId
from tests.campaign.ledger import summary
from tests.edge.delivery.reports import DEVICE, UTC_NS, report

CAP_BYTES = 2 << 20
RETAIN_S = 3600.0
WINDOW = 8
SMALL = {"RESERVE_BYTES": 1 << 16, "PIECE_BYTES": 1 << 14, "GROW_PAGES": 16, "WAL_BYTES": 1 << 17}


class Killed(BaseException):
    """The daemon is gone at this point."""


class Database(sqlite3.Connection):
    """A file system without room, and a daemon that dies at a commit."""

    full = False
    dies: str = ""

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        if Database.full and sql.startswith("INSERT"):
            raise sqlite3.OperationalError("database or disk is full")
        if sql == "COMMIT" and Database.dies == "before":
            raise Killed
        result = super().execute(sql, *parameters)
        if sql == "COMMIT" and Database.dies == "after":
            raise Killed
        return result


class Line(RuleBasedStateMachine):
    examples = 0

    def __init__(self) -> None:
        super().__init__()
        Line.examples += 1
        Database.full, Database.dies = False, ""
        self.root = Path(tempfile.mkdtemp(prefix="machine-", dir="/dev/shm"))
        self.folder = self.root / "0"
        self.lives = 0
        self.now_ns = UTC_NS
        self.parts = 0
        self.put: dict[ReportId, int] = {}  # what `put_many` returned, by number: the part
        self.maybe: list[DefectReport] = []  # handed to a put that did not return
        self.broker: list[bytes] = []  # taken by the broker, not yet by the ingester
        self.database: dict[ReportId, bytes] = {}
        self.acks: list[ReportId] = []  # said by the ingester, not yet heard by the device
        real = sqlite3.connect
        connect = lambda *a, **k: real(*a, **{**k, "factory": Database})  # noqa: E731
        self.patches = [patch.object(outbox_file.sqlite3, "connect", connect)]
        self.patches += [patch.object(outbox_reserve, name, value) for name, value in SMALL.items()]
        for each in self.patches:
            each.start()

    @initialize()
    def start(self) -> None:
        self.box = Outbox(
            self.folder / FILE_NAME, device=DEVICE, cap_bytes=CAP_BYTES, retain_s=RETAIN_S, utc_ns=lambda: self.now_ns
        )
        self._take_what_a_kill_left()

    def _take_what_a_kill_left(self) -> None:
        """A put that did not return: all of it is there, under numbers never given before, or nothing."""
        if not self.maybe:
            return
        rows = self.box.window(10_000)
        found = [DefectReport.from_bytes(self.box.payload(row.number)) for row in rows]
        new = [entry for entry in found if entry.id not in self.put]
        parts = [entry.part.number for entry in new]
        assert parts in ([], [entry.part.number for entry in self.maybe]), "half of a put was kept"
        self._remember([entry.id for entry in new], new)
        self.maybe = []

    def _remember(self, ids: Sequence[ReportId], reports: Sequence[DefectReport]) -> None:
        assert not set(ids) & set(self.put), "a number was given twice"
        self.put |= {number: entry.part.number for number, entry in zip(ids, reports, strict=True)}

    def _reports(self, count: int) -> list[DefectReport]:
        first, self.parts = self.parts + 1, self.parts + count
        return [report(part, picture_bytes=part % 3 * 4000) for part in range(first, self.parts + 1)]

    @rule(count=st.integers(1, 12))
    def judge(self, count: int) -> None:
        reports = self._reports(count)
        try:
            self._remember(self.box.put_many(reports), reports)
        except StorageFailing:
            assert Database.full
            Database.full = False  # there is room again, and the writer tries again with the same reports
            self._remember(self.box.put_many(reports), reports)

    @rule(count=st.integers(1, WINDOW), broker_answers=st.booleans())
    def publish(self, count: int, broker_answers: bool) -> None:
        rows = self.box.window(WINDOW)[:count]
        self.broker += [self.box.payload(row.number) for row in rows]
        if broker_answers:
            self.box.mark_sent([row.number for row in rows])

    @rule(picks=st.lists(st.integers(0, 30), max_size=6), twice=st.booleans())
    def ingest(self, picks: list[int], twice: bool) -> None:
        """In any order, perhaps twice: a commit, then the acknowledgement."""
        for pick in picks:
            if not self.broker:
                return
            payload = self.broker[pick % len(self.broker)]
            if not twice:
                self.broker.remove(payload)
            found = DefectReport.from_bytes(payload)
            self.database.setdefault(found.id, payload)
            self.acks.append(found.id)

    @rule(count=st.integers(1, 10), lost=st.booleans())
    def acknowledge(self, count: int, lost: bool) -> None:
        heard, self.acks = self.acks[:count], self.acks[count:]
        for number in [] if lost else heard:
            self.box.ack_ranges(number.epoch, [(number.seq, number.seq)])

    @rule()
    def broker_loses_its_state(self) -> None:
        self.broker = []

    @rule(hours=st.sampled_from([1, -1, 24 * 365 * 10, -24 * 365 * 10]))
    def clock_jumps(self, hours: int) -> None:
        self.now_ns = max(0, self.now_ns + hours * 3600 * 10**9)
        self.box.prune()

    @rule(full=st.booleans())
    def disk_is_full(self, full: bool) -> None:
        Database.full = full
        if not full:
            self.box.refill()

    @rule(count=st.integers(1, 6), when=st.sampled_from(["before", "after", "between"]))
    def kill(self, count: int, when: str) -> None:
        """Between two calls, or as a put commits: the files stay as they are then."""
        before = self._copy()
        if when != "between":
            self.maybe = self._reports(count)
            Database.full, Database.dies = False, when
            try:
                self.box.put_many(self.maybe)
                raise AssertionError("survived")
            except Killed:
                shutil.rmtree(before)
                before = self._copy()
            finally:
                Database.dies = ""
        self._continue_in(before)

    @rule(count=st.integers(1, 6), share=st.floats(0, 1))
    def power_cut(self, count: int, share: float) -> None:
        """While a put is written: of the WAL's new content only the first `share` is on the disk, and no -shm."""
        Database.full = False
        before = self._copy()
        self.maybe = self._reports(count)
        returned = self.box.put_many(self.maybe)
        after = self._copy()
        assert returned
        wal, main = f"{FILE_NAME}-wal", FILE_NAME
        if (before / main).read_bytes() == (after / main).read_bytes() and (before / wal).exists():
            old, new = (before / wal).read_bytes(), (after / wal).read_bytes()
            changed = [at for at in range(min(len(old), len(new))) if old[at] != new[at]] if old != new else []
            end = changed[0] + round((changed[-1] + 1 - changed[0]) * share) if changed else len(new)
            (after / wal).write_bytes(new[:end] + old[end:])
        (after / f"{FILE_NAME}-shm").unlink(missing_ok=True)
        shutil.rmtree(before)
        self._continue_in(after)

    def _copy(self) -> Path:
        self.lives += 1
        return Path(shutil.copytree(self.folder, self.root / str(self.lives)))

    def _continue_in(self, folder: Path) -> None:
        Database.full = False
        self.box.close()
        shutil.rmtree(self.folder)
        self.folder = folder
        self.start()

    @precondition(lambda self: hasattr(self, "box"))
    @invariant()
    def every_report_is_somewhere_and_none_twice(self) -> None:
        rows = self.box.window(100_000)
        found = [DefectReport.from_bytes(self.box.payload(row.number, picture=False)) for row in rows]
        ids = [entry.id for entry in found]
        assert len(set(ids)) == len(ids) and all(row.state < ACKED for row in rows)
        assert set(self.put) == set(ids) | set(self.database), "lost, or invented"
        assert [entry.part.number for entry in found] == sorted(entry.part.number for entry in found)
        assert all(self.put[entry.id] == entry.part.number for entry in found)
        assert all(
            DefectReport.from_bytes(kept).part.number == self.put[number] for number, kept in self.database.items()
        )

    def teardown(self) -> None:
        try:
            if hasattr(self, "box"):
                self._deliver_the_rest()
                self.box.close()
        finally:
            for each in self.patches:
                each.stop()
            shutil.rmtree(self.root)

    def _deliver_the_rest(self) -> None:
        Database.full = False
        while rows := self.box.window(50):
            for row in rows:
                payload = self.box.payload(row.number)
                self.database.setdefault(DefectReport.from_bytes(payload).id, payload)
            self.box.ack_rows([row.number for row in rows])
        assert set(self.database) == set(self.put)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=30)
    options = parser.parse_args(arguments)
    failures = 0
    try:
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            Line,
            settings=settings(
                max_examples=options.examples,
                stateful_step_count=options.steps,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    except Exception as err:  # noqa: BLE001  whatever was found is the result
        failures = 1
        print(f"{type(err).__name__}: {err}", *getattr(err, "__notes__", []), sep="\n", file=sys.stderr)
    print(summary("machine", Line.examples, failures, steps=options.steps))
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
