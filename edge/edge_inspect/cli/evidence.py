"""`edge-inspect evidence list | show | export`: the pictures that were kept, looked at while the daemon runs."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from edge_inspect.cli.options import AsJson, StateDir
from edge_inspect.cli.output import emit
from edge_inspect.cli.plural import counted
from edge_inspect.config_model import default_state_dir
from edge_inspect.delivery.evidence import FOLDER
from edge_inspect.delivery.evidence_index import FILE_NAME
from edge_inspect.delivery.evidence_read import KeptPart, Wanted, find_parts
from edge_inspect.errors import Refusal, Usage

VERDICTS = ("OK", "NG", "UNKNOWN")
UNITS_S = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}
EXAMPLE = "Example: edge-inspect evidence export last-shift.zip --since 8h --verdict NG --format coco"

Verdicts = Annotated[
    list[str] | None,
    typer.Option("--verdict", metavar="NG", help=f"Only these: {', '.join(VERDICTS)}. May be repeated."),
]
Cameras = Annotated[
    list[str] | None, typer.Option("--camera", metavar="NAME", help="Only of these cameras. May be repeated.")
]
Since = Annotated[
    str | None, typer.Option("--since", metavar="WHEN", help="2h, 30min, 7d ago, or 2026-11-22T06:00 (UTC).")
]
Until = Annotated[str | None, typer.Option("--until", metavar="WHEN", help="As --since.")]


def add(app: typer.Typer) -> None:
    evidence = typer.Typer(help="Pictures of NG and UNKNOWN parts, and of some OK ones.", no_args_is_help=True)
    evidence.command("list")(list_)
    evidence.command("show")(show)
    evidence.command("export")(export)
    evidence.callback(epilog=EXAMPLE)(_group)
    app.add_typer(evidence, name="evidence")


def _group() -> None:
    """Pictures of NG and UNKNOWN parts, and of some OK ones, kept on this box."""


def list_(
    state: StateDir = None,
    verdict: Verdicts = None,
    camera: Cameras = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="So many parts, the newest.")] = 50,
    json_: AsJson = False,
) -> None:
    """The parts of which there are pictures, newest first.

    Example: edge-inspect evidence list --since 2h --verdict NG
    """
    folder = _folder(state)
    parts = _find(folder, _wanted(verdict, camera, since, until, limit), "list")
    if json_:
        emit({"folder": str(folder), "parts": [_told(folder, part) for part in parts]})
        return
    for part in parts:
        record = part.record
        found = ", ".join(f"{mark.cls} {mark.confidence:.2f}" for mark in record.defects) or record.reason
        if record.beside is not None:
            found = f"{found}, but {record.beside.verdict} to {record.beside.model}"
        size_kb = sum(picture.bytes for picture in part.pictures) / 1e3
        typer.echo(
            f"{record.captured_utc:%Y-%m-%d %H:%M:%S}Z  {record.verdict:7} {record.id}  {found}  "
            f"({counted(len(part.pictures), 'picture')}, {size_kb:.0f} kB)"
        )
    if not parts:
        typer.echo(f"{folder}: no such pictures", err=True)


def show(
    id_: Annotated[str, typer.Argument(metavar="ID", help="A part's id, as `evidence list` shows it.")],
    state: StateDir = None,
    json_: AsJson = False,
) -> None:
    """All that is known of one part, and where its pictures lie.

    Example: edge-inspect evidence show 5f0c22ab-left-1042
    """
    folder = _folder(state)
    found = _find(folder, Wanted(id=id_), "show")
    if not found:
        raise Refusal(f"{id_}: no picture of this part is kept in {folder}")
    told = _told(folder, found[0])
    if json_:
        emit(told)
        return
    for key, value in told.items():
        for line in value if isinstance(value, list) else [value]:
            shown = "  ".join(str(each) for each in line.values()) if isinstance(line, dict) else line
            typer.echo(f"{key:16} {shown}")


def export(
    to: Annotated[Path, typer.Argument(metavar="DIR|FILE.zip", help="A new folder, or a ZIP file.")],
    state: StateDir = None,
    verdict: Verdicts = None,
    camera: Cameras = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="So many parts, the newest.")] = None,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="NAME",
            help="files: all pictures and evidence.json. coco: a picture a part, labels in COCO.",
        ),
    ] = "files",
    json_: AsJson = False,
) -> None:
    """Pictures with all that is known of them, and an index.html to look through; `coco` to correct labels and train.

    Example: edge-inspect evidence export last-shift.zip --since 8h --verdict NG --format coco
    """
    from edge_inspect.cli import evidence_export  # brings the whole inspection with it: `list` starts faster without

    if form not in evidence_export.FORMATS:
        raise Usage(f"--format {form}: unknown; allowed: {', '.join(evidence_export.FORMATS)}")
    evidence_export.check_name(to)
    folder = _folder(state)
    parts = _find(folder, _wanted(verdict, camera, since, until, limit), "export")
    if not parts:
        raise Refusal(f"{folder}: no such pictures, nothing to export")
    with _progress(len(parts)) as moved:
        done = evidence_export.export(folder, parts, to, form, moved)
    if json_:
        emit({"path": str(to), "format": form, **done._asdict()})
        return
    left_out = f"; left out: {done.damaged} damaged, {done.gone} removed meanwhile" if done.damaged or done.gone else ""
    typer.echo(
        f"{to}: {counted(done.parts, 'part')}, {counted(done.pictures, 'picture')}, {done.bytes / 1e6:.1f} MB{left_out}"
    )


def _folder(state: Path | None) -> Path:
    return (state or default_state_dir()) / FOLDER


def _find(folder: Path, wanted: Wanted, doing: str) -> list[KeptPart]:
    """`find_parts`, for whoever asks. Raises Refusal also where this user may not look."""
    try:
        with contextlib.suppress(FileNotFoundError), (folder / FILE_NAME).open("rb"):
            pass
        return find_parts(folder, wanted)
    except PermissionError as err:
        raise Refusal(
            f"{folder}: not permitted; ask as the daemon's user: sudo -u edge-inspect edge-inspect evidence {doing} ..."
        ) from err
    except OSError as err:
        raise Refusal(f"{folder}: cannot be read: {err.strerror or err}") from err


def _wanted(
    verdicts: list[str] | None, cameras: list[str] | None, since: str | None, until: str | None, limit: int | None
) -> Wanted:
    chosen = [verdict.upper() for verdict in verdicts or ()]
    for verdict in chosen:
        if verdict not in VERDICTS:
            raise Usage(f"--verdict {verdict}: unknown; allowed: {', '.join(VERDICTS)}")
    now_ns = time.time_ns()
    return Wanted(
        verdicts=chosen,
        cameras=cameras or [],
        since_utc_ns=None if since is None else moment_ns("--since", since, now_ns),
        until_utc_ns=None if until is None else moment_ns("--until", until, now_ns),
        limit=limit,
    )


def moment_ns(option: str, text: str, now_utc_ns: int) -> int:
    """`2h` ago or an ISO moment (UTC unless it says otherwise), as ns since 1970. Raises Usage."""
    ago = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)\s*(s|m|min|h|d|w)", text.strip())
    if ago:
        return now_utc_ns - int(float(ago[1]) * UNITS_S[ago[2]] * 1e9)
    try:
        moment = datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text.strip()))
        moment = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
        return int(moment.timestamp()) * 10**9
    except (ValueError, OverflowError) as err:
        raise Usage(f"{option} {text[:40]}: allowed: 90s, 30min, 2h, 7d, 2w or 2026-11-22T06:00") from err


def _told(folder: Path, part: KeptPart) -> dict[str, Any]:
    record = part.record
    return {
        "id": record.id,
        "camera": record.camera,
        "part": record.part,
        "sequence": record.sequence,
        "verdict": record.verdict,
        "reason": record.reason,
        "defects": [mark._asdict() for mark in record.defects],
        "captured_utc": f"{record.captured_utc:%Y-%m-%dT%H:%M:%S.%f}Z",
        "captured_ns": record.captured_ns,
        "model": record.model,
        "model_digest": record.model_digest,
        "recipe": record.recipe,
        "recipe_digest": record.recipe_digest,
        "pictures": [
            {"what": each.record.what, "path": str(folder / each.file), "bytes": each.bytes, "sha256": each.sha256}
            for each in part.pictures
        ],
    }


@contextmanager
def _progress(parts: int) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("export"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("export", total=parts)
        yield lambda done: progress.update(task, completed=done)
