"""Frozen, black, white and garbage are told; an empty light belt, grain and recordings of real lines are not."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_inspect.capture.picture_check import PictureCheck

HEIGHT, WIDTH = 360, 640
Picture = NDArray[np.uint8]


def flat(level: int) -> Picture:
    return np.full((HEIGHT, WIDTH, 3), level, np.uint8)


def grained(level: int, seed: int, sigma: float = 2.0) -> Picture:
    noise = np.random.default_rng(seed).normal(level, sigma, (HEIGHT, WIDTH, 3))
    return np.clip(noise, 0, 255).astype(np.uint8)


def part(seed: int, level: int = 200) -> Picture:
    picture = grained(level, seed)
    picture[100:260, 200:440] = np.clip(picture[100:260, 200:440].astype(int) - 120, 0, 255)
    picture[100:260:8, 200:440] = 30
    return picture


def reason(picture: Picture, **levels: float) -> str:
    return PictureCheck(HEIGHT, WIDTH, **levels).check(picture)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (flat(0), "black"),
        (flat(6), "black"),
        (grained(2, 1), "black"),
        (flat(255), "white"),
        (flat(250), ""),
        (flat(16), ""),
        (grained(250, 1), ""),
        (grained(253, 1, 1.0), ""),
        (part(1), ""),
        (part(1, 250), ""),
        (np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8), "garbage"),
        (grained(128, 3, 15.0), ""),
    ],
)
def test_a_picture_alone(picture: Picture, expected: str) -> None:
    assert reason(picture) == expected


def test_a_lit_part_on_a_black_belt_is_not_black() -> None:
    picture = flat(2)
    picture[150:200, 300:340] = 220
    assert reason(picture) == ""


def test_random_bytes_read_as_yuyv_are_garbage() -> None:
    yuyv = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 2), dtype=np.uint8)
    assert reason(cv2.cvtColor(yuyv, cv2.COLOR_YUV2BGR_YUYV)) == "garbage"


@pytest.mark.parametrize("byte", [0x55, 0x5A, 0xAA, 0xFF])
def test_one_byte_repeated_as_yuyv_is_garbage(byte: int) -> None:
    assert reason(cv2.cvtColor(np.full((HEIGHT, WIDTH, 2), byte, np.uint8), cv2.COLOR_YUV2BGR_YUYV)) == "garbage"


def test_the_fifth_equal_picture_is_frozen_until_one_differs() -> None:
    check = PictureCheck(HEIGHT, WIDTH)
    same = part(1)
    assert [check.check(same) for _ in range(7)] == [""] * 4 + ["frozen"] * 3
    assert check.check(part(2)) == ""
    assert check.check(same) == ""


def test_equal_pictures_in_different_slots_are_still_frozen() -> None:
    check = PictureCheck(HEIGHT, WIDTH, frozen_frames=2)
    assert [check.check(part(1).copy()) for _ in range(2)] == ["", "frozen"]


def test_after_a_loss_the_count_begins_anew() -> None:
    check = PictureCheck(HEIGHT, WIDTH, frozen_frames=2)
    assert check.check(part(1)) == ""
    check.start_again()
    assert check.check(part(1)) == ""


def test_grain_alone_keeps_a_still_scene_alive() -> None:
    check = PictureCheck(HEIGHT, WIDTH, frozen_frames=2)
    assert {check.check(grained(250, seed, 0.5)) for seed in range(20)} == {""}


@pytest.mark.parametrize(("height", "width"), [(1, 2), (5, 7), (23, 3), (24, 9), (1080, 1920)])
def test_any_size_of_picture_is_looked_at(height: int, width: int) -> None:
    check = PictureCheck(height, width, frozen_frames=2)
    assert check.check(np.zeros((height, width, 3), np.uint8)) == "black"
    assert check.check(np.zeros((height, width, 3), np.uint8)) == "frozen"


def test_another_size_than_agreed_is_our_bug() -> None:
    with pytest.raises(ValueError, match="agreed"):
        PictureCheck(HEIGHT, WIDTH).check(np.zeros((HEIGHT, WIDTH + 1, 3), np.uint8))


def test_nothing_of_the_pictures_size_is_allocated() -> None:
    check, pictures = PictureCheck(HEIGHT, WIDTH), [part(seed) for seed in range(3)]
    for picture in pictures:
        check.check(picture)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        for number in range(300):
            check.check(pictures[number % 3])
        now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert now - before < 2_000
    assert peak - before < 20_000


DRIFTS = {
    "": lambda picture: picture,
    "darker": lambda picture: (picture * 0.7).astype(np.uint8),
    "brighter": lambda picture: np.clip(picture.astype(int) + 40, 0, 255).astype(np.uint8),
    "flat": lambda picture: (128 + (picture.astype(int) - 128) * 0.55).astype(np.uint8),
    "blurred": lambda picture: cv2.GaussianBlur(picture, (0, 0), 3),
}


@pytest.mark.parametrize("expected", DRIFTS)
def test_slow_change_is_a_hint_and_never_a_reason(expected: str) -> None:
    check = PictureCheck(HEIGHT, WIDTH, drift_frames=40)
    pictures = [np.roll(part(number, 170), 11 * number, axis=1) for number in range(8)]
    changed = [DRIFTS[expected](picture) for picture in pictures]
    for number in range(240):
        assert check.check((pictures if number < 80 else changed)[number % 8]) == ""
    assert check.drift() == expected


def test_an_empty_belt_is_no_drift() -> None:
    check = PictureCheck(HEIGHT, WIDTH, drift_frames=20)
    for seed in range(60):
        check.check(part(seed))
    for seed in range(200):
        assert check.check(grained(200, seed)) == ""
    assert check.drift() == ""


@pytest.mark.parametrize("clip", ["metal_tag_line_dev.mp4", "cookie_line.mp4", "bottle-detection.mp4"])
def test_real_lines_are_neither_dead_nor_drifting(data_dir: Path, clip: str) -> None:
    video = cv2.VideoCapture(str(data_dir / "replay" / clip))
    check: PictureCheck | None = None
    try:
        for _ in range(1200):
            there, picture = video.read()
            if not there:
                break
            check = check or PictureCheck(*picture.shape[:2])
            assert check.check(picture) == ""
    finally:
        video.release()
    assert check is not None
    assert check.drift() == ""
