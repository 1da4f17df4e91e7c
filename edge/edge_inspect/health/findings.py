"""What a check of the doctor says: one line, and how to mend it."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class State(str, Enum):
    OK = "ok"
    WARN = "warn"
    """Works, but not as well or not as safely as it could."""
    FAIL = "fail"
    """Inspection or delivery does not work until this is mended."""


class Finding(NamedTuple):
    check: str
    """Stable name for machines, e.g. `runtime`."""
    state: State
    what: str
    mend: str = ""


def ok(check: str, what: str) -> Finding:
    return Finding(check, State.OK, what)


def warn(check: str, what: str, mend: str) -> Finding:
    return Finding(check, State.WARN, what, mend)


def fail(check: str, what: str, mend: str) -> Finding:
    return Finding(check, State.FAIL, what, mend)
