"""What is signed for this box: a channel's rollout and the files of its package.

1. A rollout counts only for the product and channel whose target it is, whoever signed it.
2. A package is what its manifest says and what is signed for each file, and both must say the same.

    rollout = rollout_of(content, "metal-plate", "stable", info)
    files = files_of(trust, rollout, manifest)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError
from tuf.api.metadata import TargetFile

from edge_inspect.errors import Untrusted
from edge_inspect.inference.package import parse_manifest
from edge_inspect.update.trust import Trust, key_of
from edge_wire.manifest import MANIFEST_NAME, MOST_MANIFEST_BYTES, Manifest
from edge_wire.mistake import first_mistake
from edge_wire.release import MOST_ROLLOUT_BYTES, Rollout, channel_target, file_target, revocations_in


def rollout_target(trust: Trust, product: str, channel: str) -> TargetFile:
    """Raises Untrusted: `target-unknown`, `rollout-too-large`, ..."""
    info = trust.target(channel_target(product, channel))
    if info.length > MOST_ROLLOUT_BYTES:
        raise Untrusted("rollout-too-large", f"{info.path}: {info.length} bytes, allowed: {MOST_ROLLOUT_BYTES}")
    return info


def rollout_of(content: bytes, product: str, channel: str, info: TargetFile | None = None) -> Rollout:
    """`info`: what is signed of it, which says who revoked what and why.

    Raises Untrusted: `rollout-broken`, `rollout-product`, `rollout-channel`.
    """
    try:
        rollout = Rollout.model_validate_json(content)
    except ValidationError as err:
        path = channel_target(product, channel)
        raise Untrusted("rollout-broken", f"{path}: {first_mistake(err, 'rollout')}") from err
    if rollout.product != product:
        raise Untrusted("rollout-product", f"the rollout is for product {rollout.product}, this box makes {product}")
    if rollout.channel != channel:
        raise Untrusted("rollout-channel", f"the rollout is for channel {rollout.channel}, this box follows {channel}")
    return rollout.model_copy(update={"revocations": revocations_in(info.custom)}) if info is not None else rollout


def manifest_target(trust: Trust, rollout: Rollout) -> TargetFile:
    """Raises Untrusted: `target-unknown`, `rollout-digest`, `manifest-too-large`."""
    info = _file(trust, rollout, MANIFEST_NAME)
    if (signed := f"sha256:{key_of(info)}") != rollout.model.digest:
        raise Untrusted(
            "rollout-digest", f"{info.path}: is signed as {signed}, the rollout says {rollout.model.digest}"
        )
    if info.length > MOST_MANIFEST_BYTES:
        raise Untrusted("manifest-too-large", f"{info.path}: {info.length} bytes, allowed: {MOST_MANIFEST_BYTES}")
    return info


def manifest_of(rollout: Rollout, content: bytes, path: Path) -> Manifest:
    """Raises BadModel for the manifest itself, Untrusted (`rollout-model`) if it is another model's."""
    manifest = parse_manifest(content, path)
    meant = rollout.model
    if (manifest.name, manifest.version) != (meant.name, meant.version):
        found = f"{manifest.name} {manifest.version}"
        raise Untrusted("rollout-model", f"{path}: is {found}, the rollout says {meant.name} {meant.version}")
    return manifest


def files_of(trust: Trust, rollout: Rollout, manifest: Manifest) -> Mapping[str, TargetFile]:
    """By name in the package, all but the manifest. Raises Untrusted: `target-unknown`, `target-not-manifest`."""
    found = {}
    for file in manifest.files():
        info = _file(trust, rollout, file.file)
        if (info.length, info.hashes.get("sha256")) != (file.size_bytes, file.sha256):
            raise Untrusted("target-not-manifest", f"{info.path}: what is signed is not what the manifest says")
        found[file.file] = info
    return found


def _file(trust: Trust, rollout: Rollout, name: str) -> TargetFile:
    model = rollout.model
    return trust.target(file_target(rollout.product, model.name, model.version, name))
