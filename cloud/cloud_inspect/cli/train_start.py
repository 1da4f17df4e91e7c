"""`train --from`: which weights a training starts from, found by the words a person uses.

active          of the model that is released now (--released URL --product P), else of the shipped metal-plate
coco            YOLOv8n as ultralytics publishes it: --weights
FILE, FOLDER    a .npz or .pt; a training's folder; a model package with training/weights.npz
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from cloud_inspect.cli.release_options import open_places
from cloud_inspect.errors import BadWeights
from cloud_inspect.learning.training import WEIGHTS_NAME
from edge_wire.manifest import MANIFEST_NAME
from edge_wire.release import file_target

COCO_FILE = "yolov8n.pt"
SHIPPED = "metal-plate/1.0.0"
IN_PACKAGE = f"training/{WEIGHTS_NAME}"


def find_start(wanted: str, coco: Path, runs: Path, released: tuple[str, str, str] | None) -> Path:
    """The file to start from. released: a repository's URL, product and channel. Raises BadWeights, BadRelease."""
    if wanted == "coco":
        return _coco(coco)
    if wanted != "active":
        return _given(Path(wanted))
    return _released(runs, *released) if released else shipped() / IN_PACKAGE


def shipped() -> Path:
    """The package of SHIPPED: of this checkout, or of the installed distribution."""
    places = Path(__file__).resolve().parents
    found = [place for place in (places[3] / "models", places[2] / "edge_inspect" / "models") if place.is_dir()]
    if not found:
        raise BadWeights(f"{SHIPPED}: no shipped models beside {places[1]}")
    return found[0] / SHIPPED


def _coco(given: Path) -> Path:
    data = os.environ.get("EDGE_INSPECT_DATA")
    there = Path(data, "weights", COCO_FILE) if data else None
    return there if not given.exists() and given.name == COCO_FILE and there and there.is_file() else given


def _given(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in (WEIGHTS_NAME, IN_PACKAGE):
        if (path / name).is_file():
            return path / name
    raise BadWeights(f"{path}: neither a training's folder ({WEIGHTS_NAME}) nor a package with {IN_PACKAGE}")


def _released(runs: Path, url: str, product: str, channel: str) -> Path:
    """By the digest that the released manifest gives of its training's record."""
    shown, content = _manifest(url, product, channel)
    ours = shipped()
    if content == (ours / MANIFEST_NAME).read_bytes():
        return ours / IN_PACKAGE
    digest = (json.loads(content).get("provenance") or {}).get("training_digest") or ""
    for record in sorted(runs.glob("*/training.json")) if digest else ():
        if f"sha256:{hashlib.sha256(record.read_bytes()).hexdigest()}" == digest:
            return record.with_name(WEIGHTS_NAME)
    raise BadWeights(f"{shown}: no training in {runs} is the one it came from ({digest[:19] or 'it names none'})")


def _manifest(url: str, product: str, channel: str) -> tuple[str, bytes]:
    """Name and version for people, and the manifest's bytes, of what a channel runs. Raises BadRelease."""
    store, _ = open_places(url, None)
    from cloud_inspect.release.repository import load
    from cloud_inspect.release.staging import fetch, rollouts

    targets = load(store).product(product)
    found = rollouts(product, targets, store).get(channel)
    if found is None:
        raise BadWeights(f"{url}: nothing is released for {product}, channel {channel}")
    model = found.model
    info = targets.targets[file_target(product, model.name, model.version, MANIFEST_NAME)]
    return f"{model.name} {model.version}", fetch(info, store)
