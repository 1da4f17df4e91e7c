"""`edge-inspect run`, and the bare form `edge-inspect --camera SOURCE`."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from edge_inspect.cli.log import log_aside
from edge_inspect.cli.options import (
    AsJson,
    FrameLimit,
    ModelDir,
    MqttUrl,
    ProviderName,
    RecipeFile,
    StateDir,
    ThreadCount,
    check_provider,
    permitted_config,
    permitted_state,
)
from edge_inspect.cli.output import emit
from edge_inspect.cli.summary import summary
from edge_inspect.config import config_from_options, load_config
from edge_inspect.daemon import Appliance
from edge_inspect.delivery.outbox_file import MAY_PASS
from edge_inspect.delivery.told_places import told_paths
from edge_inspect.errors import Refusal
from edge_inspect.health.notify import Notifier
from edge_inspect.pipeline import Judged, Lane
from edge_inspect.printing import Printer
from edge_inspect.verdict.judge import Kind, Verdict

FIRST_OPEN_S = 5.0
OWNER_ALONE = 0o077
"""umask(2), as in the unit: reports and pictures are nobody else's business. Sockets for others say so themselves."""
SECOND_THOUGHT_S = 1.0
EXAMPLES = """Examples:\n
  edge-inspect --camera /dev/video0 --mqtt mqtt://broker.plant\n
  edge-inspect run --config /etc/edge-inspect/edge-inspect.toml\n
  edge-inspect --camera sim --frames 500 --json
"""


def add(app: typer.Typer) -> None:
    app.command("run", epilog=EXAMPLES)(run)


def run(
    camera: Annotated[
        str | None,
        typer.Option(
            "--camera",
            metavar="SOURCE",
            help="/dev/video0, rtsp://…, a recording, a folder of pictures, gst:PIPELINE, sim.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            readable=False,
            callback=permitted_config,
            help="Configuration (TOML); see `edge-inspect config init`.",
        ),
    ] = None,
    mqtt: MqttUrl = None,
    recipe: RecipeFile = None,
    model: ModelDir = None,
    provider: ProviderName = None,
    threads: ThreadCount = None,
    state: StateDir = None,
    frames: FrameLimit = None,
    as_json: AsJson = False,
) -> None:
    """Watch the line: judge every part, send only defects. Runs until SIGTERM, Ctrl-C, or the end of a recording.

    Either --camera, whose source must open within 5 s, or --config, whose cameras are waited for, for ever.
    """
    base = load_config(config) if config else None
    settings = config_from_options(
        base,
        camera=camera,
        mqtt=mqtt,
        state=state,
        provider=check_provider(provider),
        threads=threads,
        recipe=recipe,
        model=str(model) if model else None,
    )
    os.umask(OWNER_ALONE)
    make_state_dir(settings.state_dir)
    verdicts = Printer("verdicts", lambda: sys.stdout)
    with log_aside(settings.log.level, settings.log.format, verdicts) as log_printer:
        teller = Teller(log_printer if as_json else verdicts)  # with --json, stdout is for one object
        appliance = Appliance(
            settings,
            tell=teller.tell,
            frames=frames,
            first_open_s=None if camera is None else FIRST_OPEN_S,
            notifier=Notifier.from_environment(os.environ),
            told_paths=told_paths(os.environ, settings.state_dir),
            printers=(log_printer, verdicts),
        )
        with stop_on_signals() as stop:
            appliance.run(stop)
        result = summary(appliance)
        if not as_json:
            teller.sum_up(result)
    if as_json:
        emit(result)


def make_state_dir(folder: Path) -> None:
    """Its owner's alone. What may pass (no room, a disk that fails) the outbox waits for. Raises Refusal."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except FileExistsError as err:
        raise Refusal(f"{folder}: is a file, allowed: a folder") from err
    except OSError as err:
        if err.errno not in MAY_PASS:
            raise Refusal(f"{folder}: cannot be made: {err.strerror}") from err
        return
    permitted_state(folder)


class Teller:
    """Prints each part that is not OK, as it is judged, and the sum at the end; whoever tells it waits for nothing."""

    def __init__(self, printer: Printer) -> None:
        self._printer = printer

    def tell(self, lane: Lane, judged: Judged) -> None:
        verdict = judged.verdict
        if verdict.kind is not Kind.OK:
            camera, part = lane.name, judged.part
            self._printer.hand_over(lambda: self._rendered(_verdict_line(camera, part, verdict)))

    def sum_up(self, result: dict[str, Any]) -> None:
        text = (
            f"{result['frames']} frames, {result['parts']} parts: {result['ok']} OK, {result['ng']} NG, "
            f"{result['unknown']} UNKNOWN; {result['reports']} reports, {result['bytes_sent']} bytes sent"
        )
        self._printer.hand_over(lambda: self._rendered(text))

    def _rendered(self, text: str) -> str:
        """In the colours and the width of the stream."""
        console = Console(file=self._printer.stream(), highlight=False)
        with console.capture() as rendered:
            console.print(text)
        return rendered.get()


def _verdict_line(camera: str, part: int, verdict: Verdict) -> str:
    found = ", ".join(f"{d.cls} {d.confidence:.2f}" for d in verdict.defects) or verdict.reason
    colour = "red" if verdict.kind is Kind.NG else "yellow"
    return f"[bold {colour}]{verdict.kind.value:7}[/] {camera} part {part}: {found}"


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """SIGTERM and Ctrl-C set the event instead of ending the process.

    A second SIGTERM changes nothing: supervisors send it again. A second Ctrl-C, a second later, ends it at once.
    """
    stop = threading.Event()
    asked_s = 0.0

    def ask(number: int, frame: object) -> None:
        nonlocal asked_s
        now_s = time.monotonic()
        if stop.is_set() and number == signal.SIGINT and now_s - asked_s > SECOND_THOUGHT_S:
            if select.select([], [2], [], 0)[1]:  # whoever reads it may be what hangs
                os.write(2, b"edge-inspect: ended at once, by a second Ctrl-C\n")
            os._exit(128 + number)
        asked_s = asked_s or now_s
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
