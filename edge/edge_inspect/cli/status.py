"""`edge-inspect status`: what the daemon on this box is doing, asked of the daemon itself over its socket."""

from __future__ import annotations

import errno
import json
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from edge_inspect.cli.options import AsJson, StateDir
from edge_inspect.cli.output import emit, size
from edge_inspect.cli.status_details import details, events, spread
from edge_inspect.config_model import default_state_dir
from edge_inspect.errors import InspectError, Refusal
from edge_inspect.health.doors import SOCKET_NAME, short_name

ANSWER_WITHIN_S = 5.0
EVERY_S = 1.0
NO_TERMINAL_WIDTH = 1000
MOST_REASONS = 5
SERVICE_STATE_DIR = Path("/var/lib/edge-inspect")
"""Where systemd keeps it for the service; looked at when nothing else was asked for."""

Watch = Annotated[bool, typer.Option("--watch", help="Again every second, until Ctrl-C.")]

Everything = Annotated[bool, typer.Option("--all", help="Also where a frame's time goes, and the frame rings.")]


def add(app: typer.Typer) -> None:
    app.command("status")(status)


def status(
    state: StateDir = None, watch: Watch = False, everything: Everything = False, as_json: AsJson = False
) -> None:
    """What the daemon on this box does now: cameras, parts, latencies, outbox, link, alarms. Exit code 1 without one.

    Example: edge-inspect status --state /var/lib/edge-inspect --watch
    """
    state_dir = _state_dir(state)
    if not watch:
        told = fetch(state_dir)
        if as_json:
            emit(told)
        else:
            _console().print(page(told, everything=everything))
        return
    if as_json:
        for told in _every_second(state_dir):
            emit(told)
        return
    console = _console()
    with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
        for told in _every_second(state_dir):
            live.update(page(told, everything=everything), refresh=True)


def _console() -> Console:
    """As wide as the terminal; a file or a pipe has no width, and nothing is cut off there."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else NO_TERMINAL_WIDTH)


def _state_dir(state: Path | None) -> Path:
    """The one that was named, else the user's own, else the service's if that is the one with a daemon."""
    own = state or default_state_dir()
    if state is None and not _is_there(own) and _is_there(SERVICE_STATE_DIR):
        return SERVICE_STATE_DIR
    return own


def _is_there(state_dir: Path) -> bool:
    try:
        return (state_dir / SOCKET_NAME).is_socket()
    except PermissionError:
        return True  # there, but not for us: `fetch` says so


def _every_second(state_dir: Path) -> Iterator[dict[str, Any]]:
    while True:
        yield fetch(state_dir)
        time.sleep(EVERY_S)


def fetch(state_dir: Path) -> dict[str, Any]:
    """Ask the daemon. Raises Refusal: one line, why there is no answer."""
    path = state_dir / SOCKET_NAME
    try:
        with short_name(state_dir) as folder, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as end:
            end.settimeout(ANSWER_WITHIN_S)
            end.connect(str(folder / SOCKET_NAME))
            told = json.loads(b"".join(iter(lambda: end.recv(65536), b"")))
    except OSError as err:
        raise _no_answer(path, err) from err
    except ValueError as err:
        raise Refusal(f"{path}: the daemon ended while it answered; ask again") from err
    assert isinstance(told, dict)
    return told


def _no_answer(path: Path, err: OSError) -> InspectError:
    if isinstance(err, TimeoutError):
        return Refusal(f"{path}: the daemon does not answer within {ANSWER_WITHIN_S:g} s; look at its log")
    if isinstance(err, PermissionError):
        return Refusal(f"{path}: not permitted; ask as the daemon's user: sudo -u edge-inspect edge-inspect status ...")
    if err.errno in (errno.ENOENT, errno.ENOTDIR):
        return Refusal(f"{path}: no daemon runs with this state directory; is it another? --state DIR")
    if isinstance(err, ConnectionError):
        return Refusal(f"{path}: the daemon that made this socket is gone; systemctl status edge-inspect")
    return Refusal(f"{path}: {err.strerror or err}")


def page(told: dict[str, Any], *, everything: bool = False) -> RenderableType:
    """The whole status for a person."""
    up = _duration(told["uptime_s"])
    heat = "" if told["temperature_c"] is None else f", {told['temperature_c']:.0f} C"
    head = Text(f"{told['device']}  edge-inspect {told['version']}, up {up}, {size(told['rss_bytes'])}{heat}")
    cameras, lines = told["cameras"], told["lines"]
    watched: list[RenderableType] = [
        _cameras(cameras),
        *_reasons("camera", cameras),
        *_lines(lines),
        *_reasons("line", lines),
        *events(told),
        *(details(told) if everything else []),
    ]
    return Group(head, *watched, _delivery(told), *_update(told), *_warnings(told))


def _cameras(cameras: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("camera", "", "frames", "dropped", "parts", "OK", "NG", "UNKNOWN", "p50/p99/max ms"):
        least = len("camera-lost") if name == "" else None
        table.add_column(name, justify="left" if name in ("camera", "") else "right", min_width=least)
    for camera in cameras:
        trouble = camera["trouble"] or camera["state"]
        style = "green" if trouble == "up" else "yellow" if trouble in ("opening", "ended") else "bold red"
        latency = camera["latency_ms"]
        table.add_row(
            camera["name"], Text(trouble, style), f"{camera['frames']:,}", f"{sum(camera['dropped'].values()):,}",
            f"{camera['parts']:,}", f"{camera['ok']:,}", f"{camera['ng']:,}", _count(camera["unknown"]),
            spread(latency),
        )  # fmt: skip
    return table


def _lines(lines: list[dict[str, Any]]) -> list[Table]:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("line", "triggers", "OK", "NG", "UNKNOWN", "missed", "p50/p99/max ms"):
        table.add_column(name, justify="left" if name == "line" else "right")
    for line in lines:
        table.add_row(
            line["name"], f"{line['triggers']:,}", f"{line['ok']:,}", f"{line['ng']:,}", _count(line["unknown"]),
            f"{line['missed_deadlines']:,}", spread(line["latency_ms"]),
        )  # fmt: skip
    return [table] if lines else []


def _delivery(told: dict[str, Any]) -> Text:
    outbox, link = told["outbox"], told["link"]
    words = Text()
    if outbox is None:
        words.append("outbox  cannot be read\n", "bold red")
    else:
        waits = f", the oldest for {_duration(outbox['oldest_age_s'])}" if outbox["depth"] else ""
        words.append(f"outbox  {outbox['depth']:,} reports wait{waits}; {size(outbox['size_bytes'])} on disk")
        words.append(f"; {outbox['recovered']:,} recovered after a kill" if outbox["recovered"] else "")
        words.append(f"; {outbox['dropped']:,} LOST\n" if outbox["dropped"] else "\n", "bold red")
    if (kept := told.get("evidence")) is not None:
        words.append(f"pictures  {kept['pictures']:,} kept, {size(kept['size_bytes'])} on disk")
        lost = kept["skipped"] + kept["failed"]
        words.append(f"; {lost:,} parts without\n" if lost else "\n", "yellow")
    if link is None:
        words.append("link    no broker in the configuration", "yellow")
    else:
        stayed = sum(camera["frame_bytes"] for camera in told["cameras"])
        words.append("link    ")
        words.append(
            "connected" if link["connected"] else f"down: {link['trouble'] or 'connecting'}",
            "" if link["connected"] else "red",
        )
        words.append(f"; {link['reports_sent']:,} reports in {size(link['bytes_sent'])} sent")
        saved = told.get("saved_bytes_estimated")
        if saved is None:
            words.append(f"; inspected frames as raw pixels: {size(stayed)}")
        elif saved >= 0:
            words.append(f"; about {size(saved)} less than every frame as JPEG")
    return words


def _update(told: dict[str, Any]) -> list[Text]:
    """Which model judges, and how far another one is."""
    update = told.get("update")
    if update is None:
        return []
    words = Text(f"model   {update['active'][7:19]} judges")
    if (candidate := update["candidate"]) is not None:
        progress = "" if update["progress"] is None else f" {update['progress']:.0%}"
        words.append(f"; {candidate['name']} {candidate['version']} ", "")
        words.append(f"{update['stage']}{progress}", "bold yellow")
    if (refused := update["refused"]) is not None:
        words.append(f"; refused last: {refused['digest'][7:19]} {refused['code']}", "yellow")
    return [words]


def _warnings(told: dict[str, Any]) -> list[Text]:
    alarms = [Text(f"alarm   {alarm['code']}: {alarm['detail']}", "bold red") for alarm in told["alarms"]]
    still = {name: age_s for name, age_s in told["threads"].items() if age_s > 5}
    lost = told.get("log_lines_lost", 0)
    return [
        *alarms,
        *([Text(f"log     {lost:,} lines lost: nobody reads them", "yellow")] if lost else []),
        *(Text(f"thread  {name} has stood still for {age_s:.0f} s", "red") for name, age_s in still.items()),
    ]


def _count(unknown: dict[str, int]) -> str:
    return f"{sum(unknown.values()):,}"


def _reasons(kind: str, watched: list[dict[str, Any]]) -> list[Text]:
    """Why parts were UNKNOWN, the most frequent reasons first: a line for each camera or line that has any."""
    return [
        Text(f"UNKNOWN of {kind} {one['name']}: " + ", ".join(f"{reason} {number:,}" for reason, number in most))
        for one in watched
        if (most := sorted(one["unknown"].items(), key=lambda item: -item[1])[:MOST_REASONS])
    ]


def _duration(seconds: float) -> str:
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if hours < 2 else f"{hours:.0f} h" if days < 2 else f"{days:.0f} days"
