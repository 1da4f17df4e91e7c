"""The tables of the plant's database, the same on SQLite and PostgreSQL.

    report      one row a report; (device, epoch, seq) is unique and a row is never changed
    picture     the report's picture, when it came with one; may be added by a repeat, never replaced
    quarantine  what could not be taken as a report: bytes, reason, times; the same bytes are one row
    epoch       how far the reports of one life of a device's outbox are known (`intake.gaps`)
    gone        ranges that the device said it no longer has
    gap         what is missing now and when it is asked for again
    device      the newest state and vitals of each device

Whoever changes a table here adds a migration beside it; a test compares both.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

metadata = MetaData()
Number = BigInteger().with_variant(Integer, "sqlite")
"""A row's number: only as INTEGER does SQLite count it up by itself."""


class Utc(TypeDecorator[datetime]):
    """Aware UTC datetimes in and out; SQLite keeps them without a zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        moment = value.astimezone(timezone.utc)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        found: datetime = value
        return found.replace(tzinfo=timezone.utc) if found.tzinfo is None else found.astimezone(timezone.utc)


report = Table(
    "report",
    metadata,
    Column("id", Number, primary_key=True, autoincrement=True),
    Column("device", String(40), nullable=False),
    Column("epoch", String(29), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("site", String(40), nullable=False),
    Column("line", String(40), nullable=False),
    Column("camera", String(40), nullable=False),
    Column("verdict", String(7), nullable=False),
    Column("reason", String(40), nullable=False),
    Column("part", BigInteger, nullable=False),
    Column("verdict_utc", Utc, nullable=False),
    Column("received_utc", Utc, nullable=False),
    Column("payload", LargeBinary, nullable=False),  # the message, its picture left out
    UniqueConstraint("device", "epoch", "seq", name="report_once"),
)

picture = Table(
    "picture",
    metadata,
    Column("report_id", Number, ForeignKey("report.id", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    Column("jpeg", LargeBinary, nullable=False),
)

quarantine = Table(
    "quarantine",
    metadata,
    Column("id", Number, primary_key=True, autoincrement=True),
    Column("digest", String(64), nullable=False, unique=True),  # SHA-256 of topic and payload
    Column("topic", Text, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("reason", String(40), nullable=False),
    Column("detail", Text, nullable=False),
    Column("device", String(40)),  # the id that it claims, if that could be read
    Column("epoch", String(29)),
    Column("seq", BigInteger),
    Column("acked", Boolean, nullable=False),
    Column("times", BigInteger, nullable=False),
    Column("first_utc", Utc, nullable=False),
    Column("last_utc", Utc, nullable=False),
    Index("quarantine_claim", "device", "epoch", "seq"),
)

epoch = Table(
    "epoch",
    metadata,
    Column("device", String(40), primary_key=True),
    Column("epoch", String(29), primary_key=True),
    Column("site", String(40), nullable=False),
    Column("line", String(40), nullable=False),
    Column("max_seq", BigInteger, nullable=False),  # highest that arrived
    Column("complete_to", BigInteger, nullable=False),  # all up to here are accounted for
    Column("told_seq", BigInteger, nullable=False),  # highest that the device says it gave
    Column("told_depth", BigInteger, nullable=False),  # how many of them it still holds for us
    Column("repeats", BigInteger, nullable=False),  # arrivals beyond the first
    Column("first_utc", Utc, nullable=False),
    Column("last_utc", Utc, nullable=False),
)

gone = Table(
    "gone",
    metadata,
    Column("device", String(40), primary_key=True),
    Column("epoch", String(29), primary_key=True),
    Column("first", BigInteger, primary_key=True),
    Column("last", BigInteger, primary_key=True),
    Column("said_utc", Utc, nullable=False),
)

gap = Table(
    "gap",
    metadata,
    Column("device", String(40), primary_key=True),
    Column("epoch", String(29), primary_key=True),
    Column("first", BigInteger, primary_key=True),
    Column("last", BigInteger, primary_key=True),
    Column("seen_utc", Utc, nullable=False),
    Column("asked", Integer, nullable=False),
    Column("next_utc", Utc, nullable=False),
)

device = Table(
    "device",
    metadata,
    Column("device", String(40), primary_key=True),
    Column("site", String(40), nullable=False),
    Column("line", String(40), nullable=False),
    Column("state", LargeBinary),
    Column("state_utc", Utc),
    Column("vitals", LargeBinary),
    Column("vitals_utc", Utc),
)
