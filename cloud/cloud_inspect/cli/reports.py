"""`devices`, `reports list`, `quarantine list`, `gaps`, `resync`: who is there, what arrived, what is missing."""

from __future__ import annotations

import asyncio
import os
import re
from typing import Annotated, Any

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
    current_database,
    need_cloud,
    need_database,
    settings_from,
)
from cloud_inspect.cli.output import AsJson, emit, finish, print_table
from cloud_inspect.errors import BadRange, BrokerGone
from cloud_inspect.settings import Settings

Device = Annotated[str | None, typer.Option("--device", help="Only of this device.")]
Limit = Annotated[int, typer.Option(min=1, max=100_000, help="How many, the newest first.")]


def add(app: typer.Typer) -> None:
    for name, what, command in (
        ("reports", "What arrived.", list_reports),
        ("quarantine", "What could not be taken as a report.", list_quarantine),
    ):
        family = typer.Typer(help=what, epilog=f"Example: cloud-inspect {name} list --json", no_args_is_help=True)
        family.callback()(lambda: None)
        family.command("list")(command)
        app.add_typer(family, name=name)
    app.command()(devices)
    app.command()(gaps)
    app.command()(resync)


def devices(db: DatabaseUrl = None, config: SettingsFile = None, device: Device = None, json_: AsJson = False) -> None:
    """Every device on one page: is it there, which model judges, how far is an update, what is wrong.

    Example: cloud-inspect devices --db sqlite:///inspect.sqlite3
    """
    need_database()
    from cloud_inspect.intake import views

    with current_database(settings_from(config, db)) as engine:
        found = views.devices(engine, device=device)
    if json_:
        emit(found)
        return
    if not found["devices"]:
        typer.echo("no device has said anything yet" if device is None else f"{device} has said nothing yet")
        return
    heads = ("device", "status", "model", "update", "refused last", "trouble")
    print_table(heads, (_as_row(one) for one in found["devices"]))


def _as_row(one: dict[str, Any]) -> tuple[str, ...]:
    stage, progress = one.get("stage"), one.get("progress")
    share = f" {progress:.0%}" if progress is not None else ""
    update = " ".join(filter(None, (one.get("candidate"), stage))) + share if stage not in (None, "idle") else ""
    refused = one.get("refused")
    return (
        f"{one['site']}/{one['line']}/{one['device']}",
        one["status"],
        one.get("model") or _short(one.get("digest")),
        update,
        f"{_short(refused['digest'])} {refused['code']}" if refused else "",
        "; ".join(one.get("degraded", [])) or one.get("why", ""),
    )


def _short(digest: str | None) -> str:
    return (digest or "").removeprefix("sha256:")[:12]


def list_reports(
    db: DatabaseUrl = None,
    config: SettingsFile = None,
    device: Device = None,
    limit: Limit = 20,
    json_: AsJson = False,
) -> None:
    """List the newest reports, and how many there are.

    Example: cloud-inspect reports list --db sqlite:///inspect.sqlite3 --device edge-0017 --limit 50
    """
    need_database()
    from cloud_inspect.intake import views

    with current_database(settings_from(config, db)) as engine:
        found = views.reports(engine, device=device, limit=limit)
    if json_:
        emit(found)
        return
    keys = ("device", "epoch", "seq", "verdict", "reason", "camera", "part", "verdict_utc", "picture_bytes")
    print_table(keys, ([row[key] for key in keys] for row in found["reports"]))
    typer.echo(f"{found['total']} reports, {found['quarantined']} messages in quarantine")


def list_quarantine(
    db: DatabaseUrl = None,
    config: SettingsFile = None,
    device: Device = None,
    limit: Limit = 20,
    json_: AsJson = False,
) -> None:
    """List the newest messages that could not be taken, with the reason.

    Example: cloud-inspect quarantine list --db sqlite:///inspect.sqlite3
    """
    need_database()
    from cloud_inspect.intake import views

    with current_database(settings_from(config, db)) as engine:
        found = views.quarantine(engine, device=device, limit=limit)
    if json_:
        emit(found)
        return
    keys = ("id", "reason", "topic", "size_bytes", "times", "acked", "last_utc", "detail")
    print_table(keys, ([row[key] for key in keys] for row in found["quarantine"]))


def gaps(db: DatabaseUrl = None, config: SettingsFile = None, device: Device = None, json_: AsJson = False) -> None:
    """Say which reports are missing: not arrived, still waiting at the device, or gone there for good.

    Example: cloud-inspect gaps --db sqlite:///inspect.sqlite3 --json
    """
    need_database()
    from cloud_inspect.intake.gaps import list_gaps

    with current_database(settings_from(config, db)) as engine:
        found = list_gaps(engine, device)
    totals = {kind: sum(gap.reports for gap in found if gap.kind == kind) for kind in ("missing", "waiting", "gone")}
    rows = [
        {
            "device": gap.topics.device,
            "epoch": gap.epoch,
            "first": gap.first,
            "last": gap.last,
            "reports": gap.reports,
            "kind": gap.kind,
        }
        for gap in found
    ]
    if json_:
        emit(totals | {"gaps": rows})
        return
    if rows:
        print_table(tuple(rows[0]), (tuple(row.values()) for row in rows))
    typer.echo(", ".join(f"{count} {kind}" for kind, count in totals.items()))


def resync(
    device: Annotated[str, typer.Argument(help="Device name.")],
    epoch: Annotated[str, typer.Argument(help="As `gaps` shows it.")],
    reports: Annotated[str, typer.Argument(help="FIRST-LAST, or one number.", metavar="FIRST-LAST")],
    mqtt: MqttUrl = None,
    db: DatabaseUrl = None,
    config: SettingsFile = None,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    username: Username = None,
    password_file: PasswordFile = None,
    json_: AsJson = False,
) -> None:
    """Ask a device for reports again. They arrive at `ingest`, or the device says that they are gone.

    Example: cloud-inspect resync edge-0017 a1b2c3d4e5f6-0123456789abcdef 120-140 --mqtt mqtt://broker
    """
    need_cloud()
    from cloud_inspect.intake.gaps import request_by_hand

    first, last = parse_range(reports)
    settings = settings_from(
        config, db, url=mqtt, ca=ca, cert=cert, key=key, username=username, password_file=password_file
    )
    with current_database(settings) as engine:
        request = request_by_hand(engine, device, epoch, first, last)
    heard = asyncio.run(_send(settings, request))
    if not heard:
        raise BrokerGone(
            f"device {device} does not listen on {request.topics.resync}: it never connected to this broker"
        )
    finish({"device": device, "epoch": epoch, "first": first, "last": last, "asked": True}, json_)


async def _send(settings: Settings, request: Any) -> int:
    from cloud_inspect.intake.session import Session

    async with Session(settings.mqtt, f"resync-{os.getpid()}") as session:
        return await session.tell([(request.topics.resync, request.message.to_bytes())])


def parse_range(text: str) -> tuple[int, int]:
    """ "120-140" -> (120, 140); "7" -> (7, 7)."""
    match = re.fullmatch(r"([1-9][0-9]{0,14})(?:-([1-9][0-9]{0,14}))?", text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if first > last:
        raise BadRange(f"{text}: must be FIRST-LAST, e.g. 120-140")
    return first, last
