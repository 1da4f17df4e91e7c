"""Whether a verified rollout is for this box, now. Pure.

1. Older than what was seen in its channel: never. The same number with another model: never.
2. What was refused or taken back here is not taken up again, unless a newer rollout goes back to it by name.
3. A name and version stand for one set of bytes. A version older than the one that judges is taken only where the
   rollout says that it goes back.
4. What it says of revoked packages counts, whomever the rollout is for.

    result = consider(state, rollout, device, now)      # DONE with a candidate, NOTHING, or refused with a code
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from edge_inspect.errors import Untrusted
from edge_inspect.update.machine import Result
from edge_inspect.update.requests import Answer, Request
from edge_inspect.update.revoked import why_revoked
from edge_inspect.update.stages import Outcome
from edge_inspect.update.state import Candidate, Limits, State, channel_of
from edge_wire.release import ReleasedModel, Rollout, version_order


class Version(NamedTuple):
    """Of a package, as its manifest has it."""

    name: str
    version: str


class Names(NamedTuple):
    """Who this box is."""

    site: str
    line: str
    device: str


def consider(
    state: State, rollout: Rollout, box: Names, now: datetime, active: str | None = None, runs: Version | None = None
) -> Result:
    """What to do about it. `active`: digest of the package that judges, the factory's too; `runs`: its name, version.

    Raises Untrusted (`rollout-older`, `rollout-reused`).
    """
    digest, at = rollout.model.digest, channel_of(rollout)
    floor = state.floors.get(at)
    if floor is not None and rollout.sequence < floor.sequence:
        raise Untrusted("rollout-older", f"{at}: sequence {rollout.sequence}, {floor.sequence} was seen already")
    if floor is not None and rollout.sequence == floor.sequence and digest != floor.digest:
        raise Untrusted("rollout-reused", f"{at}: sequence {rollout.sequence} now names another model than before")
    nothing = Result(Outcome.NOTHING, seen=rollout)
    if not rollout.concerns(*box) or digest in (state.active, active):
        return nothing
    if floor is not None and floor.sequence == rollout.sequence and floor.settled:
        return nothing
    candidate = Candidate.of(rollout, now)
    if digest in rollout.revoked or digest in state.revoked:
        why = why_revoked(state, digest, rollout)
        return Result(Outcome.REFUSED, "revoked", why, candidate=candidate, seen=rollout)
    refusal = state.refusal_of(digest)
    if refusal is not None and rollout.action != "rollback":
        why = f"refused on {refusal.at:%Y-%m-%d %H:%M} UTC: {refusal.code}"
        return Result(Outcome.REFUSED, "refused-before", why, candidate=candidate, seen=rollout)
    if wrong := _wrong_version(state, rollout, runs):
        return Result(Outcome.REFUSED, *wrong, candidate=candidate, seen=rollout)
    return Result(Outcome.DONE, candidate=candidate, seen=rollout)


def _wrong_version(state: State, rollout: Rollout, runs: Version | None) -> tuple[str, str] | None:
    """Code and reason. Whoever signs may err, or use an old release's name for something else."""
    model = rollout.model
    meant = Version(model.name, model.version)
    known = {Version(one.name, one.version) for one in state.known if one.digest != model.digest}
    if meant == runs or meant in known:
        return "version-reused", f"{model.name} {model.version} is known here with other bytes; raise the version"
    if runs is None or rollout.action == "rollback" or model.name != runs.name:
        return None
    if version_order(model.version) < version_order(runs.version):
        return "version-older", f"{runs.version} judges; {model.version} is older, and the rollout is no rollback"
    return None


def chosen_by_person(state: State, request: Request, factory: str, now: datetime) -> Candidate | Answer:
    """A candidate out of the packages whose signatures were verified here, with the limits that its rollout gave it;
    else why not."""
    digest = request.digest
    assert digest is not None
    if digest == (state.active or factory):
        return Answer(ok=False, code="already-active", text=f"{digest[:19]} judges already")
    if digest in state.revoked:
        return Answer(ok=False, code="revoked", text=f"{digest[:19]}: {why_revoked(state, digest)}"[:200])
    model: ReleasedModel | None = next((known for known in state.known if known.digest == digest), None)
    if model is None:
        text = f"{digest[:19]} was never verified on this box; `model import` brings it with its signatures"
        return Answer(ok=False, code="never-verified", text=text)
    limits = state.limits.get(digest, Limits())
    return Candidate(
        model=model, asked_by="person", who=request.by, reason=request.why, taken_at=now, shadow=limits.shadow,
        trial=limits.trial,
    )  # fmt: skip


def limits_of(state: State, candidate: Candidate) -> str:
    """What it will be tried under, for the person who asked for it."""
    shadow, trial = candidate.shadow, candidate.trial
    whose = "its rollout's" if candidate.model.digest in state.limits else "defaults"
    shares = f"{shadow.most_new_ng:.0%} new NG, {shadow.most_new_ok:.0%} new OK"
    return (
        f"limits ({whose}): shadow {shadow.parts} parts, {shares}; trial {trial.parts} parts, "
        f"shift {trial.most_rate_shift:.0%}"
    )
