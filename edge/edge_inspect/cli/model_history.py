"""`edge-inspect model history`: which model judged from when to when, why it was replaced, and who released it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from edge_inspect.cli.model_box import ConfigFile, place
from edge_inspect.cli.options import AsJson, StateDir
from edge_inspect.cli.output import emit
from edge_inspect.update.history import Checked, Entry
from edge_inspect.update.state import Shadowed

WIDTH = 110


@dataclass(frozen=True)
class Span:
    """One model's time at the line."""

    begin: Entry
    end: Entry | None
    kept: Entry | None


def history(state: StateDir = None, config: ConfigFile = None, json: AsJson = False) -> None:
    """Which model judged from when to when, why it was replaced, what its shadow said, who released it.

    Every line carries the hash of the line before it; they are checked here, and a line that was changed is named.
    Exit code 1 if one was.
    """
    box = place(state, config)
    _, checked = box.look()
    told = spans(checked)
    console = Console(stderr=json, highlight=False, width=WIDTH)
    for line in page(checked, told):
        console.print(line)
    if json:
        emit(as_json(checked, told))
    if checked.broken:
        raise typer.Exit(1)


def spans(checked: Checked) -> list[Span]:
    """Each activation with the one that ended it, and what confirmed it."""
    begins = [entry for entry in checked.entries if entry.event == "activated"]
    found = []
    for number, begin in enumerate(begins):
        end = begins[number + 1] if number + 1 < len(begins) else None
        between = [e for e in checked.entries if e.line > begin.line and (end is None or e.line < end.line)]
        kept = next((e for e in between if e.event == "kept" and e.digest == begin.digest), None)
        found.append(Span(begin, end, kept))
    return found


def page(checked: Checked, told: list[Span]) -> list[Text]:
    lines: list[Text] = []
    for span in told:
        lines += _judged(span)
    lines += [line for entry in checked.entries if entry.event == "refused" for line in _refused(entry)]
    if not checked.entries:
        lines.append(Text("no model has judged here under updates yet"))
    lines += [Text(f"CHANGED  {what}", "bold red") for what in checked.broken]
    if checked.torn_bytes:
        lines.append(Text(f"half a line of {checked.torn_bytes} bytes at the end, from a power cut: not counted"))
    lines.append(
        Text("the history was changed after it was written", "bold red")
        if checked.broken
        else Text(f"{checked.head.lines} lines, each as it was written (last: {checked.head.sha256[:12]})", "green")
    )
    return lines


def _judged(span: Span) -> list[Text]:
    begin, end = span.begin, span.end
    until = _time(end.at) if end else "now"
    lines = [
        Text(f"{_time(begin.at)} - {until}  {begin.name} {begin.version}  {_short(begin.digest)}  {_as(span)}", "bold")
    ]
    why = {"start": "found at a start", "rollout": "", "person": ""}.get(begin.code, f"{begin.code}: {begin.why}")
    lines += [Text(f"    came because    {why}{_by(begin.by)}")] if why else []
    if begin.released_by:
        at = f" on {_time(begin.released_at)}" if begin.released_at else ""
        where = f", {begin.channel} no. {begin.sequence}" if begin.channel else ""
        lines.append(Text(f"    released by     {begin.released_by}{at}{where}"))
    elif begin.code == "person":
        lines.append(Text(f"    asked for by    {begin.by}"))
    lines += [Text(f"    reason          {begin.reason}")] if begin.reason else []
    lines += [Text(f"    beside          {disagreement(begin.shadow)}")] if begin.shadow and not why else []
    lines += [Text(f"    confirmed       {_time(span.kept.at)}")] if span.kept else []
    if end is not None:
        because = f"{end.code}: {end.why}{_by(end.by)}" if end.why else f"by {end.name} {end.version}"
        lines.append(Text(f"    replaced        {because}"))
    return lines


def _refused(entry: Entry) -> list[Text]:
    lines = [
        Text(f"{_time(entry.at)}  refused  {entry.name} {entry.version}  {_short(entry.digest)}  {entry.code}", "bold")
    ]
    lines.append(Text(f"    because         {entry.why}"))
    lines += [Text(f"    released by     {entry.released_by}")] if entry.released_by else []
    lines += [Text(f"    beside          {disagreement(entry.shadow)}")] if entry.shadow else []
    return lines


def disagreement(shadow: Shadowed) -> str:
    """In the words of the line: what would have been rejected, what would have been let through."""
    few = f"; {shadow.rejected_missing} NG fewer than asked for, the time was over" if shadow.rejected_missing else ""
    return (
        f"{shadow.parts} parts judged by both; of {shadow.active_ok} OK it rejected {shadow.new_ng}, "
        f"of {shadow.active_ng} NG it passed {shadow.new_ok}{few}"
    )


def as_json(checked: Checked, told: list[Span]) -> dict[str, Any]:
    return {
        "ok": not checked.broken,
        "verified_lines": checked.head.lines,
        "head": checked.head.sha256,
        "broken": list(checked.broken),
        "torn_bytes": checked.torn_bytes,
        "judged": [
            {
                "digest": span.begin.digest,
                "name": span.begin.name,
                "version": span.begin.version,
                "from": _iso(span.begin.at),
                "to": _iso(span.end.at) if span.end else None,
                "confirmed": _iso(span.kept.at) if span.kept else None,
                "replaced_because": span.end.code if span.end else None,
            }
            for span in told
        ],
        "entries": [entry.model_dump(mode="json") for entry in checked.entries],
    }


def _as(span: Span) -> str:
    if span.kept:
        return "kept"
    return "on trial" if span.begin.role == "trial" else span.begin.role


def _by(person: str) -> str:
    return f" ({person})" if person else ""


def _time(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment else ""


def _iso(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]
