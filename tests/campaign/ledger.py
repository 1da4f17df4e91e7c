"""What a test saw an outbox promise, and whether a file keeps it: the oracle of the campaigns on storage.

The ledger is a file of its own, on another file system, appended to by the process that puts: a line before each step
(`doing`) and one after (`done`), written by one system call each. The outbox's file is read back with the `sqlite3`
command, never with the daemon's code. A report is known by its part number.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

SQLITE = shutil.which("sqlite3")
ACKED = 2

Id = tuple[str, int]
"""Epoch and seq."""


class Pen:
    """Appends to a ledger; what `write` returned from survives the process."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def doing(self, what: str, parts: Iterable[int]) -> None:
        self._write({"doing": what, "parts": list(parts)})

    def put(self, parts: Iterable[int], ids: Iterable[tuple[str, str, int]]) -> None:
        self._write(
            {"done": "put", "ids": [[part, epoch, seq] for part, (_, epoch, seq) in zip(parts, ids, strict=True)]}
        )

    def acked(self, parts: Iterable[int]) -> None:
        self._write({"done": "ack", "parts": list(parts)})

    def _write(self, line: dict[str, object]) -> None:
        os.write(self._handle, json.dumps(line).encode() + b"\n")


@dataclass
class Ledger:
    put: dict[int, Id] = field(default_factory=dict)
    """Acknowledged to whoever put it."""
    acked: set[int] = field(default_factory=set)
    maybe_acked: set[int] = field(default_factory=set)
    pruning: bool = False
    putting: tuple[int, ...] = ()
    """Parts of the put that had not returned at the end: all of them or none may be there."""

    @classmethod
    def read(cls, path: Path) -> Ledger:
        """A last line that was cut off by a kill is as good as not written."""
        book = cls()
        for text in path.read_text().splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            match line:
                case {"doing": "put", "parts": parts}:
                    book.putting = tuple(parts)
                case {"done": "put", "ids": ids}:
                    book.putting = ()
                    book.put |= {part: (epoch, seq) for part, epoch, seq in ids}
                case {"doing": "ack", "parts": parts}:
                    book.maybe_acked |= set(parts)
                case {"done": "ack", "parts": parts}:
                    book.acked |= set(parts)
                case {"doing": "prune"}:
                    book.pruning = True
        return book


@dataclass(frozen=True)
class Found:
    part: int
    epoch: str
    seq: int
    state: int


def rows(path: Path) -> list[Found]:
    """Every report in the outbox at `path`. Raises AssertionError if SQLite finds the file damaged."""
    query = (
        "SELECT json_extract(CAST(r.payload AS TEXT), '$.part.number'), e.name, r.seq, r.state "
        "FROM report r JOIN epoch e ON e.number = r.epoch ORDER BY r.row"
    )
    assert ask(path, "PRAGMA integrity_check") == ["ok"], "the file is damaged"
    return [Found(int(p), e, int(s), int(st)) for p, e, s, st in (line.split("|") for line in ask(path, query))]


def ask(path: Path, query: str) -> list[str]:
    """The lines that the `sqlite3` command answers."""
    assert SQLITE is not None, "the command sqlite3 is not installed"
    done = subprocess.run([SQLITE, str(path), query], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def broken_promises(book: Ledger, found: list[Found], *, lost: frozenset[int] = frozenset()) -> list[str]:
    """One line for each promise that the file does not keep; `lost` may be missing (damaged on purpose)."""
    there = {row.part: row for row in found}
    wrong = []
    if len(there) != len(found) or len({(row.epoch, row.seq) for row in found}) != len(found):
        wrong.append("a report or a number is there twice")
    for part, number in book.put.items():
        row = there.get(part)
        if row is None:
            if part not in lost and not (book.pruning and part in book.maybe_acked):
                wrong.append(f"part {part} was put as {number} and is gone")
        elif (row.epoch, row.seq) != number:
            wrong.append(f"part {part} was put as {number} and is there as {(row.epoch, row.seq)}")
        elif row.state == ACKED and part not in book.maybe_acked:
            wrong.append(f"part {part} counts as delivered and was not")
        elif row.state != ACKED and part in book.acked:
            wrong.append(f"part {part} was delivered and waits again")
    halves = {part in there for part in book.putting}
    if len(halves) > 1:
        wrong.append(f"of the parts {book.putting}, put in one step, only some are there")
    unknown = set(there) - set(book.put) - set(book.putting)
    if unknown:
        wrong.append(f"parts {sorted(unknown)[:5]} are there and nobody put them")
    return wrong


def summary(campaign: str, trials: int, failures: int, **more: object) -> str:
    """The last line of a campaign: with no failure in N trials the rate is below 3/N (95 %)."""
    bound = {"bound": round(3 / trials, 6)} if trials and not failures else {}
    return json.dumps({"campaign": campaign, "n": trials, "failures": failures, **bound, **more})
