"""What an outbox's file and the messages on their way say, read without the product: for the state machine.

Files are read by a connection of their own that changes nothing, payloads as plain JSON, and ranges are reckoned with
here a second time. `ledger` does the same for files that nobody has open any more, with the `sqlite3` command.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path

from tests.campaign.ledger import Found, Id

Range = tuple[int, int]
"""First and last, both included."""
ROWS = "SELECT r.payload, e.name, r.seq, r.state FROM report r JOIN epoch e ON e.number = r.epoch ORDER BY r.row"


class Oracle:
    """Reads with the `connect` it was given: nobody stands between it and the file."""

    def __init__(self, connect: Callable[..., sqlite3.Connection]) -> None:
        self._connect = connect

    def rows(self, path: Path) -> list[Found]:
        """Every report that is committed in the file, in sending order; it may be in use."""
        with closing(self._connect(f"file:{path}?mode=ro", uri=True, timeout=20.0)) as file:
            found = file.execute(ROWS).fetchall()
        rows = [Found(told_by(payload)[1], epoch, seq, state) for payload, epoch, seq, state in found]
        assert all(told_by(entry[0])[0] == (row.epoch, row.seq) for entry, row in zip(found, rows, strict=True))
        return rows


def told_by(payload: bytes) -> tuple[Id, int]:
    """The number and the part of a report on its way."""
    document = json.loads(payload)
    return (document["epoch"], document["seq"]), document["part"]["number"]


def runs(seqs: Iterable[int]) -> list[Range]:
    """[7, 1, 2, 3] -> [(1, 3), (7, 7)]."""
    return joined([(seq, seq) for seq in set(seqs)])


def joined(ranges: Iterable[Range]) -> list[Range]:
    """The same numbers in as few ranges as can be, in order."""
    whole: list[Range] = []
    for first, last in sorted(ranges):
        if whole and first <= whole[-1][1] + 1:
            whole[-1] = (whole[-1][0], max(last, whole[-1][1]))
        else:
            whole.append((first, last))
    return whole


def without(wanted: Range, taken: Iterable[int]) -> list[Range]:
    """What is left of `wanted`."""
    edges = [wanted[0] - 1, *sorted(seq for seq in set(taken) if within(seq, [wanted])), wanted[1] + 1]
    return [(low + 1, high - 1) for low, high in pairwise(edges) if low + 1 < high]


def within(seq: int, ranges: Iterable[Range]) -> bool:
    return any(first <= seq <= last for first, last in ranges)


def pieces_of(whole: Sequence[Range], pieces: Iterable[Range]) -> list[Range]:
    """Ranges inside those of `whole`, as (which number, how many more of its run) says; they may overlap."""
    places = [(seq, last) for first, last in whole for seq in range(first, last + 1)]
    chosen = [(*places[which % len(places)], more) for which, more in pieces]
    return [(seq, min(seq + more, last)) for seq, last, more in chosen]


def torn(old: bytes, new: bytes, share: float) -> bytes:
    """A file that was being changed from `old` to `new` when the power went: the first `share` of the changes."""
    changed = [at for at in range(min(len(old), len(new))) if old[at] != new[at]] if old != new else []
    end = changed[0] + round((changed[-1] + 1 - changed[0]) * share) if changed else len(new)
    return new[:end] + old[end:]
