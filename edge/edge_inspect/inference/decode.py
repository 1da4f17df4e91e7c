"""The network's output into a few detections in source pixels. Pure arrays, made once.

1. The same boxes as ultralytics' `non_max_suppression`: score above the threshold, best class per anchor, class-wise
   greedy suppression at IoU `iou`, at most `max_det`, best first.
2. Thresholds are per class; a class below its own threshold never hides another one that is above.
3. An output that holds NaN or infinity gives no detections and `finite = False`: the part is UNKNOWN, never OK.
4. Nothing of the output's size is allocated per call; the arrays of `Detections` are overwritten by the next call.

    decoder = Decoder(engine.layout, engine.classes)
    found = decoder.decode(engine.output, letterbox, thresholds)
    found.boxes[: found.n]

Source of the formulas: ultralytics/utils/nms.py, torchvision.ops.nms.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_inspect.inference.letterbox import Letterbox
from edge_wire.manifest import Layout

_HALF = np.float32(0.5)


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
        self._iou = np.float32(iou)
        self._best: NDArray[np.float32] = np.empty(0, np.float32)
        self._above: NDArray[np.bool_] = np.empty(0, np.bool_)
        self._found = Detections(max_det)

    def decode(self, output: NDArray[np.float32], letterbox: Letterbox, thresholds: NDArray[np.float32]) -> Detections:
        """output: (1, 4 + classes, anchors) or (1, n, 6) float32. thresholds: (classes,) float32, exclusive.

        The returned object is always the same one.
        """
        found = self._found
        # One NaN or infinity anywhere makes the sum one; np.isfinite would need an array as large as the output.
        with np.errstate(all="ignore"):
            found.finite = bool(np.isfinite(np.add.reduce(output, axis=None)))
        found.n = 0
        if not found.finite:
            return found
        if self._layout == "raw":
            boxes, scores, classes = self._candidates_raw(output[0], thresholds)
            keep = suppress(boxes, scores, classes, self._iou, self._max_det)
        else:
            boxes, scores, classes = self._candidates_end2end(output[0], thresholds)
            keep = np.arange(min(len(scores), self._max_det))
        found.n = len(keep)
        np.take(boxes, keep, axis=0, out=found.boxes[: found.n])
        np.take(scores, keep, out=found.scores[: found.n])
        np.take(classes, keep, out=found.classes[: found.n])
        letterbox.to_source(found.boxes, found.n)
        return found

    def _candidates_raw(
        self, head: NDArray[np.float32], thresholds: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:
        """Boxes x1 y1 x2 y2 (network px), scores and classes of the anchors that pass, best score first."""
        rows = head[4 : 4 + self._classes]
        if len(self._best) != head.shape[1]:
            self._best = np.empty(head.shape[1], np.float32)
            self._above = np.empty(head.shape[1], np.bool_)
        np.maximum.reduce(rows, axis=0, out=self._best)
        np.greater(self._best, thresholds.min(), out=self._above)
        anchors = np.flatnonzero(self._above)
        scores_of_all = rows[:, anchors]
        # Below its own threshold a class does not count; with one threshold for all this is the plain maximum.
        scores_of_all[scores_of_all <= thresholds[:, None]] = 0
        classes = scores_of_all.argmax(axis=0).astype(np.int32)
        scores = scores_of_all[classes, np.arange(len(anchors))]
        order = np.argsort(-scores, kind="stable")
        order = order[: np.count_nonzero(scores)]
        cx, cy, w, h = head[:4, anchors[order]]
        boxes = np.stack((cx - w * _HALF, cy - h * _HALF, cx + w * _HALF, cy + h * _HALF), axis=1)
        return boxes, scores[order], classes[order]

    def _candidates_end2end(
        self, rows: NDArray[np.float32], thresholds: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:
        above = np.flatnonzero(rows[:, 4] > thresholds.min())
        rows = rows[above]
        classes = rows[:, 5].astype(np.int32)
        mine = (classes >= 0) & (classes < self._classes)
        mine &= rows[:, 4] > thresholds[np.where(mine, classes, 0)]
        rows, classes = rows[mine], classes[mine]
        order = np.argsort(-rows[:, 4], kind="stable")
        return rows[order, :4], rows[order, 4], classes[order]


def suppress(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    classes: NDArray[np.int32],
    iou: np.float32,
    most: int,
) -> NDArray[np.intp]:
    """Greedy class-wise non-maximum suppression; indices of the kept boxes, best first.

    boxes (n, 4) x1 y1 x2 y2, scores (n,), classes (n,), already sorted by score.
    """
    assert len(boxes) == len(scores) == len(classes)
    x1, y1, x2, y2 = boxes.T
    areas = (x2 - x1) * (y2 - y1)
    left = np.arange(len(boxes))
    kept: list[int] = []
    while len(left) and len(kept) < most:
        best, rest = int(left[0]), left[1:]
        kept.append(best)
        if not len(rest):
            break
        w = np.minimum(x2[best], x2[rest]) - np.maximum(x1[best], x1[rest])
        h = np.minimum(y2[best], y2[rest]) - np.maximum(y1[best], y1[rest])
        both = np.maximum(w, 0) * np.maximum(h, 0)
        # both / union > iou, without dividing by a union of nothing
        hidden = (both > iou * (areas[best] + areas[rest] - both)) & (classes[rest] == classes[best])
        left = rest[~hidden]
    return np.array(kept, np.intp)
