"""Golden pictures: what a model must find on them is what people labelled, and what it really finds.

1. A picture on which the model contradicts the labels is never a golden one, chosen or given.
2. Chosen are pictures on which every variant agrees, with clear answers: nothing near its threshold.
3. There is a good one and one of each class, or the package is refused: a model that says always the same would pass.

    choose([fp32_looks, int8_looks], classes, thresholds, Tolerance())      # numbers of val pictures
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cloud_inspect.errors import BadRelease
from cloud_inspect.learning.detect import Found
from cloud_inspect.release.judge import Looks
from edge_wire.manifest import Tolerance

LEAST_IOU = 0.5
MOST_PICTURES = 20
MOST_BYTES = 1 << 23


def choose(
    looks: Sequence[Looks], classes: Sequence[str], thresholds: Mapping[str, float], tolerance: Tolerance
) -> list[int]:
    """Numbers of the clearest val pictures: a good one, then one of each class.

    looks: of every variant, the first is the reference. Raises BadRelease: golden-none.
    """
    least = np.array([thresholds[name] for name in classes])
    first = looks[0]
    fit = [
        number
        for number in range(len(first.samples))
        if all(_clear(one, number, least, tolerance) for one in looks)
        and all(_near(first.found[number], one.found[number], least, tolerance) for one in looks[1:])
        and first.samples[number].picture.stat().st_size <= MOST_BYTES
    ]
    good = [number for number in fit if not len(first.truth[number][0])]
    if not good:
        raise BadRelease("golden-none", "no good val picture on which every variant finds nothing")
    chosen = [min(good, key=lambda number: first.found[number][:, 4].max(initial=0.0))]
    for c, name in enumerate(classes[: MOST_PICTURES - 1]):
        showing = [number for number in fit if (first.truth[number][0][:, 4] == c).any()]
        if not showing:
            raise BadRelease("golden-none", f"no val picture of {name} on which every variant finds what is labelled")
        if not set(showing) & set(chosen):
            chosen.append(max(showing, key=lambda number: _least_score(first.found[number], least)))
    return chosen


def contradiction(found: Found, truth: Found, least: np.ndarray[tuple[int], np.dtype[np.float64]]) -> str:
    """Empty when `found` above the thresholds is what is labelled, one to one, else the first difference."""
    clear = found[found[:, 4] > least[found[:, 5].astype(int)]]
    open_rows = list(range(len(clear)))
    for label in truth:
        same = [row for row in open_rows if clear[row, 5] == label[4] and iou(clear[row, :4], label[:4]) >= LEAST_IOU]
        if not same:
            return f"does not find class {int(label[4])} at {[round(float(side)) for side in label[:4]]}"
        open_rows.remove(max(same, key=lambda row: iou(clear[row, :4], label[:4])))
    if open_rows:
        row = clear[open_rows[0]]
        return f"finds class {int(row[5])} at {[round(float(side)) for side in row[:4]]}, where nothing is labelled"
    return ""


def iou(one: Found, other: Found) -> float:
    """Intersection over union of two boxes x1, y1, x2, y2."""
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:4], other[2:4])
    shared = float(np.clip(high - low, 0, None).prod())
    whole = float((one[2:4] - one[:2]).prod() + (other[2:4] - other[:2]).prod()) - shared
    return shared / whole if whole > 0 else 0.0


def _clear(looks: Looks, number: int, least: Found, tolerance: Tolerance) -> bool:
    found = looks.found[number]
    near = np.abs(found[:, 4] - least[found[:, 5].astype(int)]) <= tolerance.confidence
    return not near.any() and not contradiction(found, looks.truth[number][0], least)


def _near(first: Found, other: Found, least: Found, tolerance: Tolerance) -> bool:
    """Whether two variants find the same within the tolerance; both agree with the labels already."""
    pairs = [one[one[:, 4] > least[one[:, 5].astype(int)]] for one in (first, other)]
    return len(pairs[0]) == len(pairs[1]) and all(
        any(
            row[5] == twin[5]
            and abs(row[4] - twin[4]) <= tolerance.confidence
            and np.abs(row[:4] - twin[:4]).max() <= tolerance.box_px
            for twin in pairs[1]
        )
        for row in pairs[0]
    )


def _least_score(found: Found, least: Found) -> float:
    return float(found[found[:, 4] > least[found[:, 5].astype(int)], 4].min(initial=1.0))
