"""What a model in the shadow costs the one that answers: the time from capture to verdict, with and without, in turns.

    python -m tests.bench.shadow --rounds 20 --stretch-s 5
    python -m tests.bench.shadow --mode barrier --share 0.3

One appliance on the simulated line; the shadow (the same package) is switched on and off, so that whatever else this
machine does hits both alike. The last line is one JSON object; times in ms.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from edge_inspect.beside import NICE
from edge_inspect.capture.sim import SimCamera
from edge_inspect.cli.bench_side import percentiles
from edge_inspect.cli.log import configure_log
from edge_inspect.config import config_from_options
from edge_inspect.daemon import Appliance
from edge_inspect.inference.package import ModelPackage, find_model
from edge_inspect.lane import Judged, Lane

RECIPE = """
name = "shadow"
version = "1"
[classes."*"]
threshold = 0.25
[part]
mode = "{mode}"
"""
SETTLE_S = 1.0


class Latencies:
    """From capture to verdict, ms, into the list that is open."""

    def __init__(self) -> None:
        self.open: list[float] | None = None

    def tell(self, lane: Lane, judged: Judged) -> None:
        if self.open is not None and judged.stages is not None:
            self.open.append((judged.verdict_ns - judged.captured_ns) / 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--stretch-s", type=float, default=5.0)
    parser.add_argument("--share", type=float, default=0.3)
    parser.add_argument("--nice", type=int, default=NICE)
    parser.add_argument("--fps", type=float, default=25.0)
    parser.add_argument("--mode", choices=("frame", "barrier"), default="frame")
    parser.add_argument("--size", default="640x360")
    parser.add_argument("--provider", default="cpu")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    configure_log("error", "text")
    with tempfile.TemporaryDirectory(prefix="shadow-") as folder:
        print(json.dumps(measure(options, Path(folder))))


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE.format(mode=options.mode))
    config = config_from_options(
        camera="sim", state=folder / "state", provider=options.provider, threads=options.threads, recipe=recipe
    )
    width, height = (int(side) for side in options.size.split("x"))
    camera = SimCamera(seed=5, fps=options.fps, width=width, height=height)
    heard = Latencies()
    appliance = Appliance(config, cameras={config.camera[0].name: camera}, tell=heard.tell, deliver=False)
    appliance.shadow._share, appliance.shadow._nice = options.share, options.nice
    package = ModelPackage.load(find_model())
    stop, result = threading.Event(), {}

    def turns() -> None:
        try:
            result.update(in_turns(appliance, heard, package, options))
        finally:
            stop.set()

    thread = threading.Thread(target=turns)
    thread.start()
    appliance.run(stop)
    thread.join()
    return result


def in_turns(
    appliance: Appliance, heard: Latencies, package: ModelPackage, options: argparse.Namespace
) -> dict[str, Any]:
    while appliance.pipeline.frames < 100:
        time.sleep(0.05)
    alone: list[float] = []
    shadowed: list[float] = []
    appliance.models.start_shadow(package, role="candidate")
    for number in range(2 * options.rounds):
        with_shadow = (number // 2 + number) % 2 == 1  # 0 1 1 0 0 1 ...: neither is always first
        appliance.pipeline.beside = appliance.shadow if with_shadow else None
        time.sleep(SETTLE_S)
        heard.open = shadowed if with_shadow else alone
        time.sleep(options.stretch_s)
        heard.open = None
    report = appliance.models.shadow_report()
    overruns = sum(station.pulse().overruns for station in appliance.stations.values())
    return {
        "alone": percentiles(alone), "shadowed": percentiles(shadowed), "n": [len(alone), len(shadowed)],
        "beside": {"parts": report.parts, "skipped": report.skipped, "share": round(report.share, 3),
                   "run_ms": [report.beside.p50_ms, report.beside.p99_ms]},
        "overruns": overruns, "options": vars(options),
    }  # fmt: skip


if __name__ == "__main__":
    main()
