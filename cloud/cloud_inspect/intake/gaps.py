"""Which reports are missing, and when their device is asked for them again.

1. A seq is accounted for when its report is in the database, when it lies acknowledged in quarantine, or when its
   device has said that it no longer has it. Everything else up to the highest seq that arrived or that the device told
   of is a gap: `waiting` while the device says it still holds that many for us, else `missing`.
2. A gap that stays for `wait_s` is asked for, at most `tries` times, each time after four times as long. Any number of
   ingesters watch: each request is made by one of them.
3. Looking costs what has changed: up to `complete_to` an epoch is never looked at again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import Connection, Engine, Row, and_, delete, func, literal, or_, select, union, update

from cloud_inspect.db import tables
from cloud_inspect.db.engine import transaction
from cloud_inspect.errors import NotFound
from cloud_inspect.intake.keep import insert
from edge_wire.messages import Resync
from edge_wire.topics import Topics

MAX_GAPS = 1000
"""Of one epoch, the oldest first; what a Resync may name at once."""
Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Gap:
    """Reports first to last, both included, of one epoch."""

    topics: Topics
    epoch: str
    first: int
    last: int
    kind: Literal["missing", "waiting", "gone"]

    @property
    def reports(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class Request:
    """Ask this device for these ranges."""

    topics: Topics
    message: Resync


def list_gaps(engine: Engine, device: str | None = None) -> list[Gap]:
    """Every gap now, and what is gone for good; oldest first within each epoch. Raises DatabaseGone."""
    table = tables.epoch
    query = select(table).order_by(table.c.device, table.c.first_utc)
    if device is not None:
        query = query.where(table.c.device == device)
    found = []
    with transaction(engine, reads=True) as connection:
        for row in connection.execute(query):
            topics = Topics(row.site, row.line, row.device)
            found += [Gap(topics, row.epoch, *bounds, "gone") for bounds in _gone(connection, row, 0)]
            found += _gaps_of(connection, row)[0]
    return found


def watch(engine: Engine, now: datetime, *, wait_s: float, tries: int) -> list[Request]:
    """Bring the table `gap` up to date; what is to be asked for now. Raises DatabaseGone."""
    table = tables.epoch
    behind = or_(table.c.complete_to < table.c.max_seq, table.c.complete_to < table.c.told_seq)
    requests = []
    with transaction(engine) as connection:
        for row in connection.execute(select(table).where(behind).order_by(table.c.device, table.c.epoch)).all():
            gaps, complete_to = _gaps_of(connection, row)
            if complete_to > row.complete_to:
                key = and_(table.c.device == row.device, table.c.epoch == row.epoch, table.c.complete_to < complete_to)
                connection.execute(update(table).where(key).values(complete_to=complete_to))
            missing = [gap for gap in gaps if gap.kind == "missing"]
            due = _due(connection, row, missing, now, wait_s=wait_s, tries=tries)
            if due:
                message = Resync(device=row.device, epoch=row.epoch, ranges=tuple(due))
                requests.append(Request(Topics(row.site, row.line, row.device), message))
        _forget_closed(connection)
    return requests


def request_by_hand(engine: Engine, device: str, epoch: str, first: int, last: int) -> Request:
    """Where and what to ask. Raises NotFound for an epoch nobody has heard of, DatabaseGone."""
    table = tables.epoch
    with transaction(engine, reads=True) as connection:
        rows = connection.execute(select(table).where(table.c.device == device).order_by(table.c.first_utc)).all()
    for row in rows:
        if row.epoch == epoch:
            message = Resync(device=device, epoch=epoch, ranges=((first, last),))
            return Request(Topics(row.site, row.line, device), message)
    if not rows:
        raise NotFound(f"device {device}: nothing has arrived from it; see `cloud-inspect reports list`")
    raise NotFound(f"device {device} has no epoch {epoch}; there are {', '.join(row.epoch for row in rows[-5:])}")


def _gaps_of(connection: Connection, row: Row[tuple[object, ...]]) -> tuple[list[Gap], int]:
    """What is not accounted for in one epoch, and up to where everything is."""
    low = row.complete_to
    top = max(row.max_seq, row.told_seq)
    holes, last_known = _holes(connection, row)
    if len(holes) == MAX_GAPS:
        top = holes[-1][1]  # there may be more above: next time
    elif last_known < top:
        holes.append((last_known + 1, top))
    open_ranges = _without(holes, _gone(connection, row, low))
    complete_to = open_ranges[0][0] - 1 if open_ranges else max(top, low)
    # A device that has a backlog sends what is new before it: holes are normal as long as it says it holds as many.
    held = row.told_depth >= sum(last - first + 1 for first, last in open_ranges)
    gaps = []
    for first, last in open_ranges[:MAX_GAPS]:
        topics = Topics(row.site, row.line, row.device)
        gaps.append(Gap(topics, row.epoch, first, last, "waiting" if held else "missing"))
    return gaps, complete_to


def _holes(connection: Connection, row: Row[tuple[object, ...]]) -> tuple[list[Range], int]:
    """Holes between what is stored above `complete_to`, and the highest seq that is stored."""
    report, quarantine = tables.report, tables.quarantine
    known = union(
        select(report.c.seq).where(
            report.c.device == row.device, report.c.epoch == row.epoch, report.c.seq > row.complete_to
        ),
        select(quarantine.c.seq).where(
            quarantine.c.device == row.device,
            quarantine.c.epoch == row.epoch,
            quarantine.c.seq > row.complete_to,
            quarantine.c.seq <= max(row.max_seq, row.told_seq),
            quarantine.c.acked,
        ),
    ).subquery()
    before = func.lag(known.c.seq, 1, literal(row.complete_to)).over(order_by=known.c.seq).label("before")
    pairs = select(known.c.seq, before).subquery()
    jumps = (
        select(pairs.c.before + 1, pairs.c.seq - 1)
        .where(pairs.c.seq - pairs.c.before > 1)
        .order_by(pairs.c.seq)
        .limit(MAX_GAPS)
    )
    holes = [(int(first), int(last)) for first, last in connection.execute(jumps)]
    highest = connection.execute(select(func.max(known.c.seq))).scalar_one()
    return holes, row.complete_to if highest is None else int(highest)


def _gone(connection: Connection, row: Row[tuple[object, ...]], above: int) -> list[Range]:
    table = tables.gone
    here = and_(table.c.device == row.device, table.c.epoch == row.epoch, table.c.last > above)
    query = select(table.c.first, table.c.last).where(here).order_by(table.c.first)
    return [(first, last) for first, last in connection.execute(query)]


def _without(ranges: Sequence[Range], taken: Sequence[Range]) -> list[Range]:
    """`ranges` less what `taken` covers; both in order."""
    left = []
    for first, last in ranges:
        start = first
        for taken_first, taken_last in taken:
            if taken_last < start or taken_first > last:
                continue
            if taken_first > start:
                left.append((start, taken_first - 1))
            start = taken_last + 1
        if start <= last:
            left.append((start, last))
    return left


def _due(
    connection: Connection,
    row: Row[tuple[object, ...]],
    missing: Sequence[Gap],
    now: datetime,
    *,
    wait_s: float,
    tries: int,
) -> list[Range]:
    """Write down this epoch's gaps; those to be asked for now, and by us."""
    table = tables.gap
    of_epoch = and_(table.c.device == row.device, table.c.epoch == row.epoch)
    stored = {(known.first, known.last): known for known in connection.execute(select(table).where(of_epoch)).all()}
    wanted = {(gap.first, gap.last) for gap in missing}
    for first, last in stored.keys() - wanted:
        connection.execute(delete(table).where(of_epoch, table.c.first == first, table.c.last == last))
    due = []
    for first, last in sorted(wanted):
        known = stored.get((first, last))
        if known is None:
            fresh = {"device": row.device, "epoch": row.epoch, "first": first, "last": last, "seen_utc": now}
            fresh |= {"asked": 0, "next_utc": now + timedelta(seconds=wait_s)}
            connection.execute(insert(connection, table).on_conflict_do_nothing(), fresh)
        elif known.asked < tries and known.next_utc <= now:
            later = now + timedelta(seconds=min(wait_s * 4 ** (known.asked + 1), 86_400.0))
            here = and_(of_epoch, table.c.first == first, table.c.last == last, table.c.asked == known.asked)
            if connection.execute(update(table).where(here).values(asked=known.asked + 1, next_utc=later)).rowcount:
                due.append((first, last))
    return due


def _forget_closed(connection: Connection) -> None:
    """Epochs in which everything is accounted for have no gaps any more."""
    gap, epoch = tables.gap, tables.epoch
    complete = and_(epoch.c.complete_to >= epoch.c.max_seq, epoch.c.complete_to >= epoch.c.told_seq)
    same = and_(epoch.c.device == gap.c.device, epoch.c.epoch == gap.c.epoch)
    connection.execute(delete(gap).where(select(epoch.c.epoch).where(same, complete).exists()))
