"""A camera that is not there: builds the V4L2 shim, makes numbered pictures for it, scripts its faults.

1. Each picture carries its number twice, as bars in the top and in the bottom rows: whoever holds a slot can tell
   which picture its upper and its lower part come from.
2. The shim writes a log of what it really gave out; tests compare against that, not against what they asked for.

    camera = ShimCamera(tmp_path, pictures=numbered(40, 320, 240)).write("fault 7 truncate 50")
    subprocess.run([sys.executable, ...], env=camera.environment())
"""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from shutil import which
from tempfile import gettempdir

import cv2
import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray

SOURCE = Path(__file__).with_name("v4l2_shim.c")
BITS = 12
_ROWS_PX = 16


@cache
def library() -> Path:
    """The built shim; built once for each state of its source."""
    built = Path(gettempdir()) / f"v4l2_shim-{os.getuid()}-{SOURCE.stat().st_mtime_ns}.so"
    if not built.exists():
        if which("gcc") is None and not os.environ.get("CI"):
            pytest.skip("gcc is needed to build the V4L2 shim")
        part = built.with_suffix(f".{os.getpid()}")
        command = ["gcc", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(part), str(SOURCE)]
        subprocess.run([*command, "-lpthread"], check=True)
        part.rename(built)
    return built


def numbered(count: int, width: int, height: int) -> list[NDArray[np.uint8]]:
    """`count` BGR pictures with grain like a sensor's, each with its number in the top and bottom rows."""
    return [_numbered(number, width, height) for number in range(count)]


def _numbered(number: int, width: int, height: int) -> NDArray[np.uint8]:
    picture = np.random.default_rng(number).integers(90, 150, (height, width, 3), dtype=np.uint8)
    picture = cv2.blur(picture, (5, 5))
    draw_number(picture, number)
    return picture


def draw_number(picture: NDArray[np.uint8], number: int) -> None:
    """Write the number into the top and the bottom rows, for `numbers_in` to read."""
    bits = [1, 0, *((number >> bit) & 1 for bit in range(BITS)), 0, 1]
    edges = np.linspace(0, picture.shape[1], len(bits) + 1).astype(int)
    for bit, left, right in zip(bits, edges[:-1], edges[1:], strict=True):
        picture[:_ROWS_PX, left:right] = picture[-_ROWS_PX:, left:right] = 230 if bit else 25


def numbers_in(pixels: NDArray[np.uint8]) -> tuple[int | None, int | None]:
    """The picture numbers that the top and the bottom rows show; None where they cannot be read."""
    return _number(pixels[4 : _ROWS_PX - 4]), _number(pixels[-_ROWS_PX + 4 : -4])


def _number(rows: NDArray[np.uint8]) -> int | None:
    edges = np.linspace(0, rows.shape[1], BITS + 5).astype(int)
    cells = [float(rows[:, left + 3 : right - 3].mean()) for left, right in pairwise(edges)]
    if any(80 < cell < 175 for cell in cells):
        return None
    bits = [cell > 128 for cell in cells]
    if (bits[0], bits[1], bits[-2], bits[-1]) != (True, False, False, True):
        return None
    return sum(1 << bit for bit, is_set in enumerate(bits[2:-2]) if is_set)


def yuyv(picture: NDArray[np.uint8], stride: int | None = None) -> bytes:
    """Packed YUYV bytes, rows `stride` bytes apart; what is between them is 0xEE."""
    packed = cv2.cvtColor(picture, cv2.COLOR_BGR2YUV_YUY2).reshape(picture.shape[0], -1)
    rows = np.full((packed.shape[0], stride or packed.shape[1]), 0xEE, np.uint8)
    rows[:, : packed.shape[1]] = packed
    return rows.tobytes()


def mjpg(picture: NDArray[np.uint8], *, tables: bool = True) -> bytes:
    """One JPEG as cameras send it: 4:2:2, zero bytes after the end; `tables=False`: without its Huffman tables."""
    jpeg = simplejpeg.encode_jpeg(picture, quality=90, colorspace="BGR", colorsubsampling="422")
    return (jpeg if tables else _without_huffman_tables(jpeg)) + bytes(64)


def _without_huffman_tables(jpeg: bytes) -> bytes:
    out, at = jpeg[:2], 2
    while jpeg[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        out += b"" if jpeg[at + 1] == 0xC4 else jpeg[at:end]
        at = end
    return out + jpeg[at:]


class ShimCamera:
    """One simulated camera as a file of lines; see v4l2_shim.c for what they mean."""

    def __init__(
        self, folder: Path, *, node: int = 0, fps: float = 0, card: str = "Shim Camera", bus: str = ""
    ) -> None:
        self.folder = folder / f"camera{node}"
        self.folder.mkdir()
        self.file = self.folder / "camera.conf"
        self.log = self.folder / "log"
        self.commands = self.folder / "commands"
        self._plays = 0
        self.write(f"node {node}", f"fps {fps}", f"card {card}", f"bus {bus or f'usb-shim-{node}'}")
        self.write(f"log {self.log}", f"commands {self.commands}")

    def write(self, *lines: str) -> ShimCamera:
        with self.file.open("a") as file:
            file.writelines(f"{line}\n" for line in lines)
        return self

    def command(self, *lines: str) -> None:
        """While it runs, e.g. `fault now unplug 300 1`."""
        with self.commands.open("a") as file:
            file.writelines(f"{line}\n" for line in lines)

    def play(
        self, fourcc: str, width: int, height: int, records: Iterable[bytes], stride: int | None = None
    ) -> ShimCamera:
        path = self.folder / f"play{self._plays}"
        self._plays += 1
        with path.open("wb") as file:
            for record in records:
                file.write(struct.pack("<I", len(record)) + record)
        stride = (stride or width * 2) if fourcc == "YUYV" else 0
        return self.write(f"play {fourcc} {width} {height} {stride} {path}")

    def environment(self, *others: ShimCamera) -> dict[str, str]:
        return environment([self, *others])

    def happened(self, word: str) -> list[list[str]]:
        """The log's lines that begin with `word`, split into words."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line.split() for line in lines if line.split()[0] == word]

    def faults(self) -> dict[int, tuple[int, list[str]]]:
        """{driver's sequence number: (picture's number, faults it was given out with)}."""
        return {int(line[5]): (int(line[3]), line[6:]) for line in self.happened("picture")}


def environment(cameras: Sequence[ShimCamera]) -> dict[str, str]:
    """For a process that shall see these cameras and no others."""
    files = ":".join(str(camera.file) for camera in cameras)
    return {**os.environ, "LD_PRELOAD": str(library()), "V4L2_SHIM": files}
