"""What a repository need not keep: packages that no channel runs or ran lately, and files that nobody is told of.

1. Kept are the package that each channel names and the last ones before it (`keep`), by the rollouts that lie there
   still: a rollback finds its target. Revoked ones are no target.
2. A package goes as a whole, by a change that the product's keys sign (`Change.retire`): its name and digest stay on
   record, so it may be revoked and is never released again.
3. Files go only after nothing signed names them: every root stays, of other metadata the present version and the two
   before it, of rollouts those that say what a channel ran. Stopped anywhere, the repository is whole: repeat it.

    found = plan(store, state, "metal-plate", keep=5)
    change.retire("metal-plate", list(found.packages), signers)         # then publish, then:
    sweep(store, keep=5)
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import ValidationError
from tuf.api.metadata import Metadata, Root, Targets

from cloud_inspect.release.layout import ROOT, TIMESTAMP, package_of, target_file
from cloud_inspect.release.repository import State, load
from cloud_inspect.release.staging import rollouts
from cloud_inspect.release.store import Store, read
from edge_wire.manifest import MANIFEST_NAME
from edge_wire.release import CHANNELS, Rollout, file_target

KEEP = 5
OLD_METADATA = 2
"""Versions before the present one: for readers that are on their way through an older snapshot."""
_VERSIONED = re.compile(r"metadata/([0-9]+)\.(.+)\.json", re.ASCII)
_ROLLOUT = re.compile(r"targets/[^/]+/[^/]+/([0-9a-f]{64})\.([a-z0-9-]+)\.json", re.ASCII)


@dataclass(frozen=True)
class Plan:
    packages: dict[str, int]
    """NAME/VERSION -> bytes of its files, of what may go."""
    kept: tuple[str, ...]


@dataclass(frozen=True)
class _Past:
    """What a channel ran."""

    packages: set[str]
    """NAME/VERSION, the present one among them."""
    files: set[str]
    """The rollouts that say so, as they lie in the store."""


def plan(store: Store, state: State, product: str, keep: int = KEEP) -> Plan:
    """Raises BadRelease (`unknown-product`), StoreGone."""
    targets = state.product(product)
    kept = {one for past in _pasts(store, product, targets, keep) for one in past.packages}
    going: dict[str, int] = {}
    for path, info in targets.targets.items():
        package = package_of(path)
        if package is not None and package not in kept:
            going[package] = going.get(package, 0) + info.length
    return Plan(dict(sorted(going.items())), tuple(sorted(kept)))


def leftovers(store: Store, state: State, keep: int = KEEP) -> list[str]:
    """Names of files that no reader is told of."""
    named: set[str] = set()
    for product in state.products:
        targets = state.product(product)
        named |= {target_file(info) for info in targets.targets.values()}
        named |= {file for past in _pasts(store, product, targets, keep) for file in past.files}
    files = [name for name in store.names("targets") if name not in named]
    return files + [name for name in store.names("metadata") if _is_old(name, state)]


def sweep(
    store: Store, keep: int = KEEP, trusted_root: bytes | None = None, next_root: Metadata[Root] | None = None
) -> list[str]:
    """Remove the leftovers; what was removed. Raises BadRelease, StoreGone."""
    with store.lock():
        found = leftovers(store, load(store, trusted_root, next_root), keep)
        for name in found:
            store.remove(name)
    return found


def _is_old(name: str, state: State) -> bool:
    match = _VERSIONED.fullmatch(name)
    if match is None or match[2] in (ROOT, TIMESTAMP) or match[2] not in state.roles:
        return False
    return int(match[1]) < state.roles[match[2]].signed.version - OLD_METADATA


def _pasts(store: Store, product: str, targets: Targets, keep: int) -> Iterator[_Past]:
    found: dict[str, list[tuple[str, Rollout]]] = {}
    for name, rollout in _old_rollouts(store, product):
        found.setdefault(rollout.channel, []).append((name, rollout))
    for channel, present in rollouts(product, targets, store).items():
        older = [(name, one) for name, one in found.get(channel, ()) if one.sequence < present.sequence]
        past = _Past({_called(present)}, {name for name, one in older if one.sequence == present.sequence - 1})
        for name, one in sorted(older, key=lambda each: -each[1].sequence):
            if len(past.packages) > keep:
                break
            if (
                _called(one) not in past.packages
                and _is_there(one, targets)
                and one.model.digest not in present.revoked
            ):
                past.packages.add(_called(one))
                past.files.add(name)
        yield past


def _old_rollouts(store: Store, product: str) -> Iterator[tuple[str, Rollout]]:
    """Rollouts in the store, signed still or once. Who can write there can make some up: they keep a package from
    going, or let it go that no channel names; no more.
    """
    for name in store.names(f"targets/{product}/{CHANNELS}"):
        match, content = _ROLLOUT.fullmatch(name), read(store, name)
        if match is None or content is None or hashlib.sha256(content).hexdigest() != match[1]:
            continue
        try:
            rollout = Rollout.model_validate_json(content)
        except ValidationError:
            continue
        if (rollout.product, rollout.channel) == (product, match[2]):
            yield name, rollout


def _is_there(rollout: Rollout, targets: Targets) -> bool:
    model = rollout.model
    manifest = targets.targets.get(file_target(rollout.product, model.name, model.version, MANIFEST_NAME))
    return manifest is not None and f"sha256:{manifest.hashes['sha256']}" == model.digest


def _called(rollout: Rollout) -> str:
    return f"{rollout.model.name}/{rollout.model.version}"
