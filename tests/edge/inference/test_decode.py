"""From the network's output to detections: both layouts, thresholds, suppression, nothing from broken numbers."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_inspect.inference.decode import Decoder, Detections
from edge_inspect.inference.letterbox import Letterbox

SAME = Letterbox(384, 640, 384, 640)
Row = tuple[float, float, float, float, tuple[float, ...]]  # x1 y1 x2 y2, scores


def raw(rows: list[Row], classes: int = 1, anchors: int = 5040) -> NDArray[np.float32]:
    output = np.zeros((1, 4 + classes, anchors), np.float32)
    spread = np.random.default_rng(0).permutation(anchors)
    for at, (x1, y1, x2, y2, scores) in zip(spread, rows, strict=False):
        output[0, :, at] = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, *scores)
    return output


def end2end(rows: list[Row]) -> NDArray[np.float32]:
    output = np.zeros((1, 300, 6), np.float32)
    for at, (*box, scores) in enumerate(rows):
        output[0, at] = (*box, max(scores), int(np.argmax(scores)))
    return output


def decode(output: NDArray[np.float32], thresholds: list[float], layout: str = "raw") -> Detections:
    names = [f"class-{i}" for i in range(len(thresholds))]
    return Decoder(layout, names).decode(output, SAME, np.array(thresholds, np.float32))  # type: ignore[arg-type]


def seen(found: Detections) -> list[tuple[list[float], float, int]]:
    rows = zip(found.boxes[: found.n], found.scores[: found.n], found.classes[: found.n], strict=True)
    return [([round(float(v), 2) for v in box], round(float(score), 3), int(cls)) for box, score, cls in rows]


def test_nothing_above_the_threshold_gives_nothing() -> None:
    found = decode(raw([(10, 10, 20, 20, (0.5,))]), [0.5])
    assert (found.n, found.finite) == (0, True)


def test_detections_come_best_first_with_box_and_class() -> None:
    found = decode(raw([(10, 20, 30, 60, (0.6, 0.1)), (100, 100, 200, 150, (0.2, 0.9))], classes=2), [0.5, 0.5])
    assert seen(found) == [([100, 100, 200, 150], 0.9, 1), ([10, 20, 30, 60], 0.6, 0)]


def test_overlapping_boxes_of_one_class_leave_the_best() -> None:
    found = decode(raw([(10, 10, 110, 60, (0.7,)), (12, 11, 111, 60, (0.8,)), (300, 10, 400, 60, (0.6,))]), [0.5])
    assert seen(found) == [([12, 11, 111, 60], 0.8, 0), ([300, 10, 400, 60], 0.6, 0)]


def test_overlapping_boxes_of_two_classes_both_stay() -> None:
    found = decode(raw([(10, 10, 110, 60, (0.7, 0)), (10, 10, 110, 60, (0, 0.8))], classes=2), [0.5, 0.5])
    assert [cls for _, _, cls in seen(found)] == [1, 0]


def test_class_below_its_own_threshold_does_not_hide_one_above() -> None:
    both = [(10.0, 10.0, 110.0, 60.0, (0.6, 0.4))]
    assert seen(decode(raw(both, classes=2), [0.7, 0.3])) == [([10, 10, 110, 60], 0.4, 1)]


@pytest.mark.parametrize("layout", ["raw", "end2end"])
def test_threshold_of_each_class_counts(layout: str) -> None:
    rows: list[Row] = [(10, 10, 50, 50, (0.4, 0)), (100, 10, 150, 50, (0, 0.4))]
    output = raw(rows, classes=2) if layout == "raw" else end2end(rows)
    assert [cls for _, _, cls in seen(decode(output, [0.5, 0.3], layout))] == [1]


def test_end2end_rows_are_taken_as_they_are() -> None:
    rows: list[Row] = [(10, 10, 110, 60, (0.7,)), (12, 11, 111, 60, (0.8,))]
    assert [score for _, score, _ in seen(decode(end2end(rows), [0.5], "end2end"))] == [0.8, 0.7]


def test_end2end_row_of_an_unknown_class_is_left_out() -> None:
    output = end2end([(10, 10, 110, 60, (0.9,))])
    output[0, 0, 5] = 7
    assert decode(output, [0.5], "end2end").n == 0


@pytest.mark.parametrize("layout", ["raw", "end2end"])
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 4])
def test_broken_number_anywhere_gives_no_detections_and_is_told(layout: str, poison: float, row: int) -> None:
    rows: list[Row] = [(10, 10, 50, 50, (0.9,))]
    output = raw(rows) if layout == "raw" else end2end(rows)
    (output[0] if layout == "raw" else output[0].T)[row, 200] = poison
    found = decode(output, [0.5], layout)
    assert (found.n, found.finite) == (0, False)


def test_broken_output_is_forgotten_by_the_next_good_one() -> None:
    decoder = Decoder("raw", ["scratch"])
    thresholds = np.array([0.5], np.float32)
    assert not decoder.decode(np.full((1, 5, 5040), np.nan, np.float32), SAME, thresholds).finite
    found = decoder.decode(raw([(10, 10, 50, 50, (0.9,))]), SAME, thresholds)
    assert (found.n, found.finite) == (1, True)


def test_no_more_than_max_det_come_back() -> None:
    rows: list[Row] = [(x * 6.0, 10, x * 6.0 + 5, 15, (0.5 + x / 1000,)) for x in range(100)]
    found = Decoder("raw", ["scratch"], max_det=10).decode(raw(rows), SAME, np.array([0.3], np.float32))
    assert found.n == 10
    assert float(found.scores[0]) == pytest.approx(0.599)


def test_suppression_keeps_what_a_slow_and_plain_one_keeps() -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        corner = rng.uniform(0, 100, (80, 2)).astype(np.float32)
        boxes = np.concatenate([corner, corner + rng.uniform(5, 60, (80, 2)).astype(np.float32)], axis=1)
        scores = np.sort(rng.uniform(0.1, 1, 80))[::-1]
        classes = rng.integers(0, 3, 80)
        rows: list[Row] = [
            (*box, tuple(float(score) if cls == own else 0.0 for cls in range(3)))
            for box, score, own in zip(boxes.tolist(), scores, classes, strict=True)
        ]
        decoder = Decoder("raw", ["a", "b", "c"], iou=0.45)
        found = decoder.decode(raw(rows, classes=3), SAME, np.full(3, 0.05, np.float32))
        kept = slowly(boxes.tolist(), classes.tolist(), 0.45)
        assert found.scores[: found.n].tolist() == pytest.approx(scores[kept].tolist())
        assert np.abs(found.boxes[: found.n] - boxes[kept]).max() < 0.01


def slowly(boxes: list[list[float]], classes: list[int], limit: float) -> list[int]:
    kept: list[int] = []
    for i, box in enumerate(boxes):
        if all(classes[i] != classes[k] or iou(box, boxes[k]) <= limit for k in kept):
            kept.append(i)
    return kept


def iou(a: list[float], b: list[float]) -> float:
    w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = w * h
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)
