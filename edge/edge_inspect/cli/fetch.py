"""`edge-inspect-fetch`: brings models here, on a box where the daemon itself has no way out of the plant.

It has the network and no devices, and writes only where models lie; the daemon verifies everything anew.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from edge_inspect.cli.as_owner import as_owner_of
from edge_inspect.cli.log import configure_log
from edge_inspect.cli.output import emit
from edge_inspect.cli.run import stop_on_signals
from edge_inspect.cli.single import run_single
from edge_inspect.config import Config, load_for_fetching
from edge_inspect.errors import BadConfig
from edge_inspect.health.notify import Heart, Notifier, Watchdog
from edge_inspect.threads import Thread, join
from edge_inspect.update.fetch import FetchSettings, fetch_once
from edge_inspect.update.poll import HINT_NAME, Poller
from edge_inspect.update.store import FOLDER
from edge_inspect.update.trouble import told

MAX_AGE_S = 180.0
"""A look moves at each piece that comes; hashing a large file on slow storage takes longest."""
END_S = 10.0
EXAMPLE = "Example: edge-inspect-fetch --config /etc/edge-inspect/edge-inspect.toml --once"


def main(argv: list[str] | None = None) -> None:
    """Console entry point."""
    sys.exit(run_command(list(sys.argv[1:] if argv is None else argv)))


def run_command(argv: list[str]) -> int:
    """The exit code."""
    return run_single(fetch, "edge-inspect-fetch", EXAMPLE, argv)


def fetch(
    config: Annotated[Path, typer.Option("--config", metavar="FILE", help="The daemon's configuration (TOML).")],
    once: Annotated[bool, typer.Option("--once", help="Look once and end; exit code 1 if that failed.")] = False,
    json: Annotated[bool, typer.Option("--json", help="With --once: one JSON object on stdout.")] = False,
) -> None:
    """Look for models in the repository of `\\[update]`, fetch what is for this box, offer it to the daemon."""
    read = load_for_fetching(config)
    settings = settings_of(read)
    configure_log(read.log.level, read.log.format)
    assert read.update is not None
    owned = as_owner_of(settings.models_dir, read.state_dir, asks="edge-inspect-fetch")
    with stop_on_signals() as stop, owned:
        if not once:
            serve(settings, stop, pause_s=read.update.poll_s, hint_file=read.state_dir / FOLDER / HINT_NAME)
            return
        offer = fetch_once(settings, stop)
    if json:
        found = {"sequence": offer.rollout.sequence, "digest": offer.rollout.model.digest} if offer else {}
        emit({"ok": True, "offer": offer is not None, **found})


def settings_of(config: Config) -> FetchSettings:
    """Raises BadConfig."""
    if config.update is None or config.update.url is None:
        raise BadConfig("[update] has no `url`: there is no repository to fetch from")
    device = config.device
    return FetchSettings.of(
        config.update, site=device.site, line=device.line, device=device.device, state_dir=config.state_dir
    )


def serve(settings: FetchSettings, stop: threading.Event, *, pause_s: float, hint_file: Path) -> None:
    """Poll until `stop`; systemd hears that we are ready, alive and stopping. Raises what ended the poll."""
    ended, work_stop = threading.Event(), threading.Event()

    def look(alive: Callable[[], None]) -> None:
        told(settings.models_dir, partial(fetch_once, replace(settings, alive=alive), work_stop))()

    poller = Poller(look, pause_s=pause_s, hint_file=hint_file)
    notifier = Notifier.from_environment(os.environ)
    thread = Thread("fetch", poller.run, work_stop, ended)
    watchdog = Watchdog([Heart("fetch", lambda: poller.beat_ns, MAX_AGE_S)], notifier)
    thread.start()
    notifier.ready(f"fetching from {settings.url}")
    try:
        while not stop.is_set() and not ended.is_set():
            watchdog.look()
            stop.wait(min(1.0, watchdog.period_s))
    finally:
        notifier.stopping()
        join([thread], time.monotonic() + END_S, work_stop)
    if thread.error is not None:
        raise thread.error


if __name__ == "__main__":
    main()
