"""A model package as it is about to be released: every file it consists of, measured.

1. What the manifest names and nothing else is released; a note lying beside it stays at home.
2. Sizes and digests are taken from the files and must be the manifest's. No link, no pipe.
3. Each ONNX file passes the gate that devices ask too; nothing here loads it into a runtime.

    package = read_package(Path("metal-plate/1.1.0"))
    package.model.digest          # of manifest.json, which holds the digests of all others
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from cloud_inspect.errors import BadRelease
from cloud_inspect.release.store import measure
from edge_wire.manifest import MANIFEST_NAME, MOST_MANIFEST_BYTES, Manifest
from edge_wire.mistake import first_mistake
from edge_wire.onnx_gate import check_against, inspect
from edge_wire.onnx_wire import BadOnnx
from edge_wire.release import ReleasedModel


@dataclass(frozen=True)
class PackageFile:
    name: str
    path: Path
    length: int
    sha256: str

    def open(self) -> IO[bytes]:
        return self.path.open("rb")


@dataclass(frozen=True)
class Package:
    model: ReleasedModel
    files: tuple[PackageFile, ...]
    """manifest.json is the first."""


def read_package(folder: Path) -> Package:
    """Raises BadRelease: `package-missing`, `manifest-missing`, `manifest-wrong`, `file-missing`, `size-mismatch`,
    `digest-mismatch`, and the gate's codes.
    """
    if not folder.is_dir():
        raise BadRelease("package-missing", f"{folder}: no such folder")
    found = _measured(folder, MANIFEST_NAME)
    if found.length > MOST_MANIFEST_BYTES:
        raise BadRelease("manifest-too-large", f"{found.path}: {found.length} bytes, at most {MOST_MANIFEST_BYTES}")
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST_NAME).read_bytes())
    except ValidationError as err:
        raise BadRelease("manifest-wrong", f"{folder / MANIFEST_NAME}: {first_mistake(err, 'whole')}") from err
    files = [found]
    for told in manifest.files():
        file = _measured(folder, told.file)
        if file.length != told.size_bytes:
            raise BadRelease("size-mismatch", f"{file.path}: {file.length} bytes, the manifest says {told.size_bytes}")
        if file.sha256 != told.sha256:
            raise BadRelease("digest-mismatch", f"{file.path}: SHA-256 is not the manifest's")
        files.append(file)
    for variant in manifest.variants:
        try:
            check_against(inspect((folder / variant.file).read_bytes()), variant, manifest.runtime)
        except BadOnnx as err:
            raise BadRelease(err.code, f"{folder / variant.file}: {err}") from err
    model = ReleasedModel(name=manifest.name, version=manifest.version, digest=f"sha256:{found.sha256}")
    return Package(model, tuple(files))


def _measured(folder: Path, name: str) -> PackageFile:
    path = folder / name
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise BadRelease("file-not-regular", f"{path}: is no regular file")
        with path.open("rb") as file:
            return PackageFile(name, path, *measure(file))
    except OSError as err:
        code = "manifest-missing" if name == MANIFEST_NAME else "file-missing"
        raise BadRelease(code, f"{path}: {err.strerror}") from err
