"""Builds a model package: ONNX files, golden pictures with what must be found on them, and the manifest over all.

Promises:

1. The manifest describes the files as they are: digests, shapes, opset and IR version are read from them, never typed.
2. Every variant has passed the gate that devices ask too (`edge_wire.onnx_gate`).
3. Every variant has been run on every golden picture and found the same, within the manifest's tolerance; a variant
   that does not is refused.
4. The folder appears under its name only when it is whole; an existing package is replaced only when asked.

    draft = load_draft(Path("package.toml"))
    build_package(folder, draft, variants=[Path("model.onnx")], golden=[Path("good.png"), Path("scratched.png")])
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from cloud_inspect.errors import BadPackage
from cloud_inspect.learning.detect import Detector, Found
from edge_wire.manifest import (
    FORMAT,
    KEYS_OF_FORMAT_2,
    MANIFEST_NAME,
    AccuracyBudget,
    Dataset,
    Expected,
    Golden,
    InputContract,
    LeftOut,
    Manifest,
    Measure,
    Measured,
    OutputContract,
    Precision,
    Provenance,
    RuntimeFloor,
    Tolerance,
    Variant,
)
from edge_wire.mistake import first_mistake
from edge_wire.onnx_file import read_model
from edge_wire.onnx_gate import OnnxContract, inspect
from edge_wire.onnx_wire import BadOnnx

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class Picture(NamedTuple):
    """A golden picture and what it is called in the package."""

    path: Path
    name: str


class Draft(BaseModel):
    """What cannot be read from the files; a draft TOML holds just this."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str
    classes: tuple[str, ...]
    thresholds: dict[str, float]
    dataset: Dataset
    description: str = ""
    source: str = ""
    licence: str = "AGPL-3.0-or-later"
    accuracy: dict[str, Measure] = {}
    latency_budget_ms: dict[str, Measure] = {}
    memory_budget_bytes: dict[str, Measure] = {}
    accuracy_budget: AccuracyBudget | None = None
    measured: tuple[Measured, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    provenance: Provenance | None = None
    tolerance: Tolerance = Tolerance()


def load_draft(path: Path) -> Draft:
    """Read a draft. Raises BadPackage with file, key and what is wrong."""
    try:
        return Draft.model_validate(tomllib.loads(path.read_text()))
    except OSError as err:
        raise BadPackage(f"{path}: cannot be read: {err.strerror}") from err
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise BadPackage(f"{path}: is not TOML: {err}") from err
    except ValidationError as err:
        raise BadPackage(f"{path}: {first_mistake(err, 'whole')}") from err


def build_package(
    out: Path,
    draft: Draft,
    *,
    variants: Sequence[Path],
    golden: Sequence[Path | Picture],
    extra: Sequence[Path] = (),
    replace: bool = False,
) -> Manifest:
    """Write the package to `out`; `extra` files (a model card) lie beside it and are not part of the contract.

    Raises BadPackage: what is wrong with which file.
    """
    if out.exists() and not replace:
        raise BadPackage(f"{out}: exists already; a released package is never changed (--replace for drafts)")
    pictures = [one if isinstance(one, Picture) else Picture(one, one.name) for one in golden]
    for path in (*variants, *(picture.path for picture in pictures), *extra):
        if not path.is_file():
            raise BadPackage(f"{path}: no such file")
    contracts = [gated(path) for path in variants]
    described = [_variant(path, contract, draft) for path, contract in zip(variants, contracts, strict=True)]
    expected = [_golden(picture, variants, draft) for picture in pictures]
    manifest = _manifest(draft, described, expected, contracts)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".package-") as folder:
        draft_dir = Path(folder) / "package"
        (draft_dir / "golden").mkdir(parents=True)
        for path in (*variants, *extra):
            shutil.copyfile(path, draft_dir / path.name)
        for picture in pictures:
            shutil.copyfile(picture.path, draft_dir / "golden" / picture.name)
        (draft_dir / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=2) + "\n")
        if out.exists():
            shutil.rmtree(out)
        draft_dir.rename(out)
    return manifest


def gated(path: Path) -> OnnxContract:
    """What the gate reads of an ONNX file. Raises BadPackage; its line ends with the gate's code."""
    try:
        return inspect(path.read_bytes())
    except BadOnnx as err:
        raise BadPackage(f"{path}: {err}", err.code) from err


def _manifest(
    draft: Draft, variants: list[Variant], golden: list[Golden], contracts: Sequence[OnnxContract]
) -> Manifest:
    newer = {key: getattr(draft, key) for key in KEYS_OF_FORMAT_2}
    try:
        return Manifest(
            format=FORMAT,
            **newer,
            name=draft.name,
            version=draft.version,
            description=draft.description,
            classes=draft.classes,
            thresholds=draft.thresholds,
            variants=tuple(variants),
            dataset=draft.dataset,
            accuracy=draft.accuracy,
            latency_budget_ms=draft.latency_budget_ms,
            runtime=RuntimeFloor(
                opset=max(contract.opset for contract in contracts), ir=max(contract.ir for contract in contracts)
            ),
            golden=tuple(golden),
            created=datetime.now(timezone.utc).replace(microsecond=0),
            licence=draft.licence,
            source=draft.source,
        )
    except ValidationError as err:
        raise BadPackage(f"manifest: {first_mistake(err, 'whole')}") from err


def _file(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}


def _variant(path: Path, contract: OnnxContract, draft: Draft) -> Variant:
    if len(contract.inputs) != 1 or len(contract.outputs) != 1:
        raise BadPackage(f"{path}: {len(contract.inputs)} inputs, {len(contract.outputs)} outputs; must be one each")
    given, result = contract.inputs[0], contract.outputs[0]
    if any(isinstance(side, str) for side in (*given.shape, *result.shape)):
        shapes = f"input {list(given.shape)}, output {list(result.shape)}"
        raise BadPackage(f"{path}: {shapes}: dynamic axes; export it with a static shape", "dynamic-axes")
    layout: Literal["raw", "end2end"] = "end2end" if result.shape[1] != 4 + len(draft.classes) else "raw"
    shapes_of: Any = (given.shape, result.shape)  # their lengths are pydantic's to check
    dtypes: Any = (given.dtype, result.dtype)
    try:
        return Variant(
            file=path.name,
            **_file(path),
            precision=_precision(path),
            input=InputContract(name=given.name, shape=shapes_of[0], dtype=dtypes[0]),
            output=OutputContract(name=result.name, shape=shapes_of[1], dtype=dtypes[1], layout=layout),
        )
    except ValidationError as err:
        raise BadPackage(f"{path}: {first_mistake(err, 'whole')}") from err


def _precision(path: Path) -> Precision:
    """What the kernels of its convolutions are stored as."""
    kinds = {one.dtype for one in read_model(path.read_bytes()).weights if len(one.dims) == 4}
    if kinds & {"int8", "uint8"}:
        return "int8"
    return "fp16" if "float16" in kinds else "fp32"


# --- golden pictures ----------------------------------------------------------------------------------------------


def _golden(picture: Picture, variants: Sequence[Path], draft: Draft) -> Golden:
    """What the first variant finds is expected of all; each is checked against it here."""
    path = picture.path
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if pixels is None:
        raise BadPackage(f"{path}: is not a picture that can be opened")
    least = np.array([draft.thresholds[name] for name in draft.classes])
    found = [Detector(variant).find(np.asarray(pixels, np.uint8)) for variant in variants]
    expected = found[0][found[0][:, 4] >= least[found[0][:, 5].astype(int)]]
    for variant, one in zip(variants[1:], found[1:], strict=True):
        _refuse_disagreement(path, variant, expected, one, least, draft.tolerance)
    return Golden(
        file=f"golden/{picture.name}",
        **_file(path),
        expect=tuple(_expected(one, draft.classes) for one in expected.tolist()),
        tolerance=draft.tolerance,
    )


def _expected(found: list[float], classes: tuple[str, ...]) -> Expected:
    x1, y1, x2, y2 = (round(value, 1) for value in found[:4])
    return Expected(cls=classes[int(found[5])], confidence=round(found[4], 3), box=(x1, y1, x2, y2))


def _refuse_disagreement(
    picture: Path, variant: Path, expected: Found, found: Found, least: np.ndarray[Any, Any], tolerance: Tolerance
) -> None:
    """Every clear detection of one side must be on the other; near the threshold both answers are right."""
    for one in expected:
        if one[4] >= least[int(one[5])] + tolerance.confidence and not _has(found, one, tolerance):
            raise BadPackage(f"{variant}: does not find on {picture} what the first variant finds: {_words(one)}")
    for one in found:
        if one[4] >= least[int(one[5])] + tolerance.confidence and not _has(expected, one, tolerance):
            raise BadPackage(f"{variant}: finds on {picture} what the first variant does not: {_words(one)}")


def _has(among: Found, one: Found, tolerance: Tolerance) -> bool:
    near = np.abs(among[:, :4] - one[:4]).max(axis=1, initial=0) <= tolerance.box_px
    same = (among[:, 5] == one[5]) & (np.abs(among[:, 4] - one[4]) <= tolerance.confidence)
    return bool((near & same).any())


def _words(one: Found) -> str:
    return f"class {int(one[5])}, confidence {one[4]:.3f}, box {[round(float(v), 1) for v in one[:4]]}"
