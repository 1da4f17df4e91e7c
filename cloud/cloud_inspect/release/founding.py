"""A repository's first day: keys made or taken, thresholds set, the first metadata signed.

1. Offline keys (root, targets, products) lie in the keys folder, online ones (snapshot, timestamp) in its `online/`,
   so that only the latter go to the machine that publishes.
2. Keys never lie inside the repository, where a server or a copy would take them along.
3. An occupied place and a threshold that cannot be met are refused before any key is made; keys of a repository that
   could not be made go again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from securesystemslib.signer import Key, Signer

from cloud_inspect.errors import BadKey, BadRelease
from cloud_inspect.release.keys import kept_if_used, make_key, open_signer, read_public, refuse_existing
from cloud_inspect.release.layout import ONLINE_ROLES, ROOT, SNAPSHOT, TARGETS, TIMESTAMP, product_role
from cloud_inspect.release.roles import RoleKeys, create, refuse_impossible, refuse_occupied
from cloud_inspect.release.store import LOCK, Folder, Store, make_folder
from edge_wire.release import ProductName

_THRESHOLD = re.compile(r"(?:([a-z0-9-]+)=)?([1-9]\d?)(?:/([1-9]\d?))?")


@dataclass(frozen=True)
class Founded:
    root_file: Path
    """To be given to every device."""
    keys: dict[str, list[str]]
    """Role -> files or URIs."""


@dataclass(frozen=True)
class Secrets:
    offline: bytes | None = None
    online: bytes | None = None

    def of(self, role: str) -> bytes | None:
        return self.online if role in ONLINE_ROLES else self.offline


def found(
    store: Store,
    folder: Path,
    products: Sequence[str],
    now: datetime,
    *,
    thresholds: Mapping[str, tuple[int, int]] | None = None,
    given: Mapping[str, Sequence[str]] | None = None,
    secrets: Secrets = Secrets(),
) -> Founded:
    """`thresholds`: role -> (threshold, keys); `given`: role -> key files or URIs instead of new ones.

    Raises BadRelease, BadKey, StoreGone.
    """
    roles = [ROOT, TARGETS, SNAPSHOT, TIMESTAMP, *(product_role(checked_product(one)) for one in products)]
    if twice := [one for number, one in enumerate(products) if one in products[:number]]:
        raise BadRelease("product-exists", f"product {twice[0]}: is named twice")
    for role in {*(thresholds or {}), *(given or {})} - set(roles):
        raise BadRelease("unknown-role", f"role {role}: allowed: {', '.join(roles)}")
    if isinstance(store, Folder) and folder.resolve().is_relative_to(store.path.resolve()):
        raise BadKey("keys-in-repository", f"{folder}: lies inside {store.url}; keys must not be served")
    refuse_occupied(store)
    wanted = {role: (thresholds or {}).get(role, (1, 1)) for role in roles if not (given or {}).get(role)}
    for role, (threshold, count) in wanted.items():
        refuse_impossible(role, count, threshold)
        for file in key_files(folder, role, count):
            refuse_existing(file, f"--key {role}=")
    files = [file for role, (_, count) in wanted.items() for file in key_files(folder, role, count)]
    with _empty_if_failed(store), kept_if_used(files):
        with store.lock():  # it can be written to
            pass
        references, root = _begin(store, folder, roles, now, thresholds or {}, given or {}, secrets)
    Folder(folder).write("root.json", root)
    return Founded(folder / "root.json", references)


@contextmanager
def _empty_if_failed(store: Store) -> Iterator[None]:
    """A folder that was made for the repository goes again with its lock; one that was there stays."""
    path = store.path if isinstance(store, Folder) else None
    made = [] if path is None else [one for one in (path, *path.parents) if not os.path.lexists(one)]
    try:
        yield
    except BaseException:
        if path in made:
            with suppress(OSError):
                (path / LOCK).unlink(missing_ok=True)
                for one in made:
                    one.rmdir()
        raise


def _begin(
    store: Store,
    folder: Path,
    roles: Sequence[str],
    now: datetime,
    thresholds: Mapping[str, tuple[int, int]],
    given: Mapping[str, Sequence[str]],
    secrets: Secrets,
) -> tuple[dict[str, list[str]], bytes]:
    """Keys, by role, and the root that names them."""
    make_folder(folder, 0o700)
    references: dict[str, list[str]] = {}
    plan: dict[str, RoleKeys] = {}
    for role in roles:
        threshold, count = thresholds.get(role, (1, 1))
        references[role] = list(given.get(role, ())) or make_keys(folder, role, count, secrets.of(role))
        keys: list[Key] = [read_public(one, secrets.of(role)) for one in references[role]]
        plan[role] = RoleKeys(tuple(keys), threshold)
    signers: list[Signer] = [
        open_signer(one, secrets.of(role)) for role in roles for one in references[role] if not one.endswith(".pub")
    ]
    return references, create(store, plan, signers, now)


def make_keys(folder: Path, role: str, count: int, passphrase: bytes | None) -> list[str]:
    """New key files `<role>-<n>.pem`."""
    files = key_files(folder, role, count)
    for file in files:
        make_key(file, passphrase)
    return [str(file) for file in files]


def key_files(folder: Path, role: str, count: int) -> list[Path]:
    place = folder / "online" if role in ONLINE_ROLES else folder
    return [place / f"{role}-{number}.pem" for number in range(1, count + 1)]


def parse_thresholds(texts: Sequence[str], roles: Sequence[str]) -> dict[str, tuple[int, int]]:
    """`2`, `2/3`, `root=2/3` -> role -> (threshold, number of keys). A bare number is for all of `roles`.

    Raises BadRelease (`threshold-unreadable`).
    """
    result: dict[str, tuple[int, int]] = {}
    for text in sorted(texts, key=lambda one: "=" in one):
        match = _THRESHOLD.fullmatch(text)
        if match is None:
            raise BadRelease(
                "threshold-unreadable", f"--threshold {text}: must be N, N/KEYS or ROLE=N/KEYS, e.g. root=2/3"
            )
        numbers = int(match[2]), int(match[3] or match[2])
        result |= dict.fromkeys([match[1]] if match[1] else roles, numbers)
    return result


def checked_product(name: str) -> str:
    """Raises BadRelease (`product-name`)."""
    try:
        TypeAdapter(ProductName).validate_python(name)
    except ValidationError as err:
        raise BadRelease(
            "product-name", f"product {name!r}: allowed: a-z 0-9 -, up to 63, not beginning with -"
        ) from err
    return name
