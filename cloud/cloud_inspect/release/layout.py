"""What lies where in a repository, who signs it, and how long a signature holds.

    metadata/1.root.json 2.root.json ...      every root there was: a device walks from the one it was given
    metadata/3.targets.json                   no model: only which keys sign for which product
    metadata/7.product-metal-plate.json       the product's packages and channels
    metadata/9.snapshot.json                  the versions that belong together
    metadata/timestamp.json                   the one file that is ever replaced: which snapshot holds now
    targets/metal-plate/metal-plate/1.1.0/<sha256>.model.onnx
    staged/                                   a change that still lacks signatures; nobody serves it

1. Root, targets and product keys are offline: nothing but a new model or a new key needs them. Snapshot and timestamp
   keys are online and can neither add nor change a model.
2. `product-metal-plate` may sign `metal-plate/...` and nothing else; the delegation ends there.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TypeAlias

from tuf.api.metadata import DelegatedRole, Metadata, Root, Snapshot, TargetFile, Targets, Timestamp

ROOT, TARGETS, SNAPSHOT, TIMESTAMP = Root.type, Targets.type, Snapshot.type, Timestamp.type
TOP_ROLES = (ROOT, TARGETS, SNAPSHOT, TIMESTAMP)
ONLINE_ROLES = (SNAPSHOT, TIMESTAMP)
PRODUCT = "product-"
RETIRED = "x-edge-inspect-retired"
"""In a product's targets: NAME/VERSION -> SHA-256 of the manifest, of packages that were taken out of it for good."""
KEY_NAME = "x-edge-inspect-name"
"""In a key: what people call it."""

Role: TypeAlias = "Metadata[Root] | Metadata[Targets] | Metadata[Snapshot] | Metadata[Timestamp]"


def lifetime(role: str) -> timedelta:
    """How long a signature of this role holds."""
    days = {ROOT: 365, SNAPSHOT: 14, TIMESTAMP: 2}
    return timedelta(days=days.get(role, 180))


def metadata_file(role: str, version: int) -> str:
    return f"metadata/{role}.json" if role == TIMESTAMP else f"metadata/{version}.{role}.json"


def target_file(info: TargetFile) -> str:
    """Where the bytes of a target lie: `<sha256>.` before the last part of its name."""
    folder, _, name = info.path.rpartition("/")
    return f"targets/{folder}/{info.hashes['sha256']}.{name}"


def product_role(product: str) -> str:
    return f"{PRODUCT}{product}"


def product_of(role: str) -> str:
    return role.removeprefix(PRODUCT)


def delegation(product: str, threshold: int) -> DelegatedRole:
    """Everything below `product/`, three levels deep: TUF's `*` does not cross a `/`."""
    paths = [f"{product}/*/*", f"{product}/*/*/*", f"{product}/*/*/*/*"]
    return DelegatedRole(product_role(product), [], threshold, True, paths)


def package_of(path: str) -> str | None:
    """NAME/VERSION that a target is a file of; None for a channel."""
    parts = path.split("/")
    return f"{parts[1]}/{parts[2]}" if len(parts) > 3 else None


def retired(targets: Targets) -> dict[str, str]:
    """NAME/VERSION -> SHA-256 of the manifest, of what was taken out: may be revoked, never released again."""
    found = targets.unrecognized_fields.get(RETIRED)
    return {str(name): str(digest) for name, digest in found.items()} if isinstance(found, dict) else {}


def whole_second(moment: datetime) -> datetime:
    return moment.astimezone(timezone.utc).replace(microsecond=0)
