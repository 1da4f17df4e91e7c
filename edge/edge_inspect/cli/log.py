"""Logs go to stderr: text for a person at a terminal, JSON lines for a journal. Never to stdout."""

from __future__ import annotations

import logging
import sys

import structlog


def configure_log(level: str = "info", form: str = "auto") -> None:
    """level: debug, info, warning, error. form: auto (text on a terminal, else json), json, text."""
    text = form == "text" or (form == "auto" and sys.stderr.isatty())
    renderer = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()) if text else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.dict_tracebacks if not text else structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        # Asked for at each line: whoever replaces sys.stderr gets the lines from then on.
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )
