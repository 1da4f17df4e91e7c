"""Which of the told journal's entries the outbox has put, remembered in the transaction that puts them.

One row. It names the entries whose reports are in the file and that may not have been cleared yet: those of the last
commit, and of any before it that failed and came back.
"""

from __future__ import annotations

import sqlite3
import struct

from edge_inspect.delivery.told import ToldJournal

_TABLE = "CREATE TABLE IF NOT EXISTS told (row INTEGER PRIMARY KEY, boot TEXT NOT NULL, numbers BLOB NOT NULL)"


def remember(db: sqlite3.Connection, journal: ToldJournal, numbers: list[int]) -> None:
    """In the transaction of their reports."""
    if not numbers:
        return
    db.execute(_TABLE)
    uncleared = [number for number in put(db, journal.boot) if journal.holds(number) and number not in numbers]
    blob = struct.pack(f"<{len(uncleared) + len(numbers)}Q", *uncleared, *numbers)
    db.execute("INSERT OR REPLACE INTO told (row, boot, numbers) VALUES (1, ?, ?)", (journal.boot, blob))


def put(db: sqlite3.Connection, boot: str) -> list[int]:
    """Entries of this boot that are known to be put."""
    if db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'told'").fetchone() is None:
        return []
    row = db.execute("SELECT numbers FROM told WHERE row = 1 AND boot = ?", (boot,)).fetchone()
    return [] if row is None else [number for (number,) in struct.iter_unpack("<Q", row[0])]
