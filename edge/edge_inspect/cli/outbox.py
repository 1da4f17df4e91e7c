"""`edge-inspect outbox status`: what waits to be delivered, read while the daemon runs."""

from __future__ import annotations

import time
from dataclasses import asdict

import typer

from edge_inspect.cli.options import AsJson, StateDir, permitted_state
from edge_inspect.cli.output import emit
from edge_inspect.config_model import default_state_dir
from edge_inspect.delivery.outbox import FILE_NAME
from edge_inspect.delivery.outbox_stats import read_only_stats


def add(app: typer.Typer) -> None:
    outbox = typer.Typer(
        help="Reports that wait to be delivered.", no_args_is_help=True, epilog="Example: edge-inspect outbox status"
    )
    outbox.command("status")(status)
    # One command alone would be folded into its group: `outbox status` has to stay two words.
    outbox.callback()(_group)
    app.add_typer(outbox, name="outbox")


def _group() -> None:
    """Reports that wait to be delivered."""


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
    if json_:
        emit({"path": str(path), **asdict(stats), "set_aside": broken})
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
