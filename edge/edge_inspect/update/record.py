"""What is written into the history when another model judges, is kept or is refused. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from edge_inspect.inference.package import ModelPackage
from edge_inspect.update.history import Entry
from edge_inspect.update.machine import UNCONFIRMED
from edge_inspect.update.state import Candidate, LastRefusal, State

AT_START = "start"
"""Code of the first entry, and of a model that was changed by other means (another installation, another `[model]`)."""

PERSON_WENT_BACK = "rolled-back"


def took_back(code: str) -> bool:
    """Whether a model that was replaced for this must not come again on its own. Bit rot is no fault of the model."""
    return code.startswith("trial-") or code in (PERSON_WENT_BACK, UNCONFIRMED, "revoked", "no-end")


def activated(state: State, package: ModelPackage, last: Entry | None, factory: bool, now: datetime) -> Entry:
    """From now on `package` judges. `last`: the activation before."""
    said = _named(package, now) | {"event": "activated", "replaced": last.digest if last else None}
    candidate = state.candidate
    if candidate is not None and candidate.model.digest == package.digest:
        return Entry(**said, **_wanted(candidate), role="trial", code=candidate.asked_by, shadow=candidate.shadowed)
    role: Literal["factory", "previous"] = "factory" if factory else "previous"
    reason = state.reason if last else None
    if reason is None:
        return Entry(**said, role=role, code=AT_START)
    came_back_from = candidate.shadowed if candidate and last and candidate.model.digest == last.digest else None
    return Entry(**said, role=role, code=reason.code, why=reason.why, by=reason.by, shadow=came_back_from)


def kept(state: State, package: ModelPackage, now: datetime) -> Entry:
    """The trial is over, and `package` stays."""
    candidate = state.candidate
    wanted = _wanted(candidate) | {"shadow": candidate.shadowed} if candidate else {}
    return Entry(**_named(package, now), **wanted, event="kept", role="kept")


def refused(candidate: Candidate, refusal: LastRefusal, now: datetime) -> Entry:
    """It was tried and did not come to judge, or not any more."""
    model = candidate.model
    return Entry(
        at=now, digest=model.digest, name=model.name, version=model.version, event="refused", role="candidate",
        code=refusal.code, why=refusal.why, shadow=candidate.shadowed, **_wanted(candidate),
    )  # fmt: skip


def _named(package: ModelPackage, now: datetime) -> dict[str, Any]:
    manifest = package.manifest
    return {"at": now, "digest": package.digest, "name": manifest.name, "version": manifest.version}


def _wanted(candidate: Candidate) -> dict[str, Any]:
    """Who wanted it, and why."""
    who: dict[str, Any] = {"by": candidate.who} if candidate.asked_by == "person" else {"released_by": candidate.who}
    return who | {
        "released_at": candidate.released_at,
        "channel": candidate.channel,
        "sequence": candidate.sequence,
        "reason": candidate.reason,
    }
