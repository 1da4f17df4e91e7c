"""`edge-inspect line`: the line's side, by hand: send triggers to a running daemon, drive outputs to rest."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from edge_inspect.cli.options import AsJson, permitted_config
from edge_inspect.cli.output import emit
from edge_inspect.config import load_config
from edge_inspect.config_model import default_state_dir
from edge_inspect.counts import Durations
from edge_inspect.errors import Refusal
from edge_inspect.line.gpio_signals import Wires
from edge_inspect.line.protocol import MOST_SEQUENCE


def add(app: typer.Typer) -> None:
    line = typer.Typer(no_args_is_help=True, help="The line by hand: trigger a running daemon, rest the outputs.")
    line.command("trigger")(trigger)
    line.command("rest")(rest)
    app.add_typer(line, name="line")


Socket = Annotated[
    Path | None,
    typer.Option("--socket", metavar="PATH", readable=False, help="Default: line-line.sock in the state folder."),
]
Count = Annotated[int, typer.Option("--count", metavar="N", min=1, help="How many triggers, one after the other.")]
ConfigFile = Annotated[
    Path,
    typer.Option(
        "--config", metavar="FILE", readable=False, callback=permitted_config, help="The daemon's configuration."
    ),
]
First = Annotated[
    int | None,
    typer.Option("--first", metavar="SEQ", min=0, max=MOST_SEQUENCE, help="First number. (default: from the clock)"),
]
Timeout = Annotated[float, typer.Option("--timeout", metavar="S", min=0.01, help="Wait so long for each answer.")]


def trigger(
    socket_: Socket = None,
    count: Count = 1,
    first: First = None,
    timeout: Timeout = 5.0,
    json_: AsJson = False,
) -> None:
    """Send triggers over the line socket, each after the answer to the one before, and print the answers.

    Example: edge-inspect line trigger --socket /var/lib/edge-inspect/line-line.sock --count 10
    """
    path = socket_ or default_state_dir() / "line-line.sock"
    # The clock goes on between two calls; a number that came before would only repeat its old answer.
    start = time.time_ns() // 100_000_000 if first is None else first
    verdicts: Counter[str] = Counter()
    latency = Durations()
    for answer in _answers(path, start, count, timeout):
        verdicts[str(answer.get("verdict"))] += 1
        latency.add(round(float(answer.get("latency_ms", 0.0)) * 1e6))
        sys.stderr.write(_human_line(answer) + "\n")
    if json_:
        emit(
            {
                "ok": True,
                "answers": sum(verdicts.values()),
                "verdicts": dict(sorted(verdicts.items())),
                "latency_ms": {**latency.summary(50, 99), "max": latency.max_ms},
            }
        )


def rest(config: ConfigFile, json_: AsJson = False) -> None:
    """Drive all GPIO outputs of a configuration to their fail-safe levels, for `ExecStopPost=`.

    Example: edge-inspect line rest --config /etc/edge-inspect/edge-inspect.toml
    """
    rested = []
    for line in load_config(config).line:
        if (table := line.gpio) is None:
            continue
        from edge_inspect.line.gpio import drive_to_rest

        wires = Wires(**table.wires())
        drive_to_rest(table.chip, wires, active_low=table.active_low, rejects_at_rest=line.fail_safe == "reject")
        sys.stderr.write(f"line {line.name}: outputs of {table.chip} are at rest\n")
        rested.append(line.name)
    if json_:
        emit({"ok": True, "lines": rested})


def _answers(path: Path, start: int, count: int, timeout_s: float) -> Iterator[dict[str, Any]]:
    """Send and wait, one by one. Raises Refusal: nobody there, an error line, no answer in time."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(str(path))
            with connection.makefile("rb") as lines:
                for number in range(start, start + count):
                    sequence = number % (MOST_SEQUENCE + 1)
                    connection.sendall(json.dumps({"trigger": sequence}).encode() + b"\n")
                    answer = _heard(path, lines.readline())
                    if answer.get("seq") != sequence:
                        raise Refusal(f"{path}: trigger {sequence}: {answer.get('error', 'another one was answered')}")
                    yield answer
    except TimeoutError as err:
        raise Refusal(f"{path}: no answer within {timeout_s:g} s") from err
    except OSError as err:
        raise Refusal(f"{path}: no daemon serves this line socket: {err.strerror or err}") from err


def _heard(path: Path, line: bytes) -> dict[str, Any]:
    if not line:
        raise Refusal(f"{path}: the daemon closed the connection")
    answer = json.loads(line)
    assert isinstance(answer, dict)
    return answer


def _human_line(answer: dict[str, Any]) -> str:
    return (
        f"{answer['seq']:>10}  {answer['verdict']:<7}  {answer['reason']}  "
        f"part {answer['part']}  {answer['latency_ms']:.1f} ms"
    )
