"""Databases of both kinds, and ingesters at work."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cloud.ingesters import IngesterProcess
from tests.postgres import Postgres, find_binaries


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One running cluster for all tests; each takes a database of its own."""
    if find_binaries() is None:
        if os.environ.get("CI"):
            pytest.fail("PostgreSQL is not installed")
        pytest.skip("PostgreSQL is not installed")
    server = Postgres()
    try:
        yield server.create()
    finally:
        server.remove()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database, of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/inspect.sqlite3"
    server: Postgres = request.getfixturevalue("postgres")
    return server.new_database()


@pytest.fixture
def query(request: pytest.FixtureRequest) -> Callable[[str, str], list[list[str]]]:
    """Read a database with its own client program: (url, sql) -> rows of text."""

    def ask(url: str, sql: str) -> list[list[str]]:
        if url.startswith("sqlite:///"):
            command = ["sqlite3", "-readonly", url.removeprefix("sqlite:///"), ".timeout 20000", sql]
            text = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
            return [line.split("|") for line in text.splitlines()]
        server: Postgres = request.getfixturevalue("postgres")
        return server.query(url, sql)

    return ask


@pytest.fixture
def new_ingester(tmp_path: Path) -> Iterator[Callable[..., IngesterProcess]]:
    """Starts `cloud-inspect ingest` processes; all are killed at the end."""
    made: list[IngesterProcess] = []

    def make(mqtt: str, db: str, *options: str, name: str = "ingest-a") -> IngesterProcess:
        made.append(IngesterProcess(tmp_path / f"{name}-{len(made)}.log", mqtt, db, *options, name=name))
        return made[-1]

    yield make
    for process in made:
        process.kill()


@pytest.fixture
def lock_sqlite() -> Iterator[Callable[[str], sqlite3.Connection]]:
    """Another program that keeps a SQLite database locked until it is closed."""
    made: list[sqlite3.Connection] = []

    def lock(url: str) -> sqlite3.Connection:
        connection = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None, timeout=30)
        connection.execute("BEGIN EXCLUSIVE")
        made.append(connection)
        return connection

    yield lock
    for connection in made:
        connection.close()
