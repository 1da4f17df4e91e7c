"""`ingest`: devices' reports from the broker into the database."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Annotated

import typer

from cloud_inspect.cli.options import (
    Ca,
    Cert,
    DatabaseUrl,
    Key,
    MqttUrl,
    PasswordFile,
    SettingsFile,
    Username,
    need_cloud,
)
from cloud_inspect.cli.output import AsJson, configure_log, emit
from cloud_inspect.settings import Settings, load_settings


def add(app: typer.Typer) -> None:
    app.command()(ingest)


def ingest(
    mqtt: MqttUrl = None,
    db: DatabaseUrl = None,
    config: SettingsFile = None,
    name: Annotated[str | None, typer.Option(help="Client id; each ingester needs its own.")] = None,
    in_flight: Annotated[int | None, typer.Option(help="Reports taken and not yet committed, at most.")] = None,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    username: Username = None,
    password_file: PasswordFile = None,
    json_: AsJson = False,
) -> None:
    """Take devices' reports from the broker into the database, for ever; acknowledge each once it is committed.

    Tables are made or upgraded first. A broker or database that is away is waited for. Ends on SIGTERM or Ctrl-C.

    Example: cloud-inspect ingest --mqtt mqtt://broker --db sqlite:////var/lib/cloud-inspect/inspect.sqlite3
    """
    need_cloud()
    given: dict[str, str | Path | None] = {"url": mqtt, "ca": ca, "cert": cert, "key": key}
    given |= {"username": username, "password_file": password_file}
    own = {"name": name, "in_flight": in_flight}
    settings = load_settings(config, {"mqtt": given, "database": {"url": db}, "ingest": own})
    configure_log()
    counts = asyncio.run(_run(settings))
    if json_:
        emit(counts)


async def _run(settings: Settings) -> dict[str, int]:
    from cloud_inspect.db.engine import open_engine
    from cloud_inspect.intake.ingest import Ingester

    loop = asyncio.get_running_loop()
    stop: asyncio.Future[None] = loop.create_future()

    def end() -> None:
        if not stop.done():
            stop.set_result(None)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    engine = open_engine(settings.database)
    ingester = Ingester(settings, engine)
    try:
        await ingester.run(stop)
    finally:
        engine.dispose()
    return ingester.counts
