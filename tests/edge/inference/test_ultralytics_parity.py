"""Our way of a picture gives the boxes that ultralytics gives: 100 real pictures, to 1 px and 0.01 confidence.

Needs the extra `train`:  python -m pytest -m train tests/edge/inference/test_ultralytics_parity.py
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_inspect.inference.decode import Decoder
from edge_inspect.inference.engine import Engine
from edge_inspect.inference.letterbox import Letterbox
from edge_inspect.inference.package import ModelPackage

os.environ.setdefault("YOLO_AUTOINSTALL", "False")
ultralytics = pytest.importorskip("ultralytics", reason="ultralytics is not installed (extra `train`)")
pytestmark = [
    pytest.mark.train,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("default"),  # torch's exporter warns about its own future
]

HEIGHT, WIDTH = 384, 640
CONFIDENCE = 0.02
PICTURES = 100


@pytest.fixture(scope="module")
def pictures(data_dir: Path) -> list[NDArray[np.uint8]]:
    """Photos of plates and cookies of both sets, and frames of a real camera: four sizes, two orientations."""
    photos = sorted((data_dir / "sets").glob("*/images/val/*.*"))[:45]
    photos += sorted((data_dir / "sets" / "cookies").glob("images/train/*.*"))[:25]
    found = [cv2.imread(str(photo)) for photo in photos]
    clip = cv2.VideoCapture(str(data_dir / "replay" / "bottle-detection.mp4"))
    while len(found) < PICTURES:
        ok, frame = clip.read()
        assert ok, "the clip is too short"
        if int(clip.get(cv2.CAP_PROP_POS_FRAMES)) % 10 == 0:
            found.append(frame)
    clip.release()
    return found  # type: ignore[return-value]


@pytest.fixture(scope="module", params=["raw", "end2end"])
def exported(request: pytest.FixtureRequest, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The COCO weights as ultralytics exports them, in a package of ours."""
    folder = tmp_path_factory.mktemp(f"coco-{request.param}")
    shutil.copy(data_dir / "weights" / "yolov8n.pt", folder / "yolov8n.pt")
    nms: dict[str, Any] = {"nms": True, "conf": CONFIDENCE, "iou": 0.7} if request.param == "end2end" else {}
    model = ultralytics.YOLO(str(folder / "yolov8n.pt"))
    model.export(format="onnx", opset=17, imgsz=(HEIGHT, WIDTH), dynamic=False, **nms)
    (folder / "yolov8n.onnx").rename(folder / "model.onnx")
    write_manifest(folder, request.param, list(model.names.values()))
    return folder


def write_manifest(folder: Path, layout: Literal["raw", "end2end"], classes: list[str]) -> None:
    content = (folder / "model.onnx").read_bytes()
    anchors = sum(HEIGHT // stride * (WIDTH // stride) for stride in (8, 16, 32))
    shape = [1, 4 + len(classes), anchors] if layout == "raw" else [1, 300, 6]
    variant = {
        "file": "model.onnx",
        "sha256": hashlib.sha256(content).hexdigest(),
        "size_bytes": len(content),
        "precision": "fp32",
        "input": {"name": "images", "shape": [1, 3, HEIGHT, WIDTH]},
        "output": {"name": "output0", "shape": shape, "layout": layout},
    }
    manifest = {
        "name": "coco",
        "version": "1.0.0",
        "classes": classes,
        "thresholds": dict.fromkeys(classes, CONFIDENCE),
        "variants": [variant],
        "dataset": {"name": "COCO", "digest": "sha256:" + "0" * 64, "pictures": 118287},
        "runtime": {"opset": 17, "ir": 10},
        "golden": [],
        "created": "2026-11-22T08:00:00Z",
        "licence": "AGPL-3.0",
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


def ours(engine: Engine, decoder: Decoder, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Rows x1 y1 x2 y2 score class."""
    letterbox = Letterbox(*pixels.shape[:2], engine.height, engine.width)
    letterbox(pixels, out=engine.input)
    engine.run()
    found = decoder.decode(engine.output, letterbox, engine.thresholds())
    return np.column_stack((found.boxes[: found.n], found.scores[: found.n], found.classes[: found.n]))


def test_boxes_of_100_real_pictures_agree_to_1_px_and_a_hundredth(
    exported: Path, pictures: list[NDArray[np.uint8]]
) -> None:
    engine = Engine(ModelPackage.load(exported), provider="cpu", precision="fp32")
    decoder = Decoder(engine.layout, engine.classes)
    theirs = ultralytics.YOLO(str(exported / "model.onnx"), task="detect")
    detections = 0
    for index, pixels in enumerate(pictures):
        result = theirs.predict(pixels, imgsz=(HEIGHT, WIDTH), conf=CONFIDENCE, iou=0.7, max_det=300, verbose=False)
        expected = result[0].boxes.data.numpy()
        found = ours(engine, decoder, pixels)
        assert len(found) == len(expected), f"picture {index}"
        for row in expected:
            gap = np.abs(found - row)
            close = (gap[:, :4].max(axis=1) <= 1) & (gap[:, 4] <= 0.01) & (gap[:, 5] == 0)
            assert close.any(), f"picture {index}: {row} is not among\n{found}"
        detections += len(expected)
    assert detections > 300  # so that agreeing means something
    engine.close()
