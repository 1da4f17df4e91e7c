"""SQLite connections of a daemon that dies at a commit, on a file system that may be full."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from edge_inspect.delivery import outbox_file


class Killed(BaseException):
    """The daemon is gone at this point."""


class Mortal(sqlite3.Connection):
    """Does something just before or just after each commit; a kill leaves the files as they then were."""

    full = False
    before: Callable[[], None] | None = None
    after: Callable[[], None] | None = None

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        if Mortal.full and sql.startswith(("INSERT", "UPDATE report")):
            raise sqlite3.OperationalError("database or disk is full")
        if sql == "COMMIT" and Mortal.before is not None:
            Mortal.before()
        result = super().execute(sql, *parameters)
        if sql == "COMMIT" and Mortal.after is not None:
            Mortal.after()
        return result


def outboxes_are_mortal() -> list[Any]:
    """Patches: from their start to their stop every connection that an outbox makes is one of these, and epochs are
    named in an order that is the same each time, for tests that must be repeatable."""
    Mortal.full, Mortal.before, Mortal.after = False, None, None
    real, names = sqlite3.connect, itertools.count(1)
    return [
        patch.object(outbox_file.sqlite3, "connect", lambda *a, **k: real(*a, **{**k, "factory": Mortal})),
        patch.object(outbox_file.secrets, "token_hex", lambda count: f"{next(names):0{2 * count}x}"),
    ]
