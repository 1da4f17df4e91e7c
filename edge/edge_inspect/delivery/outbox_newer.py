"""A file of a newer program, found after the software was put back: set aside whole, so that the line goes on.

1. It is moved (`outbox.sqlite3.newer-<UTC>`, with its WAL), never written and never deleted; the outbox begins a new
   file and with it a new epoch. To see what it is it is opened read-only.
2. A kill between the moves of file and WAL is made good at the next start, before anything is opened in its place.
3. While one lies there, that is an alarm: it may hold reports that only the newer program can deliver. `put_back` gives
   it its place again, for that program.
4. It does not count against the outbox's cap: a full one would leave no room for the reports of today. The disk's own
   bounds (reserve, alarms) count it, as they count everything.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from edge_inspect.delivery import outbox_file as file
from edge_inspect.durable import sync_folder
from edge_inspect.errors import Refusal, StorageFailing

_MARK = ".newer-"
_PARTS = ("-shm", "-wal", "")
"""In this order they are set aside, and put back in the other: a WAL there without its file was cut short."""


def set_aside(path: Path, now_ns: int) -> Path | None:
    """Move the file away if a newer program wrote it; under which name. Raises StorageFailing."""
    try:
        _finish(path)
    except OSError as err:
        raise StorageFailing(f"{path.parent}: {err.strerror}") from err
    if file.schema_of(path) <= file.SCHEMA:
        return None
    kept = file.name_aside(path, _MARK, now_ns)
    _move(path, kept, _PARTS)
    return kept


def lying_aside(path: Path) -> list[Path]:
    """What of newer programs lies beside the outbox at `path`, oldest first. Empty where that cannot be read."""
    try:
        return sorted(
            path.with_name(found.name)
            for found in os.scandir(path.parent)
            if found.name.startswith(path.name + _MARK) and not found.name.endswith(("-shm", "-wal"))
        )
    except OSError:
        return []


def put_back(path: Path, name: str, now_ns: int) -> Path | None:
    """Give the set-aside file its place again; where the present one now lies, None without one. No daemon may run.

    Raises Refusal: there is none of that name, this program is too old for it as well, or the present file holds
    reports that were not delivered.
    """
    kept = path.with_name(name)
    if kept not in lying_aside(path):
        raise Refusal(f"{name}: no such file of a newer program lies beside {path}")
    lock = file.hold_lock(path)
    try:
        if (schema := file.schema_of(kept)) > file.SCHEMA:
            raise Refusal(f"{kept}: schema {schema}, this program knows {file.SCHEMA}: install the newer one first")
        _finish(path)
        before = None
        if path.exists():
            _insist_on_delivered(path)
            before = file.name_aside(path, ".delivered-", now_ns)
            _move(path, before, _PARTS)
        _move(kept, path, _PARTS[::-1])
    finally:
        os.close(lock)
    return before


def _insist_on_delivered(path: Path) -> None:
    """Raises Refusal, StorageFailing. After it nothing stands in the WAL alone."""
    try:
        with closing(file.connect(path, check="quick_check")) as db:
            waiting = int(db.execute(f"SELECT count(*) FROM report WHERE state < {file.ACKED}").fetchone()[0])
            if waiting:
                raise Refusal(f"{path}: holds {waiting} reports that were not delivered; let them be delivered first")
            if not file.write_back(db):
                raise StorageFailing(f"{path}: another program is reading it")
    except (sqlite3.Error, file.Broken) as err:
        raise StorageFailing(f"{path}: {err}") from err


def _finish(path: Path) -> None:
    """A WAL was moved and its file was not: a kill came between."""
    for wal in path.parent.glob(f"{path.name}{_MARK}*-wal"):
        kept = wal.with_name(wal.name.removesuffix("-wal"))
        if not kept.exists() and path.exists():
            _move(path, kept, ("",))


def _move(path: Path, to: Path, parts: Sequence[str]) -> None:
    try:
        for suffix in parts:
            if file.beside(path, suffix).exists():
                file.beside(path, suffix).rename(file.beside(to, suffix))
        sync_folder(path.parent)
    except OSError as err:
        raise StorageFailing(f"{path}: cannot be moved to {to.name}: {err.strerror}") from err
