"""Options that several commands take, and what they open."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloud_inspect.errors import BadDatabase, CloudMissing, DatabaseGone
from cloud_inspect.settings import Settings, load_settings

if TYPE_CHECKING:
    from sqlalchemy import Engine

SettingsFile = Annotated[
    Path | None, typer.Option("--config", help="TOML file with the tables mqtt, database, ingest.")
]
DatabaseUrl = Annotated[
    str | None, typer.Option("--db", help="sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME.", metavar="URL")
]
MqttUrl = Annotated[
    str | None,
    typer.Option(
        "--mqtt",
        help="mqtt://HOST[:PORT] or mqtts://...",
        metavar="URL",
        show_default="that of --config, else mqtt://127.0.0.1",
    ),
]
Ca = Annotated[str | None, typer.Option(help="CA that signed the broker's certificate, or `system`.")]
Cert = Annotated[Path | None, typer.Option(help="Our certificate.")]
Key = Annotated[Path | None, typer.Option(help="Its key.")]
Username = Annotated[str | None, typer.Option(help="At the broker.")]
PasswordFile = Annotated[Path | None, typer.Option(help="File with the password.")]


def need_cloud() -> None:
    """Raises CloudMissing: one line that names the extra."""
    need_database()
    _need("aiomqtt")


def need_database() -> None:
    """The same, for those who speak to no broker."""
    _need("alembic")
    _need("sqlalchemy")


def _need(name: str) -> None:
    try:
        import_module(name)
    except ImportError as err:
        raise CloudMissing(f"{err.name} is not installed: pip install 'edge-inspect[cloud]'") from err


def settings_from(config: Path | None, db: str | None, **mqtt: Any) -> Settings:
    """File, environment and options in one. Raises BadSettings."""
    return load_settings(config, {"database": {"url": db}, "mqtt": mqtt})


def is_there(settings: Settings) -> bool:
    """False for a SQLite file that nobody has made yet. Raises BadDatabase for one that we may not look at, and
    DatabaseGone where its folder is missing."""
    url = settings.database.url
    if not url.startswith("sqlite:///"):
        return True
    path = Path(url.removeprefix("sqlite:///"))
    try:
        path.stat()
    except FileNotFoundError as err:
        if not path.parent.is_dir():
            raise DatabaseGone(f"{path}: its folder is not there") from err
        return False
    except OSError as err:
        raise BadDatabase(f"database {url}: {err.strerror}") from err
    return True


@contextmanager
def current_database(settings: Settings) -> Iterator[Engine]:
    """For reading: the engine of a database with the tables of this program. Raises BadDatabase, DatabaseGone."""
    from cloud_inspect.db.engine import opened
    from cloud_inspect.db.upgrade import current, newest

    if not is_there(settings):
        raise BadDatabase(
            f"database {settings.database.url}: no such file; `cloud-inspect ingest` or `db upgrade` makes it"
        )
    with opened(settings.database, reads=True) as engine:
        revision = current(engine)
        if revision != newest():
            raise BadDatabase(
                f"the database has tables of revision {revision or 'none'}, this program wants {newest()}: "
                "see `cloud-inspect db upgrade`"
            )
        yield engine
