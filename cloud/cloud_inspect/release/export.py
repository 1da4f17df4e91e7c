"""A repository carried by hand: what a device needs of one product, on a stick, in the form it has on the server.

1. `metadata/` and `targets/` as on the server, so the device verifies it by the same chain; nothing is signed here.
2. Every byte is checked against its signature on the way, synced, and read back. `timestamp.json` comes last.
3. Room is checked first; what the stick holds already and is right is left alone; nothing on it is deleted.
4. Products and channels that are on the stick already are brought to the same state, so none of them stops working.

    exported = export(store, Path("/media/stick"), "metal-plate")
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from tuf.api.metadata import TargetFile

from cloud_inspect.errors import BadRelease, StoreGone
from cloud_inspect.release.layout import (
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    TOP_ROLES,
    metadata_file,
    product_role,
    target_file,
)
from cloud_inspect.release.publish import expiring
from cloud_inspect.release.repository import State, load, utc_now
from cloud_inspect.release.staging import rollouts
from cloud_inspect.release.store import QUIET, Folder, Progress, Store, holds, measure, read, world
from edge_wire.release import CHANNELS, Rollout, channel_target, file_target


@dataclass(frozen=True)
class Exported:
    channels: dict[str, str]
    """Channel -> "model version"."""
    files: int
    bytes: int
    expires: datetime
    """When devices stop taking it: the earliest expiry of what is on the stick."""
    revoked: tuple[str, ...] = ()
    """Channels whose package is revoked: a device that runs it goes back to what it ran before."""
    beside: dict[str, dict[str, str]] = field(default_factory=dict)
    """The same of products that were on the stick already, by product."""
    warnings: tuple[str, ...] = ()
    """A line for each role on it that has expired, or will soon."""


def export(
    store: Store,
    folder: Path,
    product: str,
    channel: str | None = None,
    progress: Progress = QUIET,
    now: datetime | None = None,
) -> Exported:
    """Raises BadRelease: `unknown-product`, `unknown-channel`, `not-a-folder`, `folder-not-empty`,
    `export-into-itself`; StoreGone: `disk-full`, ...
    """
    _refuse_place(store, folder)
    state, stick = load(store), Folder(folder)
    _refuse_other_repository(store, stick)
    chosen = {product: _chosen(store, stick, state, product, channel)}
    for other in state.products:
        if other != product and _channels_on(stick, other):
            chosen[other] = _chosen(store, stick, state, other, "")
    targets = [info for name, rollouts in chosen.items() for info in _needed(state, name, rollouts)]
    missing = [one for one in targets if not holds(stick, target_file(one), one.length, one.hashes["sha256"])]
    _refuse_full(folder, sum(one.length for one in missing))
    progress.expect(sum(one.length for one in missing))
    for info in missing:
        _copy(store, stick, info, progress)
    for name, content in _metadata(store, state, list(chosen)):
        stick.write(name, content)
        _read_back(stick, name, *measure(io.BytesIO(content)))
    roles = {role: state.roles[role] for role in (*TOP_ROLES, *map(product_role, chosen))}
    named = {name: {one: _model(rollout) for one, rollout in found.items()} for name, found in chosen.items()}
    return Exported(
        named.pop(product),
        len(targets),
        sum(one.length for one in targets),
        min(one.signed.expires for one in roles.values()),
        tuple(name for name, one in chosen[product].items() if one.model.digest in one.revoked),
        named,
        tuple(expiring(State(roles), now or utc_now())),
    )


def _refuse_place(store: Store, folder: Path) -> None:
    if not folder.is_dir():
        raise BadRelease("not-a-folder", f"{folder}: no such folder; is the stick mounted?")
    if isinstance(store, Folder) and folder.resolve().is_relative_to(store.path.resolve()):
        raise BadRelease("export-into-itself", f"{folder}: is the repository itself or lies in it; give the stick")


def _refuse_other_repository(store: Store, stick: Folder) -> None:
    name = metadata_file(ROOT, 1)
    found = read(stick, name)
    if found is not None and found != read(store, name):
        raise BadRelease("folder-not-empty", f"{stick.url}: holds another repository; take an empty folder")


def _refuse_full(folder: Path, wanted: int) -> None:
    with world(folder):
        free = shutil.disk_usage(folder).free
    if free < wanted + (1 << 20):
        raise StoreGone("disk-full", f"{folder}: {free} bytes free, {wanted} needed")


def _chosen(store: Store, stick: Folder, state: State, product: str, channel: str | None) -> dict[str, Rollout]:
    """Of `channel`, of those that are on the stick already, or of all (None)."""
    found = rollouts(product, state.product(product), store)
    if channel != "" and not (found if channel is None else channel in found):
        raise BadRelease("unknown-channel", f"channel {channel or '*'}: {product} has: {', '.join(found) or 'none'}")
    there = _channels_on(stick, product)
    return {name: one for name, one in found.items() if channel in (None, name) or name in there}


def _channels_on(stick: Folder, product: str) -> set[str]:
    names = stick.names(f"targets/{product}/{CHANNELS}")
    return {name.rpartition("/")[2].split(".")[1] for name in names if name.endswith(".json")}


def _model(rollout: Rollout) -> str:
    return f"{rollout.model.name} {rollout.model.version}"


def _needed(state: State, product: str, chosen: dict[str, Rollout]) -> list[TargetFile]:
    """The rollouts and every file of the packages that they name."""
    targets = state.product(product).targets
    starts = tuple(file_target(product, one.model.name, one.model.version, "") for one in chosen.values())
    paths = [channel_target(product, channel) for channel in chosen] + [
        one for one in targets if one.startswith(starts)
    ]
    return [targets[path] for path in paths]


def _metadata(store: Store, state: State, products: list[str]) -> Iterator[tuple[str, bytes]]:
    for version in range(1, state.root.version + 1):
        name = metadata_file(ROOT, version)
        content = read(store, name)
        if content is None:
            raise BadRelease("metadata-missing", f"{store.url}/{name}: is not there")
        yield name, content
    for role in (TARGETS, *map(product_role, products), SNAPSHOT, TIMESTAMP):
        yield metadata_file(role, state.roles[role].signed.version), state.content[role]


def _copy(store: Store, stick: Folder, info: TargetFile, progress: Progress) -> None:
    name, sha256 = target_file(info), info.hashes["sha256"]
    try:
        with store.open(name) as source:
            stick.copy_in(name, source, info.length, sha256, progress)
    except FileNotFoundError as err:
        raise BadRelease("target-missing", f"{store.url}/{name}: is signed and not there; `release verify`") from err
    except BadRelease as err:
        raise BadRelease(err.code, f"{store.url}/{str(err).removesuffix(f' [{err.code}]')}") from err
    _read_back(stick, name, info.length, sha256)


def _read_back(stick: Folder, name: str, length: int, sha256: str) -> None:
    """From the medium, as far as the kernel lets us: its cached pages are dropped first."""
    path = stick.path / name
    try:
        with world(path), path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            found = measure(file)
    except FileNotFoundError as err:
        raise StoreGone("write-failed", f"{path}: was written and is gone") from err
    if found != (length, sha256):
        raise StoreGone("write-failed", f"{path}: reads back other bytes than were written")
