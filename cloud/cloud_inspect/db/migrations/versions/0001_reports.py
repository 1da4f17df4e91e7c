"""Reports, pictures, quarantine, what is known of each device."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")
UTC = sa.DateTime(timezone=True)


def upgrade() -> None:
    _create_reports()
    _create_quarantine()
    _create_progress()
    op.create_table(
        "device",
        sa.Column("device", sa.String(40), primary_key=True),
        sa.Column("site", sa.String(40), nullable=False),
        sa.Column("line", sa.String(40), nullable=False),
        sa.Column("state", sa.LargeBinary),
        sa.Column("state_utc", UTC),
        sa.Column("vitals", sa.LargeBinary),
        sa.Column("vitals_utc", UTC),
    )


def _create_reports() -> None:
    op.create_table(
        "report",
        sa.Column("id", NUMBER, primary_key=True, autoincrement=True),
        sa.Column("device", sa.String(40), nullable=False),
        sa.Column("epoch", sa.String(29), nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("site", sa.String(40), nullable=False),
        sa.Column("line", sa.String(40), nullable=False),
        sa.Column("camera", sa.String(40), nullable=False),
        sa.Column("verdict", sa.String(7), nullable=False),
        sa.Column("reason", sa.String(40), nullable=False),
        sa.Column("part", sa.BigInteger, nullable=False),
        sa.Column("verdict_utc", UTC, nullable=False),
        sa.Column("received_utc", UTC, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.UniqueConstraint("device", "epoch", "seq", name="report_once"),
    )
    op.create_table(
        "picture",
        sa.Column(
            "report_id",
            NUMBER,
            sa.ForeignKey("report.id", ondelete="CASCADE"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("jpeg", sa.LargeBinary, nullable=False),
    )


def _create_quarantine() -> None:
    op.create_table(
        "quarantine",
        sa.Column("id", NUMBER, primary_key=True, autoincrement=True),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.String(40), nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("device", sa.String(40)),
        sa.Column("epoch", sa.String(29)),
        sa.Column("seq", sa.BigInteger),
        sa.Column("acked", sa.Boolean, nullable=False),
        sa.Column("times", sa.BigInteger, nullable=False),
        sa.Column("first_utc", UTC, nullable=False),
        sa.Column("last_utc", UTC, nullable=False),
    )
    op.create_index("quarantine_claim", "quarantine", ["device", "epoch", "seq"])


def _create_progress() -> None:
    def of_an_epoch(*columns: str) -> list[sa.Column[int]]:
        return [sa.Column(name, sa.BigInteger, nullable=False) for name in columns]

    op.create_table(
        "epoch",
        sa.Column("device", sa.String(40), primary_key=True),
        sa.Column("epoch", sa.String(29), primary_key=True),
        sa.Column("site", sa.String(40), nullable=False),
        sa.Column("line", sa.String(40), nullable=False),
        *of_an_epoch("max_seq", "complete_to", "told_seq", "told_depth", "repeats"),
        sa.Column("first_utc", UTC, nullable=False),
        sa.Column("last_utc", UTC, nullable=False),
    )
    op.create_table(
        "gone",
        sa.Column("device", sa.String(40), primary_key=True),
        sa.Column("epoch", sa.String(29), primary_key=True),
        sa.Column("first", sa.BigInteger, primary_key=True),
        sa.Column("last", sa.BigInteger, primary_key=True),
        sa.Column("said_utc", UTC, nullable=False),
    )
    op.create_table(
        "gap",
        sa.Column("device", sa.String(40), primary_key=True),
        sa.Column("epoch", sa.String(29), primary_key=True),
        sa.Column("first", sa.BigInteger, primary_key=True),
        sa.Column("last", sa.BigInteger, primary_key=True),
        sa.Column("seen_utc", UTC, nullable=False),
        sa.Column("asked", sa.Integer, nullable=False),
        sa.Column("next_utc", UTC, nullable=False),
    )
