"""Recordings and folders of pictures: every frame once, into the slot and nowhere else; damage is said, not hidden."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest

from edge_inspect.capture.images import ImageFolder
from edge_inspect.capture.protocol import Camera, Pixels, Read, Stamp
from edge_inspect.capture.video import VideoFile
from edge_inspect.errors import FormatChanged
from tests.sim.clips import write_numbered_clip
from tests.sim.rtsp import number_in


class Shown(NamedTuple):
    number: int
    whole: bool
    index: int
    missed: int
    broken: str


def frames(camera: Camera, most: int = 100_000) -> Iterator[tuple[Pixels, Stamp]]:
    """What the camera gives until its end; the rows around the slot must stay as they are."""
    found = camera.open()
    around: Pixels = np.full((found.height_px + 2, found.width_px, 3), 7, np.uint8)
    pixels, stamp = around[1:-1], Stamp()
    try:
        for _ in range(most):
            read = camera.read_into(pixels, stamp)
            if read is Read.END:
                break
            if read is Read.FRAME:
                yield pixels, stamp
        assert (around[0] == 7).all() and (around[-1] == 7).all()
    finally:
        camera.close()


def show(camera: Camera, most: int = 100_000) -> list[Shown]:
    return [
        Shown(*number_in(pixels), stamp.index, stamp.missed, stamp.broken) for pixels, stamp in frames(camera, most)
    ]


def damage(clip: Path, *, every: int, start: float = 0.4, end: float = 0.8) -> None:
    data = bytearray(clip.read_bytes())
    for at in range(int(len(data) * start), int(len(data) * end), every):
        data[at] ^= 0x55
    clip.write_bytes(data)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.avi", "clip.ts", "clip.h264"])
def test_every_frame_of_a_recording_is_shown_once(tmp_path: Path, name: str) -> None:
    write_numbered_clip(tmp_path / name, frames=60)
    clip = VideoFile(tmp_path / name)
    shown = show(clip)
    assert shown == [Shown(number, True, number, 0, "") for number in range(60)]
    assert clip.ended_early == ""


def test_pixels_are_those_of_opencv_s_reader(data_dir: Path) -> None:
    """Models are trained on what OpenCV reads."""
    path = data_dir / "replay" / "bottle-detection.mp4"
    reference = cv2.VideoCapture(str(path))
    for pixels, _ in frames(VideoFile(path), most=20):
        assert np.abs(reference.read()[1].astype(np.int16) - pixels).max() <= 1
    reference.release()


def test_gif_is_a_recording(data_dir: Path) -> None:
    clip = VideoFile(data_dir / "replay" / "bottle-detection.gif")
    assert sum(1 for _ in frames(clip)) == 45
    assert clip.ended_early == ""


@pytest.mark.parametrize("every", [200, 2000, 9000])
def test_damaged_pictures_of_a_recording_are_broken_and_the_rest_is_shown(tmp_path: Path, every: int) -> None:
    clip = tmp_path / "clip.mp4"
    write_numbered_clip(clip, frames=150)
    damage(clip, every=every)
    shown = show(VideoFile(clip))
    assert [one for one in shown if not one.broken and not one.whole] == []
    assert any(one.broken or one.missed for one in shown)
    assert shown[-1].number == 149 and shown[-1].broken == "", "the end is undamaged"
    assert [one.index for one in shown] == sorted({one.index for one in shown})


@pytest.mark.parametrize("name", ["clip.mkv", "clip.avi"])
def test_recording_that_is_cut_off_says_so(tmp_path: Path, name: str) -> None:
    clip = tmp_path / name
    write_numbered_clip(clip, frames=100)
    data = clip.read_bytes()
    clip.write_bytes(data[: len(data) // 2])
    camera = VideoFile(clip)
    shown = show(camera)
    assert [one for one in shown if not one.broken and not one.whole] == []
    assert 30 < len(shown) < 70
    assert camera.ended_early.startswith(f"{clip}: only {len(shown)} of 100 frames could be read")


def test_gif_that_is_cut_off_says_so(tmp_path: Path, data_dir: Path) -> None:
    clip = tmp_path / "cut.gif"
    clip.write_bytes((data_dir / "replay" / "bottle-detection.gif").read_bytes()[:800_000])
    camera = VideoFile(clip)
    assert 0 < sum(1 for _ in frames(camera)) < 45
    assert "cut off" in camera.ended_early


def test_loop_shows_the_recording_again_and_keeps_counting(tmp_path: Path) -> None:
    write_numbered_clip(tmp_path / "clip.mp4", frames=10)
    shown = show(VideoFile(tmp_path / "clip.mp4", loop=True), most=25)
    assert [one.number for one in shown] == [number % 10 for number in range(25)]
    assert [one.index for one in shown] == list(range(25))


def test_paced_recording_takes_its_time(tmp_path: Path) -> None:
    write_numbered_clip(tmp_path / "clip.mp4", frames=10)
    started = time.monotonic()
    assert [one.number for one in show(VideoFile(tmp_path / "clip.mp4", paced=True))] == list(range(10))
    assert time.monotonic() - started >= 0.3


def test_reopened_recording_begins_again(tmp_path: Path) -> None:
    write_numbered_clip(tmp_path / "clip.mp4", frames=5)
    clip = VideoFile(tmp_path / "clip.mp4")
    assert show(clip) == show(clip)


def test_slot_of_another_size_is_never_written(tmp_path: Path) -> None:
    write_numbered_clip(tmp_path / "clip.mp4", frames=5)
    clip = VideoFile(tmp_path / "clip.mp4")
    clip.open()
    small: Pixels = np.full((100, 320, 3), 7, np.uint8)
    with pytest.raises(FormatChanged, match=r"320x192.*320x100"):
        clip.read_into(small, Stamp())
    assert (small == 7).all()
    clip.close()
    clip.close()


def picture(seed: int, height: int = 40, width: int = 60) -> Pixels:
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.integers(0, 255, (8, 8, 3), np.uint8), (width, height))


def test_folder_shows_pictures_of_every_kind_in_natural_order(tmp_path: Path) -> None:
    names = ["part10.png", "part2.bmp", "part1.jpg", "part3.JPEG", "part20.tif", "part4.webp"]
    for name in names:
        cv2.imwrite(str(tmp_path / name), picture(int("".join(c for c in name if c.isdecimal()))))
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / "part5.png").mkdir()
    order = [1, 2, 3, 4, 10, 20]
    shown = [(pixels.copy(), stamp.index, stamp.broken) for pixels, stamp in frames(ImageFolder(tmp_path))]
    assert [one[1:] for one in shown] == [(index, "") for index in range(6)]
    for (pixels, _, _), number in zip(shown, order, strict=True):
        assert np.abs(pixels.astype(np.int16) - picture(number)).mean() < 12


def test_jpeg_is_decoded_as_opencv_does(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.jpg"), picture(1))
    ((pixels, _),) = list(frames(ImageFolder(tmp_path)))
    assert np.abs(pixels.astype(np.int16) - cv2.imread(str(tmp_path / "a.jpg"))).max() <= 1


def test_single_picture_is_a_source_of_one_frame(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "one.png"), picture(1))
    shown = [pixels.copy() for pixels, _ in frames(ImageFolder(tmp_path / "one.png"))]
    assert len(shown) == 1 and (shown[0] == picture(1)).all()


def test_pictures_that_cannot_be_used_keep_their_place_and_are_broken(tmp_path: Path) -> None:
    for number in range(6):
        cv2.imwrite(str(tmp_path / f"{number}.jpg"), picture(number))
    whole = (tmp_path / "1.jpg").read_bytes()
    (tmp_path / "1.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "2.jpg").write_bytes(b"")
    (tmp_path / "3.jpg").write_bytes(random.Random(1).randbytes(500))
    cv2.imwrite(str(tmp_path / "4.jpg"), picture(4, height=41))
    cv2.imwrite(str(tmp_path / "45.png"), picture(4, width=61))
    (tmp_path / "46.png").write_bytes(b"\x89PNG broken")
    reasons = [stamp.broken for _, stamp in frames(ImageFolder(tmp_path))]
    assert reasons == ["", "corrupt", "corrupt", "corrupt", "size-differs", "", "size-differs", "corrupt"]


def test_folder_with_a_rate_takes_its_time(tmp_path: Path) -> None:
    for number in range(5):
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture(number))
    started = time.monotonic()
    assert sum(1 for _ in frames(ImageFolder(tmp_path, fps=20))) == 5
    assert time.monotonic() - started >= 0.15
