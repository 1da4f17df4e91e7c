"""Two models that take turns while a camera runs at full rate: who judged what, what was lost, what stays behind.

    python -m tests.campaign.swaps --swaps 1000                                  # the tiny network, about 4 minutes
    python -m tests.campaign.swaps --swaps 200 --model metal-plate/1.0.0 --fps 25
    python -m tests.campaign.swaps --swaps 20                                    # the short form

A whole appliance with its outbox; the camera is live and does not wait: a frame that finds no free slot is lost. Every
frame shows the same defect. The second model is the first one with its class renamed and every score halved in the
ONNX file: the name in an answer tells which judge gave it, the confidence which network, and both must be those of the
digest that the verdict and the report carry. A part is a frame, so a gap between two verdicts is a gap in the line.

The oracle is this program's: frames by the camera's own numbers, times by the clock at the telling, reports as they lie
in the outbox's file, read by a connection of its own. A campaign fails if a frame has no verdict or two, if a gap
between two verdicts is longer than two frame periods, if an answer is not that of its digest, if a swap did not change
who judges, if memory grows by more than 1 MB in all (Theil-Sen slope after the first tenth), or if a thread or a file
stayed open.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import psutil

from edge_inspect.capture.protocol import Pixels
from edge_inspect.cli.log import configure_log
from edge_inspect.config import config_from_options
from edge_inspect.daemon import SWITCH_S, Appliance
from edge_inspect.delivery.outbox import FILE_NAME
from edge_inspect.inference.package import ModelPackage, find_model
from edge_inspect.lane import Judged, Lane
from tests.line.other_models import changed_package, half_as_sure
from tests.sim.steady_camera import SteadyCamera
from tests.sim.tiny_model import draw_defect, write_tiny_package

WAIT_S = 120.0
SURE = 0.5
"""The first model is surer than this of the one defect there is, the second is not."""
OTHER_CLASS = "other-scratch"
MOST_GAP = 2.0
MOST_GROWTH_BYTES = 1_000_000
SAMPLE_EVERY = 5
RECIPE = """
name = "swaps"
version = "1"
[classes."*"]
threshold = 0.1
[part]
mode = "frame"
[report]
thumbnail = false
"""


class Oracle:
    """Hears every verdict in the inspect thread; keeps counts only, so that its own memory does not grow."""

    def __init__(self, first: str, second: str, most_gap_ns: float) -> None:
        self.digests = {first: True, second: False}
        """Which of them is the sure one."""
        self.told = self.lost = self.twice = self.wrong = self.unjudged = self.changes = 0
        self.longest_ns = 0
        self.long_gaps = 0
        self._most_ns = most_gap_ns
        self._last_index = -1
        self._last_ns = 0
        self._last_digest = ""

    def tell(self, lane: Lane, judged: Judged) -> None:
        self.told += 1
        now_ns = time.monotonic_ns()
        self.lost += max(0, judged.frame_index - self._last_index - 1)
        self.twice += judged.frame_index <= self._last_index
        if self._last_ns:
            self.longest_ns = max(self.longest_ns, now_ns - self._last_ns)
            self.long_gaps += now_ns - self._last_ns > self._most_ns
        self._last_index, self._last_ns = judged.frame_index, now_ns
        if judged.verdict.kind.value != "NG" or judged.model is None:
            self.unjudged += 1
            return
        found = judged.verdict.defects[0]
        self.wrong += not self.is_of(judged.model.digest, found.cls, found.confidence)
        self.changes += judged.model.digest != self._last_digest
        self._last_digest = judged.model.digest

    def gaps(self) -> tuple[float, int]:
        """The longest so far in ns, and how many were too long; begins anew."""
        found = self.longest_ns, self.long_gaps
        self.longest_ns = self.long_gaps = 0
        return found

    def is_of(self, digest: str, cls: str, confidence: float) -> bool:
        sure = self.digests[digest]
        return (cls != OTHER_CLASS) == sure and (confidence > SURE) == sure

    def wrong_in_reports(self, path: Path) -> tuple[int, int]:
        """How many reports there are, and how many carry a digest that their defect contradicts."""
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
            rows = [json.loads(payload) for (payload,) in db.execute("SELECT payload FROM report")]
        bad = 0
        for row in rows:
            found: dict[str, Any] = row["defects"][0] if row["defects"] else {"class_name": "", "confidence": -1.0}
            bad += not self.is_of(row["model"]["digest"], found["class_name"], found["confidence"])
        return len(rows), bad


def models(folder: Path, wanted: str) -> tuple[Path, Path, Pixels]:
    """Two packages, and a picture with one defect that both find."""
    if wanted == "tiny":
        first = write_tiny_package(folder / "first", name="first")
        picture = np.full((192, 320, 3), 128, np.uint8)
        draw_defect(picture, (100, 60, 130, 90))
    else:
        first = find_model(wanted)
        package = ModelPackage.load(first)
        golden = max(package.manifest.golden, key=lambda g: max((e.confidence for e in g.expect), default=0.0))
        picture = np.asarray(cv2.imread(str(first / golden.file)), np.uint8)
    told = json.loads((first / "manifest.json").read_text())
    golden_too = told["golden"]
    for each in golden_too:
        for expected in each["expect"]:
            expected.update(cls=OTHER_CLASS, confidence=expected["confidence"] / 2)
    thresholds = {OTHER_CLASS: min(told["thresholds"].values()) / 2}
    second = changed_package(
        first, folder / "second", half_as_sure,
        name="second", classes=[OTHER_CLASS], thresholds=thresholds, golden=golden_too,
    )  # fmt: skip
    return first, second, picture


class Campaign:
    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        first, second, picture = models(folder, options.model)
        self.packages = [ModelPackage.load(second), ModelPackage.load(first)]
        most_gap_ns = options.most_gap * 1e9 / options.fps
        self.oracle = Oracle(self.packages[1].digest, self.packages[0].digest, most_gap_ns)
        self.camera = SteadyCamera(picture, fps=options.fps)
        recipe = folder / "recipe.toml"
        recipe.write_text(RECIPE)
        config = config_from_options(
            camera="sim", state=folder / "state", provider=options.provider, threads=options.threads, recipe=recipe
        )
        camera = config.camera[0].model_copy(update={"name": "still", "slots": options.slots})
        model = config.model.model_copy(update={"dir": str(first)})
        evidence = config.evidence.model_copy(update={"enabled": False})
        self.config = config.model_copy(update={"camera": (camera,), "model": model, "evidence": evidence})
        self.swap_s: list[float] = []
        self.calm = self.swapping = (0.0, 0)
        """Longest gap and number of long ones, without swaps and with them."""
        self.exchange_ns: list[int] = []
        """What the inspect thread itself spent on each swap, between two frames."""
        self.samples: list[tuple[int, float]] = []
        """Swaps and bytes."""
        self.before: dict[str, float] = {}
        self.after: dict[str, float] = {}

    def run(self) -> dict[str, Any]:
        appliance = Appliance(self.config, cameras={"still": self.camera}, tell=self.oracle.tell)
        stop, errors = threading.Event(), []
        exchange = appliance.pipeline._exchange_models

        def timed() -> None:
            if appliance.pipeline._exchange is not None:
                began_ns = time.perf_counter_ns()
                exchange()
                self.exchange_ns.append(time.perf_counter_ns() - began_ns)

        appliance.pipeline._exchange_models = timed  # type: ignore[method-assign]

        def swaps() -> None:
            try:
                self._swap(appliance)
            except BaseException as err:  # noqa: BLE001 - raised below
                errors.append(err)
            finally:
                stop.set()

        thread = threading.Thread(target=swaps, name="swaps")
        thread.start()
        try:
            appliance.run(stop)
        finally:
            thread.join()
        if errors:
            raise errors[0]
        return self._result()

    def _swap(self, appliance: Appliance) -> None:
        oracle, options = self.oracle, self.options
        self._wait_for(lambda: oracle.told > 50)  # the collector has been through, once, as at every start
        oracle.gaps()
        self._wait_for(lambda: oracle.told > 50 + options.calm, patience_s=WAIT_S + 2 * options.calm / options.fps)
        self.calm = oracle.gaps()
        warm_up = max(options.warm_up, options.swaps // 10)
        for number in range(warm_up + options.swaps):
            if number == warm_up:
                self.before = measured()
            if number >= warm_up and number % SAMPLE_EVERY == 0:
                self.samples.append((number, measured()["rss_bytes"]))
            began_s = time.monotonic()
            appliance.models.swap(self.packages[number % 2])
            self.swap_s.append(time.monotonic() - began_s)
            until = oracle.told + options.frames
            self._wait_for(lambda until=until: oracle.told >= until)  # type: ignore[misc]
            if number % 100 == 99:
                print(f"{number + 1} swaps, {oracle.told} frames, {measured()}", file=sys.stderr, flush=True)
        self.after = measured()
        self.swapping = oracle.gaps()

    def _wait_for(self, what: Callable[[], bool], patience_s: float = WAIT_S) -> None:
        until = time.monotonic() + patience_s
        while not what():
            assert time.monotonic() < until, "waited in vain"
            time.sleep(0.005)

    def _result(self) -> dict[str, Any]:
        oracle, options = self.oracle, self.options
        reports, wrong_reports = oracle.wrong_in_reports(self.config.state_dir / FILE_NAME)
        swaps = len(self.swap_s)
        period_ns = 1e9 / options.fps
        gap, calm_gap = self.swapping[0] / period_ns, self.calm[0] / period_ns
        swap_ms = sorted(seconds * 1e3 for seconds in self.swap_s)
        exchange_ms = sorted(ns / 1e6 for ns in self.exchange_ns)
        growth = {name: self.after[name] - self.before[name] for name in self.before}
        growth["rss_bytes"] = round(slope(self.samples) * options.swaps)
        failed = {
            "frames_lost": oracle.lost,
            "frames_judged_twice": oracle.twice,
            "frames_not_judged": oracle.unjudged,
            "verdicts_of_another_model": oracle.wrong,
            "reports_of_another_model": wrong_reports,
            "swaps_that_changed_nothing": swaps + 1 - oracle.changes,
            "gaps_too_long": int(gap > options.most_gap),
            "memory_grew": int(growth["rss_bytes"] > options.most_growth_bytes),
            "left_open": int(growth["fds"] != 0 or growth["threads"] != 0),
        }
        return {
            "n": swaps, "model": options.model, "provider": options.provider, "fps": options.fps,
            "frames": oracle.told, "reports": reports,
            "longest_gap_periods": round(gap, 2), "long_gaps": self.swapping[1],
            "without_swaps": {
                "frames": options.calm, "longest_gap_periods": round(calm_gap, 2), "long_gaps": self.calm[1],
            },
            "swap_ms": {"median": round(swap_ms[swaps // 2], 1), "max": round(swap_ms[-1], 1)},
            "exchange_ms": {"median": round(exchange_ms[swaps // 2], 3), "max": round(exchange_ms[-1], 3)},
            "growth": growth, "rss_bytes": self.after["rss_bytes"],
            "failed": failed, "failures": sum(failed.values()), "bound": 3 / swaps,
        }  # fmt: skip


def slope(samples: list[tuple[int, float]]) -> float:
    """Theil and Sen: the median of the slopes of all pairs; one step up or down does not move it."""
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for n, a in enumerate(samples) for b in samples[n + 1 :]]
    return median(slopes) if slopes else 0.0


def measured() -> dict[str, float]:
    """Without a collection: that alone would hold up the line for longer than a swap."""
    process = psutil.Process()
    return {
        "rss_bytes": process.memory_info().rss,
        "fds": process.num_fds(),
        "threads": len(os.listdir("/proc/self/task")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swaps", type=int, default=1000)
    parser.add_argument("--warm-up", type=int, default=10, help="swaps before memory is measured; at least a tenth")
    parser.add_argument("--frames", type=int, default=5, help="at least so many judged by each model")
    parser.add_argument(
        "--calm", type=int, default=500, help="frames without swaps first: what this machine does anyway"
    )
    parser.add_argument("--model", default="tiny", help="tiny, or a shipped model of one class")
    parser.add_argument("--provider", default="cpu")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--fps", type=float, default=25.0)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--most-gap", type=float, default=MOST_GAP, help="frame periods")
    parser.add_argument("--most-growth-bytes", type=int, default=MOST_GROWTH_BYTES)
    options = parser.parse_args()
    configure_log("error", "text")
    sys.setswitchinterval(SWITCH_S)  # as with [update]
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="swaps-", dir=shm if shm.is_dir() else None) as folder:
        result = Campaign(options, Path(folder)).run()
    print(json.dumps(result))
    sys.exit(1 if result["failures"] else 0)


if __name__ == "__main__":
    main()
