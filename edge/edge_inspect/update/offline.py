"""VERIFY: the same chain of signatures, from the offer's own metadata; no network, nothing written where models lie.

1. Root, timestamp, snapshot, targets and the product's role are walked anew by the same code that fetched (`Trust`).
2. Every byte of the package is hashed against what is signed before anything parses it; then its contract is checked.
3. BadModel is what is signed and must not run, and nothing else: a model is refused for good by its own signed bytes,
   never by a word or a disk that nobody signed for. Files that are missing or are not what was signed are Untrusted.

    offer, package = check_offline(models_dir, root, "metal-plate", "stable", built=latest, digest=digest)
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, NoReturn

from tuf.api.metadata import TargetFile

from edge_inspect.durable import translated
from edge_inspect.errors import BadModel, SourceGone, Untrusted
from edge_inspect.inference.package import ModelPackage, check_model
from edge_inspect.update.clock import Clock, utc_now
from edge_inspect.update.offers import Offer, read_offer
from edge_inspect.update.released import files_of, manifest_of, manifest_target, rollout_of, rollout_target
from edge_inspect.update.shelf import Shelf
from edge_inspect.update.trust import ChainFetcher, Trust, check_bytes, key_of
from edge_wire.manifest import MANIFEST_NAME
from edge_wire.release import Rollout

OF_THE_DISK = frozenset(
    {
        "package-missing", "package-other", "manifest-missing", "file-missing", "file-not-regular", "file-unreadable",
        "size-mismatch", "digest-mismatch",
    }
)  # fmt: skip
"""BadModel of what lies here, not of what was signed."""


def check_offline(
    models_dir: Path,
    root: bytes,
    product: str,
    channel: str,
    *,
    built: datetime | None = None,
    clock: Clock = utc_now,
    digest: str | None = None,
) -> tuple[Offer, ModelPackage | None]:
    """The offer, and its package ready to be used; None where the offer has none.

    built: a moment that has surely passed, e.g. the newest `released_at` seen. digest: the package that is meant: where
    another one is offered this raises Untrusted (`offer-other`); where it is offered without its package, why it must
    not run (BadModel) or, where what is signed says nothing against it, Untrusted (`offer-empty`).
    Raises Untrusted, BadModel, StorageFailing.
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
            info = rollout_target(trust, product, channel)
            check_bytes(info, offer.content)
            offer = replace(offer, rollout=rollout_of(offer.content, product, channel, info))
            if digest not in (None, offer.rollout.model.digest):
                raise Untrusted("offer-other", f"what is offered now is {offer.rollout.model.digest}, not {digest}")
            if offer.package is not None:
                return offer, _check_package(trust, offer.rollout, offer.package)
            if digest is not None:
                _tell_why(trust, offer.rollout, Shelf(models_dir))
            return offer, None
        except SourceGone as err:  # the offer is all there is to ask
            raise Untrusted("offer-broken", f"{models_dir}: the offer's metadata is not whole: {err}") from err


def _check_package(trust: Trust, rollout: Rollout, folder: Path) -> ModelPackage:
    manifest_info = manifest_target(trust, rollout)
    path = folder / MANIFEST_NAME
    manifest = manifest_of(rollout, _read(path, manifest_info), path)
    for name, info in files_of(trust, rollout, manifest).items():
        check(folder / name, info)
    try:
        return loaded(folder, rollout.model.digest)
    except BadModel as err:
        if err.code in OF_THE_DISK:
            raise Untrusted(err.code, str(err).removesuffix(f" [{err.code}]")) from err
        raise


def _tell_why(trust: Trust, rollout: Rollout, shelf: Shelf) -> NoReturn:
    """Why a package is not there, by its files; they lie on the shelf, as far as they were fetched."""

    def read(info: TargetFile) -> bytes:
        try:
            return _read(shelf.blob(key_of(info)), info)
        except Untrusted as err:
            raise Untrusted("offer-empty", f"{info.path}: offered without its package, and not here: {err}") from err

    manifest_info = manifest_target(trust, rollout)
    manifest = manifest_of(rollout, read(manifest_info), Path(manifest_info.path))
    files = files_of(trust, rollout, manifest)
    for variant in manifest.variants:
        info = files[variant.file]
        check_model(Path(info.path), read(info), variant, manifest)
    name = f"{rollout.model.name} {rollout.model.version}"
    raise Untrusted("offer-empty", f"{name}: offered without its package, and nothing that is signed says why")


def loaded(folder: Path, digest: str) -> ModelPackage:
    """The package, its contract checked, if it is the one that is meant. Raises BadModel (`package-other`, ...)."""
    package = ModelPackage.load(folder)
    if package.digest != digest:
        raise BadModel("package-other", f"{folder}: is {package.digest}, expected {digest}")
    return package


def _read(path: Path, info: TargetFile) -> bytes:
    """One file, if it is what was signed. Raises Untrusted."""
    _insist_on_file(path)
    with translated(path), path.open("rb") as stream:
        content = stream.read(info.length + 1)
    _insist_on_signed(path, info, content)
    return content


def check(path: Path, info: TargetFile) -> None:
    """That it is what was signed, without its bytes: they may be many. Raises Untrusted."""
    _insist_on_file(path)
    with translated(path), path.open("rb") as stream:
        _insist_on_signed(path, info, stream)


def _insist_on_file(path: Path) -> None:
    if not path.is_file():
        raise Untrusted("file-missing", f"{path}: no such file")


def _insist_on_signed(path: Path, info: TargetFile, content: bytes | BinaryIO) -> None:
    try:
        check_bytes(info, content)
    except Untrusted as err:
        raise Untrusted("digest-mismatch", f"{path}: is not what was signed") from err
