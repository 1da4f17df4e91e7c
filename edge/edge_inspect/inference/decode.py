"""The network's output into a few detections in source pixels. Pure arrays, made once.

1. The same boxes as ultralytics' `non_max_suppression`: score above the threshold, best class per anchor, class-wise
   greedy suppression at IoU `iou`, at most `max_det`, best first.
2. Thresholds are per class; a class below its own threshold never hides another one that is above.
3. An output that holds NaN or infinity gives no detections and `finite = False`: the part is UNKNOWN, never OK.
4. Nothing of the output's size is allocated per call; the arrays of `Detections` are overwritten by the next call.

    decoder = Decoder(engine.layout, engine.classes)
    found = decoder.decode(engine.output, letterbox, thresholds)
    found.boxes[: found.n]

Source of the formulas: ultralytics/utils/nms.py. Right after a run of the network everything of ours is cold in the
processor's caches, and the first call of each library function costs 10 times what it costs in a loop: hence few calls
(docs/measurements/README.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_inspect.inference.letterbox import Letterbox
from edge_wire.manifest import Layout

_HALF = np.float32(0.5)
_suppress: Any = cv2.dnn.NMSBoxesBatched  # its type stub knows lists only


class Detections:
    """What one picture showed; only the first `n` rows are valid, best score first."""

    __slots__ = ("boxes", "classes", "finite", "n", "scores")

    def __init__(self, most: int) -> None:
        self.boxes = np.zeros((most, 4), np.float32)
        """x1 y1 x2 y2 in source px."""
        self.scores = np.zeros(most, np.float32)
        self.classes = np.zeros(most, np.int32)
        self.n = 0
        self.finite = True
        """False: the network answered NaN or infinity; then n is 0 and nothing can be said about the picture."""


class Decoder:
    """For one head layout and class count. Not thread-safe: it owns its scratch arrays and its `Detections`."""

    def __init__(self, layout: Layout, classes: Sequence[str], max_det: int = 300, iou: float = 0.7) -> None:
        self._layout = layout
        self._classes = len(classes)
        self._max_det = max_det
        self._iou = iou
        self._best: NDArray[np.float32] = np.empty(0, np.float32)
        self._mask: NDArray[np.bool_] = np.empty(0, np.bool_)
        self._zeros: NDArray[np.int32] = np.empty(0, np.int32)
        self._found = Detections(max_det)

    def decode(self, output: NDArray[np.float32], letterbox: Letterbox, thresholds: NDArray[np.float32]) -> Detections:
        """output: (1, 4 + classes, anchors) or (1, n, 6) float32. thresholds: (classes,) float32, exclusive.

        The returned object is always the same one.
        """
        found, head = self._found, output[0]
        found.n = 0
        found.finite = cv2.checkRange(head)[0]  # np.isfinite would need an array as large as the output
        if found.finite:
            if self._layout == "raw":
                self._decode_raw(head, thresholds)
            else:
                self._decode_end2end(head, thresholds)
            if found.n:
                letterbox.to_source(found.boxes, found.n)
        return found

    def _decode_raw(self, head: NDArray[np.float32], thresholds: NDArray[np.float32]) -> None:
        anchors = self._above(head, min(thresholds.tolist()))
        if not len(anchors):
            return
        few = head[:, anchors]
        scores, classes = few[4], self._zeros[: len(anchors)]
        if self._classes > 1:
            # Below its own threshold a class does not count; with one threshold for all this is the plain maximum.
            rows = np.where(few[4:] > thresholds[:, None], few[4:], 0)
            classes = rows.argmax(axis=0).astype(np.int32)
            scores = rows.max(axis=0)
        few[:2] -= few[2:4] * _HALF
        boxes = few[:4].T  # x, y, width, height
        # Best first; a score of 0 (no class reached its threshold) is left out.
        keep = _suppress(boxes, scores, classes, 0.0, self._iou)[: self._max_det]
        if len(keep):
            kept = boxes[keep]
            kept[:, 2:] += kept[:, :2]
            self._put(kept, scores[keep], classes[keep])

    def _decode_end2end(self, rows: NDArray[np.float32], thresholds: NDArray[np.float32]) -> None:
        above = (rows[:, 4] > min(thresholds.tolist())).nonzero()[0]
        if not len(above):
            return
        rows = rows[above]
        classes = rows[:, 5].astype(np.int32)
        mine = (classes >= 0) & (classes < self._classes)
        mine &= rows[:, 4] > thresholds[np.where(mine, classes, 0)]
        rows, classes = rows[mine], classes[mine]
        order = np.argsort(-rows[:, 4], kind="stable")[: self._max_det]
        self._put(rows[order, :4], rows[order, 4], classes[order])

    def _above(self, head: NDArray[np.float32], least: float) -> NDArray[np.intp]:
        """The anchors of which some class scores more than `least`."""
        if len(self._mask) != head.shape[1]:
            self._mask, self._best = np.empty(head.shape[1], np.bool_), np.empty(head.shape[1], np.float32)
            self._zeros = np.zeros(head.shape[1], np.int32)
        best = head[4]
        if self._classes > 1:
            best = np.maximum.reduce(head[4:], axis=0, out=self._best)
        np.greater(best, least, out=self._mask)
        return self._mask.nonzero()[0]

    def _put(self, boxes: NDArray[np.float32], scores: NDArray[np.float32], classes: NDArray[np.int32]) -> None:
        found, n = self._found, len(scores)
        found.boxes[:n], found.scores[:n], found.classes[:n], found.n = boxes, scores, classes, n
