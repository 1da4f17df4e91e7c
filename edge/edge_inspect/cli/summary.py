"""What a run amounted to: the JSON object that `run`, `demo` and `replay` end with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edge_inspect.cli.plural import counted
from edge_inspect.counts import Durations
from edge_inspect.daemon import Appliance


def summary(appliance: Appliance) -> dict[str, Any]:
    """Totals over all cameras; keys that do not apply are null. Latencies in ms, `fps` over the inspecting time."""
    counts = [station.counts for station in appliance.stations.values()]
    elapsed_s = appliance.pipeline.inspecting_s
    frames = sum(count.frames for count in counts)
    identities = [s.identity for s in appliance.stations.values() if s.identity]
    providers = [s.lane.engine.provider for s in appliance.stations.values() if s.lane]
    unknown: dict[str, int] = {}
    for count in counts:
        for reason, number in count.unknown.items():
            unknown[reason] = unknown.get(reason, 0) + number
    return {
        "frames": frames,
        "fps": round(frames / elapsed_s, 2) if elapsed_s > 0 else None,
        "parts": sum(count.parts for count in counts),
        "ok": sum(count.ok for count in counts),
        "ng": sum(count.ng for count in counts),
        "unknown": sum(count.unknown_total for count in counts),
        "unknown_by_reason": unknown,
        "escapes": None,
        "overkill": None,
        "map50": None,
        "latency_ms": {**_merged([c.latency for c in counts], 50, 99, 99.9), "max": _max([c.latency for c in counts])},
        "own_ms": _merged([count.own for count in counts], 50, 99),
        "inference_ms": _merged([count.inference for count in counts], 50, 99),
        "inferences": sum(count.inferences for count in counts),
        "missed": sum(count.camera_missed for count in counts),
        "overruns": sum(s.lane.ring.overrun for s in appliance.stations.values() if s.lane),
        "reconnects": sum(count.reconnects for count in counts),
        "bytes_sent": appliance.courier.bytes_sent if appliance.courier else 0,
        "reports_confirmed": appliance.courier.reports_sent if appliance.courier else None,
        "reports": sum(count.ng + count.unknown_total for count in counts),
        "model": f"{identities[0].model.name} {identities[0].model.version}" if identities else None,
        "model_digest": identities[0].model.digest if identities else None,
        "provider": providers[0] if providers else None,
        **_lines(appliance),
    }


def why_nothing(result: Mapping[str, Any]) -> str:
    """One line for a person when no part got a verdict from the network; else nothing."""
    if not result["frames"]:
        return "nothing was inspected: the source gave no picture"
    if not result["parts"]:
        seen = f"in {counted(result['frames'], 'frame')}"
        if result["inferences"]:
            return f"no part was judged: none had passed {seen}"
        return f"nothing was inspected: no part was found {seen}; does the recipe fit this line? (--recipe)"
    if not result["inferences"]:
        reasons = ", ".join(f"{reason} {number}" for reason, number in result["unknown_by_reason"].items())
        return f"nothing was inspected: no part could be looked at ({reasons or 'no reason told'})"
    return ""


def _lines(appliance: Appliance) -> dict[str, Any]:
    """Nothing where there is no line; else what each of them asked and was told, as in the vitals."""
    return {"lines": [line.model_dump(mode="json") for line in appliance.lines.vitals()]} if appliance.lines else {}


def _merged(durations: Sequence[Durations], *percents: float) -> dict[str, float | None]:
    total = Durations()
    for one in durations:
        total.include(one)
    return total.summary(*percents)


def _max(durations: Sequence[Durations]) -> float | None:
    found = [one.max_ms for one in durations if one.max_ms is not None]
    return round(max(found), 3) if found else None
