"""The whole appliance with a camera and a network that can be made to hang, for tests that play systemd.

    python -m tests.line.hanging_line STATE_DIR MODEL_DIR

SIGUSR1: the camera's driver call never returns again. SIGUSR2: neither does the network's. SIGHUP: the camera is
unplugged and stays so. SIGTERM ends it as it ends the daemon.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from edge_inspect import station
from edge_inspect.capture.protocol import Format, Pixels, Read, Stamp
from edge_inspect.capture.sim import SimCamera
from edge_inspect.cli.log import configure_log
from edge_inspect.cli.run import stop_on_signals
from edge_inspect.config import config_from_options
from edge_inspect.daemon import Appliance
from edge_inspect.errors import CameraLost
from edge_inspect.health.notify import Notifier
from edge_inspect.inference.engine import Engine

NEVER = threading.Event()
camera_hangs, network_hangs, unplugged = threading.Event(), threading.Event(), threading.Event()


class HangingCamera(SimCamera):
    def open(self) -> Format:
        if unplugged.is_set():
            raise CameraLost("unplugged")
        return super().open()

    def read_into(self, pixels: Pixels, stamp: Stamp) -> Read:
        if camera_hangs.is_set():
            NEVER.wait()
        if unplugged.is_set():
            raise CameraLost("unplugged")
        return super().read_into(pixels, stamp)


class HangingEngine(Engine):
    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        compute = self.run

        def run() -> None:
            if network_hangs.is_set():
                NEVER.wait()
            compute()

        self.run = run


def main(state_dir: str, model_dir: str) -> None:
    configure_log(form="json")
    for number, event in ((signal.SIGUSR1, camera_hangs), (signal.SIGUSR2, network_hangs), (signal.SIGHUP, unplugged)):
        signal.signal(number, lambda _number, _frame, event=event: event.set())
    station.Engine = HangingEngine  # type: ignore[misc]
    config = config_from_options(camera="sim", state=Path(state_dir), model=model_dir, provider="cpu")
    appliance = Appliance(
        config, cameras={"camera": HangingCamera(seed=1)}, notifier=Notifier.from_environment(os.environ)
    )
    with stop_on_signals() as stop:
        appliance.run(stop)


if __name__ == "__main__":
    main(*sys.argv[1:])
