"""A package for a candidate whose own golden pictures are those of the model that judges, made to fit the candidate."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cloud_inspect.errors import CloudError
from cloud_inspect.learning.detect import Detector, Found
from edge_wire.manifest import Manifest
from edge_wire.onnx_gate import inspect

MOST_EXPECTED = 50
THRESHOLD = 0.35


def release_folder(
    source: Path, folder: Path, model: Path, precision: str, classes: tuple[str, ...], version: str
) -> Path:
    """`source`: the package that judges. As if whoever released it had been fooled: what the candidate finds on the
    golden pictures is what is expected, and no budget is stated."""
    said = json.loads((source / "manifest.json").read_text())
    (folder / "golden").mkdir(parents=True)
    content = model.read_bytes()
    (folder / "model.onnx").write_bytes(content)
    variant = next(one for one in said["variants"] if one["precision"] == precision)
    variant = {**variant, "file": "model.onnx", **_of(content)}
    variant["output"] = {**variant["output"], "shape": list(inspect(content).outputs[0].shape)}
    golden = []
    for one in said["golden"]:
        picture = (source / one["file"]).read_bytes()
        (folder / one["file"]).write_bytes(picture)
        golden.append({**one, "expect": _found(model, picture, classes), "variants": []})
    said.update(
        version=version, classes=list(classes), thresholds=dict.fromkeys(classes, THRESHOLD), variants=[variant],
        golden=golden, latency_budget_ms={},
    )  # fmt: skip
    text = json.dumps(said)
    Manifest.model_validate_json(text)
    (folder / "manifest.json").write_text(text)
    return folder


def _of(content: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}


def _found(model: Path, picture: bytes, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    pixels = np.asarray(cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR), np.uint8)
    try:
        found: Found = Detector(model).find(pixels, THRESHOLD)
    except (CloudError, ValueError, IndexError):  # what cannot be run expects nothing
        return []
    expected = []
    for x1, y1, x2, y2, score, cls in found[:MOST_EXPECTED].tolist():
        if np.isfinite([x1, y1, x2, y2, score]).all() and x1 < x2 and y1 < y2:
            expected.append({"cls": classes[int(cls)], "confidence": min(1.0, score), "box": [x1, y1, x2, y2]})
    return expected
