"""Boxes, names and verdicts drawn on a copy of a picture: for people, never on the way of a frame."""

from __future__ import annotations

import cv2
import numpy as np

from edge_inspect.capture.protocol import Pixels
from edge_inspect.pipeline import Judged
from edge_inspect.verdict.judge import Kind

COLOURS = {Kind.OK: (80, 160, 40), Kind.NG: (40, 40, 220), Kind.UNKNOWN: (0, 160, 230)}
"""BGR."""
FONT = cv2.FONT_HERSHEY_SIMPLEX


def drawn(pixels: Pixels, judged: Judged) -> Pixels:
    """A copy of the frame with the part's frame, its verdict and each defect's box and confidence."""
    picture = pixels.copy()
    colour = COLOURS[judged.verdict.kind]
    unit = max(1.0, picture.shape[0] / 480)
    if judged.box_px is not None:
        x0, y0, x1, y1 = judged.box_px
        cv2.rectangle(picture, (x0, y0), (x1 - 1, y1 - 1), colour, round(2 * unit))
    for defect in judged.verdict.defects:
        x0, y0, x1, y1 = (round(side) for side in defect.box_px)
        cv2.rectangle(picture, (x0, y0), (x1, y1), COLOURS[Kind.NG], round(2 * unit))
        write(
            picture, f"{defect.cls} {defect.confidence:.2f}", (x0, y0 - round(5 * unit)), COLOURS[Kind.NG], 0.5 * unit
        )
    return picture


def write(picture: Pixels, text: str, at: tuple[int, int], colour: tuple[int, int, int], size: float = 0.5) -> None:
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
