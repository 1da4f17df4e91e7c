"""Why a model must not run any more, in words for the history, the alarm and the person who asks. Pure.

1. Who revoked it and why is signed beside the rollout. An older publisher does not say so: then the
   rollout in which this box first saw it revoked gives the words; later ones repeat the digest, not the reason.
2. Where rollouts in between were not seen, it is not claimed whose words they are.

    why_revoked(state, digest)              # "tiny 1.1.0 was revoked by anna on 2026-11-22 08:00 UTC: misses dents"
"""

from __future__ import annotations

from edge_inspect.update.state import MOST_REFUSED, State, channel_of
from edge_wire.release import Rollout

UNKNOWN = "its publisher has revoked it"
MOST_WHO = 50


def why_revoked(state: State, digest: str, rollout: Rollout | None = None) -> str:
    """rollout: one that names it, and that the state does not know of yet."""
    if digest in state.revoked_why or rollout is None or digest not in rollout.revoked or digest in state.revoked:
        return state.revoked_why.get(digest, UNKNOWN)
    return _words(state, digest, rollout)


def with_revoked(state: State, seen: Rollout) -> dict[str, object]:
    """`revoked` and `revoked_why` once this rollout is known."""
    new = {digest: _words(state, digest, seen) for digest in seen.revoked if digest not in state.revoked}
    revoked = tuple(dict.fromkeys((*state.revoked, *seen.revoked)))[-MOST_REFUSED:]
    why = {digest: words for digest, words in (state.revoked_why | new).items() if digest in revoked}
    return {"revoked": revoked, "revoked_why": why}


def _words(state: State, digest: str, rollout: Rollout) -> str:
    named = next((one for one in (*state.known, rollout.model) if one.digest == digest), None)
    model = f"{named.name} {named.version}" if named else digest[:19]
    told = next((one for one in rollout.revocations if one.digest == digest), None)
    if told is not None:
        return _line(f"{model} was revoked by {told.by[:MOST_WHO]} on {told.at:%Y-%m-%d %H:%M} UTC", told.reason)
    floor = state.floors.get(channel_of(rollout))
    newest_seen = floor.sequence if floor else 0
    where = f"{channel_of(rollout)} no. {rollout.sequence}"
    who = rollout.released_by[:MOST_WHO]
    if rollout.sequence == newest_seen + 1:
        said = f"{model} was revoked by {who} ({where})"
    else:
        said = f"{model} was revoked in {where} or before; that one is {who}'s"
    return _line(said, rollout.reason)


def _line(said: str, reason: str) -> str:
    words = f"{said}: {reason}" if reason else said
    return words if len(words) <= 200 else words[:197] + "..."
