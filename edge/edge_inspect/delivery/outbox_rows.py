"""What is done to the rows of an outbox inside one open transaction; whoever calls begins and ends it.

1. A report under a number that is taken must be the same report, byte for byte; then it is kept once.
2. What is given up goes in this order: pictures of acked reports, acked reports, pictures that wait. A report that
   waits is never touched.
3. Every step touches at most BATCH rows: transactions stay short.
"""

from __future__ import annotations

import sqlite3

from edge_inspect.delivery.outbox_file import ACKED, PENDING, Epoch
from edge_wire.messages import DefectReport

BATCH = 64
"""Rows touched by one step of shedding or pruning."""


def insert(
    db: sqlite3.Connection,
    epoch: Epoch,
    seq: int,
    report: DefectReport,
    *,
    picture: bool,
    limit_bytes: int,
    put_ns: int,
) -> bool:
    """Keep a report as `seq` of the epoch, with its picture or counted without.

    True: its picture was left because together they were larger than `limit_bytes` on the wire.
    """
    payload, jpeg = report.numbered(epoch.name, seq).split()
    too_large = jpeg is not None and len(payload) + len(jpeg) * 4 // 3 + 4 > limit_bytes
    if too_large:
        jpeg = None
    new = db.execute(
        f"INSERT INTO report (epoch, seq, state, put_ns, payload) VALUES (?, ?, {PENDING}, ?, ?) "
        "ON CONFLICT (epoch, seq) DO NOTHING",
        (epoch.number, seq, put_ns, payload),
    )
    if new.rowcount == 0:
        _insist_on_same(db, epoch.number, seq, payload)
    elif jpeg is not None and picture:
        db.execute("INSERT INTO picture (row, jpeg) VALUES (?, ?)", (new.lastrowid, jpeg))
    elif jpeg is not None:
        _count_shed(db, epoch.number, 1)
    return too_large


def _insist_on_same(db: sqlite3.Connection, epoch: int, seq: int, payload: bytes) -> None:
    """A commit that was reported as failed had reached the file after all: this must be the same report again."""
    (stored,) = db.execute("SELECT payload FROM report WHERE epoch = ? AND seq = ?", (epoch, seq)).fetchone()
    if bytes(stored) != payload:
        raise RuntimeError(f"outbox: seq {seq} is another report: they were put again in another order")


def space_for(report: DefectReport, with_picture: bool) -> int:
    """A generous guess of the bytes a report takes in the file."""
    picture = report.thumbnail.jpeg_base64 if report.thumbnail and with_picture else None
    return 4096 + 400 * len(report.defects) + (0 if picture is None else 4096 + len(picture) * 3 // 4)


def give_up_some(db: sqlite3.Connection, epoch: int) -> int:
    """Make some room; how many rows went, 0 when nothing may go any more. Pictures that waited count as shed."""
    acked = f"SELECT p.row FROM picture p JOIN report r ON r.row = p.row WHERE r.state = {ACKED} LIMIT {BATCH}"
    if gone := _shed(db, acked):
        return gone
    if gone := forget(db, f"SELECT row FROM report WHERE state = {ACKED} ORDER BY acked_ns LIMIT {BATCH}"):
        return gone
    gone = _shed(db, f"SELECT row FROM picture ORDER BY row LIMIT {BATCH}")
    _count_shed(db, epoch, gone)
    return gone


def forget(db: sqlite3.Connection, which: str) -> int:
    """Remove the reports whose rows the query `which` finds, with their pictures; how many."""
    rows = db.execute(which).fetchall()
    db.executemany("DELETE FROM picture WHERE row = ?", rows)
    db.executemany("DELETE FROM report WHERE row = ?", rows)
    return len(rows)


def _shed(db: sqlite3.Connection, which: str) -> int:
    return db.execute(f"DELETE FROM picture WHERE row IN ({which})").rowcount


def _count_shed(db: sqlite3.Connection, epoch: int, pictures: int) -> None:
    db.execute("UPDATE epoch SET pictures_shed = pictures_shed + ? WHERE number = ?", (pictures, epoch))
