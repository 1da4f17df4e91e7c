"""What can be seen of the appliance at one moment, for whoever looks in: `status`, Prometheus.

Read from counters that other threads own, without stopping them: a number may be one frame old, never torn. Nothing of
it is counted for the sake of being looked at.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edge_inspect.counts import Durations, LaneCounts, LineCounts
from edge_inspect.health.vitals import CameraPulse
from edge_inspect.line.reject import RejectCounts
from edge_wire import messages as wire
from edge_wire.updates import ModelUpdate


@dataclass(frozen=True, slots=True)
class LinkPulse:
    """The connection to the broker."""

    connected: bool
    trouble: str
    """Why there is none; empty while there is one."""
    counts: wire.LinkVitals


@dataclass(frozen=True, slots=True)
class Observed:
    """See the module."""

    device: str
    """`site/line/device`."""
    version: str
    python: str
    uptime_s: float
    cameras: Sequence[CameraPulse]
    lines: Mapping[str, LineCounts] = field(default_factory=dict)
    rejects: Mapping[str, RejectCounts] = field(default_factory=dict)
    """Of those lines that have a reject gate downstream."""
    adapters: Mapping[str, Mapping[str, Mapping[str, int]]] = field(default_factory=dict)
    """What a line's adapters have counted themselves, by line, adapter and name of the count."""
    outbox: wire.OutboxVitals | None = None
    """At most a few seconds old; None while the file cannot be read, or before it was."""
    link: LinkPulse | None = None
    """None without a broker in the configuration."""
    evidence: wire.EvidenceVitals | None = None
    """None where no pictures are kept."""
    update: ModelUpdate | None = None
    """None where models are not taken from a channel."""
    update_counts: Mapping[str, float | str] | None = None
    """Of the shadow or the trial that is under way."""
    alarms: Sequence[wire.Degraded] = ()
    threads: Mapping[str, float] = field(default_factory=dict)
    """Seconds for which each thread has stood still."""
    log_lines_lost: int = 0
    """Of the log and of the verdicts that are printed: nobody took them in time."""
    every_frame_bytes: Mapping[str, int] = field(default_factory=dict)
    """What every inspected frame as JPEG would have taken, by camera: an estimate (`health/saved.py`)."""
    rss_bytes: int = 0
    temperature_c: float | None = None


def dropped(pulse: CameraPulse) -> dict[str, int]:
    """Frames that nobody inspected, by reason."""
    lost = {"overrun": pulse.overruns, "frames-lost": pulse.counts.camera_missed}
    return {**lost, **dict(pulse.counts.broken)}


def saved_bytes(seen: Observed) -> int | None:
    """An estimate of what was not sent; None where it is not known what would have been, or without a broker."""
    if seen.link is None or not seen.every_frame_bytes:
        return None
    return sum(seen.every_frame_bytes.values()) - seen.link.counts.bytes_sent


def stages(counts: LaneCounts) -> dict[str, Durations]:
    """Where the time between a frame's capture and its verdict goes; `total` is the whole of it."""
    return {
        "capture": counts.capture,
        "letterbox": counts.letterbox,
        "inference": counts.inference,
        "decode": counts.decode,
        "judge": counts.judging,
        "total": counts.latency,
    }


def status(seen: Observed) -> dict[str, Any]:
    """The object that `edge-inspect status --json` prints. Latencies in ms."""
    return {
        "device": seen.device,
        "version": seen.version,
        "pid": os.getpid(),
        "uptime_s": round(seen.uptime_s, 1),
        "cameras": [_camera(seen, pulse) for pulse in seen.cameras],
        "lines": [_line(seen, name, counts) for name, counts in seen.lines.items()],
        "outbox": seen.outbox and seen.outbox.model_dump(mode="json"),
        "evidence": seen.evidence and seen.evidence.model_dump(mode="json"),
        "link": seen.link and {
            "connected": seen.link.connected, "trouble": seen.link.trouble, **seen.link.counts.model_dump(mode="json")
        },
        "saved_bytes_estimated": saved_bytes(seen),
        "update": seen.update and {**seen.update.model_dump(mode="json"), "counts": seen.update_counts},
        "alarms": [alarm.model_dump(mode="json") for alarm in seen.alarms],
        "threads": {name: round(age_s, 1) for name, age_s in seen.threads.items()},
        "log_lines_lost": seen.log_lines_lost,
        "rss_bytes": seen.rss_bytes,
        "temperature_c": seen.temperature_c,
    }  # fmt: skip


def _camera(seen: Observed, pulse: CameraPulse) -> dict[str, Any]:
    counts = pulse.counts
    return {
        "name": pulse.name,
        "state": pulse.state,
        "trouble": pulse.trouble,
        "drift": pulse.drift,
        "frames": counts.frames,
        "frame_bytes": counts.frames * pulse.frame_bytes,
        "every_frame_jpeg_bytes_estimated": seen.every_frame_bytes.get(pulse.name),
        "dropped": dropped(pulse),
        "reconnects": counts.reconnects,
        "parts": counts.parts,
        "ok": counts.ok,
        "ng": counts.ng,
        "unknown": dict(counts.unknown),
        "latency_ms": {**counts.latency.summary(50, 99), "max": _ms(counts.latency)},
        "stages_ms": {name: {**took.summary(50, 99), "max": _ms(took)} for name, took in stages(counts).items()},
        "ring": dict(pulse.ring),
        "model": pulse.model and f"{pulse.model.name} {pulse.model.version}",
        "provider": pulse.provider,
    }


def _line(seen: Observed, name: str, counts: LineCounts) -> dict[str, Any]:
    rejects = seen.rejects.get(name)
    return {
        "name": name,
        "triggers": counts.triggers,
        "ok": counts.ok,
        "ng": counts.ng,
        "unknown": dict(counts.unknown),
        "missed_deadlines": counts.missed_deadlines,
        "late_verdicts": counts.late_verdicts,
        "withdrawn": counts.withdrawn.total(),
        "repeated": counts.repeated,
        "skipped": counts.skipped,
        "rejected": rejects and rejects.rejected,
        "rejects_missed": rejects and rejects.missed,
        "adapters": {adapter: dict(counted) for adapter, counted in seen.adapters.get(name, {}).items()},
        "latency_ms": {**counts.latency.summary(50, 99), "max": _ms(counts.latency)},
    }


def _ms(durations: Durations) -> float | None:
    return None if durations.max_ms is None else round(durations.max_ms, 3)
