"""The page of a replay: it says what was missed, and that nothing was inspected where that is so."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import cv2
import numpy as np
import pytest

from edge_inspect.cli.gallery import Gallery
from edge_inspect.cli.summary import why_nothing
from edge_inspect.pipeline import Judged, Lane
from edge_inspect.verdict.judge import Kind, Verdict

LANE = cast(Lane, SimpleNamespace(name="camera", engine=SimpleNamespace(classes=("scratch", "dent"))))
RESULT: dict[str, Any] = {
    "parts": 3, "ok": 3, "ng": 0, "unknown": 0, "escapes": None, "overkill": None, "map50": None, "frames": 90,
    "model": "m 1", "provider": "cpu", "inferences": 3, "unknown_by_reason": {},
}  # fmt: skip


def truth(cls: str | float) -> dict[str, Any]:
    part = {"id": 4, "x": 50, "w": 200, "verdict": "NG", "enter_frame": 0, "exit_frame": 1}
    other = {"id": 5, "x": 260, "w": 40, "verdict": "NG", "enter_frame": 0, "exit_frame": 1}
    boxes = [{"part": 4, "cls": cls, "bbox": [100, 60, 160, 120]}, {"part": 5, "cls": cls, "bbox": [270, 60, 290, 120]}]
    return {"fps": 25, "px_per_frame": 0, "parts": [part, other], "frames": [boxes]}


@pytest.mark.parametrize("cls", ["dent", 1])
def test_an_escape_shows_what_was_missed_dashed_and_by_name(tmp_path: Path, cls: str | float) -> None:
    gallery = Gallery(tmp_path, "Replay", truth(cls))
    verdict = Verdict(Kind.OK, "no-defect", ())
    judged = cast(Judged, SimpleNamespace(verdict=verdict, part=9, frame_index=0, box_px=(50, 0, 250, 200)))
    gallery.judged(LANE, judged, np.full((200, 320, 3), 255, np.uint8))
    page = gallery.close(RESULT).read_text()
    assert "escape" in page and "dashed, not found: dent" in page and gallery.shown == 1
    picture = cv2.imread(str(tmp_path / "parts" / "camera-000009.jpg"))
    red = (picture[:, :, 2].astype(int) - picture[:, :, 1]) > 60
    edge = red[56:59, 97:163].any(axis=0)
    assert 0.3 < edge.mean() < 0.8
    assert not red[:, 262:].any()


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"frames": 0, "parts": 0, "inferences": 0}, "nothing was inspected: the source gave no picture"),
        ({"parts": 0, "inferences": 0}, "nothing was inspected: no part was found in 90 frames; does the recipe fit"),
        ({"parts": 0, "frames": 1}, "no part was judged: none had passed in 1 frame"),
        (
            {"inferences": 0, "unknown_by_reason": {"black": 3}},
            "nothing was inspected: no part could be looked at (black",
        ),
    ],
)
def test_the_page_says_that_nothing_was_inspected_and_why(tmp_path: Path, told: dict[str, Any], why: str) -> None:
    result = {**RESULT, **told}
    assert why_nothing(result).startswith(why)
    page = Gallery(tmp_path, "Replay").close(result).read_text()
    assert why[1:] in page and "No part was NG" not in page


def test_a_page_of_good_parts_says_so(tmp_path: Path) -> None:
    page = Gallery(tmp_path, "Replay").close(RESULT).read_text()
    assert "No part was NG or UNKNOWN" in page and "nothing was inspected" not in page.lower()
