"""Tables are made and upgraded whole, by one of many, and never downgraded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, text

from cloud_inspect.db.engine import open_engine, transaction
from cloud_inspect.db.tables import metadata
from cloud_inspect.db.upgrade import current, newest, upgrade
from cloud_inspect.errors import BadDatabase, DatabaseGone
from cloud_inspect.settings import DatabaseSettings
from tests.cloud.ingesters import cloud_inspect


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    opened = open_engine(DatabaseSettings(url=database_url))
    yield opened
    opened.dispose()


def test_migrations_make_the_tables_that_the_program_uses(engine: Engine) -> None:
    assert current(engine) is None
    assert upgrade(engine) == (None, newest())
    assert upgrade(engine) == (newest(), newest())
    with transaction(engine) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_programs_that_start_at_once_upgrade_once(engine: Engine) -> None:
    with ThreadPoolExecutor(2) as pool:
        before = sorted(str(pair[0]) for pair in pool.map(lambda _: upgrade(engine), range(4)))
    assert before == ["0001", "0001", "0001", "None"]


def test_a_database_of_a_newer_program_is_refused_and_left_alone(engine: Engine, database_url: str) -> None:
    upgrade(engine)
    with transaction(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(BadDatabase, match=r"revision 9999.*up to 0001"):
        upgrade(engine)
    for command in (["ingest", "--mqtt", "mqtt://127.0.0.1:1"], ["gaps"]):
        ended = cloud_inspect(*command, "--db", database_url)
        lines = [line for line in ended.stderr.splitlines() if line.startswith("cloud-inspect: ")]
        assert ended.returncode == 78 and "9999" in lines[0], ended
        assert "Traceback" not in ended.stderr
    assert current(engine) == "9999"


def test_commands_say_which_tables_there_are(database_url: str) -> None:
    assert json.loads(cloud_inspect("db", "current", "--db", database_url, "--json").stdout)["current"] is None
    assert "db upgrade" in cloud_inspect("reports", "list", "--db", database_url).stderr
    assert json.loads(cloud_inspect("db", "upgrade", "--db", database_url, "--json").stdout) == {
        "before": None,
        "now": newest(),
    }
    assert json.loads(cloud_inspect("db", "current", "--db", database_url, "--json").stdout)["current"] == newest()
    listed = json.loads(cloud_inspect("reports", "list", "--db", database_url, "--json").stdout)
    assert listed == {"total": 0, "quarantined": 0, "reports": []}


def test_a_database_that_is_away_is_one_line(tmp_path: str) -> None:
    for url, code in (
        ("postgresql://inspect:secret@127.0.0.1:1/inspect", 1),
        (f"sqlite:///{tmp_path}/nowhere/x.sqlite3", 1),
        ("mysql://x/y", 78),
    ):
        ended = cloud_inspect("db", "current", "--db", url)
        lines = ended.stderr.strip().splitlines()
        assert ended.returncode == code and len(lines) == 1 and lines[0].startswith("cloud-inspect: "), ended
        assert "secret" not in lines[0]


def test_a_file_that_is_no_database_is_gone_not_overwritten(tmp_path: str) -> None:
    path = f"{tmp_path}/photo.sqlite3"
    with open(path, "wb") as file:
        file.write(b"\xff\xd8\xff" * 5000)
    engine = open_engine(DatabaseSettings(url=f"sqlite:///{path}"))
    with pytest.raises(DatabaseGone, match="not a database"):
        upgrade(engine)
    engine.dispose()
    with open(path, "rb") as file:
        assert file.read() == b"\xff\xd8\xff" * 5000
