"""The letterbox is the one of the training: byte for byte, and back again."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_inspect.inference.letterbox import Letterbox

SOURCES = [
    (1080, 1920),  # three times the inner size: picked, not interpolated
    (360, 640),  # the inner size itself
    (720, 1280),
    (1800, 3200),
    (1200, 1920),
    (300, 450),
    (768, 576),
    (390, 960),
    (97, 333),
    (333, 97),
    (1, 500),
    (640, 640),
]
INPUTS = [(384, 640), (640, 640), (96, 160)]


def as_ultralytics(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """LetterBox(auto=False, scaleup=True, center=True) and the predictor's channel order, written out."""
    h, w = pixels.shape[:2]
    r = min(height / h, width / w)
    new_w, new_h = max(round(w * r), 1), max(round(h * r), 1)
    dw, dh = (width - new_w) / 2, (height - new_h) / 2
    if (w, h) != (new_w, new_h):
        pixels = cv2.resize(pixels, (new_w, new_h), interpolation=cv2.INTER_LINEAR)
    sides = round(dh - 0.1), round(dh + 0.1), round(dw - 0.1), round(dw + 0.1)
    padded = cv2.copyMakeBorder(pixels, *sides, cv2.BORDER_CONSTANT, value=(114, 114, 114))
    return np.ascontiguousarray(padded[:, :, ::-1].transpose(2, 0, 1)[None])


@pytest.mark.parametrize("size", INPUTS, ids=str)
@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_input_is_byte_for_byte_that_of_ultralytics(source: tuple[int, int], size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(7).integers(0, 256, (*source, 3), dtype=np.uint8)
    tensor = np.full((1, 3, *size), 77, np.uint8)
    Letterbox(*source, *size)(pixels, out=tensor)
    assert np.array_equal(tensor, as_ultralytics(pixels, *size))


def test_padding_is_written_even_where_another_letterbox_has_drawn() -> None:
    tensor = np.zeros((1, 3, 96, 160), np.uint8)
    tall, wide = np.full((160, 96, 3), 9, np.uint8), np.full((96, 320, 3), 200, np.uint8)
    Letterbox(160, 96, 96, 160)(tall, out=tensor)
    Letterbox(96, 320, 96, 160)(wide, out=tensor)
    assert np.array_equal(tensor, as_ultralytics(wide, 96, 160))


def test_ring_slot_that_is_a_view_is_read_in_place() -> None:
    ring = np.random.default_rng(1).integers(0, 256, (3, 1080, 1920, 3), dtype=np.uint8)
    tensor = np.zeros((1, 3, 384, 640), np.uint8)
    Letterbox(1080, 1920, 384, 640)(ring[1], out=tensor)
    assert np.array_equal(tensor, as_ultralytics(ring[1], 384, 640))


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_boxes_come_back_to_source_pixels(source: tuple[int, int]) -> None:
    height, width = source
    letterbox = Letterbox(height, width, 384, 640)
    there = np.array([[0.1 * width, 0.2 * height, 0.8 * width, 0.9 * height]], np.float32)
    scale = np.array([letterbox.inner_w / width, letterbox.inner_h / height] * 2, np.float32)
    boxes = there * scale + np.array([letterbox.left, letterbox.top] * 2, np.float32)
    letterbox.to_source(boxes, 1)
    assert np.abs(boxes - there).max() < 0.01


def test_boxes_are_clipped_to_the_picture_and_the_rest_is_left_alone() -> None:
    letterbox = Letterbox(360, 640, 384, 640)
    boxes = np.array([[-20, -20, 900, 900], [-5, -5, 5, 5]], np.float32)
    letterbox.to_source(boxes, 1)
    assert boxes.tolist() == [[0, 0, 640, 360], [-5, -5, 5, 5]]


def test_picture_of_another_size_is_a_bug_and_says_so() -> None:
    with pytest.raises(AssertionError):
        Letterbox(360, 640, 384, 640)(np.zeros((361, 640, 3), np.uint8), np.zeros((1, 3, 384, 640), np.uint8))
