"""More of `edge-inspect status` for a person: what went otherwise than it should, and where a frame's time goes.

`events` is always shown: a line for each camera, line and adapter that has something to say. `details` comes with
`--all`: stages and ring of each camera, and what the link has been through.
"""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from edge_inspect.cli.plural import counted
from edge_inspect.line.protocol import LATE

BAD = "bold red"


def events(told: dict[str, Any]) -> list[Text]:
    """Nothing for what has gone well."""
    found = [_camera_events(camera) for camera in told["cameras"]]
    for line in told["lines"]:
        found += [_line_events(line), *_adapter_events(line)]
    return [text for text in found if text is not None]


def details(told: dict[str, Any]) -> list[RenderableType]:
    """Stages and rings of all cameras, and the link."""
    cameras = told["cameras"]
    table = Table(box=None, pad_edge=False, header_style="dim")
    stages = list(cameras[0]["stages_ms"]) if cameras else []
    table.add_column("p50/p99/max ms")
    for stage in stages:
        table.add_column(stage, justify="right")
    for camera in cameras:
        table.add_row(camera["name"], *(spread(camera["stages_ms"][stage]) for stage in stages))
    rings = [Text(f"ring of camera {camera['name']}: {slots}") for camera in cameras if (slots := _slots(camera))]
    return [*([table] if stages else []), *rings, *_link(told["link"])]


def _slots(camera: dict[str, Any]) -> str:
    return ", ".join(f"{number} {state}" for state, number in camera["ring"].items() if number)


def _link(link: dict[str, Any] | None) -> list[Text]:
    if link is None:
        return []
    said = [f"connections {link['connects']:,}", f"away {link['outage_s']:.0f} s in all"]
    said += [f"{why} {number:,}" for why, number in link["failures"].items()]
    said += [f"{name} {link[name]:,}" for name in ("resent", "resynced", "unheard", "gone") if link[name]]
    return [Text("link so far: " + ", ".join(said))]


def spread(latency: dict[str, float | None]) -> str:
    """p50, p99 and max in ms; tenths where they matter."""
    return "/".join(_milliseconds(latency[key]) for key in ("p50", "p99", "max"))


def _milliseconds(ms: float | None) -> str:
    return "-" if ms is None else f"{ms:.1f}" if ms < 10 else f"{ms:.0f}"


def _camera_events(camera: dict[str, Any]) -> Text | None:
    said = [f"{reason} {number:,}" for reason, number in camera["dropped"].items() if number]
    words = [f"frames dropped: {', '.join(said)}"] if said else []
    if camera["reconnects"]:
        words.append(f"came back {counted(camera['reconnects'], 'time')}")
    return Text(f"camera {camera['name']}: " + "; ".join(words)) if words else None


def _line_events(line: dict[str, Any]) -> Text | None:
    said = {
        "verdicts after the line was told": line["late_verdicts"],
        "verdicts told as UNKNOWN on their way": line.get("withdrawn"),
        "numbers repeated": line["repeated"],
        "numbers skipped": line["skipped"],
        "rejected": line["rejected"],
        "REJECTS MISSED": line["rejects_missed"],
    }
    words = [f"{what} {number:,}" for what, number in said.items() if number]
    style = BAD if line["rejects_missed"] else ""
    return Text(f"line {line['name']}: " + "; ".join(words), style) if words else None


def _adapter_events(line: dict[str, Any]) -> list[Text]:
    """A line for each adapter that has counted something. An answer that was late is a line's worst news."""
    return [
        Text(
            f"{adapter} of line {line['name']}: " + ", ".join(f"{event} {number:,}" for event, number in happened),
            BAD if counts.get(LATE) else "",
        )
        for adapter, counts in line.get("adapters", {}).items()
        if (happened := [(event, number) for event, number in counts.items() if number])
    ]
