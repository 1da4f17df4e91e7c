"""What devices say about themselves: the newest state and vitals of each, and which reports they no longer have.

1. The message on a device's topic must name that device; anything else, and what the schema refuses, is counted by the
   caller and forgotten: the next one comes by itself.
2. A device that says it is online, or was when the ingester came, is reminded of what it has delivered lately: the
   acknowledgements may have been lost with a broker's memory. That is one row of numbers, not the reports again. Not
   where a number may stand for two reports: then each is acknowledged only as it comes.
3. Vitals carry the last seq the device gave and how many it still holds: that makes a missing tail visible.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, and_, select

from cloud_inspect.db import tables
from cloud_inspect.db.engine import transaction
from cloud_inspect.intake.keep import NO_MORE_THAN, insert, note_epoch
from cloud_inspect.intake.quota import Quarantine
from edge_wire.messages import BadMessage, DeviceState, Gone, Vitals
from edge_wire.topics import Topics

REMIND = 1000
"""A device never waits for the acknowledgement of more than 60; a backlog that drains lies behind newer reports."""
Said = DeviceState | Vitals | Gone
KINDS: dict[str, type[DeviceState] | type[Vitals] | type[Gone]] = {
    "state": DeviceState, "vitals": Vitals, "gone": Gone,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Statement:
    """What a device said, and on which topics."""

    topics: Topics
    said: Said


def understand(topic: str, payload: bytes) -> Statement:
    """Raises BadMessage, one line."""
    try:
        topics, leaf = Topics.parse(topic)
    except ValueError as err:
        raise BadMessage(str(err)) from err
    said = KINDS[leaf].from_bytes(payload)
    if said.device != topics.device:
        raise BadMessage(f"{said.kind}: of device {said.device} on a topic of {topics.device}")
    return Statement(topics, said)


def note(engine: Engine, statements: Sequence[Statement], now: datetime) -> None:
    """Remember the newest of each kind and device; the order is that of arrival. Raises DatabaseGone."""
    newest = {(statement.topics.device, type(statement.said)): statement for statement in statements}
    answers = [statement for statement in statements if isinstance(statement.said, Gone)]
    with transaction(engine) as connection:
        for _, statement in sorted(newest.items(), key=lambda item: (item[0][0], item[0][1].kind)):
            said, topics = statement.said, statement.topics
            if isinstance(said, DeviceState):
                _upsert(connection, topics, {"state": said.to_bytes(), "state_utc": now})
            elif isinstance(said, Vitals):
                _upsert(connection, topics, {"vitals": said.to_bytes(), "vitals_utc": now})
                if said.outbox is not None and said.outbox.epoch is not None and said.outbox.last_seq:
                    told = said.outbox.last_seq, said.outbox.depth
                    note_epoch(connection, topics, said.outbox.epoch, now, told=told)
        for statement in answers:
            assert isinstance(statement.said, Gone)
            _note_gone(connection, statement.said, now)


def reminders(
    engine: Engine, statements: Sequence[Statement], quota: Quarantine = NO_MORE_THAN
) -> list[tuple[Topics, str, list[int]]]:
    """(device's topics, epoch, seqs that are in the database), the newest REMIND of each device that says it is online.

    Raises DatabaseGone.
    """
    online = {
        said.topics: said.said.epoch
        for said in statements
        if isinstance(said.said, DeviceState) and said.said.status == "online" and said.said.epoch is not None
    }
    if not online:
        return []
    seq, found = tables.report.c.seq, []
    with transaction(engine) as connection:
        for topics, epoch in online.items():
            if quota.may_have_refused(connection, topics.device, epoch):
                continue
            of_epoch = and_(tables.report.c.device == topics.device, tables.report.c.epoch == epoch)
            query = select(seq).where(of_epoch).order_by(seq.desc()).limit(REMIND)
            if seqs := sorted(connection.execute(query).scalars()):
                found.append((topics, epoch, seqs))
    return found


def _upsert(connection: Connection, topics: Topics, values: dict[str, Any]) -> None:
    row = {"device": topics.device, "site": topics.site, "line": topics.line} | values
    statement = insert(connection, tables.device).on_conflict_do_update(
        index_elements=["device"], set_={key: row[key] for key in row if key != "device"}
    )
    connection.execute(statement, row)


def _note_gone(connection: Connection, gone: Gone, now: datetime) -> None:
    known = select(tables.epoch.c.epoch).where(tables.epoch.c.device == gone.device, tables.epoch.c.epoch == gone.epoch)
    if connection.execute(known).first() is None:
        return  # nobody can have asked for it
    for first, last in sorted(set(gone.ranges)):
        if gone.last_seq is not None:  # above it nothing was ever given: it is to come, not gone
            last = min(last, gone.last_seq)  # noqa: PLW2901
        if first > last:
            continue
        row = {"device": gone.device, "epoch": gone.epoch, "first": first, "last": last, "said_utc": now}
        connection.execute(insert(connection, tables.gone).on_conflict_do_nothing(), row)
