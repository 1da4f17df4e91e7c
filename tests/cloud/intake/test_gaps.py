"""What is missing is seen, asked for by one of many, a bounded number of times, and explained when it is gone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone

import pytest
from sqlalchemy import Engine, select

from cloud_inspect.db import tables
from cloud_inspect.db.engine import open_engine, transaction
from cloud_inspect.db.upgrade import upgrade
from cloud_inspect.errors import DatabaseGone, NotFound
from cloud_inspect.intake.devices import Statement, note, understand
from cloud_inspect.intake.gaps import Request, list_gaps, request_by_hand, watch
from cloud_inspect.intake.ingest import as_ranges
from cloud_inspect.intake.keep import keep
from cloud_inspect.intake.reading import read
from cloud_inspect.settings import DatabaseSettings
from edge_wire.messages import BadMessage, DeviceState, Gone, OutboxVitals, Vitals
from tests.edge.delivery.reports import DEVICE, TOPICS, report, state

EPOCH = "000000000001-00000000000000aa"
NOW = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
Missing = list[tuple[int, int, str]]


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    opened = open_engine(DatabaseSettings(url=database_url))
    upgrade(opened)
    yield opened
    opened.dispose()


def arrive(engine: Engine, seqs: Iterable[int]) -> None:
    keep(engine, [read(TOPICS.defect, report(seq).numbered(EPOCH, seq).to_bytes()) for seq in seqs], NOW)


def tell(engine: Engine, last_seq: int, depth: int) -> None:
    outbox = OutboxVitals(
        epoch=EPOCH, last_seq=last_seq, depth=depth, oldest_age_s=0, size_bytes=0, pictures_shed=0, dropped=0
    )
    said = Vitals(
        site="plant",
        line="press-4",
        device=DEVICE,
        utc=NOW,
        uptime_s=1,
        cameras=(),
        outbox=outbox,
        link=None,
        rss_bytes=1,
        temperature_c=None,
    )
    note(engine, [understand(TOPICS.vitals, said.to_bytes())], NOW)


def say_gone(engine: Engine, *ranges: tuple[int, int]) -> None:
    said = Gone(device=DEVICE, epoch=EPOCH, last_seq=10_000, ranges=ranges)
    note(engine, [understand(TOPICS.gone, said.to_bytes())], NOW)


def found(engine: Engine) -> Missing:
    return [(gap.first, gap.last, gap.kind) for gap in list_gaps(engine)]


def look(engine: Engine, after_s: float, tries: int = 3) -> list[Request]:
    return watch(engine, NOW + timedelta(seconds=after_s), wait_s=100, tries=tries)


def asked(requests: list[Request]) -> list[tuple[int, int]]:
    return [bounds for request in requests for bounds in request.message.ranges]


def complete_to(engine: Engine) -> int:
    with transaction(engine, reads=True) as connection:
        return int(connection.execute(select(tables.epoch.c.complete_to)).scalar_one())


def test_holes_and_a_missing_tail_are_seen(engine: Engine) -> None:
    arrive(engine, [3, 4, 7, 8, 12])
    assert found(engine) == [(1, 2, "missing"), (5, 6, "missing"), (9, 11, "missing")]
    tell(engine, last_seq=20, depth=0)
    assert found(engine)[-1] == (13, 20, "missing")
    tell(engine, last_seq=20, depth=14)
    assert found(engine)[-1] == (13, 20, "missing")
    tell(engine, last_seq=20, depth=15)
    assert [kind for _, _, kind in found(engine)] == ["waiting"] * 4
    assert look(engine, 0) == [] and look(engine, 1000) == []
    arrive(engine, range(1, 21))
    assert found(engine) == []


def test_nothing_is_missing_of_an_epoch_that_is_complete(engine: Engine) -> None:
    arrive(engine, range(1, 51))
    tell(engine, last_seq=50, depth=0)
    assert found(engine) == [] and look(engine, 0) == [] and complete_to(engine) == 50


def test_a_gap_is_asked_for_after_the_wait_then_ever_later_then_no_more(engine: Engine) -> None:
    arrive(engine, [1, 2, 5])
    at = {after_s: asked(look(engine, after_s)) for after_s in (0, 50, 101, 150, 502, 550, 2102, 2200, 90_000, 900_000)}
    assert {after_s: ranges for after_s, ranges in at.items() if ranges} == {
        101: [(3, 4)],
        502: [(3, 4)],
        2102: [(3, 4)],
    }
    assert complete_to(engine) == 2


def test_a_gap_that_closes_is_not_asked_for(engine: Engine) -> None:
    arrive(engine, [1, 5, 9])
    look(engine, 0)
    arrive(engine, [2, 3, 4])
    assert asked(look(engine, 101)) == [(6, 8)]
    arrive(engine, [6, 7, 8])
    assert look(engine, 1000) == [] and found(engine) == []
    with transaction(engine, reads=True) as connection:
        assert connection.execute(select(tables.gap)).all() == []


def test_one_of_many_ingesters_asks(engine: Engine) -> None:
    arrive(engine, range(2, 40, 2))
    look(engine, 0)

    def one(_: int) -> list[Request]:
        while True:
            try:
                return look(engine, 101)
            except DatabaseGone:
                continue

    with ThreadPoolExecutor(4) as pool:
        answers = [bounds for requests in pool.map(one, range(8)) for bounds in asked(requests)]
    assert sorted(answers) == [(seq, seq) for seq in range(1, 39, 2)]


def test_what_the_device_no_longer_has_is_gone_and_not_asked_for(engine: Engine) -> None:
    arrive(engine, [1, 10, 20])
    look(engine, 0)
    say_gone(engine, (2, 5), (8, 9), (11, 19))
    assert found(engine) == [(2, 5, "gone"), (8, 9, "gone"), (11, 19, "gone"), (6, 7, "missing")]
    look(engine, 50)  # the smaller gap is a new one
    assert asked(look(engine, 151)) == [(6, 7)]
    say_gone(engine, (6, 7))
    assert look(engine, 10_000) == [] and complete_to(engine) == 20


def test_a_refused_report_that_lies_in_quarantine_is_no_gap(engine: Engine) -> None:
    broken = report(2).numbered(EPOCH, 2).to_bytes().replace(b'"NG"', b'"XX"')
    keep(engine, [read(TOPICS.defect, broken)], NOW)
    arrive(engine, [1, 3])
    assert found(engine) == []


def test_a_number_in_a_refused_report_does_not_make_a_gap_and_what_is_to_come_is_not_gone(engine: Engine) -> None:
    broken = report(900_001).numbered(EPOCH, 900_001).to_bytes().replace(b'"NG"', b'"XX"')
    keep(engine, [read(TOPICS.defect, broken)], NOW)
    arrive(engine, [1, 2, 3])
    tell(engine, last_seq=3, depth=0)
    assert found(engine) == []
    note(
        engine,
        [understand(TOPICS.gone, Gone(device=DEVICE, epoch=EPOCH, last_seq=3, ranges=((4, 900_000),)).to_bytes())],
        NOW,
    )
    arrive(engine, [6])
    assert found(engine) == [(4, 5, "missing")]


def test_thousands_of_holes_are_told_a_thousand_at_a_time(engine: Engine) -> None:
    arrive(engine, range(2, 5002, 2))
    requests = [look(engine, 0), look(engine, 101)]
    assert len(asked(requests[1])) == 1000 and complete_to(engine) == 0
    say_gone(engine, *[(seq, seq) for seq in range(1, 2000, 2)])
    look(engine, 102)
    assert complete_to(engine) >= 1998 and len(found(engine)) == 2000


def test_a_request_by_hand_needs_an_epoch_that_is_known(engine: Engine) -> None:
    arrive(engine, [1])
    request = request_by_hand(engine, DEVICE, EPOCH, 5, 9)
    assert request.topics == TOPICS and request.message.ranges == ((5, 9),)
    with pytest.raises(NotFound, match="has no epoch"):
        request_by_hand(engine, DEVICE, "000000000001-00000000000000ab", 1, 2)
    with pytest.raises(NotFound, match="nothing has arrived"):
        request_by_hand(engine, "edge-9", EPOCH, 1, 2)


def test_the_newest_state_and_vitals_are_kept(engine: Engine) -> None:
    first, last = state(), state().gone("stopped", NOW)
    note(engine, [Statement(TOPICS, first), Statement(TOPICS, last)], NOW)
    tell(engine, last_seq=3, depth=3)
    with transaction(engine, reads=True) as connection:
        row = connection.execute(select(tables.device)).one()
    assert DeviceState.from_bytes(row.state) == last and Vitals.from_bytes(row.vitals).device == DEVICE
    assert found(engine) == [(1, 3, "waiting")]


def test_nobody_speaks_for_another_device() -> None:
    with pytest.raises(BadMessage, match="on a topic of edge-2"):
        understand("inspect/v1/plant/press-4/edge-2/state", state().to_bytes())
    for topic in (TOPICS.state, TOPICS.vitals, TOPICS.gone, "inspect/v1/a b/c/d/state"):
        with pytest.raises(BadMessage):
            understand(topic, b"\x00nonsense")


@pytest.mark.parametrize(
    ("seqs", "ranges"), [([], []), ([4], [(4, 4)]), ([1, 2, 3, 7, 9, 10], [(1, 3), (7, 7), (9, 10)])]
)
def test_seqs_become_as_few_ranges_as_they_can(seqs: list[int], ranges: list[tuple[int, int]]) -> None:
    assert as_ranges(seqs) == ranges
