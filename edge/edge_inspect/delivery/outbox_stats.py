"""What lies in an outbox, counted from inside the daemon or, read-only, from outside."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from edge_inspect.delivery import outbox_reserve
from edge_inspect.delivery.outbox_file import ACKED, PENDING, SENT, read_only
from edge_inspect.errors import Refusal, StorageFailing


@dataclass(frozen=True, slots=True)
class Stats:
    epoch: str | None
    last_seq: int
    depth: int
    """Reports that are not acked."""
    oldest_age_s: float
    size_bytes: int
    pending: int
    sent: int
    acked: int
    pictures_shed: int
    """Since this epoch began."""
    reserve_bytes: int
    """Room held for reports on a full disk; 0 while the disk is full or too small for it."""


def read_only_stats(path: Path, utc_ns: int) -> Stats:
    """Look into an outbox from outside while its daemon runs, or not. Raises Refusal, StorageFailing."""
    if not path.is_file():
        raise Refusal(f"{path}: there is no outbox")
    try:
        with closing(read_only(path)) as db:
            return read_stats(db, utc_ns)
    except (sqlite3.Error, OSError) as err:
        raise StorageFailing(f"{path}: {err}") from err


def read_stats(db: sqlite3.Connection, utc_ns: int) -> Stats:
    """Count what lies in an outbox; any connection to it will do."""
    epoch = db.execute("SELECT name, last_seq, pictures_shed FROM epoch ORDER BY number DESC LIMIT 1").fetchone()
    waiting = dict(db.execute(f"SELECT state, count(*) FROM report WHERE state < {ACKED} GROUP BY state").fetchall())
    (acked,) = db.execute(f"SELECT count(*) FROM report WHERE state = {ACKED}").fetchone()
    oldest = db.execute(f"SELECT put_ns FROM report WHERE state < {ACKED} ORDER BY row LIMIT 1").fetchone()
    name, last_seq, pictures_shed = epoch or (None, 0, 0)
    return Stats(
        epoch=name,
        last_seq=last_seq,
        depth=sum(waiting.values()),
        oldest_age_s=max(0, utc_ns - oldest[0]) / 1e9 if oldest else 0.0,
        size_bytes=used_bytes(db),
        pending=waiting.get(PENDING, 0),
        sent=waiting.get(SENT, 0),
        acked=acked,
        pictures_shed=pictures_shed,
        reserve_bytes=outbox_reserve.held_bytes(db),
    )


def used_bytes(db: sqlite3.Connection) -> int:
    """What reports take: pages that hold something, without the reserve. The file itself does not shrink."""
    names = ("page_count", "freelist_count", "page_size")
    pages, free, size = (int(db.execute(f"PRAGMA {name}").fetchone()[0]) for name in names)
    return (pages - free) * size - outbox_reserve.held_bytes(db)
