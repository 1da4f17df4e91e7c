"""A batch is in the database once and whole, and only what is there may be acknowledged."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone

import pytest
from sqlalchemy import Engine, select, text

from cloud_inspect.db import tables
from cloud_inspect.db.engine import open_engine, transaction
from cloud_inspect.db.upgrade import upgrade
from cloud_inspect.errors import DatabaseGone
from cloud_inspect.intake.keep import Outcome, keep
from cloud_inspect.intake.reading import Reading, read
from cloud_inspect.settings import DatabaseSettings
from edge_wire.messages import DefectReport
from tests.edge.delivery.reports import TOPICS, report

EPOCH = "000000000001-00000000000000aa"
NOW = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
Lock = Callable[[str], sqlite3.Connection]


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    opened = open_engine(DatabaseSettings(url=database_url, timeout_s=5.0))
    upgrade(opened)
    yield opened
    opened.dispose()


def numbered(seq: int, *, part: int | None = None, picture_bytes: int = 0) -> DefectReport:
    return report(part or seq, picture_bytes=picture_bytes).numbered(EPOCH, seq)


def readings(*reports: DefectReport) -> list[Reading]:
    return [read(TOPICS.defect, one.to_bytes()) for one in reports]


def parts(engine: Engine) -> list[int]:
    with transaction(engine, reads=True) as connection:
        return list(connection.execute(select(tables.report.c.part).order_by(tables.report.c.seq)).scalars())


def in_quarantine(engine: Engine) -> list[tuple[str, int, bool]]:
    table = tables.quarantine
    with transaction(engine, reads=True) as connection:
        found = connection.execute(select(table.c.reason, table.c.times, table.c.acked).order_by(table.c.id))
        return [(reason, times, acked) for reason, times, acked in found]


def acked(outcome: Outcome) -> set[int]:
    return outcome.acks.get(TOPICS, {}).get(EPOCH, set())


def test_what_was_kept_is_exactly_what_was_sent(engine: Engine) -> None:
    sent = [numbered(seq, picture_bytes=500 if seq % 2 else 0) for seq in range(1, 101)]
    outcome = keep(engine, readings(*sent), NOW)
    assert (outcome.new, outcome.repeats, acked(outcome)) == (100, 0, set(range(1, 101)))
    query = select(tables.report.c.payload, tables.picture.c.jpeg).outerjoin(tables.picture)
    with transaction(engine, reads=True) as connection:
        rows = connection.execute(query.order_by(tables.report.c.seq)).all()
    assert [(bytes(payload), jpeg and bytes(jpeg)) for payload, jpeg in rows] == [one.split() for one in sent]


def test_the_same_again_is_acknowledged_again_and_counted_and_nothing_else(engine: Engine) -> None:
    keep(engine, readings(*map(numbered, range(1, 11))), NOW)
    outcome = keep(engine, readings(*map(numbered, range(6, 16)), numbered(15)), NOW)
    assert (outcome.new, outcome.repeats, acked(outcome)) == (5, 6, set(range(6, 16)))
    assert parts(engine) == list(range(1, 16))
    with transaction(engine, reads=True) as connection:
        assert connection.execute(select(tables.epoch.c.repeats, tables.epoch.c.max_seq)).all() == [(6, 15)]


def test_another_report_under_the_same_id_is_set_aside_and_the_first_stays(engine: Engine) -> None:
    keep(engine, readings(numbered(1)), NOW)
    outcome = keep(engine, readings(numbered(1, part=77), numbered(2), numbered(2, part=78)), NOW)
    assert acked(outcome) == {1, 2}
    assert parts(engine) == [1, 2]
    assert in_quarantine(engine) == [("conflict", 1, True), ("conflict", 1, True)]
    keep(engine, readings(numbered(1, part=77)), NOW)
    assert sorted(in_quarantine(engine)) == [("conflict", 1, True), ("conflict", 2, True)]


def test_a_picture_that_was_missing_is_added_and_never_replaced(engine: Engine) -> None:
    whole = numbered(1, picture_bytes=900)
    assert keep(engine, readings(whole.without_picture()), NOW).new == 1
    assert keep(engine, readings(whole), NOW).repeats == 1
    assert keep(engine, readings(whole.without_picture()), NOW).repeats == 1
    with transaction(engine, reads=True) as connection:
        assert [bytes(jpeg) for jpeg in connection.execute(select(tables.picture.c.jpeg)).scalars()] == [
            whole.split()[1]
        ]
    assert in_quarantine(engine) == []


def test_a_row_that_the_database_refuses_is_set_aside_and_its_neighbours_are_kept(engine: Engine) -> None:
    with transaction(engine) as connection:
        if engine.dialect.name == "sqlite":
            connection.execute(
                text(
                    "CREATE TRIGGER no_thirteen BEFORE INSERT ON report WHEN NEW.part = 13 "
                    "BEGIN SELECT RAISE(ABORT, 'no thirteen'); END"
                )
            )
        else:
            connection.execute(text("ALTER TABLE report ADD CONSTRAINT no_thirteen CHECK (part <> 13)"))
    outcome = keep(engine, readings(*map(numbered, range(10, 17))), NOW)
    assert parts(engine) == [10, 11, 12, 14, 15, 16]
    assert in_quarantine(engine) == [("refused", 1, True)]
    assert acked(outcome) == set(range(10, 17)) and outcome.new == 6


def test_what_is_no_report_lies_in_quarantine_with_its_bytes(engine: Engine) -> None:
    good = numbered(2)
    newer = numbered(1).to_bytes().replace(b"inspect.defect/1", b"inspect.defect/2")
    foreign = numbered(3).to_bytes().replace(b'"edge-1"', b'"edge-9"')
    strange = "inspect/v1/plant/press-4/edge 1\udcff/defect"
    batch = [read(TOPICS.defect, what) for what in (newer, foreign, b"", b"\x00" * 9, good.to_bytes())]
    batch.append(read(strange, b"x"))
    outcome = keep(engine, batch, NOW)
    assert acked(outcome) == {1, 2} and parts(engine) == [2]
    assert {(one.reason) for one in outcome.set_aside} == {"newer-schema", "foreign", "empty", "not-json", "topic"}
    assert keep(engine, batch, NOW).set_aside == []
    table = tables.quarantine
    with transaction(engine, reads=True) as connection:
        rows = connection.execute(select(table.c.reason, table.c.payload, table.c.times, table.c.acked)).all()
    assert {(reason, bytes(payload), times, told) for reason, payload, times, told in rows} == {
        ("newer-schema", newer, 2, True),
        ("foreign", foreign, 2, False),
        ("empty", b"", 2, False),
        ("not-json", b"\x00" * 9, 2, False),
        ("topic", b"x", 2, False),
    }


def test_ingesters_at_once_on_the_same_reports_keep_each_once(engine: Engine) -> None:
    batches = [[numbered(seq, picture_bytes=50) for seq in range(first, first + 40)] for first in range(1, 200, 10)]
    batches += [list(reversed(batch)) for batch in batches]

    def work(batch: list[DefectReport]) -> Outcome:
        while True:
            try:
                return keep(engine, readings(*batch), NOW)
            except DatabaseGone:  # its turn has not come yet, or it was chosen to end a deadlock
                continue

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(work, batches))
    assert parts(engine) == list(range(1, 231))
    assert sum(outcome.new for outcome in outcomes) == 230
    assert all(len(acked(outcome)) == 40 for outcome in outcomes) and in_quarantine(engine) == []


def test_a_database_in_anothers_hands_is_gone_and_nothing_of_the_batch_is_kept(
    tmp_path: str, lock_sqlite: Lock
) -> None:
    url = f"sqlite:///{tmp_path}/locked.sqlite3"
    engine = open_engine(DatabaseSettings(url=url, timeout_s=0.2))
    upgrade(engine)
    other = lock_sqlite(url)
    with pytest.raises(DatabaseGone, match="locked"):
        keep(engine, readings(numbered(1)), NOW)
    other.close()
    assert keep(engine, readings(numbered(1)), NOW).new == 1
    engine.dispose()
