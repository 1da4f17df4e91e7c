"""The way to the database: what was committed is on disk, and whatever is wrong with it is one error of ours.

1. A commit that returned survives a power cut: SQLite runs with WAL and `synchronous=FULL`, PostgreSQL with
   `synchronous_commit=on`, whatever its server was set to; both are asserted on each new connection.
2. No statement and no wait for another program's lock takes longer than `timeout_s`.
3. `transaction` is all or nothing. It raises DatabaseGone when the database is to blame and trying again may help;
   what a row itself is to blame for (DataError, IntegrityError) comes through as it is.

    engine = open_engine(settings.database)
    with transaction(engine) as connection:
        connection.execute(...)
"""

from __future__ import annotations

import math
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from cloud_inspect.errors import BadDatabase, DatabaseGone
from cloud_inspect.settings import DatabaseSettings, hide_password


def open_engine(settings: DatabaseSettings, *, reads: bool = False) -> Engine:
    """Nothing is connected yet. Raises BadDatabase for a URL that names no database of ours.

    reads: nothing will be changed; a SQLite file may then be one that we may only read.
    """
    try:
        url = make_url(settings.url)
    except (ArgumentError, ValueError) as err:
        raise BadDatabase(f"database {hide_password(settings.url)}: {err}") from err
    if url.get_backend_name() == "sqlite":
        return _open_sqlite(settings, reads=reads)
    wait_s = max(2, math.ceil(settings.timeout_s))
    engine = create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_size=2,
        pool_timeout=settings.timeout_s,
        connect_args={
            "connect_timeout": wait_s,
            "tcp_user_timeout": wait_s * 1000,
            "keepalives_idle": wait_s,
            "keepalives_interval": wait_s,
            "keepalives_count": 2,
            "application_name": "cloud-inspect",
        },
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: object) -> None:
        timeout_ms = round(settings.timeout_s * 1000)
        with connection.cursor() as cursor:
            cursor.execute("SET SESSION synchronous_commit = on")
            cursor.execute(f"SET SESSION statement_timeout = {timeout_ms}")
            cursor.execute(f"SET SESSION lock_timeout = {timeout_ms}")
            cursor.execute(f"SET SESSION idle_in_transaction_session_timeout = {4 * timeout_ms}")
            durable = cursor.execute("SHOW synchronous_commit").fetchone()
        connection.commit()
        if durable != ("on",):
            raise BadDatabase(f"the database has synchronous_commit = {durable}, must be on")

    return engine


@contextmanager
def opened(settings: DatabaseSettings, *, reads: bool = False) -> Iterator[Engine]:
    """`open_engine` for as long as the block lasts: whatever ends it, its connections are closed."""
    engine = open_engine(settings, reads=reads)
    try:
        yield engine
    finally:
        engine.dispose()


def _open_sqlite(settings: DatabaseSettings, *, reads: bool) -> Engine:
    path = make_url(settings.url).database or ""
    if path in ("", ":memory:"):
        raise BadDatabase(f"database {settings.url}: allowed: sqlite:///FILE, a file that stays")
    if reads:
        engine = create_engine(settings.url, creator=lambda: _reader(path, settings.timeout_s))
    else:
        engine = create_engine(settings.url, connect_args={"timeout": settings.timeout_s, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # transactions begin where we say, see below
        if reads:
            return
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")
        (journal,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        (synchronous,) = connection.execute("PRAGMA synchronous").fetchone()
        if journal != "wal" or synchronous != 2:
            raise BadDatabase(f"{path}: journal_mode {journal}, synchronous {synchronous}; must be wal and 2 (FULL)")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # At once for writing: two writers wait for each other here, and not halfway through.
        reads = connection.get_execution_options().get("reads", False)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine


def _reader(path: str, timeout_s: float) -> sqlite3.Connection:
    """Where the folder is read-only too, SQLite cannot make the files beside it that a reader of WAL needs. Without a
    log there is no writer either, and it may do without them."""
    file = Path(path).absolute()
    is_still = not Path(f"{file}-wal").exists() and not os.access(file.parent, os.W_OK)
    uri = f"{file.as_uri()}?mode=ro{'&immutable=1' if is_still else ''}"
    return sqlite3.connect(uri, uri=True, timeout=timeout_s, check_same_thread=False)


@contextmanager
def transaction(engine: Engine, *, reads: bool = False) -> Iterator[Connection]:
    """One transaction, committed at the end of the block; `reads`: it changes nothing and keeps no writer waiting.

    Raises DatabaseGone; see the module.
    """
    try:
        with engine.execution_options(reads=reads).begin() as connection:
            yield connection
    except (DataError, IntegrityError) as err:
        if err.connection_invalidated:
            raise _gone(engine, err) from err
        raise
    except (DBAPIError, PoolTimeout) as err:
        raise _gone(engine, err) from err


def _gone(engine: Engine, err: SQLAlchemyError) -> DatabaseGone:
    why = " ".join(str(getattr(err, "orig", None) or err).split())
    where = hide_password(engine.url.render_as_string(hide_password=True))
    if engine.dialect.name == "sqlite":
        where = str(Path(engine.url.database or ""))
    return DatabaseGone(f"{where}: {why[:300]}")
