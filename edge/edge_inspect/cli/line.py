"""`edge-inspect line`: the line's side, by hand: send triggers to a running daemon, drive outputs to rest."""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from edge_inspect.cli.options import NOT_PERMITTED, AsJson, permitted_config
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
Count = Annotated[int, typer.Option("--count", metavar="N", min=1, help="How many triggers.")]
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
EveryMs = Annotated[
    float | None,
    typer.Option("--every-ms", metavar="MS", min=0.1, help="One trigger each MS, whether or not the line is ready."),
]
LOOK_EVERY_S = 0.01


def trigger(
    socket_: Socket = None,
    count: Count = 1,
    first: First = None,
    timeout: Timeout = 5.0,
    every_ms: EveryMs = None,
    json_: AsJson = False,
) -> None:
    """Send triggers over the line socket, and print the answers.

    Each goes out once the one before is answered and the line is ready again, or at the pace of --every-ms.

    Example: edge-inspect line trigger --socket /var/lib/edge-inspect/line-line.sock --count 10
    """
    path = socket_ or default_state_dir() / "line-line.sock"
    # The clock goes on between two calls; a number that came before would only repeat its old answer.
    start = time.time_ns() // 100_000_000 if first is None else first
    verdicts: Counter[str] = Counter()
    latency = Durations()
    numbers = [number % (MOST_SEQUENCE + 1) for number in range(start, start + count)]
    for answer in _answers(path, numbers, timeout, None if every_ms is None else every_ms / 1000):
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


def _answers(path: Path, numbers: Sequence[int], timeout_s: float, every_s: float | None) -> Iterator[dict[str, Any]]:
    """Send, and give the answers as they come. Raises Refusal: nobody there, an error line, no answer in time."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(str(path))
            wire = _Wire(path, connection, timeout_s)
            yield from _one_by_one(wire, numbers) if every_s is None else _paced(wire, numbers, every_s)
    except PermissionError as err:
        raise Refusal(f"{path}: {NOT_PERMITTED}") from err
    except OSError as err:
        raise Refusal(f"{path}: no daemon serves this line socket: {err.strerror or err}") from err


def _one_by_one(wire: _Wire, numbers: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Each once the one before is answered and the line is ready again: a part that was late is still looked at."""
    for index, number in enumerate(numbers):
        if index:
            wire.wait_until_ready()
        wire.say({"trigger": number})
        answer = wire.hear(wire.timeout_s)
        if answer is None:
            raise wire.silent()
        if answer.get("seq") != number:
            raise Refusal(f"{wire.path}: trigger {number}: {answer.get('error', 'another one was answered')}")
        yield answer


def _paced(wire: _Wire, numbers: Sequence[int], every_s: float) -> Iterator[dict[str, Any]]:
    """Each at its time, answered or not, as a line does that cannot stop."""
    begin_s = time.monotonic()
    waits: dict[int, float] = {}
    sent = 0
    while waits or sent < len(numbers):
        now_s = time.monotonic()
        next_s = begin_s + sent * every_s if sent < len(numbers) else now_s + wire.timeout_s
        if sent < len(numbers) and now_s >= next_s:
            wire.say({"trigger": numbers[sent]})
            waits[numbers[sent]] = now_s + wire.timeout_s
            sent += 1
            continue
        until_s = min([next_s, *waits.values()])
        answer = wire.hear(max(0.0, until_s - now_s))
        if answer is not None:
            if answer.get("seq") not in waits:
                raise Refusal(f"{wire.path}: {answer.get('error', 'a trigger of somebody else was answered')}")
            del waits[answer["seq"]]
            yield answer
        elif waits and time.monotonic() >= min(waits.values()):
            raise wire.silent()


class _Wire:
    """Whole lines of JSON over a connected socket."""

    def __init__(self, path: Path, connection: socket.socket, timeout_s: float) -> None:
        self.path = path
        self.timeout_s = timeout_s
        self._connection = connection
        self._came = b""

    def say(self, thing: dict[str, Any]) -> None:
        self._connection.sendall(json.dumps(thing).encode() + b"\n")

    def hear(self, wait_s: float) -> dict[str, Any] | None:
        """The next line; None if none comes within `wait_s`. Raises Refusal: the connection was closed."""
        until_s = time.monotonic() + wait_s
        while b"\n" not in self._came:
            if not select.select([self._connection], [], [], max(0.0, until_s - time.monotonic()))[0]:
                return None
            piece = self._connection.recv(65536)
            if not piece:
                raise Refusal(f"{self.path}: the daemon closed the connection")
            self._came += piece
        line, _, self._came = self._came.partition(b"\n")
        answer = json.loads(line)
        assert isinstance(answer, dict)
        return answer

    def wait_until_ready(self) -> None:
        """Not longer than for an answer: a trigger to a line that is not ready is answered with the reason."""
        until_s = time.monotonic() + self.timeout_s
        while time.monotonic() < until_s:
            self.say({"status": True})
            status = self.hear(self.timeout_s)
            if status is None:
                raise self.silent()
            if status.get("ready"):
                return
            time.sleep(LOOK_EVERY_S)

    def silent(self) -> Refusal:
        return Refusal(f"{self.path}: no answer within {self.timeout_s:g} s")


def _human_line(answer: dict[str, Any]) -> str:
    return (
        f"{answer['seq']:>10}  {answer['verdict']:<7}  {answer['reason']}  "
        f"part {answer['part']}  {answer['latency_ms']:.1f} ms"
    )
