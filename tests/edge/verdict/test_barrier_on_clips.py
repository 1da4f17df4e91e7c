"""Every part of the recorded lines is found once, where the ground truth says it is. No model: the barrier alone."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import cv2
import pytest

from edge_inspect.verdict.barrier import LightBarrier
from edge_inspect.verdict.parts import Look, part_finder
from edge_inspect.verdict.recipe import Barrier, find_recipe, load_recipe

LINES = [("metal_tag_line_dev", "metal-plate"), ("cookie_line", "cookies"), ("screw_line", "screws")]
PERIOD_NS = 40_000_000


def looks_at(clip: Path, recipe_name: str, every: int, until: int | None = None) -> list[tuple[int, Look]]:
    """What the barrier wants inspected, on every `every`-th frame of the clip; fails if a part is left unjudged."""
    recipe = load_recipe(find_recipe(recipe_name))
    capture = cv2.VideoCapture(str(clip))
    finder, found, number = None, [], 0
    while capture.grab() and number != until:
        if number % every == 0:
            pixels = capture.retrieve()[1]
            finder = finder or part_finder(recipe, *pixels.shape[:2])
            found += [(number, look) for look in finder.see(pixels, number * PERIOD_NS)]
            assert finder.unjudged() == [], f"frame {number}"
        number += 1
    capture.release()
    return found


def true_part(truth: dict[str, Any], look: Look, number: int) -> int | None:
    """The part whose middle third holds the middle of the look's box."""
    middle = (look.box[0] + look.box[2]) / 2 + truth["px_per_frame"] * number
    inside = [part["id"] for part in truth["parts"] if abs(middle - part["x"] - part["w"] / 2) < part["w"] / 6]
    return inside[0] if inside else None


@pytest.mark.slow
@pytest.mark.parametrize(("clip", "recipe"), LINES)
def test_every_part_of_a_line_is_found_once_and_in_its_place(data_dir: Path, clip: str, recipe: str) -> None:
    truth = json.loads((data_dir / "replay" / f"{clip}.gt.json").read_text())
    by_part = defaultdict(list)
    for number, look in looks_at(data_dir / "replay" / f"{clip}.mp4", recipe, every=1):
        by_part[look.part].append(true_part(truth, look, number))
        assert truth["parts"][look.part]["enter_frame"] < number < truth["parts"][look.part]["exit_frame"]
    wanted = load_recipe(find_recipe(recipe)).barrier.looks
    assert by_part == {part["id"]: [part["id"]] * wanted for part in truth["parts"]}


@pytest.mark.parametrize(("clip", "recipe"), LINES)
def test_every_part_is_found_once_when_five_of_six_frames_are_skipped(data_dir: Path, clip: str, recipe: str) -> None:
    truth = json.loads((data_dir / "replay" / f"{clip}.gt.json").read_text())
    until = 900
    found = looks_at(data_dir / "replay" / f"{clip}.mp4", recipe, every=6, until=until)
    passed = [part["id"] for part in truth["parts"] if part["exit_frame"] < until]
    last = [true_part(truth, look, number) for number, look in found if look.last]
    assert last[: len(passed)] == passed
    assert len(set(last)) == len(last)


def test_a_bolt_on_a_real_stained_belt_is_found_once_and_in_the_middle(data_dir: Path) -> None:
    """Genuine footage of a conveyor; the bolt travels to the right."""
    capture = cv2.VideoCapture(str(data_dir / "replay" / "bolt-multi-size-detection.gif"))
    finder, number = None, 0
    found: list[Look] = []
    while (picture := capture.read()[1]) is not None:
        finder = finder or LightBarrier(Barrier(contrast=40), *picture.shape[:2])
        found += finder.see(picture, number * PERIOD_NS)
        assert finder.unjudged() == []
        number += 1
    capture.release()
    (look,) = found
    assert look.last
    assert abs((look.box[0] + look.box[2]) / 2 - 240) < 24
