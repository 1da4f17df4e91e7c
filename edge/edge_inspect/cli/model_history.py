"""`edge-inspect model history`: which model judged from when to when, why it was replaced, and who released it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import typer
from rich.text import Text

from edge_inspect.cli.folded import page_console, print_folded
from edge_inspect.cli.model_box import ConfigFile, StateDir, place
from edge_inspect.cli.options import AsJson
from edge_inspect.cli.output import emit
from edge_inspect.cli.plural import counted
from edge_inspect.update.history import Checked, Entry
from edge_inspect.update.state import Shadowed

LABEL = 20
"""Columns before what is said."""


@dataclass(frozen=True)
class Span:
    """One model's time at the line."""

    begin: Entry
    end: Entry | None
    kept: Entry | None


def history(state: StateDir = None, config: ConfigFile = None, json: AsJson = False) -> None:
    """Which model judged from when to when, why it was replaced, what its shadow said, who released it.

    The newest comes last. Every line carries the hash of the line before it; they are checked here, and a line that
    was changed is named. Exit code 1 if one was, or if the state beside it cannot be read.
    """
    box = place(state, config)
    box.insist_on_updates()
    _, checked, wrong = box.look_anyway()
    told = spans(checked)
    console = page_console(stderr=json)
    for line in page(checked, told, wrong):
        print_folded(console, line, LABEL if line.plain.startswith(" ") else 4)
    if json:
        emit(as_json(checked, told, wrong))
    if checked.broken or wrong:
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


def page(checked: Checked, told: list[Span], wrong: str = "") -> list[Text]:
    """wrong: why the state that knows how far the history went cannot be read."""
    lines: list[Text] = []
    spans_left, before = list(told), None
    for entry in checked.entries:
        if spans_left and spans_left[0].begin is entry:
            lines += _judged(spans_left[0], before, checked.doubtful)
            before = spans_left.pop(0)
        if entry.event == "refused":
            head, *more = _refused(entry, before)
            lines += [_marked(head, entry, checked.doubtful), *more]
    if not checked.entries:
        lines.append(Text("no model has judged here under updates yet"))
    lines += [Text(f"CHANGED  {what}", "bold red") for what in checked.broken]
    if wrong:
        lines.append(Text(f"{wrong}; whether lines are missing at the end is not known", "bold red"))
    if checked.torn_bytes:
        lines.append(Text(f"half a line of {checked.torn_bytes} bytes at the end, from a power cut: not counted"))
    lines.append(
        Text("the history was changed after it was written", "bold red")
        if checked.broken
        else Text(
            f"{counted(checked.head.lines, 'line')}, each as it was written (last: {checked.head.sha256[:12]})", "green"
        )
    )
    return lines


def _marked(line: Text, entry: Entry, doubtful: frozenset[int]) -> Text:
    """What is said by a line of the file that may have been changed."""
    return Text.assemble(line, ("  CHANGED?", "bold red")) if entry.line in doubtful else line


def _judged(span: Span, before: Span | None, doubtful: frozenset[int]) -> list[Text]:
    begin, end = span.begin, span.end
    who = f"{begin.name} {begin.version}  {_short(begin.digest)}  {_as(span)}"
    lines = [_marked(Text(f"{_from_to(begin.at, end.at if end else None)}  {who}", "bold"), begin, doubtful)]
    why = _came_because(span, before)
    lines += [Text(f"    came because    {why}")] if why else []
    lines += _wanted(begin)
    lines += [Text(f"    beside          {disagreement(begin.shadow)}")] if begin.shadow and not why else []
    if span.kept is not None:
        lines.append(_marked(Text(f"    confirmed       {_time(span.kept.at)}"), span.kept, doubtful))
    if end is not None:
        because = f"{end.code}: {end.why}{_by(end.by)}" if end.why else f"by {end.name} {end.version}"
        lines.append(_marked(Text(f"    replaced        {because}"), end, doubtful))
    return lines


def _came_because(span: Span, before: Span | None) -> str:
    """Empty where it came by its own release or a person's choice. What the span before ends with is not said again."""
    begin = span.begin
    if begin.code in ("rollout", "person"):
        return ""
    if begin.code == "start":
        return "found at a start"
    if before is not None and begin.why:
        return f"{before.begin.version} went ({begin.code})"
    return f"{begin.code}: {begin.why}{_by(begin.by)}"


def _wanted(entry: Entry) -> list[Text]:
    """Who released it or asked for it, when, and in what words."""
    lines = []
    if entry.released_by:
        at = f" on {_time(entry.released_at)}" if entry.released_at else ""
        where = f", {entry.channel} no. {entry.sequence}" if entry.channel else ""
        lines.append(Text(f"    released by     {entry.released_by}{at}{where}"))
    elif entry.by and (entry.event == "refused" or entry.code == "person"):
        lines.append(Text(f"    asked for by    {entry.by}"))
    return [*lines, Text(f"    reason          {entry.reason}")] if entry.reason else lines


def _refused(entry: Entry, span: Span | None) -> list[Text]:
    """span: the one before it. Of a trial that ended with this everything is said there."""
    lines = [
        Text(f"{_time(entry.at)}  refused  {entry.name} {entry.version}  {_short(entry.digest)}  {entry.code}", "bold")
    ]
    if span is not None and (span.begin.digest, span.end and span.end.code) == (entry.digest, entry.code):
        return lines
    lines.append(Text(f"    because         {entry.why}"))
    lines += _wanted(entry)
    lines += [Text(f"    beside          {disagreement(entry.shadow)}")] if entry.shadow else []
    return lines


def disagreement(shadow: Shadowed) -> str:
    """In the words of the line: what would have been rejected, what would have been let through."""
    few = f"; {shadow.rejected_missing} NG fewer than asked for, the time was over" if shadow.rejected_missing else ""
    return (
        f"{shadow.parts} parts judged by both; of {shadow.active_ok} OK it rejected {shadow.new_ng}, "
        f"of {shadow.active_ng} NG it passed {shadow.new_ok}{few}"
    )


def as_json(checked: Checked, told: list[Span], wrong: str = "") -> dict[str, Any]:
    return {
        "ok": not checked.broken and not wrong,
        "state_unreadable": wrong or None,
        "verified_lines": checked.head.lines,
        "head": checked.head.sha256,
        "broken": list(checked.broken),
        "doubtful": sorted(checked.doubtful),
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


def _from_to(begin: datetime, end: datetime | None) -> str:
    if end is None:
        return f"{_time(begin)} - now"
    same_day = begin.date() == end.date()
    return f"{begin:%Y-%m-%d %H:%M:%S} - {end:%H:%M:%S} UTC" if same_day else f"{_time(begin)} - {_time(end)}"


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _iso(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]
