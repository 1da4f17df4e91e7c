"""Who may sign: the first keys of a repository, new products, keys exchanged.

1. A role has at least as many keys as its threshold.
2. Root's chain never breaks: each root is signed by the threshold of the one before and by its own.
3. A role that gets new keys is signed anew in the same change, by the old keys and the new ones.

    create(store, plans, signers, now)
    rotate(change, "product-metal-plate", Exchange(add=[key], remove=["product-metal-plate-1"]), signers)
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from securesystemslib.signer import Key, Signer
from tuf.api.metadata import Root, Targets

from cloud_inspect.errors import BadKey, BadRelease, StoreGone
from cloud_inspect.release.changes import Change
from cloud_inspect.release.keys import name_of
from cloud_inspect.release.layout import (
    KEY_NAME,
    PRODUCT,
    ROOT,
    TARGETS,
    TOP_ROLES,
    delegation,
    product_of,
    product_role,
)
from cloud_inspect.release.publish import write_metadata
from cloud_inspect.release.repository import Draft, State
from cloud_inspect.release.signing import Signed
from cloud_inspect.release.store import Store


@dataclass(frozen=True)
class RoleKeys:
    keys: tuple[Key, ...]
    threshold: int = 1


@dataclass(frozen=True)
class Exchange:
    add: tuple[Key, ...] = ()
    remove: tuple[str, ...] = ()
    """Key ids, their beginnings, or names."""
    threshold: int | None = None


def create(store: Store, plan: dict[str, RoleKeys], signers: Sequence[Signer], now: datetime) -> bytes:
    """The first metadata of all roles in `plan`: the bytes of root.json, which devices must be given.

    Raises BadRelease: `folder-not-empty`, `threshold-impossible`, `threshold`.
    """
    for role, keys in plan.items():
        refuse_impossible(role, len({key.keyid for key in keys.keys}), keys.threshold)
    with store.lock():
        refuse_occupied(store)
        draft = Draft(State(), signers, now)
        with draft.edit_root() as root:
            for role in TOP_ROLES:
                _set_keys(root, role, plan[role])
        with draft.edit_targets() as targets:
            for role, keys in plan.items():
                if role.startswith(PRODUCT):
                    _delegate(targets, role, keys)
        for role in plan:
            if role.startswith(PRODUCT):
                with draft.edit_targets(role):
                    pass
        draft.do_snapshot()
        draft.do_timestamp()
        for role in draft.changed:
            for line in draft.missing(role):
                raise BadRelease("threshold", line)
        try:
            write_metadata(draft, store)
        except BaseException:
            with suppress(StoreGone):
                for name in store.names("metadata"):
                    store.remove(name)
            raise
    return draft.changed[ROOT].to_bytes()


def refuse_occupied(store: Store) -> None:
    """Raises BadRelease (`folder-not-empty`)."""
    if found := [name for folder in ("metadata", "targets", "staged") for name in store.names(folder)]:
        raise BadRelease("folder-not-empty", f"{store.url}: has {found[0]} already; a repository begins empty")


def refuse_product(change: Change, product: str) -> None:
    """Before keys are made for it. Raises BadRelease (`product-exists`, `staged`)."""
    state = change.state()
    if product in state.products:
        raise BadRelease("product-exists", f"product {product}: is in this repository already")
    change.refuse_other_change(state, TARGETS, product_role(product))


def add_product(
    change: Change, product: str, keys: RoleKeys, signers: Sequence[Signer], own: Sequence[Signer] = ()
) -> Signed:
    """Stage a delegation to a new product's keys; the targets keys and the product's own sign it."""
    refuse_impossible(product_role(product), len(keys.keys), keys.threshold)
    with change.staging.store.lock():
        refuse_product(change, product)
        draft = change.draft(change.state(), [*signers, *own])
        with draft.edit_targets() as targets:
            _delegate(targets, product_role(product), keys)
        with draft.edit_targets(product_role(product)):
            pass
        return _stage(change, draft, TARGETS, signers)


def signing_roles(role: str) -> tuple[str, ...]:
    """Whose keys sign when `role` gets other keys."""
    return (TARGETS, role) if role.startswith(PRODUCT) else (ROOT, TARGETS) if role == TARGETS else (ROOT,)


def rotate(
    change: Change, role: str, exchange: Exchange, signers: Sequence[Signer], own: Sequence[Signer] = ()
) -> Signed:
    """Stage other keys or another threshold for a role; `own`: the new keys, where they have something to sign.

    Raises BadRelease (`unknown-role`, `same-keys`), BadKey (`unknown-key`, `key-not-of-role`).
    """
    with change.staging.store.lock():
        state = change.state()
        if role not in state.roles:
            raise BadRelease("unknown-role", f"role {role}: allowed: {', '.join(state.roles)}")
        change.refuse_other_change(state, *signing_roles(role))
        draft = change.draft(state, [*signers, *own])
        if role.startswith(PRODUCT):
            with draft.edit_targets() as targets:
                _exchange(targets, role, exchange)
            with draft.edit_targets(role):
                pass
            return _stage(change, draft, TARGETS, signers)
        with draft.edit_root() as root:
            _exchange(root, role, exchange)
        if role == TARGETS:
            with draft.edit_targets():
                pass
        return _stage(change, draft, ROOT, signers)


def _stage(change: Change, draft: Draft, role: str, signers: Sequence[Signer]) -> Signed:
    known = {keyid for changed in draft.edited for keyid in draft.keys(changed)}
    for signer in signers:
        if signer.public_key.keyid not in known:
            roles = ", ".join(draft.edited)
            raise BadKey("key-not-of-role", f"{name_of(signer.public_key)}: signs for none of {roles}")
    return change.stage(draft, role)


def _set_keys(root: Root, role: str, keys: RoleKeys) -> None:
    root.roles[role].threshold = keys.threshold
    for key in keys.keys:
        root.add_key(key, role)


def _delegate(targets: Targets, role: str, keys: RoleKeys) -> None:
    assert targets.delegations is not None and targets.delegations.roles is not None
    targets.delegations.roles[role] = delegation(product_of(role), keys.threshold)
    for key in keys.keys:
        targets.add_key(key, role)


def _exchange(delegator: Root | Targets, role: str, exchange: Exchange) -> None:
    before = delegator.get_delegated_role(role)
    keyids, threshold = set(before.keyids), before.threshold
    present = {one: delegator.get_key(one) for one in keyids}
    for wanted in exchange.remove:
        delegator.revoke_key(_find(present, role, wanted), role)
    for key in exchange.add:
        delegator.add_key(key, role)
    found = delegator.get_delegated_role(role)
    if exchange.threshold is not None:
        found.threshold = exchange.threshold
    refuse_impossible(role, len(found.keyids), found.threshold)
    if (set(found.keyids), found.threshold) == (keyids, threshold):
        raise BadRelease("same-keys", f"{role}: nothing would change: these are its keys, threshold {threshold}")


def _find(present: dict[str, Key], role: str, wanted: str) -> str:
    found = [one for one, key in present.items() if _is_called(key, wanted)]
    if len(found) != 1:
        names = ", ".join(sorted(name_of(key) for key in present.values()))
        what = "is none of its keys" if not found else "means more than one of its keys"
        raise BadKey("unknown-key", f"{role}: {wanted!r} {what}: {names}")
    return found[0]


def _is_called(key: Key, wanted: str) -> bool:
    return key.unrecognized_fields.get(KEY_NAME) == wanted or (len(wanted) >= 6 and key.keyid.startswith(wanted))


def refuse_impossible(role: str, keys: int, threshold: int) -> None:
    """Raises BadRelease (`threshold-impossible`)."""
    if not 1 <= threshold <= keys:
        raise BadRelease(
            "threshold-impossible", f"{role}: threshold {threshold} with {keys} keys; allowed: 1 to {keys}"
        )
