"""Runs an exported detector on pictures, to measure it; the daemon on the line has its own, faster way.

The picture is letterboxed as the manifest says (grey 114, centred, linear). The output is `raw` (1, 4 + classes,
anchors), and overlapping boxes of one class are merged by non-maximum suppression at IoU 0.7, as ultralytics does; or
it is `end2end` (1, n, 6), where the network has done so itself.

    detector = Detector(Path("model.onnx"))
    detector.find(pixels, threshold=0.25)      # float64 (n, 6): x1, y1, x2, y2 in px of the picture, score, class
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from cloud_inspect.errors import BadWeights, TrainingMissing
from cloud_inspect.learning.datasets import Pixels, letterboxed

Found = NDArray[np.float64]

_NO_BOXES = np.zeros((0, 5))
MOST_FOUND = 300


class Detector:
    """An ONNX detector on the CPU. Raises BadWeights when the file is no detector of either layout."""

    def __init__(self, path: Path, *, threads: int = 0) -> None:
        try:
            import onnxruntime
        except ImportError as err:
            raise TrainingMissing("onnxruntime is not installed: pip install 'edge-inspect[train]'") from err
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        try:
            self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as err:
            raise BadWeights(f"{path}: ONNX Runtime cannot load it: {str(err).splitlines()[0]}") from err
        given, result = self._session.get_inputs()[0], self._session.get_outputs()[0]
        if len(given.shape) != 4 or len(result.shape) != 3 or not all(isinstance(n, int) for n in given.shape):
            raise BadWeights(f"{path}: input {given.shape}, output {result.shape}; needs (1, 3, H, W), (1, 4 + nc, N)")
        self._input = given.name
        self.layout: Literal["raw", "end2end"] = "end2end" if result.shape[2] == 6 else "raw"
        self.canvas: tuple[int, int] = (given.shape[2], given.shape[3])

    def raw(self, pixels: Pixels) -> NDArray[np.float32]:
        """The network's output (4 + classes, anchors), or (n, 6) end2end, for one BGR picture."""
        return np.asarray(self._session.run(None, {self._input: tensor(pixels, self.canvas)})[0][0], np.float32)

    def find(self, pixels: Pixels, threshold: float = 0.001, iou: float = 0.7) -> Found:
        """Defects with at least this confidence, best first."""
        output = self.raw(pixels)
        boxes, scores, classes = (
            _end2end(output, threshold) if self.layout == "end2end" else _raw(output, threshold, iou)
        )
        height, width = pixels.shape[:2]
        scale = min(self.canvas[0] / height, self.canvas[1] / width)
        top = (self.canvas[0] - round(height * scale)) // 2
        left = (self.canvas[1] - round(width * scale)) // 2
        boxes = (boxes - [left, top, left, top]) / scale
        np.clip(boxes, 0, [width, height, width, height], out=boxes)
        return np.hstack([boxes, scores[:, None], classes[:, None]])


def _raw(output: NDArray[np.float32], threshold: float, iou: float) -> tuple[Found, Found, Found]:
    """Boxes xyxy in px of the network's input, scores and classes, best first."""
    scores, classes = output[4:].max(axis=0), output[4:].argmax(axis=0)
    keep = np.flatnonzero(scores >= threshold)
    keep = keep[np.argsort(-scores[keep], kind="stable")]
    centre, size = output[:2, keep].T.astype(np.float64), output[2:4, keep].T.astype(np.float64)
    boxes = np.hstack([centre - size / 2, centre + size / 2])
    best = suppress(boxes + classes[keep, None] * 7680.0, iou)[:MOST_FOUND]
    return boxes[best], scores[keep][best].astype(np.float64), classes[keep][best].astype(np.float64)


def _end2end(output: NDArray[np.float32], threshold: float) -> tuple[Found, Found, Found]:
    rows = output[output[:, 4] >= threshold].astype(np.float64)
    rows = rows[np.argsort(-rows[:, 4], kind="stable")][:MOST_FOUND]
    return rows[:, :4], rows[:, 4], rows[:, 5]


def tensor(pixels: Pixels, canvas: tuple[int, int]) -> NDArray[np.float32]:
    """BGR uint8 (h, w, 3) -> RGB float32 (1, 3, H, W), 0..1, letterboxed."""
    whole, _ = letterboxed(pixels, _NO_BOXES, canvas)
    planes = cv2.cvtColor(whole, cv2.COLOR_BGR2RGB).transpose(2, 0, 1)[None]
    return np.ascontiguousarray(planes, np.float32) / np.float32(255)


def suppress(boxes: Found, iou: float) -> NDArray[np.intp]:
    """Non-maximum suppression; `boxes` (n, 4) xyxy, best first. Returns the kept indices, best first."""
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    alive = np.ones(len(boxes), bool)
    for i in range(len(boxes)):
        if not alive[i]:
            continue
        low, high = np.maximum(boxes[i, :2], boxes[i + 1 :, :2]), np.minimum(boxes[i, 2:4], boxes[i + 1 :, 2:4])
        shared = np.clip(high - low, 0, None).prod(axis=1)
        alive[i + 1 :] &= shared <= iou * (areas[i] + areas[i + 1 :] - shared)
    return np.flatnonzero(alive)
