"""VERIFY: the same chain of signatures, from the offer's own metadata; no network, nothing written where models lie.

1. Root, timestamp, snapshot, targets and the product's role are walked anew by the same code that fetched (`Trust`).
2. Every byte of the package is hashed against what is signed before anything parses it; then its contract is checked.

    offer = check_offline(models_dir, root, "metal-plate", "stable", built=latest)
    offer.package.digest
"""

from __future__ import annotations

import tempfile
from datetime import datetime
from pathlib import Path

from tuf.api.metadata import TargetFile

from edge_inspect.errors import BadModel, SourceGone, Untrusted
from edge_inspect.inference.package import ModelPackage
from edge_inspect.update.clock import Clock, utc_now
from edge_inspect.update.durable import translated
from edge_inspect.update.offers import Offer, read_offer
from edge_inspect.update.released import files_of, manifest_of, manifest_target, rollout_target
from edge_inspect.update.trust import ChainFetcher, Trust, check_bytes
from edge_wire.manifest import MANIFEST_NAME


def check_offline(
    models_dir: Path,
    root: bytes,
    product: str,
    channel: str,
    *,
    built: datetime | None = None,
    clock: Clock = utc_now,
) -> tuple[Offer, ModelPackage | None]:
    """The offer, and its package ready to be used; None where the offer has none.

    built: a moment that has surely passed, e.g. the newest `released_at` seen. Raises Untrusted, BadModel,
    StorageFailing.
    """
    offer = read_offer(models_dir, product, channel)
    if offer is None:
        raise Untrusted("offer-missing", f"{models_dir}: nothing was fetched for {product}, channel {channel}")
    with translated(models_dir), tempfile.TemporaryDirectory(prefix="edge-inspect-trust-") as place:
        trust = Trust(
            Path(place), root=root, metadata_url="offer:/", targets_url="offer:/", source=ChainFetcher(offer.metadata),
            built=built, clock=clock,
        )  # fmt: skip
        try:
            check_bytes(rollout_target(trust, product, channel), offer.content)
            return offer, _check_package(trust, offer) if offer.package else None
        except SourceGone as err:  # the offer is all there is to ask
            raise Untrusted("offer-broken", f"{models_dir}: the offer's metadata is not whole: {err}") from err


def _check_package(trust: Trust, offer: Offer) -> ModelPackage:
    assert offer.package is not None
    manifest_info = manifest_target(trust, offer.rollout)
    raw = _read(offer.package / MANIFEST_NAME, manifest_info)
    manifest = manifest_of(offer.rollout, raw, offer.package / MANIFEST_NAME)
    for name, info in files_of(trust, offer.rollout, manifest).items():
        _read(offer.package / name, info)
    return loaded(offer.package, offer.rollout.model.digest)


def loaded(folder: Path, digest: str) -> ModelPackage:
    """The package, its contract checked, if it is the one that is meant. Raises BadModel (`package-other`, ...)."""
    package = ModelPackage.load(folder)
    if package.digest != digest:
        raise BadModel("package-other", f"{folder}: is {package.digest}, expected {digest}")
    return package


def _read(path: Path, info: TargetFile) -> bytes:
    """One file, if it is what was signed. What is not there or wrong is BadModel: the package is at fault."""
    if not path.is_file():
        raise BadModel("file-missing", f"{path}: no such file")
    with translated(path), path.open("rb") as stream:
        content = stream.read(info.length + 1)
    try:
        check_bytes(info, content)
    except Untrusted as err:
        raise BadModel("digest-mismatch", f"{path}: is not what was signed") from err
    return content
