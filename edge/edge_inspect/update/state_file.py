"""The file `state.json`: read whole or put aside, and never written so that a start could not read it.

1. What cannot be read (a disk that fails, another version's, nonsense) is kept under another name, not written over.
2. Pure but for `read_or_put_aside` and `put_aside`; what lies there is only ever changed by a rename.

    state, why = read_or_put_aside(folder, now)         # None, "" where there is none
    write_durably(path, readable(path, state))
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import structlog
from pydantic import ValidationError

from edge_inspect.durable import read_patiently, sync_folder, translated
from edge_inspect.errors import StorageFailing
from edge_inspect.update.stages import Stage
from edge_inspect.update.state import State
from edge_wire.mistake import first_mistake

log = structlog.get_logger()

STATE_NAME = "state.json"
MOST_STATE_BYTES = 4 << 20


def read_or_put_aside(folder: Path, now: datetime) -> tuple[State | None, str]:
    """What lies there; else None, and why it was put aside (empty: there was none)."""
    path, aside = folder / STATE_NAME, ""
    try:
        return parse_state(read_patiently(path)), ""
    except FileNotFoundError:
        return None, ""
    except OSError as err:
        why = f"{path}: cannot be read: {err.strerror or err}"
    except ValueError as err:
        why = f"{path}: {err}"
    try:
        aside = put_aside(path, now)
    except StorageFailing as err:
        why += f" (and cannot be put aside: {err})"
    log.error("the state of updates cannot be read; the factory's model judges", why=why, kept_as=aside or None)
    return None, why


def put_aside(path: Path, now: datetime) -> str:
    """Its new name; empty where there is nothing. Raises StorageFailing."""
    with translated(path):
        if not path.exists():
            return ""
        aside = _aside(path, now)
        path.rename(aside)
        sync_folder(path.parent)
    return aside.name


def as_a_start_finds(state: State) -> State:
    """Whether it was just looking for something new makes no difference to the next start (`AFTER_POWER_CUT`)."""
    if state.stage is not Stage.FETCH:
        return state
    return state.model_copy(update={"stage": Stage.IDLE, "saves": 0})


def readable(path: Path, state: State) -> bytes:
    """What is to be written. Raises StorageFailing for what no start could read."""
    content = state.model_dump_json(indent=1).encode() + b"\n"
    try:
        parse_state(content)
    except ValueError as err:
        raise StorageFailing(f"{path}: not written, it could not be read again: {err}") from err
    return content


def _aside(path: Path, now: datetime) -> Path:
    """A free name: nothing that was put aside is ever written over."""
    stem = f"{path.name}.broken-{now:%Y%m%dT%H%M%S}"
    return next(name for name in _names(path, stem) if not name.exists())


def _names(path: Path, stem: str) -> Iterator[Path]:
    yield path.with_name(stem)
    for number in range(2, 1 << 30):
        yield path.with_name(f"{stem}-{number}")


def parse_state(content: bytes) -> State:
    """Raises ValueError, one line."""
    if len(content) > MOST_STATE_BYTES:
        raise ValueError(f"more than {MOST_STATE_BYTES} bytes")
    try:
        return State.model_validate_json(content)
    except ValidationError as err:
        raise ValueError(f"{first_mistake(err, 'content')}; was it written by a newer version?") from err
