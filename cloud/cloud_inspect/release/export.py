"""A repository carried by hand: what a device needs of one product, on a stick, in the form it has on the server.

1. `metadata/` and `targets/` as on the server, so the device verifies it by the same chain; nothing is signed here.
2. Every byte is checked against its signature on the way, synced, and read back. `timestamp.json` comes last.
3. Room is checked first; what the stick holds already and is right is left alone; nothing on it is deleted.

    exported = export(store, Path("/media/stick"), "metal-plate")
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tuf.api.metadata import TargetFile

from cloud_inspect.errors import BadRelease, StoreGone
from cloud_inspect.release.layout import (
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    metadata_file,
    product_role,
    target_file,
)
from cloud_inspect.release.repository import State, load
from cloud_inspect.release.staging import rollouts
from cloud_inspect.release.store import QUIET, Folder, Progress, Store, holds, measure, read, world
from edge_wire.release import Rollout, channel_target, file_target


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


def export(
    store: Store, folder: Path, product: str, channel: str | None = None, progress: Progress = QUIET
) -> Exported:
    """Raises BadRelease: `unknown-product`, `unknown-channel`, `not-a-folder`; StoreGone: `disk-full`, ..."""
    if not folder.is_dir():
        raise BadRelease("not-a-folder", f"{folder}: no such folder; is the stick mounted?")
    state = load(store)
    found = rollouts(product, state.product(product), store)
    chosen = {name: one for name, one in found.items() if channel in (None, name)}
    if not chosen:
        raise BadRelease("unknown-channel", f"channel {channel or '*'}: {product} has: {', '.join(found) or 'none'}")
    targets = _needed(state, product, chosen)
    stick = Folder(folder)
    missing = [one for one in targets if not holds(stick, target_file(one), one.length, one.hashes["sha256"])]
    wanted = sum(one.length for one in missing)
    with world(folder):
        free = shutil.disk_usage(folder).free
    if free < wanted + (1 << 20):
        raise StoreGone("disk-full", f"{folder}: {free} bytes free, {wanted} needed")
    progress.expect(wanted)
    for info in missing:
        _copy(store, stick, info, progress)
    for name, content in _metadata(store, state, product):
        stick.write(name, content)
        _read_back(stick, name, *measure(io.BytesIO(content)))
    return Exported(
        {name: f"{one.model.name} {one.model.version}" for name, one in chosen.items()},
        len(targets),
        sum(one.length for one in targets),
        min(one.signed.expires for one in state.roles.values()),
        tuple(name for name, one in chosen.items() if one.model.digest in one.revoked),
    )


def _needed(state: State, product: str, chosen: dict[str, Rollout]) -> list[TargetFile]:
    """The rollouts and every file of the packages that they name."""
    targets = state.product(product).targets
    starts = tuple(file_target(product, one.model.name, one.model.version, "") for one in chosen.values())
    paths = [channel_target(product, channel) for channel in chosen] + [
        one for one in targets if one.startswith(starts)
    ]
    return [targets[path] for path in paths]


def _metadata(store: Store, state: State, product: str) -> Iterator[tuple[str, bytes]]:
    for version in range(1, state.root.version + 1):
        name = metadata_file(ROOT, version)
        content = read(store, name)
        if content is None:
            raise BadRelease("metadata-missing", f"{store.url}/{name}: is not there")
        yield name, content
    for role in (TARGETS, product_role(product), SNAPSHOT, TIMESTAMP):
        yield metadata_file(role, state.roles[role].signed.version), state.content[role]


def _copy(store: Store, stick: Folder, info: TargetFile, progress: Progress) -> None:
    name, sha256 = target_file(info), info.hashes["sha256"]
    try:
        with store.open(name) as source:
            stick.copy_in(name, source, info.length, sha256, progress)
    except FileNotFoundError as err:
        raise BadRelease("target-missing", f"{store.url}/{name}: is signed and not there; `release verify`") from err
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
