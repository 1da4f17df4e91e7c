"""Ways to get a picture into the network's input tensor, side by side, in turns; medians of single calls.

    python tests/bench/letterbox_ways.py [--threads N] [--rounds N]

Two questions: how to shrink 1920x1080 to 640x360, and how to turn 640x360 BGR bytes into three float planes. What was
found stands in docs/measurements/letterbox.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import cv2
import numpy as np

Way = Callable[[], object]
SOURCE, SMALL, TENSOR, TOP = (1080, 1920), (360, 640), (384, 640), 12
FULL = np.float32(255)

picture = np.random.default_rng(0).integers(0, 256, (*SOURCE, 3), dtype=np.uint8)
small = np.empty((*SMALL, 3), np.uint8)
float_small = np.empty((*SMALL, 3), np.float32)
planes = [np.empty(SMALL, np.uint8) for _ in range(3)]
tensor = np.zeros((1, 3, *TENSOR), np.float32)
inner = [tensor[0, 2 - channel, TOP : TOP + SMALL[0]] for channel in range(3)]
table = (np.arange(256, dtype=np.float32) / FULL).reshape(1, 256)


def resize_linear() -> None:
    cv2.resize(picture, SMALL[::-1], dst=small, interpolation=cv2.INTER_LINEAR)


def resize_nearest_exact() -> None:
    cv2.resize(picture, SMALL[::-1], dst=small, interpolation=cv2.INTER_NEAREST_EXACT)


def resize_linear_and_split() -> None:
    resize_linear()
    cv2.split(small, planes)


def pick_every_third_into_planes() -> None:
    for channel, plane in enumerate(planes):
        np.copyto(plane, picture[1::3, 1::3, channel])


def pick_every_third() -> None:
    np.copyto(small, picture[1::3, 1::3])


def split() -> None:
    cv2.split(small, planes)


def split_convert_divide() -> None:
    cv2.split(small, planes)
    for plane, out in zip(planes, inner, strict=True):
        np.copyto(out, plane)
        np.divide(out, FULL, out=out)


def split_divide() -> None:
    cv2.split(small, planes)
    for plane, out in zip(planes, inner, strict=True):
        np.divide(plane, FULL, out=out)


def split_lut() -> None:
    cv2.split(small, planes)
    for plane, out in zip(planes, inner, strict=True):
        cv2.LUT(plane, table, dst=out)


def split_cv_multiply() -> None:
    cv2.split(small, planes)
    for plane, out in zip(planes, inner, strict=True):
        cv2.multiply(plane, 1 / 255, dst=out, dtype=cv2.CV_32F)


def split_take() -> None:
    cv2.split(small, planes)
    for plane, out in zip(planes, inner, strict=True):
        np.take(table[0], plane, out=out, mode="clip")


def channels_divide() -> None:
    for channel, out in enumerate(inner):
        np.divide(small[:, :, channel], FULL, out=out)


def lut_then_split_floats() -> None:
    cv2.LUT(small, table, dst=float_small)
    cv2.split(float_small, inner)


def multiply_then_split_floats() -> None:
    cv2.multiply(small, (1 / 255,) * 4, dst=float_small, dtype=cv2.CV_32F)
    cv2.split(float_small, inner)


def blob_from_image() -> object:
    return cv2.dnn.blobFromImage(small, 1 / 255, swapRB=True)  # allocates its result


SHRINK: tuple[Way, ...] = (
    resize_linear, resize_linear_and_split, resize_nearest_exact, pick_every_third, pick_every_third_into_planes,
)  # fmt: skip
CONVERT: tuple[Way, ...] = (
    split, split_convert_divide, split_divide, split_lut, split_cv_multiply, split_take, channels_divide,
    lut_then_split_floats, multiply_then_split_floats, blob_from_image,
)  # fmt: skip


def in_turns(ways: tuple[Way, ...], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {way.__name__: [] for way in ways}
    for _ in range(rounds):
        for way in ways:
            way()
            start = time.perf_counter()
            way()
            times[way.__name__].append((time.perf_counter() - start) * 1e3)
    return times


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--threads", type=int, default=1, help="cv2.setNumThreads")
    options.add_argument("--rounds", type=int, default=100)
    given = options.parse_args()
    cv2.setNumThreads(given.threads)
    for title, ways in (("shrink 1920x1080 to 640x360", SHRINK), ("640x360 BGR to float planes", CONVERT)):
        print(
            f"{title}, OpenCV {cv2.__version__}, {given.threads} thread(s), {given.rounds} rounds; median and p90, ms"
        )
        times = in_turns(ways, given.rounds)
        for name, taken in sorted(times.items(), key=lambda item: float(np.median(item[1]))):
            print(f"  {name:32} {np.median(taken):7.3f} {np.percentile(taken, 90):7.3f}")


if __name__ == "__main__":
    main()
