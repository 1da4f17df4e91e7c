"""Boxes, names and verdicts drawn on a copy of a picture: for people, never on the way of a frame."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from edge_inspect.capture.protocol import Pixels
from edge_inspect.pipeline import Judged
from edge_inspect.verdict.judge import Box, Defect, Kind, Verdict
from edge_inspect.verdict.parts import Sighting

Colour = tuple[int, int, int]
COLOURS = {Kind.OK: (80, 160, 40), Kind.NG: (40, 40, 220), Kind.UNKNOWN: (0, 160, 230)}
"""BGR."""
WAITING = (150, 150, 150)
FONT = cv2.FONT_HERSHEY_SIMPLEX


def drawn(pixels: Pixels, judged: Judged) -> Pixels:
    """A copy of the frame with the part's frame, its verdict and each defect's box and confidence."""
    picture = pixels.copy()
    if judged.box_px is not None:
        _frame(picture, judged.box_px, COLOURS[judged.verdict.kind])
    _draw_defects(picture, [(defect, defect.box_px) for defect in judged.verdict.defects])
    return picture


def draw_part(picture: Pixels, sighting: Sighting, verdict: Verdict | None) -> None:
    """Onto the picture itself: the part where it is now, its number and verdict, its defects where they are now."""
    colour = COLOURS[verdict.kind] if verdict else WAITING
    _frame(picture, sighting.box, colour)
    left, top = sighting.origin
    found = []
    for defect in verdict.defects if verdict else ():
        x1, y1, x2, y2 = defect.part_box_px
        found.append((defect, (x1 + left, y1 + top, x2 + left, y2 + top)))
    _draw_defects(picture, found)
    if sighting.part is not None:
        text = f"#{sighting.part} {verdict.kind.value}" if verdict else f"#{sighting.part}"
        write(picture, text, sighting.box[:2], colour, 0.5 * unit(picture))


def _frame(picture: Pixels, box: tuple[int, int, int, int], colour: Colour) -> None:
    cv2.rectangle(picture, box[:2], (box[2] - 1, box[3] - 1), colour, round(2 * unit(picture)))


def _draw_defects(picture: Pixels, found: Sequence[tuple[Defect, Box]]) -> None:
    """All boxes, then all names: no line runs through a name. What has left the picture keeps no name."""
    size = unit(picture)
    for _, (x1, y1, x2, y2) in found:
        cv2.rectangle(picture, (round(x1), round(y1)), (round(x2), round(y2)), COLOURS[Kind.NG], round(2 * size))
    for defect, (x1, y1, x2, _) in found:
        if 0 <= x1 + x2 < 2 * picture.shape[1]:
            name = f"{defect.cls} {defect.confidence:.2f}"
            write(picture, name, (round(x1), round(y1 - 5 * size)), COLOURS[Kind.NG], 0.5 * size)


def unit(picture: Pixels) -> float:
    """How much thicker and larger things are drawn on a large picture."""
    return max(1.0, float(picture.shape[0]) / 480)


def write(picture: Pixels, text: str, at: tuple[int, int], colour: Colour, size: float = 0.5) -> None:
    """White text on a patch of `colour`, kept inside the picture; `at` is its lower left corner, px."""
    weight = max(1, round(size * 1.6))
    (width, height), below = cv2.getTextSize(text, FONT, size, weight)
    x = max(0, min(at[0], picture.shape[1] - width - 6))
    y = max(height + 6, min(at[1], picture.shape[0] - below - 2))
    cv2.rectangle(picture, (x, y - height - 5), (x + width + 6, y + below), colour, -1)
    cv2.putText(picture, text, (x + 3, y - 1), FONT, size, (255, 255, 255), weight, cv2.LINE_AA)


def words(judged: Judged) -> list[str]:
    """`part 12: NG`, then a line a defect, or the reason."""
    verdict = judged.verdict
    found = [f"{defect.cls} {defect.confidence:.2f}" for defect in verdict.defects] or [verdict.reason]
    return [f"part {judged.part}: {verdict.kind.value}", *found]


def shrunk(picture: Pixels, width_px: int) -> Pixels:
    """The picture scaled down to a width, aspect kept."""
    height_px = max(1, round(picture.shape[0] * width_px / picture.shape[1]))
    return np.asarray(cv2.resize(picture, (width_px, height_px), interpolation=cv2.INTER_AREA))
