"""The whole appliance on cameras /dev/video0 ... of the V4L2 shim: each verdict is one line `CAMERA KIND` on stdout.

python -m tests.campaign.camera_line STATE_DIR MODEL_DIR RECIPE CAMERAS
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from edge_inspect.cli.log import configure_log
from edge_inspect.cli.run import stop_on_signals
from edge_inspect.config import config_from_options
from edge_inspect.daemon import Appliance
from edge_inspect.pipeline import Judged, Lane


def tell(lane: Lane, judged: Judged) -> None:
    os.write(1, f"{lane.name} {judged.verdict.kind.value}\n".encode())


def main(state: str, model: str, recipe: str, cameras: str) -> None:
    configure_log(form="json")
    config = config_from_options(
        camera="/dev/video0", state=Path(state), model=model, recipe=Path(recipe), provider="cpu", threads=1
    )
    named = tuple(
        config.camera[0].model_copy(update={"name": f"cam{number}", "source": f"/dev/video{number}"})
        for number in range(int(cameras))
    )
    evidence = config.evidence.model_copy(update={"enabled": False})  # measured on its own; here only cameras are
    appliance = Appliance(config.model_copy(update={"camera": named, "evidence": evidence}), tell=tell)
    with stop_on_signals() as stop:
        appliance.run(stop)


if __name__ == "__main__":
    main(*sys.argv[1:])
