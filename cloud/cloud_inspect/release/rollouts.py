"""What a rollout shall say: from a wish, and from what its channel said last.

1. `sequence` is the channel's last + 1. What any channel of the product revoked stays revoked in every later rollout,
   with who revoked it, when and why; a channel that goes on with its model keeps who released that, when and why.
2. A name and version stand for one set of bytes, for ever; an older version must be asked for as a rollback.

    make_rollout("metal-plate", make_wish("stable", "anna", most_new_ng=0.02), model, last, now)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import ValidationError
from tuf.api.metadata import Targets

from cloud_inspect.errors import BadRelease
from cloud_inspect.release.layout import retired, whole_second
from cloud_inspect.release.limits import differences, in_words
from edge_wire.manifest import MANIFEST_NAME
from edge_wire.release import (
    Audience,
    ReleasedModel,
    Revocation,
    Rollout,
    ShadowLimits,
    TrialLimits,
    file_target,
    version_order,
)


@dataclass(frozen=True)
class Wish:
    """How a package shall be rolled out."""

    channel: str
    released_by: str
    reason: str = ""
    audience: Audience = field(default_factory=Audience)
    shadow: ShadowLimits = field(default_factory=ShadowLimits)
    trial: TrialLimits = field(default_factory=TrialLimits)
    rollback: bool = False
    again: bool = False
    """The package that the channel is at already, in another way."""


def make_wish(
    channel: str,
    released_by: str,
    *,
    reason: str = "",
    rollback: bool = False,
    again: bool = False,
    audience: dict[str, Any] | None = None,
    shadow: dict[str, Any] | None = None,
    trial: dict[str, Any] | None = None,
) -> Wish:
    """From loose parts; None among them is left to its default. Raises BadRelease (`rollout-refused`)."""
    try:
        return Wish(
            channel,
            released_by,
            reason,
            Audience(**_said(audience)),
            ShadowLimits(**_said(shadow)),
            TrialLimits(**_said(trial)),
            rollback,
            again,
        )
    except ValidationError as err:
        raise _refused(err) from err


def released(product: str, targets: Targets, name: str, version: str, *, or_retired: bool = False) -> ReleasedModel:
    """A package that is in the repository. `or_retired`: or was, and devices may run it still.

    Raises BadRelease (`unknown-model`), which names those there are.
    """
    info = targets.targets.get(file_target(product, name, version, MANIFEST_NAME))
    if info is None and or_retired and (digest := retired(targets).get(f"{name}/{version}")):
        return ReleasedModel(name=name, version=version, digest=f"sha256:{digest}")
    if info is None:
        known = sorted(
            f"{one.split('/')[1]}/{one.split('/')[2]}" for one in targets.targets if one.endswith(MANIFEST_NAME)
        )
        raise BadRelease(
            "unknown-model", f"{name}/{version}: not released; {product} has: {', '.join(known) or 'none'}"
        )
    return ReleasedModel(name=name, version=version, digest=f"sha256:{info.hashes['sha256']}")


def make_rollout(
    product: str,
    wish: Wish,
    model: ReleasedModel,
    last: dict[str, Rollout],
    now: datetime,
    revoking: Sequence[Revocation] = (),
) -> Rollout:
    """The channel's next one. Raises BadRelease (`rollout-refused`): which field, and what is allowed."""
    before = last.get(wish.channel)
    told = [*(said for one in last.values() for said in one.revocations), *revoking]
    revoked = [*(digest for one in last.values() for digest in one.revoked), *(one.digest for one in revoking)]
    try:
        return Rollout(
            product=product,
            channel=wish.channel,
            sequence=before.sequence + 1 if before else 1,
            action="rollback" if wish.rollback else "release",
            model=model,
            audience=wish.audience,
            shadow=wish.shadow,
            trial=wish.trial,
            revoked=tuple(sorted(set(revoked))),
            released_by=wish.released_by,
            released_at=whole_second(now),
            reason=wish.reason,
            revocations=tuple({one.digest: one for one in reversed(told)}.values())[::-1],
        )
    except ValidationError as err:
        raise _refused(err) from err


def make_revoking(
    one: Rollout, model: ReleasedModel, wish: Wish, to: ReleasedModel | None, last: dict[str, Rollout], now: datetime
) -> Rollout:
    """The channel's next one: `model` is revoked; where it ran, `to` shall run, or what each device had before."""
    if to is not None and (to == model or any(to.digest in each.revoked for each in last.values())):
        raise BadRelease("revoked-model", f"{to.name} {to.version}: is revoked itself")
    runs = to if to is not None and one.model == model else one.model
    older = runs != one.model and version_order(runs.version) < version_order(one.model.version)
    kept = Wish(
        one.channel,
        wish.released_by,
        wish.reason,
        one.audience,
        one.shadow,
        one.trial,
        rollback=older if runs != one.model else one.action == "rollback",
    )
    made = make_rollout(one.product, kept, runs, last, now, [_revocation(model, wish, now)])
    return made.model_copy(update={name: getattr(one, name) for name in _WHOSE}) if runs == one.model else made


def _revocation(model: ReleasedModel, wish: Wish, now: datetime) -> Revocation:
    try:
        return Revocation(digest=model.digest, by=wish.released_by, at=whole_second(now), reason=wish.reason)
    except ValidationError as err:
        raise _refused(err) from err


def refuse_unfit(product: str, wish: Wish, model: ReleasedModel, targets: Targets, last: dict[str, Rollout]) -> None:
    """Raises BadRelease: `retired`, `same-version-other-bytes`, `revoked-model`, `same-release`, `older-version`."""
    if f"{model.name}/{model.version}" in retired(targets):
        raise BadRelease("retired", f"{model.name} {model.version}: was released once and taken out; raise the version")
    info = targets.targets.get(file_target(product, model.name, model.version, MANIFEST_NAME))
    if info is not None and f"sha256:{info.hashes['sha256']}" != model.digest:
        raise BadRelease(
            "same-version-other-bytes",
            f"{model.name} {model.version}: released with digest sha256:{info.hashes['sha256'][:12]}..., "
            f"this is {model.digest[:19]}...; raise the version",
        )
    if any(model.digest in one.revoked for one in last.values()):
        raise BadRelease("revoked-model", f"{model.name} {model.version}: was revoked")
    before = last.get(wish.channel)
    if before is None or before.model.name != model.name:
        return
    if before.model == model and not wish.again:
        would = differences(before, before.model_copy(update={name: getattr(wish, name) for name in _HOW}))
        for name, was, now in (("reason", before.reason, wish.reason), ("by", before.released_by, wish.released_by)):
            would += [f"{name} {was!r} -> {now!r}"] if was != now else []
        raise BadRelease(
            "same-release",
            f"{wish.channel} is at {model.name} {model.version} already (sequence {before.sequence}); "
            f"{_changing(would)}; to do it: --again",
        )
    older = version_order(model.version) < version_order(before.model.version)
    if older and not wish.rollback:
        raise BadRelease(
            "older-version",
            f"{model.name} {model.version}: {wish.channel} is at {before.model.version}; going back: --rollback",
        )


def _said(parts: dict[str, Any] | None) -> dict[str, Any]:
    return {key: value for key, value in (parts or {}).items() if value is not None}


def refuse_revoked(model: ReleasedModel, last: dict[str, Rollout], to: ReleasedModel | None) -> None:
    """Raises BadRelease (`revoked-already`) where that would change nothing."""
    if all(model.digest in one.revoked for one in last.values()) and not (
        to is not None and any(one.model == model for one in last.values())
    ):
        where = ", ".join(f"{one.channel} since sequence {one.sequence} or before" for one in last.values())
        raise BadRelease("revoked-already", f"{model.name} {model.version}: is revoked on every channel: {where}")


def as_object(rollout: Rollout) -> dict[str, Any]:
    """For programs: what is in its file, and what is signed beside it."""
    return rollout.model_dump(mode="json") | {
        "revocations": [one.model_dump(mode="json") for one in rollout.revocations]
    }


_HOW = ("audience", "shadow", "trial")
_WHOSE = ("released_by", "released_at", "reason")


def _changing(lines: Sequence[str]) -> str:
    return f"this changes: {', '.join(lines)}" if lines else "nothing would change but the sequence"


def _refused(err: ValidationError) -> BadRelease:
    return BadRelease("rollout-refused", in_words(err))
