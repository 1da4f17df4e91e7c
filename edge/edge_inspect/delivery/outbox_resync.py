"""Reports that the plant asks for again: those that still lie in the outbox wait once more, the rest is named as gone.

1. One call looks at no more than `limit` reports, however large the range is: the caller comes back for the rest.
2. What is on its way (taken by the broker not long ago) is left alone: asking twice sends nothing twice.
3. Nothing is invented: a number above `last_seq` was never given, and an epoch that is not in the file has no numbers.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from edge_inspect.delivery.outbox_file import ACKED, PENDING, SENT


@dataclass(frozen=True, slots=True)
class Again:
    """What became of the numbers from the first one asked for to `upto`."""

    upto: int
    """Beyond it nothing was looked at yet."""
    looked_at: int
    """Reports that were found."""
    reports: int
    """That wait to be sent once more."""
    gone: tuple[tuple[int, int], ...]
    """First and last of each run of numbers that are not in the file."""
    last_seq: int | None
    """The highest number ever given in that epoch; None: the epoch is not known."""

    @property
    def lost(self) -> int:
        """Reports that existed and are not here any more."""
        known = self.last_seq or 0
        return sum(max(0, min(last, known) - first + 1) for first, last in self.gone)


def send_again(
    db: sqlite3.Connection, epoch: str, first: int, last: int, *, limit: int, sent_before_ns: int, now_ns: int
) -> Again:
    """Let the reports of `epoch` from `first` to `last` wait again, within the caller's transaction."""
    known = db.execute("SELECT number, last_seq FROM epoch WHERE name = ?", (epoch,)).fetchone()
    if known is None:
        return Again(last, 0, 0, ((first, last),), None)
    number, last_seq = known
    found = db.execute(
        "SELECT seq, row, state, sent_ns FROM report WHERE epoch = ? AND seq BETWEEN ? AND ? ORDER BY seq LIMIT ?",
        (number, first, last, limit),
    ).fetchall()
    upto = last if len(found) < limit else int(found[-1][0])
    again = [
        row
        for _, row, state, sent_ns in found
        if state == ACKED or (state == SENT and not sent_before_ns < (sent_ns or 0) <= now_ns)
    ]
    db.executemany(f"UPDATE report SET state = {PENDING}, acked_ns = NULL WHERE row = ?", [(row,) for row in again])
    return Again(upto, len(found), len(again), _between([seq for seq, *_ in found], first, upto), last_seq)


def _between(seqs: list[int], first: int, last: int) -> tuple[tuple[int, int], ...]:
    """The runs from `first` to `last` that are not in `seqs`, which is sorted."""
    gaps = []
    for seq in [*seqs, last + 1]:
        if seq > first:
            gaps.append((first, seq - 1))
        first = seq + 1
    return tuple(gaps)
