"""A process that runs a GpioLine on the played chip: settings as JSON in argv, commands on stdin, events on stdout.

{"tell": "OK", "seq": 1, "in_ms": 600000}  {"status": [true, false]}  {"reject": 100}  {"ask": 1}  {"alive": false}
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import structlog

from edge_inspect.errors import InspectError
from edge_inspect.line.gpio import GpioLine
from edge_inspect.line.gpio_signals import Wires
from edge_inspect.line.protocol import Answer, Trigger

_lock = threading.Lock()


def say(**event: Any) -> None:
    with _lock:
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()


def main() -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # stdout is for events alone
    settings = json.loads(sys.argv[1])
    wires = Wires(**settings.pop("wires"))
    answers_at_once = settings.pop("answers", False)
    alive = [True]
    line = GpioLine(
        Path("/dev/gpiochip0"),
        wires,
        **settings,
        alive=lambda: alive[0],
        confirmed=lambda count: say(confirmed=count),
        encoder=lambda counts: say(counts=counts),
    )
    stop = threading.Event()

    def tell(kind: Any, sequence: int, in_ms: float = 600_000.0) -> None:
        now_ns = time.monotonic_ns()
        trigger = Trigger(sequence, now_ns, "gpio")
        line.tell(Answer(sequence, kind, "test", 1, trigger, now_ns, now_ns + round(in_ms * 1e6)))

    def fire(trigger: Trigger) -> None:
        say(trigger=trigger.sequence, at_ns=trigger.at_ns, encoder=trigger.encoder)
        if answers_at_once:
            tell("OK", trigger.sequence)

    def body() -> None:
        try:
            line.run(stop, fire)
        except InspectError as err:
            say(error=str(err), kind=type(err).__name__)

    thread = threading.Thread(target=body)
    thread.start()
    for text in sys.stdin:
        command = json.loads(text)
        if "tell" in command:
            tell(command["tell"], command["seq"], command.get("in_ms", 600_000.0))
        elif "status" in command:
            line.status(*command["status"])
        elif "reject" in command:
            line.reject(command["reject"])
        elif "alive" in command:
            alive[0] = command["alive"]
        else:
            counts = {"lost": line.lost, "edges_lost": line.edges_lost}
            signals = {"cut": line.signals.cut, "untold": line.signals.untold}
            say(asked=command["ask"], trouble=line.trouble, **counts, **signals)
    stop.set()
    thread.join()
    say(ended=True, fds=len(list(Path("/proc/self/fd").iterdir())))


if __name__ == "__main__":
    main()
