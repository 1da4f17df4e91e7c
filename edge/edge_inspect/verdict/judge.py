"""OK, NG or UNKNOWN: from what the network found on a part's looks to one verdict.

1. OK is said only of a part that was seen: one usable look showed all of it, or its looks, all usable, covered it.
2. A defect seen on several looks of a part is one defect, at its place on the part; boxes inside each other on one look
   (the whole of a scratch and a piece of it) are one defect, too.
3. A detection counts for the part in whose box its centre lies, and for no other.
4. Numbers that cannot be (not finite, a class that does not exist) make a look unusable; they are never "no defect".
5. Pure: the same looks in the same order give the same verdict. A part is forgotten when it is decided.

    judge = Judge(recipe, classes=("scratch",))
    judge.look(look, boxes, scores, classes, n)
    verdict = judge.decide(look.part)           # once look.last is true
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_inspect.verdict.parts import NOT_SEEN, Look
from edge_inspect.verdict.recipe import Area, DefectClass, Recipe

Box = tuple[float, float, float, float]

SAME_IOU = 0.3
SAME_DISTANCE = 0.5
"""Of the smaller box's longer side: boxes of one class whose centres are closer on two looks are one defect."""
NESTED = 0.7
"""Of the smaller box: boxes of one class that share this much of it on one look are one defect."""
OPEN_PARTS = 256
"""Parts begun and never decided; the oldest is forgotten when there are more, so that nothing grows without bound."""
NON_FINITE = "non-finite"
NO_SUCH_CLASS = "no-such-class"


class Kind(str, Enum):
    OK = "OK"
    NG = "NG"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class Defect:
    """Something on a part that the recipe calls a defect, as the look saw it that was surest of it."""

    cls: str
    confidence: float
    box_px: Box
    """x1, y1, x2, y2 in px of the frame of the part's last look (where it would be seen there)."""
    part_box_px: Box
    """x1, y1, x2, y2 in px from the part's upper left corner."""
    width_mm: float | None
    height_mm: float | None
    severity: str
    looks: int
    """On how many looks it was seen."""


@dataclass(frozen=True, slots=True)
class Verdict:
    kind: Kind
    reason: str
    """A stable code: `defect`, `no-defect`, or why the part could not be judged."""
    defects: tuple[Defect, ...] = ()


@dataclass(slots=True)
class _Found:
    """One defect so far, in px from the part's corner."""

    cls: int
    score: float
    box: Box
    look: int
    """The last look that saw it."""
    looks: int = 1


@dataclass(slots=True)
class _Open:
    """A part between its first look and its verdict."""

    usable: int = 0
    usable_whole: int = 0
    unusable: str = ""
    last: Look | None = None
    found: list[_Found] = field(default_factory=list)


class Judge:
    """`classes`: the names behind the model's class numbers. Raises BadConfig if the recipe names a class it lacks."""

    def __init__(self, recipe: Recipe, classes: Sequence[str]) -> None:
        self._recipe = recipe
        self._classes = tuple(classes)
        self._thresholds: list[float] = recipe.thresholds(self._classes).tolist()
        self._regions = [(area.of == "part", _contour(area)) for area in recipe.region]
        self._ignored = [(area.of == "part", _contour(area)) for area in recipe.ignore]
        self._open: dict[int, _Open] = {}

    def look(
        self,
        look: Look,
        boxes: NDArray[np.float32],
        scores: NDArray[np.float32],
        classes: NDArray[np.int32],
        n: int,
    ) -> None:
        """What the network found on this look: the first n of boxes (M, 4) xyxy frame px, scores (M,), classes (M,)."""
        # Plain numbers: few detections, and NumPy's functions are cold after a run of the network (10 times slower).
        rows = list(zip(boxes[:n].tolist(), scores[:n].tolist(), classes[:n].tolist(), strict=True))
        if not all(math.isfinite(value) for box, score, _ in rows for value in (*box, score)):
            self.unusable(look, NON_FINITE)
            return
        if not all(0 <= cls < len(self._classes) for _, _, cls in rows):
            self.unusable(look, NO_SUCH_CLASS)
            return
        part = self._part(look)
        part.usable += 1
        part.usable_whole += look.whole
        for (x1, y1, x2, y2), score, cls in rows:
            if score >= self._thresholds[cls] and self._is_defect(look, (x1, y1, x2, y2), cls):
                left, top = _origin(look)
                box = (x1 - left, y1 - top, x2 - left, y2 - top)
                _merge(part.found, _Found(cls, min(1.0, score), box, part.usable))

    def unusable(self, look: Look, reason: str) -> None:
        """This look of the part could not be inspected."""
        part = self._part(look)
        part.unusable = part.unusable or reason

    def decide(self, number: int, reason: str = "") -> Verdict:
        """The verdict on a part. `reason`: why its last look is missing, if it is. Forgets the part.

        A part that one usable look showed whole is judged by its looks, whatever became of the others.
        """
        part = self._open.pop(number, _Open())
        defects = tuple(self._defects(part))
        if self._makes_ng(defects):
            return Verdict(Kind.NG, "defect", defects)
        covered = part.usable > 0 and not part.unusable and not reason
        if not part.usable_whole and not covered:
            return Verdict(Kind.UNKNOWN, part.unusable or reason or NOT_SEEN, defects)
        return Verdict(Kind.OK, "no-defect", defects)

    def _part(self, look: Look) -> _Open:
        part = self._open.get(look.part)
        if part is None:
            part = self._open[look.part] = _Open()
            if len(self._open) > OPEN_PARTS:
                del self._open[next(iter(self._open))]
        part.last = look
        return part

    def _is_defect(self, look: Look, box: Box, cls: int) -> bool:
        rule = self._rule(cls)
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        x0, y0, x1, y1 = look.box
        if not (x0 <= x <= x1 and y0 <= y <= y1) or self._size(box) < self._least_size(rule):
            return False
        left, top = _origin(look)
        places = ((x, y), (x - left, y - top))
        inside = (cv2.pointPolygonTest(contour, places[of_part], False) >= 0 for of_part, contour in self._regions)
        ignored = (cv2.pointPolygonTest(contour, places[of_part], False) >= 0 for of_part, contour in self._ignored)
        return (not self._regions or any(inside)) and not any(ignored)

    def _rule(self, cls: int) -> DefectClass:
        rule = self._recipe.rule(self._classes[cls])
        assert rule is not None, "its threshold is out of reach"
        return rule

    @staticmethod
    def _size(box: Box) -> float:
        return max(box[2] - box[0], box[3] - box[1])

    def _least_size(self, rule: DefectClass) -> float:
        if rule.min_size_mm is None or self._recipe.scale is None:
            return rule.min_size_px
        return rule.min_size_mm / self._recipe.scale.mm_per_px

    def _defects(self, part: _Open) -> Iterator[Defect]:
        """What was confirmed, surest first. Long parts: a stretch is seen once, so there is nothing to confirm."""
        needed = min(self._recipe.verdict.confirm, max(1, part.usable_whole))
        for found in sorted(part.found, key=lambda each: (-each.score, each.box)):
            if found.looks >= needed and part.last is not None:
                yield self._defect(found, part.last)

    def _defect(self, found: _Found, last: Look) -> Defect:
        x1, y1, x2, y2 = found.box
        scale = self._recipe.scale
        return Defect(
            cls=self._classes[found.cls],
            confidence=found.score,
            box_px=_in_frame(last, found.box),
            part_box_px=found.box,
            width_mm=(x2 - x1) * scale.mm_per_px if scale else None,
            height_mm=(y2 - y1) * scale.mm_per_px if scale else None,
            severity=self._rule(found.cls).severity,
            looks=found.looks,
        )

    def _makes_ng(self, defects: Sequence[Defect]) -> bool:
        counting = [defect.cls for defect in defects if defect.severity != "info"]
        if len(counting) >= self._recipe.verdict.ng_defects:
            return True
        limits = ((cls, self._recipe.rule(cls)) for cls in set(counting))
        return any(rule and rule.ng_defects and counting.count(cls) >= rule.ng_defects for cls, rule in limits)


def _origin(look: Look) -> tuple[int, int]:
    return look.origin if look.origin is not None else look.box[:2]


def _in_frame(look: Look, part_box: Box) -> Box:
    """A place on the part as a place in this look's frame; of a long part, as near to it as the stretch comes."""
    left, top = _origin(look)
    x0, y0, x9, y9 = (0, 0, math.inf, math.inf) if look.whole else look.box
    xs = [min(max(x + left, x0), x9) for x in (part_box[0], part_box[2])]
    ys = [min(max(y + top, y0), y9) for y in (part_box[1], part_box[3])]
    return xs[0], ys[0], xs[1], ys[1]


def _contour(area: Area) -> NDArray[np.float32]:
    return np.array(area.polygon, np.float32)


def _merge(known: list[_Found], new: _Found) -> None:
    """Count it as the known defect it is, or as a new one. The surest box says where it is."""
    for old in known:
        if old.cls != new.cls:
            continue
        if old.look == new.look and _is_nested(old.box, new.box):
            if new.score > old.score:
                old.score, old.box = new.score, new.box
            return
        if old.look != new.look and _is_same_place(old.box, new.box):
            if new.score > old.score:
                old.score, old.box = new.score, new.box
            old.look, old.looks = new.look, old.looks + 1
            return
    known.append(new)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _common(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _is_nested(a: Box, b: Box) -> bool:
    return _common(a, b) >= NESTED * min(_area(a), _area(b))


def _is_same_place(a: Box, b: Box) -> bool:
    both = _common(a, b)
    apart = max(abs(a[0] + a[2] - b[0] - b[2]), abs(a[1] + a[3] - b[1] - b[3])) / 2
    longer = min(max(box[2] - box[0], box[3] - box[1]) for box in (a, b))
    return both >= SAME_IOU * (_area(a) + _area(b) - both) or apart <= SAME_DISTANCE * longer
