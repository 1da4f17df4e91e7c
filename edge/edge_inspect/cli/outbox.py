"""`edge-inspect outbox status|put-back`: what waits to be delivered, and a newer program's file back in its place."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated

import typer

from edge_inspect.cli.options import AsJson, StateDir, permitted_state
from edge_inspect.cli.output import emit
from edge_inspect.config_model import default_state_dir
from edge_inspect.delivery import outbox_newer
from edge_inspect.delivery.outbox import FILE_NAME
from edge_inspect.delivery.outbox_stats import read_only_stats


def add(app: typer.Typer) -> None:
    outbox = typer.Typer(
        help="Reports that wait to be delivered.", no_args_is_help=True, epilog="Example: edge-inspect outbox status"
    )
    outbox.command("status")(status)
    outbox.command("put-back")(put_back)
    app.add_typer(outbox, name="outbox")


def status(state: StateDir = None, json_: AsJson = False) -> None:
    """How many reports wait, how old the oldest is, how much room they take; the daemon may be running.

    Example: edge-inspect outbox status --state /var/lib/edge-inspect
    """
    folder = state or default_state_dir()
    permitted_state(folder)
    path = folder / FILE_NAME
    stats = read_only_stats(path, time.time_ns())
    broken = sorted(
        found.name for found in path.parent.glob(f"{FILE_NAME}.broken-*") if not found.name.endswith(("-wal", "-shm"))
    )
    newer = [found.name for found in outbox_newer.lying_aside(path)]
    if json_:
        emit({"path": str(path), **asdict(stats), "set_aside": broken, "newer": newer})
        return
    typer.echo(
        f"{path}: {stats.depth} reports wait ({stats.pending} not sent, {stats.sent} sent), {stats.acked} delivered"
    )
    if stats.depth:
        typer.echo(f"oldest waits for {stats.oldest_age_s:.0f} s")
    typer.echo(f"{stats.size_bytes / 1e6:.1f} MB, {stats.pictures_shed} pictures given up")
    if stats.reserve_bytes:
        typer.echo(f"{stats.reserve_bytes / 1e6:.1f} MB are held for reports on a full disk")
    else:
        typer.echo("no room is held in reserve: the disk was full, and reports are kept without pictures")
    typer.echo(f"epoch {stats.epoch}, last seq {stats.last_seq}")
    for name in broken:
        typer.echo(f"set aside as broken: {name}")
    for name in newer:
        typer.echo(f"of a newer program, with its reports: {name}; once that is installed: outbox put-back {name}")


def put_back(
    name: Annotated[str, typer.Argument(help="The file's name, as `outbox status` says it.")],
    state: StateDir = None,
    json_: AsJson = False,
) -> None:
    """Deliver what a newer program had kept: give its file the outbox's place again, once that program is back.

    The daemon must be stopped, and all reports of the present file delivered; that one is kept beside it.

    Example: edge-inspect outbox put-back outbox.sqlite3.newer-20261122T184500-1f2e --state /var/lib/edge-inspect
    """
    folder = state or default_state_dir()
    permitted_state(folder)
    path = folder / FILE_NAME
    before = outbox_newer.put_back(path, name, time.time_ns())
    if json_:
        emit({"path": str(path), "put_back": name, "before": before and before.name})
        return
    typer.echo(f"{path}: was {name}" + (f"; the one before is {before.name}" if before else ""))
