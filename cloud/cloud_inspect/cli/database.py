"""`db upgrade` and `db current`: the database's tables."""

from __future__ import annotations

import typer

from cloud_inspect.cli.options import DatabaseUrl, SettingsFile, is_there, need_database, settings_from
from cloud_inspect.cli.output import AsJson, finish


def add(app: typer.Typer) -> None:
    family = typer.Typer(
        help="The database's tables.",
        epilog="Example: cloud-inspect db current --db sqlite:///inspect.sqlite3",
        no_args_is_help=True,
    )
    family.command()(upgrade)
    family.command()(current)
    app.add_typer(family, name="db")


def upgrade(db: DatabaseUrl = None, config: SettingsFile = None, json_: AsJson = False) -> None:
    """Make the tables, or bring them to the newest revision. `ingest` does it by itself.

    Example: cloud-inspect db upgrade --db postgresql://inspect:secret@db/inspect
    """
    need_database()
    from cloud_inspect.db.engine import opened
    from cloud_inspect.db.upgrade import upgrade as bring_up

    with opened(settings_from(config, db).database) as engine:
        before, now = bring_up(engine)
    finish({"before": before, "now": now}, json_)


def current(db: DatabaseUrl = None, config: SettingsFile = None, json_: AsJson = False) -> None:
    """Say which revision the tables have, and which one this program wants.

    Example: cloud-inspect db current --db sqlite:///inspect.sqlite3 --json
    """
    need_database()
    from cloud_inspect.db.engine import opened
    from cloud_inspect.db.upgrade import current as revision_of
    from cloud_inspect.db.upgrade import newest

    settings = settings_from(config, db)
    with opened(settings.database, reads=True) as engine:
        found = revision_of(engine) if is_there(settings) else None
    finish({"current": found, "newest": newest()}, json_)
