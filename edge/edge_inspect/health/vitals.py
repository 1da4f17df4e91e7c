"""The device's pulse: counters into the messages that the plant sees.

Pure functions over counters that other threads own; a number may be one frame old, never torn.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import psutil

from edge_inspect.counts import Durations, LaneCounts
from edge_wire import messages as wire
from edge_wire.topics import Topics

EVERY_S = 30.0
"""How often vitals are published."""
LOOK_EVERY_S = 1.0
"""How soon a change of state is noticed."""


@dataclass(frozen=True, slots=True)
class CameraPulse:
    """What is known of one camera right now."""

    name: str
    state: str
    counts: LaneCounts
    overruns: int
    model: wire.ModelRef | None
    provider: str | None
    trouble: str = ""
    """A short code of what is wrong with it now; empty when nothing is."""
    drift: str = ""
    ring: Mapping[str, int] = field(default_factory=dict)
    """Slots by state."""
    frame_bytes: int = 0
    """Size of one of its pictures as it lies in the ring; 0 before it is known."""


def latency_ms(durations: Durations) -> wire.Latency | None:
    """None when nothing was timed yet."""
    p50, p99, longest = durations.percentile_ms(50), durations.percentile_ms(99), durations.max_ms
    if p50 is None or p99 is None or longest is None:
        return None
    return wire.Latency(p50=p50, p99=p99, max=longest)


def camera_vitals(pulse: CameraPulse, uptime_s: float) -> wire.CameraVitals:
    counts = pulse.counts
    return wire.CameraVitals(
        name=pulse.name,
        frames=counts.frames,
        parts=counts.parts,
        ok=counts.ok,
        ng=counts.ng,
        unknown=counts.unknown_total,
        unknown_by_reason=dict(counts.unknown),
        missed=counts.camera_missed,
        overruns=pulse.overruns,
        reconnects=counts.reconnects,
        fps=counts.frames / uptime_s if uptime_s > 0 else 0.0,
        latency_ms=latency_ms(counts.latency),
        model=pulse.model,
        provider=pulse.provider,
    )


def vitals(
    topics: Topics,
    started: float,
    cameras: Sequence[CameraPulse],
    outbox: wire.OutboxVitals | None,
    link: wire.LinkVitals | None,
    evidence: wire.EvidenceVitals | None = None,
    lines: Sequence[wire.LineVitals] = (),
) -> wire.Vitals:
    """The vitals of now; `started` is time.monotonic() at start."""
    uptime_s = time.monotonic() - started
    return wire.Vitals(
        site=topics.site,
        line=topics.line,
        device=topics.device,
        utc=datetime.now(timezone.utc),
        uptime_s=uptime_s,
        cameras=tuple(camera_vitals(pulse, uptime_s) for pulse in cameras),
        outbox=outbox,
        link=link,
        rss_bytes=rss_bytes(),
        temperature_c=temperature_c(),
        evidence=evidence,
        lines=tuple(lines),
    )


def drifting(drifts: Mapping[str, str]) -> list[wire.Degraded]:
    """Cameras whose pictures have changed since the start: a lens is dirty, a lamp is failing. Camera -> how, or ""."""
    return [wire.Degraded(code="picture-drift", detail=f"{name}: {drift}") for name, drift in drifts.items() if drift]


def rss_bytes() -> int:
    """What of this process lies in memory."""
    return int(psutil.Process().memory_info().rss)


def temperature_c(zones: Path = Path("/sys/class/thermal")) -> float | None:
    """The hottest thermal zone of the kernel, in degrees Celsius; None where there is none."""
    readings = []
    for zone in zones.glob("thermal_zone*/temp"):
        try:
            readings.append(int(zone.read_text()) / 1000)
        except (OSError, ValueError):
            # A zone whose sensor is off answers EAGAIN or EINVAL: it is simply not there.
            continue
    return max(readings, default=None)


class Pulse:
    """The vitals thread: calls `beat` every LOOK_EVERY_S until stopped, and once more at the end."""

    def __init__(self, beat: Callable[[], None]) -> None:
        self.beat_ns: int | None = time.monotonic_ns()
        """When the thread last moved; None once it has ended."""
        self._beat = beat

    def run(self, stop: threading.Event) -> None:
        try:
            while not stop.wait(LOOK_EVERY_S):
                self.beat_ns = time.monotonic_ns()
                self._beat()
            self._beat()
        finally:
            self.beat_ns = None
