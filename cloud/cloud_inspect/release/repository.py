"""A repository as it is, every signature checked, and the draft of what it shall become.

1. `load` believes nothing: the root chain from the first root (or the one you trust), then every role against whoever
   delegates to it. What somebody slipped in under a wrong signature is refused before anybody signs on top of it.
2. Expired metadata is loaded all the same: it must be possible to renew it.
3. A draft changes nothing on disk. Each role it touches goes up by one version, whatever happens in between.
4. When a role gets new keys, its next metadata is signed by the old and the new ones: readers of the old root and of
   the new one both accept it, so no reader is ever left without.

    state = load(store)
    draft = Draft(state, signers, now)
    with draft.edit_targets("product-metal-plate") as targets:
        targets.targets[path] = info
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any, TypeVar, cast

from securesystemslib.signer import Key, Signer
from tuf.api.exceptions import RepositoryError, UnsignedMetadataError
from tuf.api.metadata import (
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    Targets,
    Timestamp,
    VerificationResult,
)
from tuf.api.serialization import DeserializationError
from tuf.repository import Repository

from cloud_inspect.errors import BadKey, BadRelease
from cloud_inspect.release.keys import name_of
from cloud_inspect.release.layout import (
    ONLINE_ROLES,
    PRODUCT,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    Role,
    lifetime,
    metadata_file,
    product_of,
    product_role,
    whole_second,
)
from cloud_inspect.release.store import Store, read
from edge_wire.release import SIGNED_AT

T = TypeVar("T", Root, Timestamp, Snapshot, Targets)


@dataclass
class State:
    """Verified metadata, by role; and the bytes that lie in the store."""

    roles: dict[str, Role] = field(default_factory=dict)
    content: dict[str, bytes] = field(default_factory=dict)
    next_root: Root | None = None
    """A root that the present one vouches for and that is about to be published: what it accepts is accepted."""
    absent: tuple[str, ...] = ()
    """Products of which nothing at all is here: a copy of some (`release export`) is enough to sign for those."""

    @property
    def root(self) -> Root:
        return cast("Root", self.roles[ROOT].signed)

    @property
    def targets(self) -> Targets:
        return cast("Targets", self.roles[TARGETS].signed)

    @property
    def products(self) -> tuple[str, ...]:
        return tuple(product_of(role) for role in self.roles if role.startswith(PRODUCT))

    def product(self, product: str) -> Targets:
        """Raises BadRelease (`unknown-product`), which names those there are."""
        role = self.roles.get(product_role(product))
        if role is None:
            known, where = ", ".join(self.products) or "none", "copy" if product in self.absent else "repository"
            raise BadRelease("unknown-product", f"product {product}: not in this {where}; it has: {known}")
        return cast("Targets", role.signed)

    def delegator(self, role: str) -> Root | Targets:
        """Who says which keys sign for `role`."""
        return self.targets if role.startswith(PRODUCT) else self.root

    def keys(self, role: str) -> dict[str, Key]:
        """By key id."""
        delegator = self.delegator(role)
        return {one: delegator.get_key(one) for one in delegator.get_delegated_role(role).keyids}


def load(store: Store, trusted_root: bytes | None = None, next_root: Metadata[Root] | None = None) -> State:
    """Raises BadRelease: `not-a-repository`, `metadata-missing`, `metadata-refused`; StoreGone."""
    state = State()
    _load_root(store, state, trusted_root)
    if next_root is not None and all(check(one, ROOT, next_root).verified for one in (state.root, next_root.signed)):
        state.next_root = next_root.signed
    timestamp = _load(store, state, TIMESTAMP, Timestamp, 0)
    snapshot = _load(store, state, SNAPSHOT, Snapshot, timestamp.snapshot_meta.version)
    targets = _load(store, state, TARGETS, Targets, _version(store, snapshot, TARGETS))
    for role in (targets.delegations.roles if targets.delegations else None) or {}:
        try:
            _load(store, state, role, Targets, _version(store, snapshot, role))
        except BadRelease as err:
            if err.code != "metadata-missing" or not _is_absent(store, role):
                raise
            state.absent += (product_of(role),)
    return state


def _is_absent(store: Store, role: str) -> bool:
    """Neither a file of the product nor metadata of any version: no loss, but a copy without it."""
    metadata = any(name.endswith(f".{role}.json") for name in store.names("metadata"))
    return not metadata and not store.names(f"targets/{product_of(role)}")


def refuse_stranger(store: Store) -> None:
    """Before anything is locked or made there. Raises BadRelease (`not-a-repository`)."""
    if read(store, metadata_file(ROOT, 1)) is None:
        raise BadRelease("not-a-repository", f"{store.url}: no metadata/1.root.json; `release init` makes one")


def parse(content: bytes, kind: type[T], where: str) -> Metadata[T]:
    """Raises BadRelease (`metadata-refused`)."""
    try:
        metadata = Metadata[T].from_bytes(content)
    except DeserializationError as err:
        raise BadRelease("metadata-refused", f"{where}: is no TUF metadata") from err
    if not isinstance(metadata.signed, kind):
        raise BadRelease("metadata-refused", f"{where}: is {metadata.signed.type}, not {kind.type}")
    return metadata


def check(delegator: Root | Targets, role: str, metadata: Role) -> VerificationResult:
    """Which of the role's keys have signed it, and whether that is enough."""
    return delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures)


def who_is_missing(role: str, result: VerificationResult) -> str:
    """One line for people."""
    keys = ", ".join(sorted(name_of(key) for key in result.unsigned.values()))
    return f"{role}: {len(result.signed)} of {result.threshold} signatures; not yet signed: {keys or 'no key is left'}"


def refuse_expired(role: str, metadata: Role, now: datetime) -> None:
    if metadata.signed.expires <= now:
        cure = "resign" if role in ONLINE_ROLES else f"sign --role {role} --renew"
        raise BadRelease(
            "expired", f"{role}: expired {metadata.signed.expires:%Y-%m-%d %H:%M} UTC; `cloud-inspect release {cure}`"
        )


def _load_root(store: Store, state: State, trusted: bytes | None) -> None:
    refuse_stranger(store)
    content = trusted or read(store, metadata_file(ROOT, 1)) or b""
    root = parse(content, Root, "root")
    _require(store, root.signed, ROOT, root)
    if trusted is not None:
        _refuse_other_repository(store, root.signed)
    while (newer := read(store, metadata_file(ROOT, root.signed.version + 1))) is not None:
        name = metadata_file(ROOT, root.signed.version + 1)
        following = parse(newer, Root, f"{store.url}/{name}")
        for delegator in (root.signed, following.signed):
            _require(store, delegator, ROOT, following)
        if following.signed.version != root.signed.version + 1:
            raise BadRelease("metadata-refused", f"{store.url}/{name}: says version {following.signed.version}")
        root, content = following, newer
    state.roles[ROOT], state.content[ROOT] = root, content


def _refuse_other_repository(store: Store, trusted: Root) -> None:
    name = metadata_file(ROOT, trusted.version)
    own = read(store, name)
    if own is None or parse(own, Root, f"{store.url}/{name}").signed != trusted:
        found = "is another one" if own is not None else "is not there"
        raise BadRelease(
            "metadata-refused",
            f"{store.url}: the root.json that is trusted is not of this repository: its {name} {found}",
        )


def _load(store: Store, state: State, role: str, kind: type[T], version: int) -> T:
    name = metadata_file(role, version)
    content = read(store, name)
    if content is None:
        raise BadRelease("metadata-missing", f"{store.url}/{name}: is not there")
    metadata = parse(content, kind, f"{store.url}/{name}")
    state.roles[role], state.content[role] = metadata, content
    followed = state.next_root if not role.startswith(PRODUCT) else None
    if followed is None or not check(followed, role, metadata).verified:
        _require(store, state.delegator(role), role, metadata)
    if role != TIMESTAMP and metadata.signed.version != version:
        raise BadRelease("metadata-refused", f"{store.url}/{name}: says version {metadata.signed.version}")
    return metadata.signed


def _version(store: Store, snapshot: Snapshot, role: str) -> int:
    meta = snapshot.meta.get(f"{role}.json")
    if meta is None:
        raise BadRelease("metadata-refused", f"{store.url}: {role} is not in the snapshot")
    return meta.version


def _require(store: Store, delegator: Root | Targets, role: str, metadata: Role) -> None:
    result = check(delegator, role, metadata)
    if not result.verified:
        raise BadRelease("metadata-refused", f"{store.url}: {who_is_missing(role, result)}")


class Draft(Repository):
    """tuf.repository's editor over a State: `edit_root`, `edit_targets`, `do_snapshot`, `do_timestamp`."""

    def __init__(
        self, base: State, signers: Sequence[Signer], now: datetime, holds_for: timedelta | None = None
    ) -> None:
        """`holds_for`: how long what is signed holds, where that is not the role's own lifetime."""
        self.base = base
        self._holds_for = holds_for
        self.changed: dict[str, Role] = {}
        self.edited: list[str] = []
        """Of `changed`: what became so here, and was not staged by somebody before."""
        self._signers = signers
        self._now = whole_second(now)

    @property
    def state(self) -> State:
        """What it will be when all of the draft is published."""
        content = self.base.content | {role: metadata.to_bytes() for role, metadata in self.changed.items()}
        return State(self.base.roles | self.changed, content)

    def open(self, role: str) -> Metadata[Any]:
        known = self.changed.get(role) or self.base.roles.get(role)
        return deepcopy(known) if known is not None else _new(role)

    def close(self, role: str, md: Metadata[Any]) -> None:
        """Raises BadKey (`signing-failed`)."""
        before = self.base.roles.get(role)
        md.signed.version = before.signed.version + 1 if before is not None else 1
        md.signed.expires = self._now + (self._holds_for or lifetime(role))
        if role == TIMESTAMP:
            md.signed.unrecognized_fields[SIGNED_AT] = f"{self._now:%Y-%m-%dT%H:%M:%SZ}"
        md.signatures.clear()
        self.changed[role] = md
        self.edited.append(role)
        self.sign(role)

    def sign(self, role: str) -> list[str]:
        """Add the signatures of those of our keys that the role has, or had until now: their ids."""
        metadata, signed = self.changed[role], []
        wanted = self.keys(role)
        for signer in self._signers:
            if signer.public_key.keyid in wanted:
                try:
                    metadata.sign(signer, append=True)
                except UnsignedMetadataError as err:
                    raise BadKey("signing-failed", f"{name_of(signer.public_key)}: {err}") from err
                signed.append(signer.public_key.keyid)
        return signed

    def keys(self, role: str) -> dict[str, Key]:
        """Of the role as it is and as it will be, by key id."""
        found: dict[str, Key] = {}
        for state in (self.base, State(self.base.roles | self.changed)):
            try:
                found |= state.keys(role)
            except (KeyError, ValueError):  # not delegated yet
                continue
        return found

    def missing(self, role: str, *, old_keys: bool = True) -> Iterator[str]:
        """Why readers would refuse the changed role; nothing when they will not.

        `old_keys`: also readers who have not seen a changed root.
        """
        metadata = self.changed[role]
        delegators = [State(self.base.roles | self.changed).delegator(role)]
        if not role.startswith(PRODUCT) and ROOT in self.changed and ROOT in self.base.roles and old_keys:
            delegators.append(self.base.root)
        for delegator in delegators:
            try:
                result = check(delegator, role, metadata)
            except (RepositoryError, ValueError) as err:
                raise BadRelease("metadata-refused", f"{role}: {err}") from err
            if not result.verified:
                yield who_is_missing(role, result)

    @property
    def targets_infos(self) -> dict[str, MetaFile]:
        return {
            f"{role}.json": _described(metadata.signed, content)
            for role, metadata, content in self._with_content()
            if role == TARGETS or role.startswith(PRODUCT)
        }

    @property
    def snapshot_info(self) -> MetaFile:
        return next(
            _described(signed.signed, content) for role, signed, content in self._with_content() if role == SNAPSHOT
        )

    def _with_content(self) -> Iterator[tuple[str, Role, bytes]]:
        state = self.state
        return ((role, metadata, state.content[role]) for role, metadata in state.roles.items())


def _described(signed: Signed, content: bytes) -> MetaFile:
    return MetaFile.from_data(signed.version, content, ["sha256"])


def _new(role: str) -> Metadata[Any]:
    kinds: dict[str, Signed] = {
        ROOT: Root(consistent_snapshot=True),
        SNAPSHOT: Snapshot(meta={}),
        TIMESTAMP: Timestamp(),
    }
    if role == TARGETS:
        kinds[TARGETS] = Targets(delegations=Delegations({}, {}))
    return Metadata(cast("Any", kinds.get(role) or Targets()))


def utc_now() -> datetime:
    return datetime.now(timezone.utc)
