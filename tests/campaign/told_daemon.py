"""The whole appliance with a camera that never rests and a line on a Unix socket, to be killed at any moment.

    python -m tests.campaign.told_daemon STATE_DIR MODEL_DIR RECIPE SOCKET

Every other picture is bad. SIGTERM ends it as it ends the daemon.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from edge_inspect.capture.protocol import Pixels, Read, Stamp
from edge_inspect.cli.log import configure_log
from edge_inspect.cli.run import stop_on_signals
from edge_inspect.config import config_from_options
from edge_inspect.config_line import LineConfig, SocketConfig
from edge_inspect.daemon import Appliance
from edge_inspect.delivery.told import FILE_NAME
from tests.line.drawn import DrawnCamera

FRAME_S = 0.004


class RestlessCamera(DrawnCamera):
    def read_into(self, pixels: Pixels, stamp: Stamp) -> Read:
        time.sleep(FRAME_S)
        self.steps += ["bad", "good"]
        return super().read_into(pixels, stamp)


def main(state_dir: str, model_dir: str, recipe: str, socket_path: str) -> None:
    configure_log(form="json")
    config = config_from_options(
        camera="sim", state=Path(state_dir), model=model_dir, recipe=Path(recipe), provider="cpu", threads=1
    )
    line = LineConfig(queue=2, socket=SocketConfig(path=Path(socket_path)))
    appliance = Appliance(
        config.model_copy(update={"line": (line,)}),
        cameras={"camera": RestlessCamera(["bad", "good"], live=True)},
        told_paths=[Path(os.environ.get("RUNTIME_DIRECTORY", state_dir)) / FILE_NAME],
    )
    with stop_on_signals() as stop:
        appliance.run(stop)


if __name__ == "__main__":
    main(*sys.argv[1:])
