"""Logs go to stderr: text for a person at a terminal, JSON lines for a journal. Never to stdout.

Commands log where they stand. The daemon hands its lines to a thread (`log_aside`), and what libraries say as well:
whoever logs there must not wait.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from edge_inspect.errors import InspectError
from edge_inspect.printing import Printer, close_all

log = structlog.get_logger()


def configure_log(level: str = "info", form: str = "auto", printer: Printer | None = None) -> None:
    """level: debug, info, warning, error. form: auto (text on a terminal, else json), json, text.

    printer: makes and prints the lines; without, whoever logs does.
    """
    render = _renderer(form)
    structlog.configure(
        processors=[*_said_at_once(form), _HandOver(printer, render) if printer else render],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        # Asked for at each line: whoever replaces sys.stderr gets the lines from then on.
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )


@contextmanager
def log_aside(level: str, form: str, *others: Printer) -> Iterator[Printer]:
    """As `configure_log`, by a thread of its own. At the end what waits is given FLUSH_S; `others` end with it.

    Where somebody has stopped reading, the process ends right there: what it could still say, nobody would hear, and
    it must not wait for that.
    """
    printer = Printer("log", lambda: sys.stderr, lost=partial(_lost, form))
    printers = (printer, *others)
    code = 1
    for one in printers:
        one.start()
    configure_log(level, form, printer)
    try:
        with _libraries_heard():
            yield printer
        code = 0
    except InspectError as err:
        code = err.exit_code
        raise
    finally:
        is_read = close_all(printers)
        configure_log(level, form)
        if not is_read:
            os._exit(code)


class _HandOver:
    """The last processor: the line is made and printed elsewhere."""

    def __init__(self, printer: Printer, render: Processor) -> None:
        self._printer = printer
        self._render = render

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        self._printer.hand_over(lambda: str(self._render(None, method, event)) + "\n")
        raise structlog.DropEvent


class _Libraries(logging.Handler):
    """What libraries say through `logging`, asyncio above all, is a line like any other."""

    def emit(self, record: logging.LogRecord) -> None:
        tell = log.error if record.levelno >= logging.ERROR else log.warning
        tell("library.says", library=record.name, said=self.format(record))


@contextmanager
def _libraries_heard() -> Iterator[None]:
    handler = _Libraries(logging.WARNING)
    logging.getLogger().addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        logging.getLogger().removeHandler(handler)


def _is_text(form: str) -> bool:
    return form == "text" or (form == "auto" and sys.stderr.isatty())


def _said_at_once(form: str) -> Sequence[Processor]:
    """What belongs to the moment."""
    errors = structlog.processors.format_exc_info if _is_text(form) else structlog.processors.dict_tracebacks
    return structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True), errors


def _renderer(form: str) -> Processor:
    if _is_text(form):
        return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    return structlog.processors.JSONRenderer()


def _lost(form: str, lines: int) -> str:
    """About lines of the log that nobody took."""
    event: EventDict = {"event": "log.lines_lost", "lines": lines, "why": "nobody took them in time"}
    for processor in (*_said_at_once(form), _renderer(form)):
        event = processor(None, "warning", event)  # type: ignore[assignment]
    return f"{event}\n"
