"""Bring a database to the tables this program knows, or refuse it when it is newer.

1. `upgrade` may be called by several programs at once: one does it, the others find it done.
2. All steps of an upgrade are one transaction: a kill in the middle leaves the old tables.
3. A database that a newer program has upgraded is refused (BadDatabase), never touched.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from cloud_inspect.db.engine import transaction
from cloud_inspect.errors import BadDatabase

UPGRADE_LOCK = 7_301_846_552
"""PostgreSQL's advisory lock under which tables are changed."""


def newest() -> str:
    """The revision this program works with."""
    head = ScriptDirectory.from_config(_config(None)).get_current_head()
    assert head is not None
    return head


def current(engine: Engine) -> str | None:
    """The database's revision; None: it is empty. Raises DatabaseGone."""
    with transaction(engine, reads=True) as connection:
        return MigrationContext.configure(connection).get_current_revision()


def upgrade(engine: Engine) -> tuple[str | None, str]:
    """Bring the tables up to date; the revisions before and now. Raises DatabaseGone, BadDatabase."""
    with transaction(engine) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": UPGRADE_LOCK})
        before = MigrationContext.configure(connection).get_current_revision()
        known = {script.revision for script in ScriptDirectory.from_config(_config(None)).walk_revisions()}
        if before is not None and before not in known:
            raise BadDatabase(
                f"the database has tables of revision {before}, this program knows up to {newest()}: "
                "it was upgraded by a newer cloud-inspect; use that one"
            )
        if before != newest():
            command.upgrade(_config(connection), "head")
    return before, newest()


def _config(connection: Connection | None) -> Config:
    config = Config()
    folder = Path(__file__).resolve().parent / "migrations"
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
