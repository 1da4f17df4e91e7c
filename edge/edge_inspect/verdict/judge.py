"""From detections to a verdict: pure functions on arrays and one small memory per part.

1. OK needs at least one usable look on which nothing that counts as a defect was seen; without one the part is UNKNOWN.
2. A defect seen on several looks of a part is one defect: boxes of one class that overlap, or whose centres lie close,
   in the part's own coordinates.
3. A detection belongs to the part in whose box its centre lies; what lies elsewhere is another part's.
4. `decide` forgets the part; asking again is an error.

    judge = Judge(recipe, classes=("scratch",))
    judge.look(look, found.boxes, found.scores, found.classes, found.n)
    verdict = judge.decide(look.part)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_inspect.verdict.parts import Look
from edge_inspect.verdict.recipe import Area, DefectClass, Recipe

SAME_IOU = 0.2
"""Boxes of one class that overlap this much on two looks are one defect."""
SAME_DISTANCE = 0.5
"""So are boxes whose centres are closer than this share of the smaller box's longer side."""
DEFECT, NO_DEFECT, NOT_SEEN, INFO_ONLY = "defect", "no-defect", "not-seen", "below-count"

Box = tuple[float, float, float, float]


class Kind(str, Enum):
    OK = "OK"
    NG = "NG"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class Defect:
    """One defect of one part, as its most confident look saw it."""

    cls: str
    confidence: float
    box_px: Box
    """x1 y1 x2 y2 in the frame of that look."""
    part_box_px: Box
    """The same from the part's upper left corner."""
    width_mm: float | None
    height_mm: float | None
    severity: str
    looks: int
    """On how many looks it was seen."""


@dataclass(frozen=True, slots=True)
class Verdict:
    kind: Kind
    reason: str
    """Short and stable: `defect`, `no-defect`, or why the part could not be judged."""
    defects: tuple[Defect, ...] = ()


@dataclass(slots=True)
class _Memory:
    """What is known of one part until it is decided."""

    looks: int = 0
    spoilt: str = ""
    defects: list[Defect] = field(default_factory=list)
    seen_on: list[int] = field(default_factory=list)
    """For each defect, the number of the look that saw it last."""


class Judge:
    """Applies one recipe to the classes of one model. Not thread-safe: the inspect thread owns it."""

    def __init__(self, recipe: Recipe, classes: Sequence[str]) -> None:
        self._recipe = recipe
        self._classes = tuple(classes)
        self._rules = tuple(recipe.rule(name) for name in classes)
        self._mm_per_px = recipe.scale.mm_per_px if recipe.scale else None
        self._regions = [(area, _contour(area)) for area in recipe.region]
        self._ignored = [(area, _contour(area)) for area in recipe.ignore]
        self._parts: dict[int, _Memory] = {}

    def look(
        self,
        look: Look,
        boxes: NDArray[np.float32],
        scores: NDArray[np.float32],
        classes: NDArray[np.int32],
        n: int,
    ) -> None:
        """Add what one frame showed. boxes (>= n, 4) x1 y1 x2 y2 in frame px, scores (>= n,), classes (>= n,)."""
        memory = self._parts.setdefault(look.part, _Memory())
        memory.looks += 1
        for row in range(n):
            rule = self._rules[int(classes[row])]
            if rule is None or float(scores[row]) < rule.threshold:
                continue
            x1, y1, x2, y2 = boxes[row].tolist()
            defect = self._defect(look, rule, int(classes[row]), float(scores[row]), (x1, y1, x2, y2))
            if defect is not None:
                _merge(memory, defect)

    def unusable(self, look: Look, reason: str) -> None:
        """This look showed nothing that can be judged."""
        self._parts.setdefault(look.part, _Memory()).spoilt = reason

    def decide(self, part: int, reason: str = "") -> Verdict:
        """The verdict, after which the part is forgotten. reason: why its last look is missing, if it is.

        A part with at least one usable look is judged by what it showed; `reason` counts only for a part without one.
        """
        memory = self._parts.pop(part, _Memory())
        if not memory.looks:
            return Verdict(Kind.UNKNOWN, reason or memory.spoilt or NOT_SEEN)
        confirm = min(self._recipe.verdict.confirm, memory.looks)
        defects = tuple(
            sorted((d for d in memory.defects if d.looks >= confirm), key=lambda defect: -defect.confidence)
        )
        if self._is_ng(defects):
            return Verdict(Kind.NG, DEFECT, defects)
        if memory.spoilt:
            # What was seen is good, but one look could not be used: a defect may hide on it.
            return Verdict(Kind.UNKNOWN, memory.spoilt, defects)
        return Verdict(Kind.OK, INFO_ONLY if defects else NO_DEFECT, defects)

    def _is_ng(self, defects: Sequence[Defect]) -> bool:
        counted = Counter(defect.cls for defect in defects if defect.severity != "info")
        if counted.total() >= self._recipe.verdict.ng_defects:
            return True
        for cls, number in counted.items():
            rule = self._recipe.rule(cls)
            if rule is not None and rule.ng_defects is not None and number >= rule.ng_defects:
                return True
        return False

    def _defect(self, look: Look, rule: DefectClass, cls: int, score: float, box: Box) -> Defect | None:
        """None when it is too small, on another part, outside all regions, or to be ignored."""
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        if not (look.box[0] <= x < look.box[2] and look.box[1] <= y < look.box[3]):
            return None
        width, height = box[2] - box[0], box[3] - box[1]
        mm = self._mm_per_px
        if max(width, height) < rule.min_size_px:
            return None
        if rule.min_size_mm is not None and mm is not None and max(width, height) * mm < rule.min_size_mm:
            return None
        left, top = look.origin or look.box[:2]
        if self._regions and not _inside(self._regions, x, y, left, top):
            return None
        if _inside(self._ignored, x, y, left, top):
            return None
        return Defect(
            cls=self._classes[cls],
            confidence=score,
            box_px=box,
            part_box_px=(box[0] - left, box[1] - top, box[2] - left, box[3] - top),
            width_mm=width * mm if mm else None,
            height_mm=height * mm if mm else None,
            severity=rule.severity,
            looks=1,
        )


def _contour(area: Area) -> NDArray[np.float32]:
    return np.array(area.polygon, np.float32).reshape(-1, 1, 2)


def _inside(areas: Sequence[tuple[Area, NDArray[np.float32]]], x: float, y: float, left: float, top: float) -> bool:
    return any(
        cv2.pointPolygonTest(contour, (x - left, y - top) if area.of == "part" else (x, y), False) >= 0
        for area, contour in areas
    )


def _merge(memory: _Memory, new: Defect) -> None:
    """Add `new`, or, if an earlier look saw it, count one more look and keep the more confident picture of it.

    Two boxes of one look never become one: non-maximum suppression has done that already where it was right.
    """
    for index, old in enumerate(memory.defects):
        if memory.seen_on[index] < memory.looks and old.cls == new.cls and _same(old.part_box_px, new.part_box_px):
            best = new if new.confidence > old.confidence else old
            memory.defects[index] = replace(best, looks=old.looks + 1)
            memory.seen_on[index] = memory.looks
            return
    memory.defects.append(new)
    memory.seen_on.append(memory.looks)


def _same(a: Box, b: Box) -> bool:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(0.0, width) * max(0.0, height)
    union = _area(a) + _area(b) - both
    if union > 0 and both / union >= SAME_IOU:
        return True
    apart = max(abs(a[0] + a[2] - b[0] - b[2]), abs(a[1] + a[3] - b[1] - b[3])) / 2
    return apart < SAME_DISTANCE * min(max(a[2] - a[0], a[3] - a[1]), max(b[2] - b[0], b[3] - b[1]))


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
