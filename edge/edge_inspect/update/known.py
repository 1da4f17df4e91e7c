"""What this box has made up its mind about, as far as it matters to whoever fetches: read from the daemon's state.

1. Whoever fetches only reads it, at each look anew. A state that is not there or not readable means: nothing is known,
   so nothing is removed; what is offered is judged by the updater all the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import structlog

from edge_inspect.update.changes import Changes
from edge_inspect.update.state import State
from edge_inspect.update.state_file import MOST_STATE_BYTES, parse_state

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Known:
    sequence: int = 0
    """Of the newest rollout seen in this channel."""
    settled: bool = False
    """That one was kept, refused or overruled: it need not come again."""
    refused: frozenset[str] = frozenset()
    """Digests (`sha256:...`) that are not tried again on their own, revoked ones included."""
    in_use: frozenset[str] | None = None
    """Digests whose packages must stay; None: nobody knows."""


def known_of(state: State, product: str, channel: str) -> Known:
    floor = state.floors.get(f"{product}/{channel}")
    candidate = state.candidate
    before = (candidate.model.digest, *(candidate.before or ())) if candidate else ()
    return Known(
        sequence=floor.sequence if floor else 0,
        settled=floor.settled if floor else False,
        refused=frozenset((*(found.digest for found in state.refused), *state.revoked)),
        in_use=frozenset(digest for digest in (state.active, state.previous, *before) if digest),
    )


def read_known(state_file: Path, product: str, channel: str, changes: Changes | None = None) -> Known:
    """What the daemon's state.json says now. changes: what was logged before."""
    try:
        with state_file.open("rb") as stream:
            content = stream.read(MOST_STATE_BYTES + 1)
        return known_of(parse_state(content), product, channel)
    except FileNotFoundError:
        return Known()
    except (OSError, ValueError) as err:
        why = str(err)[:200]
        if changes is None or changes.seen("state", why):
            log.warning("the daemon's state cannot be read, nothing is removed", file=str(state_file), why=why)
        return Known()
