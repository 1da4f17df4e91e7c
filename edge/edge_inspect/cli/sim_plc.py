"""`edge-inspect sim plc`: a PLC to connect a daemon to, before there is a machine."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.live import Live

from edge_inspect.cli.log import configure_log
from edge_inspect.cli.options import AsJson
from edge_inspect.cli.output import emit
from edge_inspect.cli.plc_side import need_pymodbus, plc_numbers, plc_running, plc_table
from edge_inspect.cli.run import stop_on_signals
from edge_inspect.errors import Refusal, StorageFailing, Usage

if TYPE_CHECKING:
    from edge_inspect.line.plc_program import PlcPart, PlcProgram

CONNECT_S = 60.0
"""How long the daemon may take to become Ready."""


def plc(
    listen: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Be Modbus server; the daemon polls. (default: :1502)")
    ] = None,
    connect: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Be Modbus client; the daemon's server answers.")
    ] = None,
    parts: Annotated[int | None, typer.Option(metavar="N", min=1, help="Stop after N parts. (default: never)")] = None,
    every_ms: Annotated[float, typer.Option(metavar="MS", min=1, help="A part comes this often.")] = 1000.0,
    deadline_ms: Annotated[float, typer.Option(metavar="MS", min=1, help="From trigger to answer.")] = 200.0,
    gate_ms: Annotated[float, typer.Option(metavar="MS", min=1, help="From trigger to the reject gate.")] = 800.0,
    scan_ms: Annotated[float, typer.Option(metavar="MS", min=1, help="The PLC's scan cycle.")] = 5.0,
    ring: Annotated[int, typer.Option(metavar="N", min=0, max=16, help="0: the plain handshake.")] = 0,
    unit: Annotated[int, typer.Option(metavar="N", min=0, max=255, help="Modbus unit.")] = 1,
    wait_s: Annotated[
        float, typer.Option("--wait-s", metavar="S", min=0, help="Wait so long for the daemon to be Ready.")
    ] = CONNECT_S,
    log: Annotated[
        Path | None, typer.Option("--log", metavar="FILE", help="Write a line of JSON for each part at the gate.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Play the PLC: a trigger for each part, a reject gate that passes only what is OK in time, a live table.

    Example: edge-inspect sim plc --listen :1502 --every-ms 500 --parts 100
    """
    need_pymodbus()
    from edge_inspect.line import plc_program
    from edge_inspect.line.plc_sim import PlcAsClient, PlcAsServer

    if listen and connect:
        raise Usage("--listen or --connect, not both")
    configure_log("warning", "text")
    parts_log = PartsLog(log)
    program = plc_program.PlcProgram(
        decided=parts_log.write,
        deadline_ms=deadline_ms, gate_ms=gate_ms, entries=ring, fires_per_scan=1 if connect else 16,
        first_sequence=time.time_ns() // 100_000_000 % 2**32,
    )  # fmt: skip
    side: PlcAsServer | PlcAsClient
    if connect:
        host, port = _address("--connect", connect)
        side = PlcAsClient(program, host, port, unit_id=unit, scan_ms=scan_ms)
    else:
        host, port = _address("--listen", listen or ":1502")
        side = PlcAsServer(program, host, port, unit_id=unit, scan_ms=scan_ms)
    console = Console(stderr=as_json, highlight=False)
    title = f"PLC simulator, {'client of' if connect else 'server at'} {host}:{port}"
    with parts_log, stop_on_signals() as stop, plc_running(side.run):
        console.print(f"waiting for a daemon that is Ready, at most {wait_s:g} s; Ctrl-C ends")
        _wait_for_daemon(program, wait_s, stop, title)
        with Live(console=console, refresh_per_second=4, get_renderable=lambda: plc_table(program, title)):
            _play(program, parts, every_ms / 1000, stop)
    if as_json:
        emit(plc_numbers(program))
    if parts and program.counts.answers == 0:
        raise Refusal(f"no answer to {program.counts.triggers} triggers: is a daemon there? ({title})")


class PartsLog:
    """A line of JSON for each part, written as it is decided; None writes nothing."""

    def __init__(self, path: Path | None) -> None:
        try:
            self._file = path.open("w") if path else None
        except OSError as err:
            raise StorageFailing(f"cannot write {path}: {err.strerror}") from err

    def write(self, part: PlcPart) -> None:
        if self._file:
            self._file.write(json.dumps(asdict(part)) + "\n")

    def __enter__(self) -> PartsLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()


def _wait_for_daemon(program: PlcProgram, wait_s: float, stop: threading.Event, title: str) -> None:
    """Until it is Ready; one that lives and does not get Ready is triggered all the same. Raises Refusal: nobody."""
    until = time.monotonic() + wait_s
    while not program.ready and time.monotonic() < until and not stop.wait(0.05):
        pass
    if not program.alive and not stop.is_set():
        raise Refusal(f"{title}: no daemon's heartbeat within {wait_s:g} s; is one there, and is the address right?")


def _play(program: PlcProgram, parts: int | None, every_s: float, stop: threading.Event) -> None:
    """Parts come until there were enough and all have passed the gate."""
    sent, next_s = 0, time.monotonic()
    while not stop.is_set() and (parts is None or sent < parts):
        program.arrives()
        sent += 1
        next_s = max(next_s + every_s, time.monotonic())
        stop.wait(next_s - time.monotonic())
    while not program.idle and not stop.wait(0.02):
        pass


def _address(option: str, text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise Usage(f"{option} {text}: must be HOST:PORT, e.g. 127.0.0.1:1502")
    return host.strip("[]") or "127.0.0.1", int(port)
