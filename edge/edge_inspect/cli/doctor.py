"""`edge-inspect doctor`: is this box fit to inspect, and what would make it better?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from edge_inspect.cli.options import AsJson, ModelDir, MqttUrl, ProviderName, StateDir, ThreadCount, permitted_config
from edge_inspect.cli.output import emit
from edge_inspect.config import config_from_options, load_config
from edge_inspect.health.doctor import examine
from edge_inspect.health.findings import Finding, State

COLOURS = {State.OK: "green", State.WARN: "yellow", State.FAIL: "bold red"}


def add(app: typer.Typer) -> None:
    app.command("doctor", epilog="Example: edge-inspect doctor --config /etc/edge-inspect/edge-inspect.toml")(doctor)


def doctor(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            readable=False,
            callback=permitted_config,
            help="Check what this file asks for.",
        ),
    ] = None,
    camera: Annotated[str | None, typer.Option("--camera", metavar="SOURCE", help="Check this camera.")] = None,
    mqtt: MqttUrl = None,
    state: StateDir = None,
    model: ModelDir = None,
    provider: ProviderName = None,
    threads: ThreadCount = None,
    as_json: AsJson = False,
) -> None:
    """Check Python, runtime, model, cameras, disk, clock, broker and line; each line says how to mend what is wrong.

    Exit code 0 when nothing failed (warnings are allowed), 1 when something did.
    """
    base = load_config(config) if config else None
    chosen = config_from_options(
        base,
        camera=camera or (None if base else "sim"),
        mqtt=mqtt,
        state=state,
        provider=provider,
        threads=threads,
        model=model,
    )
    console = Console(stderr=as_json, soft_wrap=True, highlight=False)
    findings = []
    for finding in examine(chosen, any_camera=base is None and camera is None):
        findings.append(finding)
        _show(console, finding)
    worst = [state for state in (State.FAIL, State.WARN) if any(finding.state is state for finding in findings)]
    if as_json:
        emit({"ok": State.FAIL not in worst, "findings": [_as_dict(finding) for finding in findings]})
    if State.FAIL in worst:
        raise typer.Exit(1)


def _show(console: Console, finding: Finding) -> None:
    console.print(Text(f"{finding.state.value:<5}", COLOURS[finding.state]), Text(f"{finding.check}: {finding.what}"))
    if finding.mend:
        console.print(Text(f"      -> {finding.mend}", "dim"))


def _as_dict(finding: Finding) -> dict[str, str]:
    return {"check": finding.check, "state": finding.state.value, "what": finding.what, "mend": finding.mend}
