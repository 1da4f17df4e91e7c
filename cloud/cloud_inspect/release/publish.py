"""What makes a staged change real, and keeps a repository alive: publish, resign.

1. Readers see the old release or the new one, never a mixture: files first, then metadata under new names, then
   `timestamp.json` in one go, then a new root if there is one. A root comes last because all that came before is
   signed by the keys of both.
2. Interrupted anywhere, publishing can be repeated: what is there already is left alone, what is staged stays staged
   until all is done.
3. Nothing is published that a fresh client would refuse: every threshold is met, nothing in it has expired.
4. Resigning needs the online keys only, and changes neither targets nor root.

    publish(store, staged, signers, now)
    resign(store, signers, now)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Event

import structlog
from securesystemslib.signer import Signer
from tuf.api.metadata import TargetFile
from tuf.ngclient import UpdaterConfig

from cloud_inspect.errors import BadKey, BadRelease, StoreGone
from cloud_inspect.release.keys import name_of
from cloud_inspect.release.layout import (
    ONLINE_ROLES,
    PRODUCT,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    lifetime,
    metadata_file,
    product_of,
    target_file,
)
from cloud_inspect.release.repository import Draft, State, check, load, refuse_expired
from cloud_inspect.release.staging import Staging, refuse_bad_change
from cloud_inspect.release.store import QUIET, Progress, Store, holds

_log = structlog.get_logger()
RENEW_AT = 0.5
"""Online roles are signed again when less than this share of their lifetime is left."""
WARN_BEFORE = timedelta(days=30)
FULL_AT = 0.8
"""Said of metadata that is longer than this share of what clients read."""


@dataclass(frozen=True)
class Published:
    roles: dict[str, int]
    """Role -> version, of all metadata that is new."""
    files: int
    bytes: int


def publish(
    store: Store,
    staged: Store,
    signers: Sequence[Signer],
    now: datetime,
    trusted_root: bytes | None = None,
    *,
    old_keys_lost: bool = False,
    only: str | None = None,
    progress: Progress = QUIET,
) -> Published:
    """Publish all that is staged, or `only` a role's change, and the others wait on.

    `old_keys_lost`: a rotated role is signed by its new keys only; for the time of one write some devices find nothing.
    Raises BadRelease (`nothing-staged`, `threshold`, `expired`, ... or what `refuse_bad_change` says), StoreGone.
    """
    staging = Staging(staged)
    _refuse_nothing(staging, only)  # before a lock makes a folder of a mistyped name
    with store.lock(), staged.lock():
        state = load(store, trusted_root, staging.root())
        _refuse_copy(store, state)
        draft = Draft(state, signers, now)
        roles = staging.overlay(draft, only)
        _refuse_nothing(staging, only)
        refuse_bad_change(draft, staged, store)
        _refuse_unsigned(draft, draft.changed, old_keys_lost)
        _refuse_torn(draft)
        _refuse_expired(draft, now)
        draft.do_snapshot(force=_is_due(state, SNAPSHOT, now))
        draft.do_timestamp(force=_is_due(state, TIMESTAMP, now))
        _refuse_large(draft)
        _refuse_unsigned(draft, ONLINE_ROLES, old_keys_lost)
        files = new_files(draft)
        progress.expect(sum(info.length for info in files))
        for info in files:
            _upload(info, staged, store, progress)
        write_metadata(draft, store)
        staging.clear(roles)
    versions = {role: metadata.signed.version for role, metadata in draft.changed.items()}
    return Published(versions, len(files), sum(info.length for info in files))


def resign(
    store: Store,
    signers: Sequence[Signer],
    now: datetime,
    trusted_root: bytes | None = None,
    *,
    force: bool = False,
    holds_for: timedelta | None = None,
) -> dict[str, int]:
    """Sign snapshot and timestamp again where their time is half over: role -> new version; empty when none was due.

    `holds_for`: both, at once, for so long.

    Raises BadRelease (`threshold`), StoreGone.
    """
    with store.lock():
        state = load(store, trusted_root)
        due = [role for role in ONLINE_ROLES if force or holds_for or _is_due(state, role, now)]
        if not due:
            return {}
        draft = Draft(state, signers, now, holds_for)
        if SNAPSHOT in due:
            draft.do_snapshot(force=True)
        draft.do_timestamp(force=True)
        _refuse_unsigned(draft, ONLINE_ROLES, False)
        write_metadata(draft, store)
    return {role: metadata.signed.version for role, metadata in draft.changed.items()}


def keep_signed(
    store: Store,
    signers: Sequence[Signer],
    clock: Callable[[], datetime],
    stop: Event,
    every_s: float = 600.0,
    trusted_root: bytes | None = None,
) -> None:
    """`resign` until `stop`: a busy or absent store and refusals are logged once and tried again."""
    trouble = ""
    while True:
        try:
            done = resign(store, signers, clock(), trusted_root)
            if done:
                _log.info("signed again", **done)
            if trouble:
                _log.info("signing works again")
            trouble = ""
        except (StoreGone, BadRelease, BadKey) as err:
            if str(err) != trouble:
                _log.error("cannot sign", why=str(err))
            trouble = str(err)
        if stop.wait(every_s):
            return


def refuse_strangers(state: State, signers: Sequence[Signer], *, stay: bool = False) -> list[str]:
    """Before the online roles are signed with these. `stay`: for as long as nobody stops it, so all must be there.

    Returns a line for each key that signs neither role. Raises BadKey (`key-not-of-role`), BadRelease (`threshold`).
    """
    wanted = {role: state.keys(role) for role in ONLINE_ROLES}
    ours = {one.public_key.keyid for one in signers}
    names = "; ".join(f"{role}: {', '.join(sorted(map(name_of, keys.values())))}" for role, keys in wanted.items())
    strangers = [one.public_key for one in signers if not any(one.public_key.keyid in keys for keys in wanted.values())]
    if len(strangers) == len(signers):
        what = ", ".join(map(name_of, strangers)) or "no key"
        raise BadKey("key-not-of-role", f"{what}: signs neither snapshot nor timestamp; their keys: {names}")
    for role, keys in wanted.items():
        found, needed = len(ours & set(keys)), state.root.roles[role].threshold
        if stay and found < needed:
            raise BadRelease("threshold", f"{role}: {found} of {needed} signatures with these keys; its keys: {names}")
    return [f"{name_of(key)}: signs neither snapshot nor timestamp" for key in strangers]


def expiring(state: State, now: datetime) -> list[str]:
    """A line for each role that people must see to: expired, or within 30 days; online ones when they are past half."""
    lines = []
    for role, metadata in state.roles.items():
        left = metadata.signed.expires - now
        if left <= timedelta(0):
            lines.append(f"{role}: expired {metadata.signed.expires:%Y-%m-%d %H:%M} UTC")
        elif left < min(WARN_BEFORE, lifetime(role) / 4):
            lines.append(f"{role}: expires {metadata.signed.expires:%Y-%m-%d %H:%M} UTC")
    return lines


def filling(state: State) -> list[str]:
    """A line for each role whose metadata comes near the length that clients read."""
    return [
        f"{role}: {len(content)} bytes; clients read {_most_bytes(role)}, so take old packages out: `release prune`"
        for role, content in state.content.items()
        if len(content) > FULL_AT * _most_bytes(role)
    ]


def new_files(draft: Draft) -> list[TargetFile]:
    """Targets that the draft adds or changes."""
    found = []
    for role in draft.changed:
        if role.startswith(PRODUCT):
            product = product_of(role)
            old = draft.base.product(product).targets if product in draft.base.products else {}
            found += [one for path, one in draft.state.product(product).targets.items() if old.get(path) != one]
    return found


def write_metadata(draft: Draft, store: Store) -> None:
    """In the order that keeps readers whole at every step."""
    last = (SNAPSHOT, TIMESTAMP, ROOT)
    order = [role for role in draft.changed if role not in last] + [role for role in last if role in draft.changed]
    for role in order:
        metadata = draft.changed[role]
        store.write(metadata_file(role, metadata.signed.version), metadata.to_bytes())


def _upload(info: TargetFile, staged: Store, store: Store, progress: Progress) -> None:
    name, sha256 = target_file(info), info.hashes["sha256"]
    if holds(store, name, info.length, sha256):
        progress.advance(name, info.length)
        return
    with staged.open(name) as source:
        store.copy_in(name, source, info.length, sha256, progress)


def _refuse_unsigned(draft: Draft, roles: Iterable[str], old_keys_lost: bool) -> None:
    for role in roles:
        if role in draft.changed:
            for line in draft.missing(role, old_keys=role == ROOT or not old_keys_lost):
                only_old = role != ROOT and not list(draft.missing(role, old_keys=False))
                cure = "; its old keys do not sign: if they are lost, --old-keys-lost" if only_old else ""
                raise BadRelease("threshold", f"{line}{cure}")


def _refuse_nothing(staging: Staging, only: str | None) -> None:
    if not [role for role in staging.roles() if only in (None, role)]:
        where = staging.store.url
        raise BadRelease("nothing-staged", f"{where}: nothing{f' of {only}' if only else ''} waits there")


def _refuse_copy(store: Store, state: State) -> None:
    if state.absent:
        gone = ", ".join(state.absent)
        raise BadRelease("metadata-missing", f"{store.url}: nothing of {gone} is here; publish to the whole repository")


def _refuse_torn(draft: Draft) -> None:
    """What belongs together is published together: who is delegated to must be there, signed by the keys named."""
    delegations = draft.state.targets.delegations
    for role in (delegations.roles if delegations else None) or {}:
        metadata = draft.state.roles.get(role)
        if metadata is None or not check(draft.state.targets, role, metadata).verified:
            raise BadRelease("staged", f"targets: the change needs the one of {role} beside it; publish both")


def _refuse_expired(draft: Draft, now: datetime) -> None:
    """A change may leave a top role expired only when it renews another one: else nobody could renew both."""
    for role, metadata in draft.changed.items():
        if metadata.signed.expires <= now:
            was = f"{metadata.signed.expires:%Y-%m-%d %H:%M} UTC"
            cure = f"`cloud-inspect release sign --role {role} --discard`, and sign it again"
            raise BadRelease("expired", f"{role}: what is staged expired {was}; {cure}")
    before, after = (
        [role for role in (ROOT, TARGETS) if state.roles[role].signed.expires <= now]
        for state in (draft.base, draft.state)
    )
    if after and after == before:
        refuse_expired(after[0], draft.base.roles[after[0]], now)


def _refuse_large(draft: Draft) -> None:
    """What clients do not read for its length."""
    for role, metadata in draft.changed.items():
        length, most = len(metadata.to_bytes()), _most_bytes(role)
        if length > most:
            raise BadRelease("metadata-too-large", f"{role}: {length} bytes, clients read {most}")


def _most_bytes(role: str) -> int:
    """What clients read of it."""
    limits = UpdaterConfig()
    top = {ROOT: limits.root_max_length, TIMESTAMP: limits.timestamp_max_length, SNAPSHOT: limits.snapshot_max_length}
    return top.get(role, limits.targets_max_length)


def _is_due(state: State, role: str, now: datetime) -> bool:
    return state.roles[role].signed.expires - now < lifetime(role) * RENEW_AT
