"""`edge-inspect model watch`: how far a model is that is being tried, until it is kept or refused.

1. It asks the daemon, as `status` does, and changes nothing: whoever stops watching stops nothing.
2. It ends with the first candidate that comes to an end while it watches: exit code 0 when it is kept, 1 when not.
3. A daemon that is started anew meanwhile is waited for.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from edge_inspect.cli import status
from edge_inspect.cli.model_box import ConfigFile, Place, StateDir, place
from edge_inspect.cli.options import AsJson
from edge_inspect.cli.output import emit
from edge_inspect.errors import InspectError, Refusal

EVERY_S = 0.5
GONE_S = 60.0
"""So long a daemon may be gone, once it was there: it is started anew."""
STAGES = ("fetch", "verify", "probe", "shadow", "trial", "keep")
COUNTED = ("shadow", "trial")
BAR = 20
Timeout = Annotated[
    float | None,
    typer.Option("--timeout", metavar="S", min=0.0, help="Give up after S seconds; exit code 1. (default: never)"),
]


@dataclass
class Watched:
    """What was seen so far of one candidate; a plain fold over the daemon's answers."""

    began: datetime
    active: str = ""
    """Digest of the model that judged when watching began."""
    candidate: dict[str, Any] | None = None
    update: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, Any] | None = None
    """The newest there were."""
    took_s: dict[str, float] = field(default_factory=dict)
    """Of each stage, as far as it was seen."""
    outcome: str | None = None
    """kept, or the code for which it did not stay."""

    def see(self, update: dict[str, Any], now: datetime) -> None:
        self.active = self.active or update["active"]
        stage = update["stage"]
        if self.candidate is None:
            self.candidate = update["candidate"]
        if stage != "idle":
            self.took_s[stage] = max(0.0, (now - _moment(update["since"])).total_seconds())
        counts = update.get("counts")
        self.counts = counts or self.counts
        if stage in COUNTED:  # what `update` says for everybody may be some seconds old
            update = {**update, "progress": counts.get("progress") if counts else None}
        self.update = update
        if update["candidate"] is None and stage == "idle":
            self.outcome = self._ended(update)

    def _ended(self, update: dict[str, Any]) -> str | None:
        """Whatever went by between two looks is seen by what it left."""
        refused, candidate = update["refused"], self.candidate
        fresh = refused is not None and _moment(refused["at"]) >= self.began
        if candidate is not None:
            if update["active"] == candidate["digest"]:
                return "kept"
            return str(refused["code"]) if fresh and refused["digest"] == candidate["digest"] else "withdrawn"
        if fresh:
            return str(refused["code"])
        return "kept" if update["active"] != self.active else None


def watch(state: StateDir = None, config: ConfigFile = None, timeout: Timeout = None, json: AsJson = False) -> None:
    """See a model through its stages, live: exit code 0 when it is kept, 1 when it is refused or goes back.

    Where nothing is tried yet it waits for the next one. With --json a line for each change; the last says the outcome.
    """
    box = place(state, config)
    watched = _watch(box.state_dir, timeout, json)
    text = _verdict(watched, box)
    if json:
        emit({**_line(watched), "ok": watched.outcome == "kept", "outcome": watched.outcome, "text": text})
    else:
        Console(highlight=False).print(text, soft_wrap=True)
    if watched.outcome != "kept":
        raise typer.Exit(1)


def _watch(state_dir: Path, timeout_s: float | None, json: bool) -> Watched:
    watched = Watched(datetime.now(timezone.utc).replace(microsecond=0))
    console, shown = Console(highlight=False, stderr=json), ""
    with Live(console=console, auto_refresh=False, transient=False) as live:
        for update in _updates(state_dir, timeout_s):
            watched.see(update, datetime.now(timezone.utc))
            if json and str(line := _line(watched)) != shown:
                shown = str(line)
                emit(line)
            elif not json and console.is_terminal:
                live.update(page(watched), refresh=True)
            elif not json and (plain := _plain(watched)) != shown:
                shown = plain
                sys.stdout.write(plain + "\n")
                sys.stdout.flush()
            if watched.outcome is not None:
                return watched
    raise AssertionError("the answers do not end")


def _updates(state_dir: Path, timeout_s: float | None) -> Iterator[dict[str, Any]]:
    """The daemon's answers. Raises Refusal: none, none any more, or the time is over."""
    began_s = heard_s = time.monotonic()
    heard = False
    while True:
        try:
            update = status.fetch(state_dir)["update"]
        except InspectError:
            if not heard or time.monotonic() - heard_s > GONE_S:
                raise
        else:
            if update is None:
                raise Refusal(f"{state_dir}: the daemon has no `[update]` in its configuration: nothing is ever tried")
            heard, heard_s = True, time.monotonic()
            yield update
        if timeout_s is not None and time.monotonic() - began_s >= timeout_s:
            raise Refusal(f"no model came to an end within {timeout_s:g} s; the daemon goes on")
        time.sleep(EVERY_S)


def page(watched: Watched) -> RenderableType:
    """For a terminal: a bar for each stage."""
    if not watched.took_s:
        return Group(_head(watched), *_last(watched))
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    stage = watched.update["stage"]
    kept = watched.outcome == "kept"
    at = STAGES.index(stage) if stage in STAGES else len(STAGES) if kept else -1
    for number, name in enumerate(STAGES):
        share = 1.0 if number < at or (at < 0 and name in watched.took_s) else 0.0
        if number == at:
            share = watched.update["progress"] or 0.0
        bar = ProgressBar(total=1.0, completed=share, width=BAR)
        share_text = "done" if share == 1.0 and number != at else ""
        if at < 0 and name in watched.took_s and not any(later in watched.took_s for later in STAGES[number + 1 :]):
            share_text = "ended"
        if number == at and watched.update["progress"] is not None:
            share_text = f"{watched.update['progress']:.0%}"
        table.add_row(Text(name, "bold" if number == at else ""), bar, share_text, _told(watched, name))
    back = [Text("going back to the model before", "bold red")] if stage == "revert" else []
    return Group(_head(watched), table, *back, *_beside(watched), *_last(watched))


def _told(watched: Watched, stage: str) -> str:
    if (took_s := watched.took_s.get(stage)) is None:
        return ""
    counted = _counted(watched.counts) if watched.counts and watched.counts["stage"] == stage else ""
    return f"{took_s:.0f} s{', ' if counted else ''}{counted}"


def _counted(counts: dict[str, Any]) -> str:
    if counts["stage"] == "shadow":
        rejected = f", {counts['active_ng']} of {counts['least_rejected']} NG" if counts["least_rejected"] else ""
        return f"{counts['parts']} of {counts['parts_wanted']} parts compared{rejected}"
    least = f", least {counts['least_s']} s" if counts["least_s"] else ""
    return f"{counts['parts']} of {counts['parts_wanted']} parts, {counts['compared']} compared{least}"


def _head(watched: Watched) -> Text:
    head = Text()
    if watched.candidate is not None:
        head.append(_name(watched.candidate), "bold")
        if watched.update["active"] == watched.candidate["digest"]:
            return head.append(" judges now")
        head.append("; ")
    elif watched.update["stage"] == "idle":
        head.append("nothing is tried; waiting for a model; ", "dim")
    return head + Text(f"{watched.update['active'][7:19]} judges")


def _beside(watched: Watched) -> list[Text]:
    counts = watched.counts
    return [] if counts is None else [Text(f"disagreement  {_disagreement(counts)}")]


def _disagreement(counts: dict[str, Any]) -> str:
    return (
        f"of {counts['active_ok']} OK it rejected {counts['new_ng']}, "
        f"of {counts['active_ng']} NG it passed {counts['new_ok']}"
    )


def _last(watched: Watched) -> list[Text]:
    refused = watched.update["refused"]
    if refused is None:
        return []
    at = _moment(refused["at"])
    return [Text(f"last code     {refused['code']} ({refused['digest'][7:19]}, {at:%Y-%m-%d %H:%M} UTC)", "yellow")]


def _plain(watched: Watched) -> str:
    """One line; a new one is worth printing at each stage and each tenth of it."""
    stage, progress = watched.update["stage"], watched.update["progress"]
    name = f"{_name(watched.candidate)}  " if watched.candidate else ""
    share = "" if progress is None else f" {int(progress * 10) * 10} %"
    return f"{name}{stage}{share}"


def _line(watched: Watched) -> dict[str, Any]:
    update = watched.update
    counts = watched.counts if watched.counts and watched.counts["stage"] == update["stage"] else None
    return {
        "stage": update["stage"],
        "progress": update["progress"],
        "candidate": watched.candidate,
        "active": update["active"],
        "counts": counts,
        "refused": update["refused"],
    }


def _verdict(watched: Watched, box: Place) -> str:
    name = _name(watched.candidate) if watched.candidate else watched.update["active"][7:19]
    if watched.outcome == "kept":
        return f"{name} is kept"
    digest = str((watched.candidate or watched.update["refused"])["digest"])
    if watched.candidate is None:
        name = digest[7:19]
    return f"{name} is not kept: {watched.outcome}{_why(watched, digest, box)}; see `model history`"


def _why(watched: Watched, digest: str, box: Place) -> str:
    """In the words that the history has: what was counted at the last look is a little less than what decided."""
    try:
        entries = box.look_anyway()[1].entries
    except InspectError as err:
        return f" (the history cannot be read: {err})"
    for entry in reversed(entries):
        ended = entry.digest if entry.event == "refused" else entry.replaced
        if (ended, entry.code) == (digest, watched.outcome) and entry.at >= watched.began and entry.why:
            return f": {entry.why}"
    return ""


def _name(candidate: dict[str, Any]) -> str:
    return f"{candidate['name']} {candidate['version']} ({candidate['digest'][7:19]})"


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
