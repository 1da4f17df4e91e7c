"""The way of a report from the judge to the database, against everything that can befall it: a state machine.

    python -m tests.campaign.machine --examples 2000

The outbox is the real one, on a real file. Courier, broker and ingester are models of a few lines that behave as badly
as real ones may: the broker delivers twice, late, or forgets everything after its PUBACK; acknowledgements come as
ranges, in pieces, overlapping, late, or not at all, and some are of numbers that were never given; the database is
replaced by an older backup, and what it lacks is asked for again, with other ranges as well. The daemon is killed
between any two calls or inside a commit; a power cut leaves any beginning of what was being written; the clock jumps;
the disk is full. Invariants, after every step:

1. Every report that was put waits in the outbox, or is in the database, or is one that a backup lacks: none is lost,
   none invented. What a backup lacks waits again once it was asked for, or is said to be gone.
2. No number is given twice, and the database has a report once, as the part that it was put for.
3. Only what was in the database, and acknowledged, counts as delivered; it stays until it may be forgotten.
4. What waits is in the order in which it was put.
At the end, with everything well again, all of it reaches the database.

What the file holds is read by a connection of the test's own (`oracle`), in the end by the `sqlite3` command, and never
through the outbox.
"""

from __future__ import annotations

import argparse
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar
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

from edge_inspect.delivery import outbox_reserve
from edge_inspect.delivery.outbox import FILE_NAME, Outbox
from edge_inspect.errors import StorageFailing
from edge_wire.messages import DefectReport
from tests.campaign import ledger, oracle
from tests.campaign.ledger import ACKED, Id, summary
from tests.campaign.oracle import Range, runs
from tests.edge.delivery.mortal import Killed, Mortal, outboxes_are_mortal
from tests.edge.delivery.reports import DEVICE, UTC_NS, report

CAP_BYTES = 2 << 20
RETAIN_S = 3600.0
WINDOW = 8
SMALL = {"RESERVE_BYTES": 1 << 16, "PIECE_BYTES": 1 << 14, "GROW_PAGES": 16, "WAL_BYTES": 1 << 17}
UNPRESSED_PARTS = 60
"""So many reports surely fit under the cap: nothing acknowledged is given up for them."""
OTHER_EPOCH = "000000000001-00000000000000aa"
MOST = 2**53 - 1
PIECES = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12)), min_size=1, max_size=5)


class Line(RuleBasedStateMachine):
    examples = 0
    walks: ClassVar[dict[str, int]] = {"acknowledged": 0, "asked_again": 0, "forgotten": 0, "gone": 0}
    """In how many examples this happened."""

    def __init__(self) -> None:
        super().__init__()
        Line.examples += 1
        self.root = Path(tempfile.mkdtemp(prefix="machine-", dir="/dev/shm"))
        self.folder = self.root / "0"
        self.lives = 0
        self.now_ns = UTC_NS
        self.parts = 0
        self.pressed = False  # there was too little room at some time: acknowledged reports may have been given up
        self.put: dict[Id, int] = {}  # what `put_many` returned, by number: the part
        self.maybe: list[int] = []  # parts handed to a put that did not return
        self.broker: list[bytes] = []  # taken by the broker, not yet by the ingester
        self.database: dict[Id, int] = {}
        self.acks: list[tuple[str, list[Range]]] = []  # said by the ingester, not yet heard by the device
        self.delivered: dict[Id, int] = {}  # acknowledged: when; the device has heard of it
        self.forgotten: set[Id] = set()  # that long ago that they need not be kept
        self.lacking: set[Id] = set()  # the backup that was put back does not have them
        self.asked: set[Id] = set()  # delivered, and waiting again
        self.gone: set[Id] = set()  # and the device says that it does not have them either
        self.oracle = oracle.Oracle(sqlite3.connect)
        self.patches = outboxes_are_mortal()
        self.patches += [patch.object(outbox_reserve, name, value) for name, value in SMALL.items()]
        for each in self.patches:
            each.start()

    @initialize(count=st.integers(0, 12), delivered=st.integers(0, 12))
    def begin(self, count: int, delivered: int) -> None:
        """Some of it is over already: or hardly any walk would come to what happens after a delivery."""
        self.start()
        self._put(self._reports(count)) if count else None
        rows = self.box.window(delivered) if delivered else []
        for epoch, ranges in self._take(self.box.payload(row.number) for row in rows):
            self._hear(epoch, ranges)

    def start(self) -> None:
        self.box = Outbox(
            self.folder / FILE_NAME, device=DEVICE, cap_bytes=CAP_BYTES, retain_s=RETAIN_S, utc_ns=lambda: self.now_ns
        )
        if not self.maybe:
            return
        new = [row for row in self.rows() if (row.epoch, row.seq) not in self.put]
        assert [row.part for row in new] in ([], self.maybe), "half of a put was kept"
        self._remember([(row.epoch, row.seq) for row in new], [row.part for row in new])
        self.maybe = []

    def rows(self) -> list[ledger.Found]:
        """What lies in the file, in sending order."""
        return self.oracle.rows(self.folder / FILE_NAME)

    def _remember(self, ids: Iterable[Id], parts: Iterable[int]) -> None:
        given = dict(zip(ids, parts, strict=True))
        assert not set(given) & set(self.put), "a number was given twice"
        self.put |= given

    def _reports(self, count: int) -> list[DefectReport]:
        first, self.parts = self.parts + 1, self.parts + count
        self.pressed |= self.parts > UNPRESSED_PARTS
        return [report(part, picture_bytes=part % 3 * 4000) for part in range(first, self.parts + 1)]

    def _put(self, reports: Sequence[DefectReport]) -> None:
        ids = self.box.put_many(reports)
        self._remember([(given.epoch, given.seq) for given in ids], [entry.part.number for entry in reports])

    # Judge, courier, broker, ingester

    @rule(count=st.integers(1, 12))
    def judge(self, count: int) -> None:
        reports = self._reports(count)
        try:
            self._put(reports)
        except StorageFailing:
            assert Mortal.full
            Mortal.full = False  # there is room again, and the writer tries again with the same reports
            self._put(reports)

    @precondition(lambda self: self.put.keys() - self.delivered.keys())
    @rule(count=st.integers(1, WINDOW), broker_answers=st.booleans())
    def publish(self, count: int, broker_answers: bool) -> None:
        rows = self.box.window(WINDOW)[:count]
        self.broker += [self.box.payload(row.number) for row in rows]
        if broker_answers:
            self.box.mark_sent([row.number for row in rows])

    @precondition(lambda self: self.broker)
    @rule(picks=st.lists(st.integers(0, 30), min_size=1, max_size=6), twice=st.booleans())
    def ingest(self, picks: list[int], twice: bool) -> None:
        """In any order, perhaps twice: a commit, then the acknowledgement, in ranges."""
        payloads = [self.broker[pick % len(self.broker)] for pick in picks]
        if not twice:
            self.broker = [payload for payload in self.broker if payload not in payloads]
        self.acks += self._take(payloads)

    def _take(self, payloads: Iterable[bytes]) -> list[tuple[str, list[Range]]]:
        """Commit; what is to be acknowledged."""
        taken: dict[str, set[int]] = {}
        for epoch, seq in map(self._commit, payloads):
            taken.setdefault(epoch, set()).add(seq)
        return [(epoch, runs(seqs)) for epoch, seqs in taken.items()]

    def _commit(self, payload: bytes) -> Id:
        number, part = oracle.told_by(payload)
        assert self.database.setdefault(number, part) == part
        self.lacking.discard(number)
        self.gone.discard(number)
        return number

    @precondition(lambda self: self.acks)
    @rule(count=st.integers(1, 4), lost=st.booleans())
    def acknowledge(self, count: int, lost: bool) -> None:
        heard, self.acks = self.acks[:count], self.acks[count:]
        for epoch, ranges in [] if lost else heard:
            self._hear(epoch, ranges)

    @precondition(lambda self: self.database)
    @rule(data=st.data(), pieces=PIECES, unknown=st.booleans())
    def acknowledge_again(self, data: st.DataObject, pieces: list[Range], unknown: bool) -> None:
        """In other pieces than before, overlapping, of what is long forgotten; and of numbers nobody ever gave."""
        epoch = data.draw(st.sampled_from(sorted({epoch for epoch, _ in self.database})))
        ranges = oracle.pieces_of(runs(seq for of, seq in self.database if of == epoch), pieces)
        if unknown:
            above = max(seq for of, seq in self.put if of == epoch) + 1
            ranges += [(above + 20, MOST), (above + 20, above + 30)]
            self._hear(OTHER_EPOCH, [(1, MOST)])
        self._hear(epoch, ranges)

    def _hear(self, epoch: str, ranges: Sequence[Range]) -> None:
        news = self._waiting_in(epoch, ranges)
        try:
            assert self.box.ack_ranges(epoch, ranges) == len(news)
        except StorageFailing:
            assert Mortal.full
        else:
            self.delivered |= dict.fromkeys(news, self.now_ns)

    def _waiting_in(self, epoch: str, ranges: Sequence[Range]) -> list[Id]:
        waiting = [number for number in self.put if number[0] == epoch and number not in self.delivered]
        return [(of, seq) for of, seq in waiting if any(first <= seq <= last for first, last in ranges)]

    # What is asked for again

    @precondition(lambda self: self.delivered.keys() & self.database.keys())
    @rule(data=st.data())
    def a_backup_is_put_back(self, data: st.DataObject) -> None:
        """The database lacks some of what it had acknowledged; what was under way from the ingester is void."""
        had = sorted(number for number in self.delivered if number in self.database)
        self.acks = []
        for number in data.draw(st.lists(st.sampled_from(had), unique=True, min_size=1, max_size=20)):
            del self.database[number]
            self.lacking.add(number)

    @precondition(lambda self: self.put)
    @rule(data=st.data(), pieces=PIECES, limit=st.sampled_from([1, 3, 64]), sent_for_s=st.sampled_from([0.0, 30.0]))
    def resync(self, data: st.DataObject, pieces: list[Range], limit: int, sent_for_s: float) -> None:
        """Of acknowledged, waiting, sent, forgotten and never given numbers alike."""
        epoch = data.draw(st.sampled_from([*sorted({epoch for epoch, _ in self.put}), OTHER_EPOCH]))
        for low, length in pieces:
            self._ask_again(epoch, (1 + low, 1 + low + length), limit, sent_for_s)
        if data.draw(st.booleans()):
            self._ask_again(epoch, (1, MOST), limit, sent_for_s)

    def _ask_again(self, epoch: str, wanted: Range, limit: int, sent_for_s: float = 0.0) -> None:
        before = {row.seq for row in self.rows() if row.epoch == epoch}
        gone, (first, last) = [], wanted
        while first <= last:
            again = self.box.send_again(epoch, first, last, limit=limit, sent_for_s=sent_for_s)
            assert first <= again.upto <= last and again.looked_at <= limit
            gone += list(again.gone)
            self._waits_again(epoch, (first, again.upto))
            first = again.upto + 1
        assert oracle.joined(gone) == oracle.without(wanted, before), "said to be gone, and is not"
        self.gone |= {number for number in self.lacking if number[0] == epoch and oracle.within(number[1], gone)}

    def _waits_again(self, epoch: str, wanted: Range) -> None:
        """The file still has it: it waits."""
        there = {(row.epoch, row.seq) for row in self.rows()}
        for number in [n for n in self.delivered if n in there and n[0] == epoch and oracle.within(n[1], [wanted])]:
            del self.delivered[number]
            self.asked.add(number)

    # What befalls them

    @rule()
    def broker_loses_its_state(self) -> None:
        self.broker = []

    @rule(hours=st.sampled_from([1, -1, 24 * 365 * 10, -24 * 365 * 10]))
    def clock_jumps(self, hours: int) -> None:
        self.now_ns = max(0, self.now_ns + hours * 3600 * 10**9)
        limit_ns = self.now_ns - round(RETAIN_S * 1e9)
        before = {(row.epoch, row.seq) for row in self.rows()}
        old = {number for number, at_ns in self.delivered.items() if at_ns < limit_ns}
        assert self.box.prune() == len(old & before)
        assert {(row.epoch, row.seq) for row in self.rows()} == before - old
        self.forgotten |= old

    @rule(full=st.booleans())
    def disk_is_full(self, full: bool) -> None:
        Mortal.full = full
        self.pressed |= full
        if not full:
            self.box.refill()

    @rule(count=st.integers(1, 6), when=st.sampled_from(["before", "after", "between"]), what=st.booleans())
    def kill(self, count: int, when: str, what: bool) -> None:
        """Between two calls, or as a put or an acknowledgement commits: the files stay as they are then."""
        Mortal.full = False
        if when == "between":
            self._continue_in(self._copy())
            return
        left: list[Path] = []

        def die() -> None:
            left.append(self._copy())
            raise Killed

        setattr(Mortal, when, staticmethod(die))
        try:
            if what or not self._acknowledge_some(count, (when == "after",)):
                reports = self._reports(count)
                self.maybe = [entry.part.number for entry in reports]
                self.box.put_many(reports)
            raise AssertionError("survived")
        except Killed:
            pass
        finally:
            Mortal.before = Mortal.after = None
        self._continue_in(left[0])

    def _acknowledge_some(self, count: int, outcomes: tuple[bool, ...]) -> bool:
        """An acknowledgement of up to `count` that wait; False if there are none. All or none of it holds after."""
        known = sorted(number for number in self.database if number not in self.delivered)[:count]
        if not known:
            return False
        epoch = known[-1][0]
        news = [number for number in known if number[0] == epoch]
        self.half_acked = news, outcomes
        self.box.ack_ranges(epoch, runs(seq for _, seq in news))
        return True

    half_acked: tuple[list[Id], tuple[bool, ...]] = ([], ())

    @rule(count=st.integers(1, 6), share=st.floats(0, 1), what=st.booleans())
    def power_cut(self, count: int, share: float, what: bool) -> None:
        """While a commit is written: of the WAL's new content only the first `share` is on the disk, and no -shm."""
        Mortal.full = False
        before = self._copy()
        if what or not self._acknowledge_some(count, (False, True)):
            reports = self._reports(count)
            self.maybe = [entry.part.number for entry in reports]
            assert self.box.put_many(reports)
        after = self._copy()
        wal, main = f"{FILE_NAME}-wal", FILE_NAME
        if (before / main).read_bytes() == (after / main).read_bytes() and (before / wal).exists():
            (after / wal).write_bytes(oracle.torn((before / wal).read_bytes(), (after / wal).read_bytes(), share))
        (after / f"{FILE_NAME}-shm").unlink(missing_ok=True)
        shutil.rmtree(before)
        self._continue_in(after)

    def _copy(self) -> Path:
        self.lives += 1
        return Path(shutil.copytree(self.folder, self.root / str(self.lives)))

    def _continue_in(self, folder: Path) -> None:
        self.box.close()
        shutil.rmtree(self.folder)
        self.folder = folder
        self.start()
        news, outcomes = self.half_acked
        self.half_acked = [], ()
        if not news:
            return
        states = {(row.epoch, row.seq): row.state == ACKED for row in self.rows()}
        found = {states[number] for number in news}
        assert len(found) == 1 and found <= set(outcomes), "half of an acknowledgement, or a lost one"
        if found == {True}:
            self.delivered |= dict.fromkeys(news, self.now_ns)

    @precondition(lambda self: hasattr(self, "box"))
    @invariant()
    def every_report_is_somewhere_and_none_twice(self) -> None:
        found = self.rows()
        there = {(row.epoch, row.seq): row for row in found}
        waiting = {number for number, row in there.items() if row.state != ACKED}
        assert len(there) == len(found) and all(self.put[number] == row.part for number, row in there.items())
        assert waiting == set(self.put) - set(self.delivered), "lost, invented, or delivered without a word"
        assert self.pressed or set(there) == set(self.put) - self.forgotten, "forgotten too soon, or not at all"
        assert set(self.put) == waiting | set(self.database) | self.lacking | self.gone
        parts = [row.part for row in found if row.state != ACKED]
        assert parts == sorted(parts)
        assert all(self.put[number] == part for number, part in self.database.items())

    def teardown(self) -> None:
        try:
            if hasattr(self, "box"):
                self._deliver_the_rest()
                self.box.close()
                kept = ledger.rows(self.folder / FILE_NAME)
                assert kept == self.rows() and {row.state for row in kept} <= {ACKED}
        finally:
            for each in self.patches:
                each.stop()
            shutil.rmtree(self.root)

    def _deliver_the_rest(self) -> None:
        Mortal.full = False
        happened = {"acknowledged": self.delivered, "asked_again": self.asked, "forgotten": self.forgotten}
        for what, of_it in (happened | {"gone": self.gone}).items():
            Line.walks[what] += bool(of_it)
        for epoch, seq in sorted(self.lacking):
            self._ask_again(epoch, (seq, seq), 64)
        while rows := self.box.window(50):
            for epoch, ranges in self._take([self.box.payload(row.number) for row in rows]):
                self._hear(epoch, ranges)
        assert set(self.database) | self.gone == set(self.put)


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
    print(summary("machine", Line.examples, failures, steps=options.steps, walks=Line.walks))
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
