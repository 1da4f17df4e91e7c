"""What commands print: people read lines and tables; with --json the last line of stdout is one JSON object, of a
refusal, too: `ok` false, `exit_code`, `error`, `code`."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import structlog
import typer

from edge_wire.stdout import takes_all_letters

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")]

emitted = False
"""Whether this process has printed its object."""


def emit(result: dict[str, Any]) -> None:
    """Print `result` as the last line on stdout: one JSON object."""
    global emitted
    text = json.dumps(result, allow_nan=False, ensure_ascii=not takes_all_letters(sys.stdout))
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
    emitted = True


def finish(result: dict[str, Any], as_json: bool) -> None:
    """What a command found, as `key: value` lines or as one object."""
    if as_json:
        emit(result)
        return
    for key, value in result.items():
        typer.echo(f"{key}: {value}")


def print_table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Columns as wide as they must be."""
    lines = [[str(cell) for cell in row] for row in (heads, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    for line in lines:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def configure_log() -> None:
    """Lines on stderr: text on a terminal, else JSON. Never on stdout."""
    text = sys.stderr.isatty()
    renderer = structlog.dev.ConsoleRenderer() if text else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info if text else structlog.processors.dict_tracebacks,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )
