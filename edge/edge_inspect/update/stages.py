"""The stages of an update, and where each one leads: two tables, side by side.

1. Every stage handles every outcome, and from every stage there is a way home to IDLE.
2. A stage is on disk before it is acted on; after a power cut `AFTER_POWER_CUT` says where to go on.
3. No update lasts for ever: a candidate whose process ended unexpectedly for the third time is refused
   (`MOST_STARTS`), and after `MOST_SAVES` saves without coming home it is refused whatever happens.

    NEXT[Stage.PROBE][Outcome.REFUSED]      # Stage.REVERT
"""

from __future__ import annotations

from enum import Enum


class Stage(str, Enum):
    IDLE = "idle"
    """One model judges; nothing is tried. Waits for the next look, a hint, a person."""
    FETCH = "fetch"
    """Asks whether there is a rollout for this box; if so, brings its package here."""
    VERIFY = "verify"
    """Bytes only: signatures, digests, sizes, contract. No network."""
    PROBE = "probe"
    """A limited process of its own loads it and asks its golden pictures."""
    SHADOW = "shadow"
    """It judges the same parts beside the model that answers the line."""
    TRIAL = "trial"
    """It answers the line; the model before it judges beside it."""
    KEEP = "keep"
    """It stays: written into the history, what nobody needs any more is removed."""
    REVERT = "revert"
    """The way home: the model that is to judge judges, nothing runs beside it."""


class Outcome(str, Enum):
    DONE = "done"
    NOTHING = "nothing"
    """There was nothing to do."""
    LATER = "later"
    """The world is in the way (no network, no room, too few parts, stale metadata): put off, not remembered."""
    REFUSED = "refused"
    """The model that this is about must not run (again); remembered by its digest."""
    WITHDRAWN = "withdrawn"
    """Somebody wants something else: a person, or a newer rollout."""


_S, _O = Stage, Outcome


def _row(*stages: Stage) -> dict[Outcome, Stage]:
    return dict(zip(Outcome, stages, strict=True))


# fmt: off
NEXT: dict[Stage, dict[Outcome, Stage]] = {
    #                DONE       NOTHING    LATER      REFUSED    WITHDRAWN
    _S.IDLE:    _row(_S.FETCH,  _S.IDLE,   _S.IDLE,   _S.REVERT, _S.REVERT),
    _S.FETCH:   _row(_S.VERIFY, _S.IDLE,   _S.IDLE,   _S.IDLE,   _S.IDLE),
    _S.VERIFY:  _row(_S.PROBE,  _S.REVERT, _S.REVERT, _S.REVERT, _S.REVERT),
    _S.PROBE:   _row(_S.SHADOW, _S.REVERT, _S.REVERT, _S.REVERT, _S.REVERT),
    _S.SHADOW:  _row(_S.TRIAL,  _S.REVERT, _S.REVERT, _S.REVERT, _S.REVERT),
    _S.TRIAL:   _row(_S.KEEP,   _S.REVERT, _S.REVERT, _S.REVERT, _S.REVERT),
    _S.KEEP:    _row(_S.IDLE,   _S.IDLE,   _S.IDLE,   _S.REVERT, _S.REVERT),
    _S.REVERT:  _row(_S.IDLE,   _S.IDLE,   _S.REVERT, _S.REVERT, _S.IDLE),
}
AFTER_POWER_CUT: dict[Stage, Stage] = {
    _S.IDLE:    _S.IDLE,
    _S.FETCH:   _S.IDLE,     # what has come lies in staging; the next look goes on with it
    _S.VERIFY:  _S.VERIFY,
    _S.PROBE:   _S.VERIFY,   # what lay on the disk may have been cut, too
    _S.SHADOW:  _S.VERIFY,
    _S.TRIAL:   _S.TRIAL,    # the start is counted before the candidate is used
    _S.KEEP:    _S.KEEP,
    _S.REVERT:  _S.REVERT,
}
# fmt: on

TRYING = frozenset({Stage.VERIFY, Stage.PROBE, Stage.SHADOW, Stage.TRIAL})
"""A candidate is being tried; each start of the daemon in one of them is counted."""
MOST_STARTS = 3
"""Starts with a candidate, the first included, that did not come to a verdict on it; then it is refused."""
MOST_SAVES = 30
"""Saves on one way from IDLE to IDLE. The longest way that means something takes seven, and four for each restart."""

assert set(NEXT) == set(AFTER_POWER_CUT) == set(Stage)
