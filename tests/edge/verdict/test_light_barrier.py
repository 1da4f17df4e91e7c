"""The light barrier finds every part once, on belts that are not always kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_inspect.verdict.barrier import HIDDEN_FRAMES, LightBarrier
from edge_inspect.verdict.parts import FramePart, part_finder
from edge_inspect.verdict.recipe import Barrier, Recipe
from tests.edge.verdict.belt_line import PERIOD_NS, BeltLine, Pixels, Watched, watch

PLATES = [400, 380, 420, 400]


def barrier(line: BeltLine, **rule: Any) -> LightBarrier:
    return LightBarrier(Barrier(**{"contrast": 20, "min_length": 0.1, **rule}), line.height, line.width)


def assert_each_once(line: BeltLine, watched: Watched, looks: int = 1) -> None:
    assert watched.unjudged == []
    found = [(look.part, line.part_in(look, number)) for number, look in watched.looks]
    assert found == [(part, part) for part in range(len(line.lengths)) for _ in range(looks)]
    assert [look.part for _, look in watched.last_looks()] == list(range(len(line.lengths)))


@pytest.mark.parametrize("speed", [1.0, 8.0, 37.0, 90.0])
def test_every_part_is_found_once_at_any_belt_speed(speed: float) -> None:
    line = BeltLine(PLATES[:1] if speed < 2 else PLATES, speed=speed)
    assert_each_once(line, watch(barrier(line), line))


@pytest.mark.parametrize(("width", "height"), [(320, 240), (960, 540), (1280, 720), (1920, 1080)])
def test_every_part_is_found_once_at_any_picture_size(width: int, height: int) -> None:
    scale = width / 640
    line = BeltLine(
        [int(length * scale) for length in PLATES[:2]],
        spacing=int(60 * scale),
        speed=10 * scale,
        width=width,
        height=height,
        rows=(height // 10, height * 9 // 10),
    )
    assert_each_once(line, watch(barrier(line), line))


@pytest.mark.parametrize("direction", ["right", "up", "down", "auto-right"])
def test_every_part_is_found_once_in_any_direction(direction: str) -> None:
    line = BeltLine(PLATES)
    vertical = direction in ("up", "down")

    def turned(picture: Pixels) -> Pixels:
        if vertical:
            picture = picture.transpose(1, 0, 2)
        return np.ascontiguousarray({"up": picture, "down": picture[::-1]}.get(direction, picture[:, ::-1]))

    size = turned(line.frame(0)).shape[:2]
    rule = Barrier(contrast=20, direction="auto" if direction == "auto-right" else direction)  # type: ignore[arg-type]
    finder, watched = LightBarrier(rule, *size), Watched()
    for number, picture in line.play():
        watched.see(finder, number, turned(picture))
    assert watched.unjudged == []
    assert [look.part for _, look in watched.looks] == [0, 1, 2, 3]
    for (_, look), length in zip(watched.looks, PLATES, strict=True):
        x0, y0, x1, y1 = look.box
        along = y1 - y0 if vertical else x1 - x0
        assert abs(along - length) < 24


def test_a_look_is_had_when_the_part_is_in_the_middle() -> None:
    line = BeltLine(PLATES)
    for _, look in watch(barrier(line), line).looks:
        assert abs((look.box[0] + look.box[2]) / 2 - 320) <= line.speed + 4
        assert abs(look.box[1] - 40) <= 16
        assert abs(look.box[3] - 320) <= 16


def test_several_looks_are_spread_over_the_way_and_only_the_last_says_so() -> None:
    line = BeltLine([200, 220, 210])
    watched = watch(barrier(line, looks=3), line)
    assert_each_once(line, watched, looks=3)
    centres = [(look.box[0] + look.box[2]) / 2 for _, look in watched.looks if look.part == 1]
    assert centres == pytest.approx([425, 320, 215], abs=14)
    assert [look.last for _, look in watched.looks] == [False, False, True] * 3


def test_small_parts_that_share_the_picture_are_told_apart() -> None:
    line = BeltLine([80, 70, 90, 75, 80, 60, 85], spacing=40, speed=11)
    assert_each_once(line, watch(barrier(line, min_length=0.06), line))


def test_fragments_closer_than_the_gap_are_one_part_and_crumbs_alone_are_none() -> None:
    line = BeltLine([120, 80, 14], spacing=0)
    line.starts = lambda: [640, 640 + 140, 640 + 500]  # type: ignore[method-assign]
    watched = watch(barrier(line, gap=0.05), line)
    assert [look.part for _, look in watched.looks] == [0]
    box = watched.looks[0][1].box
    assert abs((box[2] - box[0]) - 220) < 16
    assert watched.unjudged == []


def test_a_belt_that_stops_and_starts_loses_and_doubles_nothing() -> None:
    line = BeltLine(PLATES)
    finder, watched, at = barrier(line), Watched(), 0
    for number, picture in line.play():
        for _ in range(40 if number in (30, 68, 69, 100, 131) else 1):
            watched.see(finder, number, picture, at * PERIOD_NS)
            at += 1
    assert_each_once(line, watched)


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=60, max_size=60), st.booleans())
def test_skipped_frames_lose_and_double_nothing(skips: list[int], clock: bool) -> None:
    """With time stamps of the frames, or with those of a file that is read as fast as can be."""
    line = BeltLine(PLATES[:3])
    finder, watched, number = barrier(line), Watched(), 0
    for read in range(line.frames):
        watched.see(finder, number, line.frame(number), number * PERIOD_NS if clock else read * 1_000_000)
        number += skips[read % len(skips)]
        if number > line.frames:
            break
    assert_each_once(line, watched)


@pytest.mark.parametrize("noise", [3.0, 8.0])
def test_sensor_noise_makes_no_parts_and_hides_none(noise: float) -> None:
    line = BeltLine(PLATES[:3], noise=noise)
    assert_each_once(line, watch(barrier(line), line))


def test_light_that_drifts_and_falls_off_makes_no_parts_and_hides_none() -> None:
    line = BeltLine(PLATES)
    fall_off = np.linspace(0.75, 1.0, line.width)[None, :, None] * np.linspace(1.0, 0.9, line.height)[:, None, None]
    finder, watched = barrier(line), Watched()
    for number in range(line.frames):
        light = 1 + 0.2 * np.sin(number / 25)
        watched.see(finder, number, np.asarray(np.clip(line.frame(number) * fall_off * light, 0, 255), np.uint8))
    assert_each_once(line, watched)


@pytest.mark.parametrize("lamp", [0.6, 1.2])
def test_a_lamp_that_is_switched_makes_no_parts_and_hides_none(lamp: float) -> None:
    line = BeltLine(PLATES, noise=1)
    finder, watched = barrier(line), Watched()
    for number, picture in line.play():
        light = lamp if 100 <= number < 171 else 1.0
        watched.see(finder, number, np.asarray(np.clip(picture * light, 0, 255), np.uint8))
    assert_each_once(line, watched)


@pytest.mark.parametrize("skip", [1, 20])
def test_parts_as_wide_as_the_picture_are_never_taken_for_a_change_of_light(skip: int) -> None:
    line = BeltLine(PLATES * 2, rows=(0, 360))
    assert_each_once(line, watch(barrier(line), line, skip))


def test_parts_little_brighter_than_a_dark_belt_are_found() -> None:
    line = BeltLine([255, 255, 255], spacing=70, speed=6, belt=(58, 59, 58), part=(88, 88, 88), rows=(10, 350), noise=2)
    assert_each_once(line, watch(barrier(line, contrast=8), line))


def test_belt_colour_from_the_recipe_finds_parts_as_wide_as_the_picture() -> None:
    line = BeltLine(PLATES, rows=(0, 360))
    assert_each_once(line, watch(barrier(line, belt_bgr=[200, 205, 200]), line))


def test_parts_as_wide_as_the_picture_are_found_when_the_belt_was_seen_first() -> None:
    line = BeltLine(PLATES, rows=(0, 360))
    assert_each_once(line, watch(barrier(line), line))


def test_rails_along_the_belt_are_left_out_by_the_band() -> None:
    line = BeltLine(PLATES, rows=(80, 280))
    finder, watched = barrier(line, band=[0.15, 0.85]), Watched()
    for number, picture in line.play():
        picture[:45] = picture[-45:] = (20, 140, 20)
        watched.see(finder, number, picture)
    assert_each_once(line, watched)


def test_dirt_on_the_lens_is_no_part() -> None:
    line = BeltLine(PLATES)
    finder, watched = barrier(line, min_length=0.05), Watched()
    for number, picture in line.play():
        picture[150:200, 300:360] = (30, 30, 30)
        watched.see(finder, number, picture)
    assert [look.part for _, look in watched.looks] == [0, 1, 2, 3]


@pytest.mark.parametrize("frame", [60, 68, 95])
def test_a_flash_is_sat_out(frame: int) -> None:
    line = BeltLine(PLATES)
    finder, watched = barrier(line), Watched()
    for number, picture in line.play():
        watched.see(finder, number, np.full_like(picture, 255) if number in (frame, frame + 1) else picture)
    assert_each_once(line, watched)


def test_a_flash_just_after_a_dropped_frame_is_sat_out() -> None:
    line = BeltLine(PLATES)
    finder, watched = barrier(line), Watched()
    for number, picture in line.play():
        if number % 3 == 1:
            watched.blind(finder, number, "overrun")
        else:
            watched.see(finder, number, np.full_like(picture, 255) if number == 60 else picture)
    assert_each_once(line, watched)


# --- what could not be seen -----------------------------------------------------------------------------------------


def test_what_is_half_gone_at_the_start_is_unjudged_and_what_is_whole_is_judged() -> None:
    line = BeltLine([300, 200, 200], spacing=60)
    finder, watched = barrier(line), Watched()
    for number in range(100, line.frames):
        watched.see(finder, number, line.frame(number))
    assert watched.unjudged == [(0, "not-seen")]
    judged = [line.part_in(look, number) for number, look in watched.looks]
    assert judged == [1, 2]


def test_a_broken_frame_costs_nothing_when_the_part_is_still_seen_whole() -> None:
    line = BeltLine(PLATES)
    finder, watched = barrier(line), Watched()
    for number, picture in line.play():
        if 64 <= number <= 72:
            watched.blind(finder, number, "truncated")
        else:
            watched.see(finder, number, picture)
    assert_each_once(line, watched)


def test_a_part_whose_way_was_spoilt_is_unjudged_with_the_reason() -> None:
    line = BeltLine(PLATES)
    finder, watched = barrier(line), Watched()
    for number, picture in line.play():
        if 54 <= number <= 90:
            watched.blind(finder, number, "truncated")
        else:
            watched.see(finder, number, picture)
    assert watched.unjudged == [(0, "truncated")]
    assert [line.part_in(look, number) for number, look in watched.looks] == [1, 2, 3]


def test_a_lost_camera_makes_what_is_in_sight_unjudged_at_once() -> None:
    line = BeltLine(PLATES)
    finder, watched = barrier(line), Watched()
    for number in range(50):
        watched.see(finder, number, line.frame(number))
    watched.blind(finder, 50, "camera-lost")
    assert watched.unjudged == [(0, "camera-lost")]
    for number in range(60, line.frames):
        watched.see(finder, number, line.frame(number))
    assert watched.unjudged == [(0, "camera-lost")]
    assert [(look.part, line.part_in(look, number)) for number, look in watched.looks] == [(1, 1), (2, 2), (3, 3)]


def test_parts_that_may_have_passed_while_blind_are_one_unjudged_part() -> None:
    line = BeltLine([400] * 8)
    finder, watched = barrier(line), Watched()
    for number, picture in line.play():
        if 160 <= number < 300:
            watched.blind(finder, number, "black")
        else:
            watched.see(finder, number, picture)
    reasons = [reason for _, reason in watched.unjudged]
    assert "black" in reasons
    assert 1 <= len(reasons) <= 4
    judged = [line.part_in(look, number) for number, look in watched.looks]
    assert None not in judged
    assert len(set(judged)) == len(judged)
    passed_whole_in_sight = {0, 1, 5, 6, 7}
    assert passed_whole_in_sight <= set(judged)
    numbers = sorted([look.part for _, look in watched.looks] + [part for part, _ in watched.unjudged])
    assert numbers == list(range(len(numbers))), "numbers have no holes"


def test_blind_from_the_start_is_one_unjudged_part() -> None:
    line = BeltLine(PLATES)
    finder, watched = barrier(line), Watched()
    for number in range(100):
        watched.blind(finder, number, "black")
    assert watched.unjudged == [(0, "black")]


def test_short_blindness_before_an_empty_belt_is_no_part() -> None:
    line = BeltLine(PLATES)
    finder, watched = barrier(line), Watched()
    watched.see(finder, 0, line.frame(0))
    watched.blind(finder, 1, "truncated")
    watched.see(finder, 2, line.frame(0))
    assert watched.unjudged == []


def test_a_belt_that_is_never_seen_is_told_and_learnt_anew() -> None:
    line = BeltLine(PLATES)
    finder, watched = barrier(line, belt_bgr=[0, 0, 250]), Watched()
    for number in range(HIDDEN_FRAMES + 60):
        watched.see(finder, number, line.frame(40 + number % 40))
    assert "belt-not-seen" in {reason for _, reason in watched.unjudged}


@settings(max_examples=20, deadline=None)
@given(
    st.integers(8, 80),
    st.integers(8, 80),
    st.sampled_from(["auto", "left", "down"]),
    st.lists(st.sampled_from(["noise", "flat", "blind", "lost"]), max_size=40),
)
def test_whatever_comes_every_number_is_told_once(height: int, width: int, direction: str, steps: list[str]) -> None:
    finder, watched = LightBarrier(Barrier.model_validate({"direction": direction}), height, width), Watched()
    rng = np.random.default_rng(height * 100 + width)
    for number, step in enumerate(steps):
        if step in ("noise", "flat"):
            picture = rng.integers(0, 255, (height, width, 3)) if step == "noise" else np.full((height, width, 3), 90)
            watched.see(finder, number, picture.astype(np.uint8))
        else:
            watched.blind(finder, number, "camera-lost" if step == "lost" else "truncated")
    for _, look in watched.looks:
        assert 0 <= look.box[0] < look.box[2] <= width
        assert 0 <= look.box[1] < look.box[3] <= height
    told = [look.part for _, look in watched.last_looks()] + [part for part, _ in watched.unjudged]
    assert len(set(told)) == len(told)
    assert max(told, default=-1) < len(told) + len(finder.in_sight()), "numbers are given to parts that get a verdict"


# --- parts longer than the picture ----------------------------------------------------------------------------------


def test_a_part_longer_than_the_picture_is_seen_without_a_hole() -> None:
    line = BeltLine([2000, 300])
    watched = watch(barrier(line), line)
    assert watched.unjudged == []
    looks = [(number, look) for number, look in watched.looks if look.part == 0]
    assert [look.last for _, look in looks] == [False] * (len(looks) - 1) + [True]
    covered = np.zeros(2000, bool)
    for number, look in looks:
        assert not look.whole
        x = line.starts()[0] - number * line.speed
        covered[max(0, round(look.box[0] - x)) : round(look.box[2] - x)] = True
        assert look.origin is not None
        assert abs(look.origin[0] - x) < 20
    assert covered.all()
    assert [line.part_in(look, number) for number, look in watched.looks if look.part == 1] == [1]


def test_a_long_part_with_a_stretch_missed_is_unjudged() -> None:
    line = BeltLine([3000])
    finder, watched = barrier(line), Watched()
    for number, picture in line.play():
        if 150 <= number <= 260:
            watched.blind(finder, number, "truncated")
        else:
            watched.see(finder, number, picture)
    assert "truncated" in {reason for _, reason in watched.unjudged}
    assert not any(look.last and look.part == 0 for _, look in watched.looks if (0, "truncated") in watched.unjudged)


# --- mode frame -----------------------------------------------------------------------------------------------------


def test_each_frame_is_a_part_and_each_lost_frame_an_unjudged_one() -> None:
    finder, watched = FramePart(360, 640), Watched()
    picture = np.zeros((360, 640, 3), np.uint8)
    watched.see(finder, 0, picture)
    watched.blind(finder, 1, "truncated")
    watched.see(finder, 2, picture)
    assert [(look.part, look.box, look.last) for _, look in watched.looks] == [
        (0, (0, 0, 640, 360), True),
        (2, (0, 0, 640, 360), True),
    ]
    assert watched.unjudged == [(1, "truncated")]


@pytest.mark.parametrize(("mode", "kind"), [("frame", FramePart), ("barrier", LightBarrier)])
def test_the_recipe_chooses_the_finder(mode: str, kind: type) -> None:
    recipe = Recipe.model_validate({"name": "r", "version": "1", "classes": {"a": {}}, "part": {"mode": mode}})
    assert isinstance(part_finder(recipe, 360, 640), kind)
