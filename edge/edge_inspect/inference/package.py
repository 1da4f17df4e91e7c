"""A model package on disk: `manifest.json`, ONNX files and golden pictures, verified before anything runs.

1. Bytes first: no runtime and no picture decoder sees a file whose size and SHA-256 are not those of the manifest.
2. Then the contract: each ONNX file passes the gate (`edge_wire.onnx_gate`) and has the inputs, outputs, types, opset
   and IR version that the manifest says.
3. What is verified is what runs: `read` hands out bytes it has just hashed, so a file swapped meanwhile is refused.
4. Every refusal is a BadModel with a stable code and one line; files that the manifest does not name are not looked at.

    package = ModelPackage.load(find_model("metal-plate"))
    variant = package.variant(source=(1080, 1920))
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edge_inspect.durable import translated
from edge_inspect.errors import BadModel, StorageFailing
from edge_wire.manifest import CONTRADICTIONS, MANIFEST_NAME, MOST_MANIFEST_BYTES, File, Manifest, Precision, Variant
from edge_wire.mistake import in_words
from edge_wire.onnx_gate import check_against, inspect
from edge_wire.onnx_wire import BadOnnx
from edge_wire.release import VERSION_PATTERN, version_order

DEFAULT_MODEL = "metal-plate/1.0.0"
PRECISIONS = ("auto", "fp32", "fp16", "int8")
_OF_THE_MACHINE = {
    errno.EIO, errno.EUCLEAN, errno.ESTALE, errno.ETIMEDOUT, errno.ENOMEM, errno.EMFILE, errno.ENFILE,
}  # fmt: skip
"""Why a file cannot be opened that is no property of the package."""
_CODE_OF_PYDANTIC = {"extra_forbidden": "manifest-unknown-key", "missing": "manifest-missing-key"}


@dataclass(frozen=True, slots=True)
class ModelPackage:
    dir: Path
    manifest: Manifest
    digest: str
    """`sha256:...` of the manifest's bytes; it covers every file, since the manifest holds their digests."""

    @classmethod
    def load(cls, folder: Path) -> ModelPackage:
        """Verify the whole package. Raises BadModel; the codes are listed in docs/model-packages.md.

        StorageFailing: the disk did not give the bytes, which says nothing about the model.
        """
        with translated(folder):
            if not folder.is_dir():
                raise BadModel("package-missing", f"{folder}: no such folder")
        raw = _read_manifest(folder / MANIFEST_NAME)
        manifest = parse_manifest(raw, folder / MANIFEST_NAME)
        package = cls(folder, manifest, "sha256:" + hashlib.sha256(raw).hexdigest())
        for file in manifest.files():
            package._check(file)
        return package

    def _check(self, file: File) -> None:
        """One after the other: no two files are ever in memory."""
        content = self.read(file)
        if isinstance(file, Variant):
            check_model(self.dir / file.file, content, file, self.manifest)

    def read(self, file: File) -> bytes:
        """The bytes of one file of the package, freshly verified.

        Raises StorageFailing, BadModel: file-missing, file-not-regular, file-unreadable, size-mismatch,
        digest-mismatch.
        """
        path = self.dir / file.file
        content = _read_regular(path, file.size_bytes)
        if len(content) != file.size_bytes:
            raise BadModel("size-mismatch", f"{path}: {len(content)} bytes, manifest says {file.size_bytes}")
        digest = hashlib.sha256(content).hexdigest()
        if digest != file.sha256:
            raise BadModel("digest-mismatch", f"{path}: sha256 {digest[:12]}..., manifest says {file.sha256[:12]}...")
        return content

    def variant(
        self,
        precision: str = "auto",
        shape: tuple[int, int] | None = None,
        *,
        source: tuple[int, int] | None = None,
        prefer: tuple[Precision, ...] = ("fp32", "int8", "fp16"),
    ) -> Variant:
        """The file to run.

        precision: one of PRECISIONS; auto takes any of `prefer`, the first among those that fit equally well.
        shape: (height, width) of the network's input in px; None takes the one that wastes least on padding when
        pictures of size `source` (height, width) are letterboxed into it, and of equals the largest.
        Raises BadModel: no-such-variant.
        """
        wanted = prefer if precision == "auto" else (precision,)
        fitting = [
            v
            for v in self.manifest.variants
            if v.precision in wanted and (shape is None or (v.height_px, v.width_px) == tuple(shape))
        ]
        if not fitting:
            have = ", ".join(f"{v.precision} {v.height_px}x{v.width_px}" for v in self.manifest.variants)
            size = f" {shape[0]}x{shape[1]}" if shape else ""
            raise BadModel("no-such-variant", f"{self.dir}: no {precision}{size} in it, only {have}")
        return max(
            fitting, key=lambda v: (_used_share(v, source), v.height_px * v.width_px, -wanted.index(v.precision))
        )


def find_model(name_or_dir: str | Path = DEFAULT_MODEL) -> Path:
    """A model's folder: a path, or the name of a shipped model with or without its version (then the newest).

    Raises BadModel: package-missing.
    """
    given = Path(name_or_dir)
    if given.is_dir():
        return given
    for root in _shipped():
        folder = root / given
        if (folder / MANIFEST_NAME).is_file():
            return folder
        found = [f.parent for f in folder.glob(f"*/{MANIFEST_NAME}")] if folder.is_dir() else []
        versions = [one for one in found if re.fullmatch(VERSION_PATTERN, one.name)]
        if versions:
            return max(versions, key=lambda v: version_order(v.name))
    names = [f"{folder.parent.name}/{folder.name}" for folder in shipped_models()]
    raise BadModel("package-missing", f"{name_or_dir}: no such folder or shipped model (there are: {', '.join(names)})")


def shipped_models() -> list[Path]:
    """The folders of all models that came with this installation."""
    return sorted({f.parent for root in _shipped() for f in root.glob(f"*/*/{MANIFEST_NAME}")})


def version_key(version: str) -> tuple[int, ...]:
    """Numeric order of a runtime's dotted versions: 1.10 after 1.9; what is not a number ends the comparison.

    Not for models: `edge_wire.release.version_order`.
    """
    numbers = []
    for part in version.replace("-", ".").replace("+", ".").split("."):
        if not (part.isascii() and part.isdigit()):
            break
        numbers.append(int(part))
    return tuple(numbers)


def _shipped() -> list[Path]:
    """Where models lie: inside the installed package, or in the source checkout two folders up."""
    here = Path(__file__).resolve().parents[1]
    return [root for root in (here / "models", here.parents[1] / "models") if root.is_dir()]


def _read_manifest(path: Path) -> bytes:
    try:
        content = _read_regular(path, MOST_MANIFEST_BYTES)
    except BadModel as err:
        code = "manifest-missing" if err.code == "file-missing" else err.code
        raise BadModel(code, str(err).removesuffix(f" [{err.code}]")) from err
    if len(content) > MOST_MANIFEST_BYTES:
        raise BadModel("manifest-too-large", f"{path}: more than {MOST_MANIFEST_BYTES} bytes")
    return content


def _read_regular(path: Path, most_bytes: int) -> bytes:
    """At most one byte more than `most_bytes`, so that too much is noticed and never loaded."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as err:
        raise BadModel("file-missing", f"{path}: no such file") from err
    except OSError as err:
        if err.errno in _OF_THE_MACHINE:
            raise StorageFailing(f"{path}: cannot be read: {err.strerror}") from err
        code = "file-not-regular" if path.is_symlink() else "file-unreadable"
        raise BadModel(code, f"{path}: {'a link' if path.is_symlink() else err.strerror}") from err
    with translated(path), os.fdopen(fd, "rb") as stream:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise BadModel("file-not-regular", f"{path}: not a regular file")
        return stream.read(most_bytes + 1)


def parse_manifest(raw: bytes, path: Path) -> Manifest:
    """The content of a manifest.json; `path` is for the message. Raises BadModel, `manifest-...`."""
    try:
        json.loads(raw, object_pairs_hook=_no_key_twice, parse_constant=_no_constant)
    except ValueError as err:
        raise BadModel("manifest-not-json", f"{path}: not JSON: {err}") from err
    except RecursionError as err:
        raise BadModel("manifest-not-json", f"{path}: nested too deeply") from err
    try:
        return Manifest.model_validate_json(raw)
    except ValidationError as err:
        first = err.errors(include_url=False)[0]
        kind, where = first["type"], ".".join(str(part) for part in first["loc"]) or "manifest"
        code = _CODE_OF_PYDANTIC.get(kind, f"manifest-{kind}" if kind in CONTRADICTIONS else "manifest-wrong-value")
        if where.startswith("format"):
            code = "manifest-format"
        if where.endswith(".file"):
            code = "manifest-file-name"
        raise BadModel(code, f"{path}: {where}: {in_words(first)}") from err


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two readers may take different ones of two equal keys; so none may."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _no_constant(word: str) -> Any:
    """NaN and Infinity are no JSON, though Python and pydantic take them: no limit holds against NaN."""
    raise ValueError(f"{word} is no number")


def _used_share(variant: Variant, source: tuple[int, int] | None) -> float:
    """Share of the network's input that the letterboxed picture fills, rounded so that near equals are equals."""
    if source is None:
        return 0.0
    scale = min(variant.height_px / source[0], variant.width_px / source[1])
    return round(scale * source[0] * scale * source[1] / (variant.height_px * variant.width_px), 2)


def check_model(path: Path, content: bytes, variant: Variant, manifest: Manifest) -> None:
    """Only what a detection model is made of, with the ends that the manifest says. Raises BadModel."""
    try:
        check_against(inspect(content), variant, manifest.runtime)
    except BadOnnx as err:
        raise BadModel(err.code, f"{path}: {err}") from err
