"""The whole appliance on /dev/video0, for tests that preload the V4L2 shim: prints each verdict as one JSON line.

python -m tests.line.v4l2_line STATE_DIR MODEL_DIR RECIPE FRAMES
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from edge_inspect.cli.log import configure_log
from edge_inspect.cli.run import stop_on_signals
from edge_inspect.cli.summary import summary
from edge_inspect.config import config_from_options
from edge_inspect.daemon import Appliance
from edge_inspect.pipeline import Judged, Lane


def tell(lane: Lane, judged: Judged) -> None:
    verdict = judged.verdict
    line = {"frame": judged.frame_index, "kind": verdict.kind.value, "reason": verdict.reason, "age_ms": judged.age_ms}
    print(json.dumps(line), flush=True)


def main(state: str, model: str, recipe: str, frames: str) -> None:
    configure_log(form="json")
    config = config_from_options(
        camera="/dev/video0", state=Path(state), model=model, recipe=Path(recipe), provider="cpu", threads=1
    )
    appliance = Appliance(config, tell=tell, frames=int(frames), first_open_s=5.0)
    with stop_on_signals() as stop:
        appliance.run(stop)
    print(json.dumps(summary(appliance)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
