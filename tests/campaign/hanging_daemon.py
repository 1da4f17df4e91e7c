"""The whole appliance with threads that can be made to hang one by one, for a test that plays systemd.

    python -m tests.campaign.hanging_daemon STATE_DIR MODEL_DIR RECIPE MQTT_URL

SIGRTMIN+n: the n-th of HANGS never returns from its next call. The outbox hangs through its disk, with
tests/sim/stall_shim.c. Each verdict is one line on stdout; the log is printed aside, as the daemon's is.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_inspect import station
from edge_inspect.capture.protocol import Pixels, Read, Stamp
from edge_inspect.cli.log import log_aside
from edge_inspect.cli.run import stop_on_signals
from edge_inspect.config import config_from_options
from edge_inspect.config_line import LineConfig, SocketConfig
from edge_inspect.daemon import Appliance
from edge_inspect.delivery.link import Link
from edge_inspect.health.notify import Notifier
from edge_inspect.inference.engine import Engine
from edge_inspect.line.socket import SocketLine
from edge_inspect.pipeline import Judged, Lane
from edge_inspect.presence import Presence
from tests.line.drawn import DrawnCamera

HANGS = ("grab-camera", "inspect", "courier", "vitals", "line-line-socket")
FRAME_S = 0.1
NEVER = threading.Event()
hanging = {name: threading.Event() for name in HANGS}


def never_returns(thread: str) -> None:
    """The one frame that every stack must show."""
    if hanging[thread].is_set():
        NEVER.wait()


class HangingCamera(DrawnCamera):
    def read_into(self, pixels: Pixels, stamp: Stamp) -> Read:
        never_returns("grab-camera")
        time.sleep(FRAME_S)
        self.steps += ["good", "bad"]
        return super().read_into(pixels, stamp)


class HangingEngine(Engine):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.run = after("inspect", self.run)


def after(thread: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def hangs(*args: Any, **options: Any) -> Any:
        never_returns(thread)
        return call(*args, **options)

    return hangs


def tell(lane: Lane, judged: Judged) -> None:
    os.write(1, f"{judged.verdict.kind.value}\n".encode())


def main(state_dir: str, model_dir: str, recipe: str, mqtt: str) -> None:
    for number, name in enumerate(HANGS):
        signal.signal(signal.SIGRTMIN + number, lambda _number, _frame, name=name: hanging[name].set())
    station.Engine = HangingEngine  # type: ignore[misc]
    Link.step = after("courier", Link.step)  # type: ignore[method-assign]
    Presence.beat = after("vitals", Presence.beat)  # type: ignore[method-assign]
    SocketLine._serve = after("line-line-socket", SocketLine._serve)  # type: ignore[method-assign]
    config = config_from_options(
        camera="sim", state=Path(state_dir), model=model_dir, recipe=Path(recipe), mqtt=mqtt, provider="cpu", threads=1
    )
    device = config.device.model_copy(update={"device": Path(state_dir).parent.name})  # or they throw each other out
    line = LineConfig(socket=SocketConfig(path=Path(state_dir).parent / "line.sock"))
    with log_aside("info", "json") as printer, stop_on_signals() as stop:
        Appliance(
            config.model_copy(update={"device": device, "line": (line,)}),
            cameras={"camera": HangingCamera(["good"], live=True)},
            tell=tell,
            notifier=Notifier.from_environment(os.environ),
            printers=(printer,),
        ).run(stop)


if __name__ == "__main__":
    main(*sys.argv[1:])
