"""Cameras unplugged and hung a thousand times over, through the V4L2 shim, while the whole appliance runs.

    python -m tests.campaign.cameras --unplugs 1000 --hangs 1000 --deaths 20

unplug   the device vanishes and is back after 0.15 s, every third time under another number: a loss told within 2 s
hang     the driver's call does not return, and a signal can end it (4 of 5), or it returns by itself after 6 s: a loss
         told within 5 s
death    it never returns and nothing ends it: told within 5 s, the process ends by itself, a new one (this program is
         systemd) judges again. No thread that is stuck in a driver can be freed from inside.

After each, the camera must come back alone and the next part be judged OK. In the end there are as many threads and
file descriptors as before, and memory grew by at most 1 MB per 1,000 events, which fewer than 500 events do not show.
All times are this program's own, from the shim's log to the line on the daemon's stderr. Eight cameras at a time, the
long form takes about 20 minutes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from tests.campaign.camera_process import Camera, Line, newest_after
from tests.sim.tiny_model import write_tiny_package

AWAY_MS = 150
OTHER_NUMBERS = 20
SEEN_S = {"unplug": 2.0, "block": 5.0, "hang": 5.0}
MOST_GROWTH_BYTES = 1_000_000
"""Per 1,000 events."""
LEAST_EVENTS = 500
"""With fewer a slope says nothing: one step of 200 kB, as allocators make, in 20 events would be 10 MB per 1,000."""


class Campaign:
    """Deals events out to all cameras of one line at once."""

    def __init__(self, line: Line, *, slack: float) -> None:
        self.line = line
        self.failures: list[str] = []
        self.seen: dict[str, list[float]] = {}
        self.back: dict[str, list[float]] = {}
        self.samples: list[tuple[int, int]] = []
        """(events so far, RSS in bytes)"""
        self._slack = slack
        self._lock = threading.Lock()
        self._done = 0

    def deal(self, events: list[tuple[str, ...]]) -> None:
        """Each event is (kind, A, B); whatever camera is free takes the next."""
        left = list(reversed(events))
        sample_every = max(1, len(events) // 60)

        def work(camera: Camera) -> None:
            while True:
                with self._lock:
                    if not left:
                        return
                    event = left.pop()
                self.one(camera, *event)
                with self._lock:
                    self._done += 1
                    if self._done % sample_every == 0:
                        self.samples.append((self._done, self.line.footprint()["rss_bytes"]))
                        print(f"{self._done}: {self.line.footprint()}", file=sys.stderr, flush=True)

        with ThreadPoolExecutor(len(self.line.cameras)) as pool:
            for future in [pool.submit(work, camera) for camera in self.line.cameras]:
                future.result()

    def one(self, camera: Camera, kind: str, *words: str) -> None:
        begun = self.inject(camera, kind, *words)
        lost = self.line.wait(f"{camera.name} {kind} told", lambda: newest_after(camera.lost, begun))
        self.told(kind, lost - begun)
        up = self.line.wait(f"{camera.name} {kind} back", lambda: newest_after(camera.up, lost))
        self.line.wait(f"{camera.name} {kind} judges again", lambda: newest_after(camera.ok, up))
        self.back.setdefault(kind, []).append(up - begun)

    def inject(self, camera: Camera, kind: str, *words: str) -> float:
        """Command the shim until it says it did it; when that was. A picture without a free buffer takes no fault."""
        other = camera.number + (OTHER_NUMBERS if words[-1] == "moved" else 0)
        camera.shim.command(f"fault now {kind} {words[0]} {other}")
        next_try = time.monotonic() + 3

        def done() -> float | None:
            nonlocal next_try
            if (at := camera.happened(kind)) is None and time.monotonic() > next_try:
                next_try = time.monotonic() + 3
                camera.shim.command(f"fault now {kind} {words[0]} {other}")
            return at

        at: float = self.line.wait(f"{camera.name} {kind} done", done)
        return at

    def told(self, kind: str, seen_s: float) -> None:
        self.seen.setdefault(kind, []).append(seen_s)
        if seen_s > SEEN_S[kind] * self._slack:
            self.failures.append(f"{kind}: told after {seen_s:.2f} s")

    def check_nothing_left(self, before: dict[str, int], after: dict[str, int]) -> None:
        for what in ("fds", "threads"):
            if after[what] != before[what]:
                self.failures.append(f"{what}: {before[what]} before, {after[what]} after")

    def growth_per_1000(self) -> float | None:
        """Theil-Sen slope of RSS over events, after the first tenth; None for fewer than LEAST_EVENTS."""
        late = [sample for sample in self.samples if sample[0] > self._done // 10]
        if self._done < LEAST_EVENTS:
            return None
        slopes = [(b[1] - a[1]) / (b[0] - a[0]) for n, a in enumerate(late) for b in late[n + 1 :] if b[0] > a[0]]
        return median(slopes) * 1000


def in_process(folder: Path, model: Path, cameras: int, events: list[tuple[str, ...]], slack: float) -> dict[str, Any]:
    """All `events` in one process; figures, and what was left behind."""
    line = Line(folder, model, cameras)
    campaign = Campaign(line, slack=slack)
    line.start()
    try:
        line.wait_for_all(time.monotonic())
        for camera in line.cameras:  # each camera once, so that what is made at the first loss is made
            campaign.one(camera, *events[0])
        line.wait_for_all(time.monotonic())
        before = line.footprint()
        campaign.deal(events)
        line.wait_for_all(time.monotonic())
        after = line.wait("threads and files as before", lambda: _settled(line, before), 20) or line.footprint()
    finally:
        line.end()
    campaign.check_nothing_left(before, after)
    growth = campaign.growth_per_1000()
    if growth is not None and growth > MOST_GROWTH_BYTES:
        campaign.failures.append(f"memory grows by {growth / 1e6:.2f} MB per 1,000")
    grown = f"too few: {len(events)} of {LEAST_EVENTS} events" if growth is None else round(growth)
    return {
        "n": len(events), "seen_s_max": _worst(campaign.seen), "back_s_max": _worst(campaign.back),
        "rss_growth_bytes_per_1000": grown, "before": before, "after": after,
        "failures": campaign.failures,
    }  # fmt: skip


def _settled(line: Line, before: dict[str, int]) -> dict[str, int] | None:
    now = line.footprint()
    return now if (now["fds"], now["threads"]) == (before["fds"], before["threads"]) else None


def deaths(folder: Path, model: Path, cameras: int, times: int, slack: float) -> dict[str, Any]:
    """One camera hangs for good: told, the process ends by itself, the next one judges with all cameras."""
    line = Line(folder, model, cameras)
    campaign = Campaign(line, slack=slack)
    ended, again = [], []
    try:
        for number in range(times):
            line.start()
            started = time.monotonic()
            line.wait_for_all(started)
            again.append(time.monotonic() - started)
            camera = line.cameras[number % cameras]
            begun = campaign.inject(camera, "hang", "0", "")
            lost = line.wait("death told", lambda begun=begun, camera=camera: newest_after(camera.lost, begun))
            campaign.told("hang", lost - begun)
            assert line.process is not None
            code = line.process.wait(timeout=60)
            ended.append(time.monotonic() - begun)
            if code != 1 or "thread.hangs" not in "".join(line.log[-200:]):
                campaign.failures.append(f"death: ended with {code}")
            line.end()
            camera.shim.commands.write_text("")  # or the next process hangs as well
            print(f"death {number + 1}: ended after {ended[-1]:.1f} s", file=sys.stderr, flush=True)
        line.start()
        started = time.monotonic()
        line.wait_for_all(started)
    finally:
        line.end()
    return {
        "n": times, "seen_s_max": _worst(campaign.seen), "ended_s_max": round(max(ended), 2),
        "judging_again_s_max": round(max(again), 2), "failures": campaign.failures,
    }  # fmt: skip


def _worst(figures: dict[str, list[float]]) -> dict[str, float]:
    return {kind: round(max(values), 2) for kind, values in figures.items()}


def run(unplugs: int, hangs: int, death_count: int, cameras: int, slack: float = 1.0) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(prefix="cameras-"))
    model = write_tiny_package(folder / "model")
    pulled = [("unplug", str(AWAY_MS), "moved" if number % 3 == 2 else "") for number in range(unplugs)]
    hung = [("hang", "6000", "") if number % 5 == 4 else ("block", "0", "") for number in range(hangs)]
    result: dict[str, Any] = {"campaign": "cameras"}
    try:
        result["unplug"] = in_process(folder / "unplug", model, cameras, pulled, slack)
        result["hang"] = in_process(folder / "hang", model, cameras, hung, slack)
        if death_count:
            result["death"] = deaths(folder / "death", model, min(cameras, 2), death_count, slack)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    parts = [part for part in result.values() if isinstance(part, dict)]
    result["failures"] = [failure for part in parts for failure in part.pop("failures")]
    result["n"] = sum(part["n"] for part in parts)
    result["bound"] = None if result["failures"] else {name: 3 / part["n"] for name, part in result.items()
                                                       if isinstance(part, dict)}  # fmt: skip
    return result


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--unplugs", type=int, default=1000)
    words.add_argument("--hangs", type=int, default=1000)
    words.add_argument("--deaths", type=int, default=20)
    words.add_argument("--cameras", type=int, default=8)
    given = words.parse_args()
    result = run(given.unplugs, given.hangs, given.deaths, given.cameras)
    print(json.dumps(result), flush=True)
    return 1 if result["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
