"""A change that waits for signatures: metadata with higher versions, and the files it brings along.

1. It lies apart from what is served (`staged/` in the repository, or anywhere), so signers may take turns, on machines
   of their own; every signature but the last leaves it staged.
2. Whoever signs or publishes checks all of it first: the files' bytes, that nothing released became other bytes or
   disappeared (but whole packages that no channel names, retired by name), that every rollout names a package that is
   there, one step above the last.
3. A change made for an older state of the repository is refused, not merged.

    staging = Staging(open_store(f"{url}/staged"))
    staging.overlay(draft)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from pydantic import ValidationError
from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from cloud_inspect.errors import BadRelease
from cloud_inspect.release.layout import PRODUCT, ROOT, Role, package_of, product_of, retired, target_file
from cloud_inspect.release.repository import Draft, State, parse
from cloud_inspect.release.store import Store, holds, read
from edge_wire.manifest import MANIFEST_NAME
from edge_wire.mistake import first_mistake
from edge_wire.release import CHANNELS, MOST_ROLLOUT_BYTES, Rollout, channel_target, file_target, revocations_in


class Staging:
    def __init__(self, store: Store) -> None:
        self.store = store

    def roles(self) -> list[str]:
        return [name.removeprefix("metadata/").removesuffix(".json") for name in self.store.names("metadata")]

    def read(self, role: str) -> Role | None:
        content = read(self.store, f"metadata/{role}.json")
        if content is None:
            return None
        where = f"{self.store.url}/metadata/{role}.json"
        return parse(content, Root, where) if role == ROOT else parse(content, Targets, where)

    def root(self) -> Metadata[Root] | None:
        return cast("Metadata[Root] | None", self.read(ROOT))

    def write(self, role: str, metadata: Role) -> None:
        self.store.write(f"metadata/{role}.json", metadata.to_bytes())

    def overlay(self, draft: Draft, only: str | None = None) -> list[str]:
        """Put what is staged into the draft, or this role's change only; the roles.

        Raises BadRelease (`staged-outdated`).
        """
        found = [role for role in self.roles() if only in (None, role)]
        for role in found:
            metadata = self.read(role)
            before = draft.base.roles.get(role)
            if metadata is None or (before is not None and before.signed == metadata.signed):
                continue  # published already, by a run that could not clear up
            version = metadata.signed.version
            if version != (before.signed.version + 1 if before is not None else 1):
                raise BadRelease(
                    "staged-outdated",
                    f"{self.store.url}: {role} version {version} is staged, the repository is at "
                    f"{before.signed.version if before else 0}: drop it by --discard and sign again",
                )
            draft.changed[role] = metadata
        return found

    def clear(self, roles: Sequence[str] | None = None) -> None:
        """All, or what is staged of these roles. Metadata last: while some is there, the change is."""
        others = [] if roles is None else [one for one in self.roles() if one not in roles]
        for name in self.store.names("targets") if not others else ():
            self.store.remove(name)
        for name in self.store.names("metadata"):
            if name not in {f"metadata/{one}.json" for one in others}:
                self.store.remove(name)


def fetch(info: TargetFile, *stores: Store) -> bytes:
    """A small target's bytes, verified, from the first store that has them. Raises BadRelease (`target-...`)."""
    for store in stores:
        content = read(store, target_file(info))
        if content is not None:
            try:
                info.verify_length_and_hashes(content)
            except LengthOrHashMismatchError as err:
                raise BadRelease("target-changed", f"{store.url}: {info.path}: not the bytes that were signed") from err
            return content
    raise BadRelease("target-missing", f"{info.path}: is signed and not in {' or '.join(one.url for one in stores)}")


def rollout_at(info: TargetFile, *stores: Store) -> Rollout:
    """Raises BadRelease (`rollout-too-large`, `rollout-refused`): what it says, or for whom, is wrong."""
    if info.length > MOST_ROLLOUT_BYTES:
        raise BadRelease("rollout-too-large", f"{info.path}: {info.length} bytes, devices read {MOST_ROLLOUT_BYTES}")
    try:
        rollout = Rollout.model_validate_json(fetch(info, *stores))
    except ValidationError as err:
        raise BadRelease("rollout-refused", f"{info.path}: {first_mistake(err, 'rollout')}") from err
    if channel_target(rollout.product, rollout.channel) != info.path:
        raise BadRelease("rollout-refused", f"{info.path}: says {rollout.product}, channel {rollout.channel}")
    return rollout.model_copy(update={"revocations": revocations_in(info.custom)})


def rollouts(product: str, targets: Targets, *stores: Store) -> dict[str, Rollout]:
    """What each channel of the product runs, by channel."""
    start = f"{product}/{CHANNELS}/"
    found = (rollout_at(info, *stores) for path, info in sorted(targets.targets.items()) if _is_channel(path, start))
    return {one.channel: one for one in found}


def refuse_bad_change(draft: Draft, staged: Store, store: Store) -> None:
    """Raises BadRelease for what no signature makes right."""
    for role in draft.changed:
        if role.startswith(PRODUCT):
            _refuse_bad_product(product_of(role), draft.base, draft.state, staged, store)


def _refuse_bad_product(product: str, before: State, after: State, staged: Store, store: Store) -> None:
    old = before.product(product) if product in before.products else Targets()
    new = after.product(product)
    delegations = after.targets.delegations
    role = (delegations.roles or {}).get(f"{PRODUCT}{product}") if delegations else None
    if role is None:
        raise BadRelease("unknown-product", f"product {product}: nobody delegates to it")
    _refuse_gone(old, new)
    for path, info in new.targets.items():
        if not role.is_delegated_path(path):
            raise BadRelease("target-not-of-product", f"{path}: is no name that {product} may sign")
        if old.targets.get(path) != info:
            _refuse_bad_target(product, path, info, old, staged, store)
    last = rollouts(product, old, store)
    for channel, rollout in rollouts(product, new, staged, store).items():
        if rollout != last.get(channel):
            _refuse_bad_sequence(rollout, last.get(channel))
        _refuse_unknown_model(rollout, new)


def _refuse_gone(old: Targets, new: Targets) -> None:
    """A package may be taken out as a whole and for good; nothing else disappears."""
    before, after = retired(old), retired(new)
    for name in sorted(before):
        if after.get(name) != before[name]:
            raise BadRelease("target-removed", f"{name}: was taken out once; the change forgets it")
    for path in sorted(set(old.targets) - set(new.targets)):
        if package_of(path) not in set(after) - set(before):
            raise BadRelease("target-removed", f"{path}: was released and would disappear")
    for path in new.targets:
        if package_of(path) in after:
            raise BadRelease("retired", f"{path}: is of a package that was taken out; raise the version")


def _refuse_bad_target(product: str, path: str, info: TargetFile, old: Targets, staged: Store, store: Store) -> None:
    if path in old.targets and not _is_channel(path, f"{product}/{CHANNELS}/"):
        raise BadRelease("same-version-other-bytes", f"{path}: is released with other bytes; raise the version")
    if set(info.hashes) != {"sha256"}:
        raise BadRelease("target-hash", f"{path}: hashes are {', '.join(info.hashes)}; allowed: sha256")
    name = target_file(info)
    if not any(holds(one, name, info.length, info.hashes["sha256"]) for one in (staged, store)):
        raise BadRelease("target-missing", f"{path}: is not staged with the bytes that are signed")


def _refuse_bad_sequence(rollout: Rollout, last: Rollout | None) -> None:
    expected = last.sequence + 1 if last else 1
    if rollout.sequence != expected:
        where = f"{rollout.product}, channel {rollout.channel}"
        raise BadRelease("sequence", f"{where}: sequence {rollout.sequence}, must be {expected}")


def _refuse_unknown_model(rollout: Rollout, targets: Targets) -> None:
    where, model = f"{rollout.product}, channel {rollout.channel}", rollout.model
    manifest = targets.targets.get(file_target(rollout.product, model.name, model.version, MANIFEST_NAME))
    if manifest is None or f"sha256:{manifest.hashes['sha256']}" != model.digest:
        raise BadRelease("unknown-model", f"{where}: {model.name} {model.version} is not released with this digest")


def _is_channel(path: str, start: str) -> bool:
    return path.startswith(start) and path.endswith(".json") and "/" not in path.removeprefix(start)
