"""What somebody signs, as lines to read first: a rollout with all its limits, keys that come and go, files, expiry.

1. Whoever signs second sees what the first one chose: limits always, the rest where it is not the default.
2. Of roles: each key that comes or goes, each threshold, each path, old and new; a field nobody thought of is named.

    rollout_lines(rollout, signed)      # ["release: metal-plate, channel stable, sequence 2: ...", ...]
    role_lines(draft)                   # ["root: key goes: root-1 (5d1d...)", ...]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tuf.api.metadata import DelegatedRole, Root, Targets
from tuf.api.metadata import Role as RoleOfRoot

from cloud_inspect.release.keys import name_of
from cloud_inspect.release.layout import (
    PRODUCT,
    RETIRED,
    ROOT,
    TARGETS,
    TOP_ROLES,
    delegation,
    package_of,
    product_of,
    retired,
)
from cloud_inspect.release.limits import DEFAULTS, SHADOW, differences, limits, own_limits, whom
from cloud_inspect.release.repository import Draft
from edge_wire.manifest import MANIFEST_NAME
from edge_wire.release import Rollout


@dataclass(frozen=True)
class Signed:
    """A staged change after somebody signed it."""

    role: str
    version: int
    expires: str
    signed_by: tuple[str, ...]
    """Names of the keys that signed now."""
    missing: tuple[str, ...]
    """A line for each role that still lacks signatures; empty when it may be published."""
    rollouts: tuple[Rollout, ...] = ()
    retired: tuple[str, ...] = ()
    """NAME/VERSION of packages that it takes out."""
    before: dict[str, Rollout] = field(default_factory=dict)
    """By channel: what it says until now."""
    names: dict[str, str] = field(default_factory=dict)
    """Digest -> "name version" of every package of the product, also of those taken out."""
    added: tuple[str, ...] = ()
    """A line for each package that it brings along."""
    roles: tuple[str, ...] = ()
    """A line for each key that comes or goes, and each other change of who may sign what."""
    warnings: tuple[str, ...] = ()
    """A line for each role that has expired, or will soon."""


def rollout_lines(rollout: Rollout, signed: Signed) -> Iterator[str]:
    """For whoever signs it; the first line stands for all."""
    before = signed.before.get(rollout.channel)
    model, where = rollout.model, f"{rollout.product}, channel {rollout.channel}, sequence {rollout.sequence}"
    if newly := newly_revoked(rollout, signed):
        what = ", ".join(signed.names.get(one, one) for one in newly)
        yield f"revokes {what}: {where}; {_what_runs(rollout, before)}"
        yield from (f"  {line}" for line in revocation_lines(rollout, signed.names, newly))
    else:
        now = f"; until now {before.model.version}, sequence {before.sequence}" if before else "; its first one"
        yield f"{rollout.action}: {where}: {model.name} {model.version}{now}"
    yield f"  package {model.name} {model.version}: {model.digest}"
    yield f"  for {whom(rollout.audience)}; by {rollout.released_by}, {rollout.released_at:%Y-%m-%d %H:%M} UTC"
    if rollout.reason:
        yield f"  reason: {rollout.reason}"
    found = limits(rollout.shadow, rollout.trial)
    yield f"  shadow: {', '.join(f'{name} {found[name]}' for name in SHADOW.values())}"
    yield f"  trial: {', '.join(f'{name} {value}' for name, value in found.items() if name not in SHADOW.values())}"
    if own := own_limits(rollout):
        yield f"  not the defaults: {', '.join(f'{name} {own[name]} ({DEFAULTS[name]})' for name in own)}"
    if before is not None and (changed := differences(before, rollout)):
        yield f"  other than until now: {', '.join(changed)}"
    if rollout.revoked and not newly:
        yield f"  revoked as before: {', '.join(signed.names.get(one, one) for one in rollout.revoked)}"


def revocation_lines(rollout: Rollout, names: Mapping[str, str], digests: Sequence[str]) -> Iterator[str]:
    """Which, by whom, when and why, as far as that is on record. `names`: digest -> "name version"."""
    told = {one.digest: one for one in rollout.revocations}
    for digest in digests:
        said, what = told.get(digest), f"revoked: {names.get(digest, digest)}"
        why = f": {said.reason}" if said and said.reason else ""
        yield f"{what}, by {said.by}, {said.at:%Y-%m-%d %H:%M} UTC{why}" if said else what


def newly_revoked(rollout: Rollout, signed: Signed) -> list[str]:
    """Digests that no channel revoked until now."""
    known = {digest for one in signed.before.values() for digest in one.revoked}
    return [one for one in rollout.revoked if one not in known]


def _what_runs(rollout: Rollout, before: Rollout | None) -> str:
    if rollout.model.digest in rollout.revoked:
        return "boxes that run it go back to what they ran before"
    runs = f"{rollout.model.name} {rollout.model.version}"
    return f"the channel goes on with {runs}" if before and before.model == rollout.model else f"boxes take {runs}"


def package_names(targets: Targets) -> dict[str, str]:
    """Digest of the manifest -> "name version", of all that are there or were."""
    found = {f"sha256:{digest}": package.replace("/", " ") for package, digest in retired(targets).items()}
    for path, info in targets.targets.items():
        package = package_of(path)
        if package and path.count("/") == 3 and path.endswith(f"/{MANIFEST_NAME}"):
            found[f"sha256:{info.hashes['sha256']}"] = package.replace("/", " ")
    return found


def added_packages(draft: Draft, product: str) -> Iterator[str]:
    old = draft.base.product(product).targets if product in draft.base.products else {}
    found: dict[str, list[int]] = {}
    for path, info in draft.state.product(product).targets.items():
        package = package_of(path)
        if package is not None and path not in old:
            found.setdefault(package, []).append(info.length)
    for package, lengths in found.items():
        yield f"brings {package}: {counted(len(lengths), 'file')}, {counted(sum(lengths), 'byte')}"


def retired_by(draft: Draft, role: str) -> tuple[str, ...]:
    """NAME/VERSION of what the change takes out."""
    if not role.startswith(PRODUCT) or role not in draft.changed:
        return ()
    product = product_of(role)
    before = retired(draft.base.product(product)) if product in draft.base.products else {}
    return tuple(sorted(set(retired(draft.state.product(product))) - set(before)))


def role_lines(draft: Draft) -> Iterator[str]:
    """Every change of who may sign what, in all that is staged."""
    for name in draft.changed:
        before = draft.base.roles.get(name)
        now, old = draft.changed[name].signed, before.signed if before is not None else None
        if isinstance(now, Root) and isinstance(old, Root):
            for role in TOP_ROLES:
                yield from _exchanged(role, old, old.roles[role], now, now.roles[role])
        elif isinstance(now, Targets) and name == TARGETS and (isinstance(old, Targets) or old is None):
            yield from _delegated(old or Targets(), now)
        for one in _else_changed(name, old.to_dict() if old is not None else None, now.to_dict()):
            yield f"{name}: {one} is another one"


def _delegated(old: Targets, now: Targets) -> Iterator[str]:
    was, are = (dict((one.delegations.roles if one.delegations else None) or {}) for one in (old, now))
    for role in sorted({*was, *are}):
        if role not in are:
            yield f"{role}: goes, with all its keys"
            continue
        if role not in was:
            yield f"{role}: is new, threshold {are[role].threshold}"
        yield from _exchanged(role, old, was.get(role), now, are[role])
        if _scope(are[role]) != _scope(was.get(role) or delegation(product_of(role), 1)):
            yield f"{role}: may sign {', '.join(are[role].paths or ['other paths'])}"


def _scope(role: DelegatedRole) -> tuple[object, ...]:
    return tuple(role.paths or ()), role.terminating, tuple(role.path_hash_prefixes or ())


def _exchanged(
    role: str, old: Root | Targets, was: RoleOfRoot | None, now: Root | Targets, is_: RoleOfRoot
) -> Iterator[str]:
    before = {one: old.get_key(one) for one in was.keyids} if was is not None else {}
    after = {one: now.get_key(one) for one in is_.keyids}
    for one, key in before.items():
        if one not in after:
            yield f"{role}: key goes: {name_of(key)}"
    for one, key in after.items():
        if one not in before:
            yield f"{role}: key comes: {name_of(key)}"
    if was is not None and (was.threshold != is_.threshold or len(before) != len(after)):
        yield f"{role}: threshold {was.threshold} of {len(before)} -> {is_.threshold} of {len(after)}"


_SHOWN = {ROOT: {"keys", "roles"}, TARGETS: {"delegations"}}


def _else_changed(role: str, old: dict[str, object] | None, now: dict[str, object]) -> list[str]:
    """Fields that no other line tells of."""
    if old is None:
        return []
    shown = {"version", "expires"} | _SHOWN.get(role, {"targets", RETIRED})
    return sorted(name for name in {*old, *now} - shown if old.get(name) != now.get(name))


def counted(number: int, what: str) -> str:
    """ "1 file", "2 files"."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
