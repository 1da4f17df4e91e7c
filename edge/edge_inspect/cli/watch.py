"""`edge-inspect watch`: prints defects as they come, for a person or, with --json, for a machine."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.text import Text

from edge_inspect.delivery.broker import Broker
from edge_inspect.delivery.subscriber import Subscriber
from edge_inspect.errors import BadConfig, Refusal, Usage
from edge_wire.messages import Defect, DefectReport, VerdictKind
from edge_wire.topics import subscription


def add(app: typer.Typer) -> None:
    app.command("watch")(watch)


Url = Annotated[str, typer.Option("--mqtt", metavar="URL", help="Broker: mqtt://HOST[:1883] or mqtts://HOST[:8883].")]
OnlySite = Annotated[str | None, typer.Option("--site", metavar="NAME", help="Only this site.")]
OnlyLine = Annotated[str | None, typer.Option("--line", metavar="NAME", help="Only this line.")]
OnlyDevice = Annotated[str | None, typer.Option("--device", metavar="NAME", help="Only this device.")]
Count = Annotated[int | None, typer.Option("--count", metavar="N", min=1, help="Exit after N reports.")]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout", metavar="S", min=0.0, help="Listen at most S seconds; exit 1 if --count was not reached."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line: the report as it was sent.")]
Version = Annotated[str, typer.Option("--protocol", metavar="VERSION", help="MQTT version: 5 or 3.1.1.")]
Ca = Annotated[
    Path | None,
    typer.Option("--ca", metavar="FILE", help="mqtts: the CA of the broker's certificate. (default: the system's)"),
]
Cert = Annotated[Path | None, typer.Option("--cert", metavar="FILE", help="mqtts: our certificate (PEM).")]
Key = Annotated[Path | None, typer.Option("--key", metavar="FILE", help="mqtts: its private key (PEM).")]
User = Annotated[str | None, typer.Option("--username", metavar="NAME", help="User name, if the broker asks.")]
Password = Annotated[Path | None, typer.Option("--password-file", metavar="FILE", help="File with the password.")]


def watch(
    mqtt: Url,
    site: OnlySite = None,
    line: OnlyLine = None,
    device: OnlyDevice = None,
    count: Count = None,
    timeout: Timeout = None,
    json_: AsJson = False,
    protocol: Version = "5",
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    username: User = None,
    password_file: Password = None,
) -> None:
    """Print defects as devices report them; each once, through lost connections.

    Example: edge-inspect watch --mqtt mqtt://broker --line press-4
    """
    try:
        broker = Broker(
            mqtt,
            protocol=_protocol(protocol),
            ca=ca,
            cert=cert,
            key=key,
            username=username,
            password_file=password_file,
        )
    except BadConfig as err:
        raise Usage(f"--mqtt: {err}") from err
    try:
        topic_filter = subscription("defect", site=site, line=line, device=device)
    except ValueError as err:
        raise Usage(str(err)) from err
    subscriber = Subscriber(broker, topic_filter, tell=_tell)
    seen = _watch(subscriber, count, timeout, as_json=json_)
    if count is not None and seen < count:
        raise Refusal(f"{seen} of {count} reports within {timeout:g} s")
    if not subscriber.listened:
        raise Refusal(f"{broker.where}: no broker within {timeout:g} s")


def _watch(subscriber: Subscriber, count: int | None, timeout_s: float | None, *, as_json: bool) -> int:
    """Print until `count` reports came or the time is up; how many came."""
    console = Console(highlight=False, soft_wrap=True)
    until_s = None if timeout_s is None else time.monotonic() + timeout_s
    stop = threading.Event()
    seen = 0
    for report in subscriber.reports(stop):
        if report is not None and (count is None or seen < count):
            seen += 1
            if as_json:
                sys.stdout.write(report.to_bytes().decode() + "\n")
                sys.stdout.flush()
            else:
                console.print(human_line(report))
        if seen == count or (until_s is not None and time.monotonic() >= until_s):
            stop.set()  # and let the subscriber take its leave of the broker
    return seen


def human_line(report: DefectReport) -> Text:
    """Time, device and camera, part, verdict, then every defect with class, confidence and place."""
    ng = report.verdict is VerdictKind.NG
    text = Text()
    text.append(report.verdict_utc.astimezone().strftime("%H:%M:%S.%f")[:-3], style="dim")
    text.append(f"  {report.device}/{report.camera}")
    text.append(f"  part {report.part.number}", style="bold")
    text.append(f"  {report.verdict.value:<7}", style="bold red" if ng else "bold yellow")
    text.append(f"  {report.reason}", style="dim")
    for defect in report.defects:
        text.append(f"  {_defect(defect)}")
    return text


def _defect(defect: Defect) -> str:
    left, top, right, bottom = defect.box_px
    size = f"{right - left:.0f}x{bottom - top:.0f} px"
    if defect.width_mm is not None and defect.height_mm is not None:
        size += f" ({defect.width_mm:.1f}x{defect.height_mm:.1f} mm)"
    # A class name comes from the network and goes to a terminal: nothing in it may be a command.
    name = "".join(letter if letter.isprintable() else "?" for letter in defect.class_name)
    return f"{name} {defect.confidence:.0%} at {left:.0f},{top:.0f} {size}"


def _tell(line: str) -> None:
    sys.stderr.write(f"edge-inspect watch: {line}\n")
    sys.stderr.flush()


def _protocol(version: str) -> Literal[5, 311]:
    if version in ("5", "5.0"):
        return 5
    if version in ("3.1.1", "311"):
        return 311
    raise Usage(f"--protocol {version}: unknown; allowed: 5, 3.1.1")
