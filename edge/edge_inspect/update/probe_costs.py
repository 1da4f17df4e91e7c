"""What a candidate costs, beside the model that judges: time of a frame, run in turn, and memory.

mine, theirs = timed(candidate, active, pixels)      # (p50, p99) in ms each
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_inspect.errors import BadModel
from edge_inspect.inference.decode import Decoder, Detections
from edge_inspect.inference.engine import Engine
from edge_inspect.inference.letterbox import Letterbox
from edge_inspect.inference.providers import usable_threads
from edge_wire.manifest import machine_kind

Pixels = NDArray[np.uint8]


class Spread(NamedTuple):
    """How long a frame took, ms."""

    p50: float = 0.0
    p99: float = 0.0
    fastest: float = 0.0


TIMED_RUNS = 60
TIMED_S = 10.0
QUIET_TAIL = 1.5
"""p99 over fastest run on a machine that does nothing else; beyond it, others are at work."""
MEMORY_FACTOR = 3.0
"""So many times the memory of the model that judges."""
MEMORY_SLACK_BYTES = 128 << 20
"""Below this no model is too large: allocators keep what they have."""


@dataclass
class Loaded:
    engine: Engine
    thresholds: NDArray[np.float32]
    decoder: Decoder
    threads: int
    memory_bytes: int

    @property
    def kind(self) -> str:
        """Of machine, as budgets are given."""
        return machine_kind(self.engine.provider, usable_threads(self.threads))

    def judge(self, pixels: Pixels, letterbox: Letterbox) -> Detections:
        letterbox(pixels, out=self.engine.input)
        self.engine.run()
        return self.decoder.decode(self.engine.output, letterbox, self.thresholds)

    def letterbox(self, pixels: Pixels) -> Letterbox:
        height, width = pixels.shape[:2]
        return Letterbox(height, width, self.engine.height, self.engine.width)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def timed(candidate: Loaded, active: Loaded | None, pixels: Pixels) -> tuple[Spread, Spread]:
    """Of a frame's way through each, run in turn; the second is all zeros without `active`.

    Who begins changes from turn to turn: on a busy machine a process is put aside after a fixed time, and in a fixed
    order that would always hit the same one.
    """
    turns = [(one, one.letterbox(pixels), list[float]()) for one in (candidate, active) if one is not None]
    deadline = time.monotonic() + TIMED_S
    for number in range(TIMED_RUNS):
        if number >= 5 and time.monotonic() > deadline:
            break
        for one, letterbox, times in turns if number % 2 else turns[::-1]:
            started = time.perf_counter()
            one.judge(pixels, letterbox)
            times.append((time.perf_counter() - started) * 1000)
    spreads = [
        Spread(float(np.percentile(times, 50)), float(np.percentile(times, 99)), min(times)) for _, _, times in turns
    ]
    return spreads[0], (spreads[1] if active is not None else Spread())


def check_latency(mine: Spread, theirs: Spread, candidate: Loaded, factor: float) -> None:
    """Against the model that judges, and against the candidate's own budget for this kind of machine, which is
    stretched as far as the other model's times are at the moment.

    A slow model is slow in its fastest run, too; one that is only slow at the median had others on its core.
    """
    package = candidate.engine.package
    if theirs.p50 and mine.p50 > factor * theirs.p50 and mine.fastest > factor * theirs.fastest:
        times = f"{mine.p50:.1f} ms ({mine.fastest:.1f} at best), the model that judges {theirs.p50:.1f} ms"
        raise BadModel("probe-latency", f"{package.dir}: a frame takes {times}: more than {factor:g} times")
    budget = package.manifest.latency_budget_ms.get(candidate.kind)
    busy = max(1.0, theirs.p99 / theirs.fastest / QUIET_TAIL) if theirs.fastest else 1.0
    if budget is not None and mine.p99 > budget.value * busy:
        allowed = f"its manifest allows {budget.value:g} ms" + (f", {busy:.1f} times that now" if busy > 1 else "")
        raise BadModel("probe-latency", f"{package.dir}: p99 {mine.p99:.1f} ms on {candidate.kind}, {allowed}")


def unbudgeted(candidate: Loaded) -> str:
    """Which budgets of its manifest are for other machines only; empty when none is passed over."""
    manifest = candidate.engine.package.manifest
    budgets = [given for given in (manifest.latency_budget_ms, manifest.memory_budget_bytes) if given]
    others = sorted({kind for given in budgets if candidate.kind not in given for kind in given})
    if not others:
        return ""
    return f"its manifest has budgets for {', '.join(others)} and not for {candidate.kind}: they were not checked"


def check_memory(candidate: Loaded, active: Loaded | None) -> None:
    took, package = candidate.memory_bytes, candidate.engine.package
    budget = package.manifest.memory_budget_bytes.get(candidate.kind)
    if budget is not None and took > max(budget.value, MEMORY_SLACK_BYTES):
        allowed = f"its manifest allows {budget.value / 2**20:.0f} MiB on {candidate.kind}"
        raise BadModel("probe-memory", f"{package.dir}: takes {took / 2**20:.0f} MiB, {allowed}")
    if active is not None and took > max(MEMORY_FACTOR * active.memory_bytes, MEMORY_SLACK_BYTES):
        has = f"{active.memory_bytes / 2**20:.0f} MiB: more than {MEMORY_FACTOR:g} times"
        raise BadModel("probe-memory", f"{package.dir}: takes {took / 2**20:.0f} MiB, the model that judges {has}")
