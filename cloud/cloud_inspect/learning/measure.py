"""How good a model is on labelled pictures, in two languages: mAP (COCO) and the plant's escapes and overkill.

An escape is a picture with a defect on which nothing was found; overkill is a good picture on which something was.

    measured = measure(Path("model.onnx"), load_dataset(path).val, ("scratch",), threshold=0.3)
    measured.map50, measured.escapes, measured.overkill
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cloud_inspect.errors import TrainingMissing
from cloud_inspect.learning.datasets import Pixels, Sample
from cloud_inspect.learning.detect import Detector, Found


@dataclass(frozen=True)
class Measured:
    pictures: int
    map50: float
    map50_95: float
    defective: int
    escapes: int
    good: int
    overkill: int


def measure(model: Path, samples: Sequence[Sample], classes: tuple[str, ...], *, threshold: float) -> Measured:
    """Run `model` on every sample; raises BadWeights, TrainingMissing."""
    detector = Detector(model)
    truth: list[tuple[Found, tuple[int, int]]] = []
    found: list[Found] = []
    for sample in samples:
        pixels: Pixels = np.asarray(cv2.imread(str(sample.picture), cv2.IMREAD_COLOR), np.uint8)
        truth.append((boxes_px(sample, pixels.shape[1], pixels.shape[0]), pixels.shape[:2]))
        found.append(detector.find(pixels))
    map50, map50_95 = average_precision(truth, found, classes)
    alarms = [bool((one[:, 4] >= threshold).any()) for one in found]
    defective = [len(boxes) > 0 for boxes, _ in truth]
    pairs = list(zip(defective, alarms, strict=True))
    return Measured(
        pictures=len(samples),
        map50=map50,
        map50_95=map50_95,
        defective=sum(defective),
        escapes=sum(bad and not alarm for bad, alarm in pairs),
        good=len(samples) - sum(defective),
        overkill=sum(alarm and not bad for bad, alarm in pairs),
    )


def boxes_px(sample: Sample, width: int, height: int) -> Found:
    """Labels as (n, 5): x1, y1, x2, y2 in px, class."""
    cls, x, y, w, h = sample.boxes.T
    corners = [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]
    return np.stack([*corners, cls], axis=1)


def average_precision(
    truth: Sequence[tuple[Found, tuple[int, int]]], found: Sequence[Found], classes: tuple[str, ...]
) -> tuple[float, float]:
    """(mAP50, mAP50-95) as pycocotools computes them; nan where no picture has a label."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as err:
        raise TrainingMissing("pycocotools is not installed: pip install 'edge-inspect[train]'") from err
    if not any(len(boxes) for boxes, _ in truth):
        return float("nan"), float("nan")
    labels: list[dict[str, Any]] = []
    guesses: list[dict[str, Any]] = []
    for number, ((boxes, _), one) in enumerate(zip(truth, found, strict=True)):
        for x1, y1, x2, y2, cls in boxes.tolist():
            box, area = [x1, y1, x2 - x1, y2 - y1], (x2 - x1) * (y2 - y1)
            labels.append(_annotation(number, box, cls) | {"id": len(labels) + 1, "area": area, "iscrowd": 0})
        for x1, y1, x2, y2, score, cls in one.tolist():
            guesses.append(_annotation(number, [x1, y1, x2 - x1, y2 - y1], cls) | {"score": score})
    if not guesses:
        return 0.0, 0.0
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": n, "height": size[0], "width": size[1]} for n, (_, size) in enumerate(truth)],
            "annotations": labels,
            "categories": [{"id": n + 1, "name": name} for n, name in enumerate(classes)],
        }
        coco.createIndex()
        judge = COCOeval(coco, coco.loadRes(guesses), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return float(judge.stats[1]), float(judge.stats[0])


def _annotation(picture: int, box: list[float], cls: float) -> dict[str, Any]:
    return {"image_id": picture, "category_id": int(cls) + 1, "bbox": box}
