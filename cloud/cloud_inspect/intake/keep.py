"""One batch of messages into the database, in one transaction, and what may be acknowledged because of it.

1. What `keep` returns in `acks` is committed: every id in it lies in `report` or, with its reason, in `quarantine`.
2. A report is inserted once. The same again changes nothing but a count (and brings a picture that was missing);
   another content under the same id is set aside as `conflict`, what was there stays.
3. A row that the database refuses for itself is set aside as `refused`; its neighbours are not held up by it.
4. Any number of ingesters may do this at once on the same reports: rows are touched in the order of their ids.
5. Of one device no more is set aside than `quota` allows; what is refused is not acknowledged, nor is another message
   of the same batch with its number: an acknowledgement names the number, not the content.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, Engine, and_, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from cloud_inspect.db import tables
from cloud_inspect.db.engine import transaction
from cloud_inspect.intake.quota import Quarantine
from cloud_inspect.intake.reading import Reading
from edge_wire.messages import ReportId
from edge_wire.topics import Topics

NO_MORE_THAN = Quarantine()


@dataclass(slots=True)
class Outcome:
    """What became of a batch."""

    new: int = 0
    repeats: int = 0
    set_aside: list[Reading] = field(default_factory=list)
    """Those that were not in quarantine before."""
    refused: list[Reading] = field(default_factory=list)
    """Those for which there was no room in quarantine: they are kept nowhere."""
    acks: dict[Topics, dict[str, set[int]]] = field(default_factory=dict)
    """Topics -> epoch -> seqs that are committed."""


def insert(connection: Connection, table: Any) -> Any:
    """An INSERT that knows ON CONFLICT, of the dialect at hand."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def keep(engine: Engine, readings: Sequence[Reading], now: datetime, quota: Quarantine = NO_MORE_THAN) -> Outcome:
    """Commit the batch. Raises DatabaseGone: then nothing of it may be acknowledged."""
    try:
        return _keep_together(engine, readings, now, quota)
    except (SQLAlchemyError, ValueError, OverflowError):
        # Some row cannot be stored, whatever the reason: each on its own shows which. DatabaseGone is none of these.
        total = Outcome()
        for reading in readings:
            _add(total, _keep_alone(engine, reading, now, quota))
        return total


def _keep_alone(engine: Engine, reading: Reading, now: datetime, quota: Quarantine) -> Outcome:
    try:
        return _keep_together(engine, [reading], now, quota)
    except (SQLAlchemyError, ValueError, OverflowError) as err:
        why = " ".join(str(getattr(err, "orig", None) or err).split())
        return _keep_together(engine, [reading.set_aside("refused", why)], now, quota)


def _keep_together(engine: Engine, readings: Sequence[Reading], now: datetime, quota: Quarantine) -> Outcome:
    outcome = Outcome()
    first: dict[ReportId, Reading] = {}
    rest: list[Reading] = []  # the same id twice in one batch: the second is compared with what the first stored
    aside: list[Reading] = []
    for reading in readings:
        if reading.report is None:
            aside.append(reading)
        elif reading.report.id in first:
            rest.append(reading)
        else:
            first[reading.report.id] = reading
    with transaction(engine) as connection:
        taken = [first[key] for key in sorted(first)]
        fresh = _insert_reports(connection, taken, now)
        outcome.new = len(fresh)
        again = [reading for reading in taken if reading.claim not in fresh] + rest
        conflicts = _compare(connection, again)
        aside += conflicts
        outcome.repeats = len(again) - len(conflicts)
        aside, outcome.refused = quota.choose(connection, aside)
        outcome.set_aside = _quarantine(connection, aside, now)
        _count(connection, taken + rest + aside, again, now)
    nowhere = {reading.claim for reading in outcome.refused}
    for reading in readings:
        if reading.claim is not None and reading.claim not in nowhere and reading.topics is not None:
            outcome.acks.setdefault(reading.topics, {}).setdefault(reading.claim.epoch, set()).add(reading.claim.seq)
    return outcome


def _insert_reports(connection: Connection, readings: Sequence[Reading], now: datetime) -> set[ReportId]:
    """Insert those that are new; their ids."""
    rows, pictures = [], {}
    for reading in readings:
        report = reading.report
        assert report is not None
        payload, jpeg = report.split()
        if jpeg is not None:
            pictures[report.id] = jpeg
        rows.append(
            {
                "device": report.device,
                "epoch": report.epoch,
                "seq": report.seq,
                "site": report.site,
                "line": report.line,
                "camera": report.camera,
                "verdict": report.verdict.value,
                "reason": report.reason,
                "part": report.part.number,
                "verdict_utc": report.verdict_utc,
                "received_utc": now,
                "payload": payload,
            }
        )
    if not rows:
        return set()
    table = tables.report
    statement = insert(connection, table).on_conflict_do_nothing(index_elements=["device", "epoch", "seq"])
    found = connection.execute(statement.returning(table.c.id, table.c.device, table.c.epoch, table.c.seq), rows)
    fresh = {ReportId(device, epoch, seq): number for number, device, epoch, seq in found}
    new_pictures = [{"report_id": fresh[key], "jpeg": jpeg} for key, jpeg in pictures.items() if key in fresh]
    if new_pictures:
        connection.execute(tables.picture.insert(), new_pictures)
    return set(fresh)


def _compare(connection: Connection, again: Sequence[Reading]) -> list[Reading]:
    """Which of these are not what lies in the database under their id; a missing picture is added."""
    if not again:
        return []
    table = tables.report
    ids = sorted({reading.claim for reading in again if reading.claim is not None})
    has_picture = select(tables.picture.c.report_id).where(tables.picture.c.report_id == table.c.id).exists()
    query = select(table.c.id, table.c.device, table.c.epoch, table.c.seq, table.c.payload, has_picture).where(
        tuple_(table.c.device, table.c.epoch, table.c.seq).in_([tuple(key) for key in ids])
    )
    stored = {
        ReportId(device, epoch, seq): (number, payload, pictured)
        for number, device, epoch, seq, payload, pictured in connection.execute(query)
    }
    conflicts = []
    for reading in again:
        assert reading.report is not None
        number, before, pictured = stored[reading.report.id]
        payload, jpeg = reading.report.split()
        if bytes(before) != payload:
            conflicts.append(reading.set_aside("conflict", "another report has this id already"))
        elif jpeg is not None and not pictured:
            row = {"report_id": number, "jpeg": jpeg}
            connection.execute(insert(connection, tables.picture).on_conflict_do_nothing(), row)
    return conflicts


def _quarantine(connection: Connection, readings: Iterable[Reading], now: datetime) -> list[Reading]:
    """Set aside what cannot be taken; those that were not there before."""
    table = tables.quarantine
    fresh = []
    for digest, reading in sorted({reading.digest: reading for reading in readings}.items()):
        claim = reading.claim
        row = {
            "digest": digest,
            "topic": reading.topic.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0"),
            "payload": reading.payload,
            "size_bytes": reading.size_bytes,
            "reason": reading.reason,
            "detail": reading.detail.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0"),
            "device": reading.topics.device if reading.topics is not None else None,
            "epoch": claim.epoch if claim is not None else None,
            "seq": claim.seq if claim is not None else None,
            "acked": claim is not None,
            "times": 1,
            "first_utc": now,
            "last_utc": now,
        }
        again = {"times": table.c.times + 1, "last_utc": now}
        statement = insert(connection, table).on_conflict_do_update(index_elements=["digest"], set_=again)
        if connection.execute(statement.returning(table.c.times), row).scalar_one() == 1:
            fresh.append(reading)
    return fresh


def _count(connection: Connection, all_: Sequence[Reading], again: Iterable[Reading], now: datetime) -> None:
    """How far each epoch has come; reports beyond the first arrival.

    A number in a report that was refused is no proof that the device has come so far.
    """
    refused = {reading.claim for reading in all_ if reading.reason} - {
        reading.claim for reading in all_ if not reading.reason
    }
    claimed = [(reading.claim, reading.topics) for reading in all_ if reading.claim and reading.topics]
    repeated = [reading.claim for reading in again if reading.claim]
    claimed.sort(key=lambda pair: pair[0])
    for (device, epoch), of_epoch in groupby(claimed, key=lambda pair: pair[0][:2]):
        pairs = list(of_epoch)
        topics = pairs[-1][1]
        repeats = sum(claim.device == device and claim.epoch == epoch for claim in repeated)
        arrived = max((claim.seq for claim, _ in pairs if claim not in refused), default=0)
        note_epoch(connection, topics, epoch, now, max_seq=arrived, repeats=repeats)


def note_epoch(
    connection: Connection,
    topics: Topics,
    epoch: str,
    now: datetime,
    *,
    max_seq: int = 0,
    repeats: int = 0,
    told: tuple[int, int] | None = None,
) -> None:
    """Remember how far an epoch has come; `told`: last seq and depth, as its device says."""
    table = tables.epoch
    row: dict[str, Any] = {"device": topics.device, "epoch": epoch, "site": topics.site, "line": topics.line}
    row |= {"max_seq": max_seq, "complete_to": 0, "repeats": repeats, "first_utc": now, "last_utc": now}
    row |= {"told_seq": told[0] if told else 0, "told_depth": told[1] if told else 0}
    changed: dict[str, Any] = {"site": topics.site, "line": topics.line, "last_utc": now}
    changed |= {"repeats": table.c.repeats + repeats}
    if told is not None:
        changed |= {"told_seq": told[0], "told_depth": told[1]}
    key = and_(table.c.device == topics.device, table.c.epoch == epoch)
    statement = insert(connection, table).on_conflict_do_update(index_elements=["device", "epoch"], set_=changed)
    connection.execute(statement, row)
    connection.execute(update(table).where(key, table.c.max_seq < max_seq).values(max_seq=max_seq))


def _add(total: Outcome, part: Outcome) -> None:
    total.new += part.new
    total.repeats += part.repeats
    total.set_aside += part.set_aside
    total.refused += part.refused
    for topics, epochs in part.acks.items():
        for epoch, seqs in epochs.items():
            total.acks.setdefault(topics, {}).setdefault(epoch, set()).update(seqs)
