"""Starting `rtsp_server.py`, and reading its pictures back: which one is it, is it whole, how old is it?"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_inspect.capture.protocol import Format, Pixels, Read, Stamp
from edge_inspect.capture.rtsp import RtspCamera
from edge_inspect.errors import CameraLost
from tests.sim.rtsp_server import DARK, LIGHT, NUMBER_BITS, SQUARE_PX, squares

DEBIAN_PYTHON = Path("/usr/bin/python3")
NEEDS = """
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst, GstRtspServer
Gst.init(None)
assert Gst.ElementFactory.find("{element}")
"""


class RtspServer:
    """A running server; `url` for its live pictures, `clip_url` for its recording."""

    def __init__(self, *args: str) -> None:
        self._process = subprocess.Popen(
            [str(DEBIAN_PYTHON), str(Path(__file__).with_name("rtsp_server.py")), *args],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the RTSP server did not start"
        told = json.loads(line)
        self.port: int = told["port"]
        self.start_ns: int = told["start_ns"]
        self.period_ns = 40_000_000

    def taken_ns(self, number: int) -> int:
        """CLOCK_MONOTONIC when picture `number` was taken."""
        return self.start_ns + number * self.period_ns

    def stop(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def require_rtsp_server(element: str = "x264enc") -> None:
    """Skip, with the reason, where Debian's RTSP server is not installed (in CI: fail)."""
    why = ""
    if not DEBIAN_PYTHON.exists():
        why = f"{DEBIAN_PYTHON} is missing"
    elif subprocess.call([str(DEBIAN_PYTHON), "-c", NEEDS.format(element=element)], stderr=subprocess.DEVNULL):
        why = f"python3-gi, gir1.2-gst-rtsp-server-1.0 or the GStreamer element {element} is missing"
    if why and os.environ.get("CI") and element == "x264enc":
        pytest.fail(why)
    if why:
        pytest.skip(why)


class Seen(NamedTuple):
    number: int
    whole: bool
    """Every square is as it was drawn."""
    broken: str
    missed: int
    age_ns: int
    """True age when it was handed over."""
    dated_wrong_ns: int
    """Time stamp less the true time of capture."""


def number_in(pixels: Pixels) -> tuple[int, bool]:
    """The number of the picture and whether it is undamaged."""
    rows, columns = pixels.shape[0] // SQUARE_PX, pixels.shape[1] // SQUARE_PX
    tiles = pixels[:, :, 1].reshape(rows, SQUARE_PX, columns, SQUARE_PX)[:, 2:-2, :, 2:-2]
    middle = (DARK + LIGHT) / 2
    light: NDArray[np.bool_] = (tiles.mean(axis=(1, 3)) > middle).ravel()
    number = int("".join("1" if bit else "0" for bit in light[:NUMBER_BITS]), 2)
    clear = (np.abs(tiles.astype(np.int16) - middle) > 30).all()
    return number, bool(clear) and light.tolist() == squares(number, light.size)


class Watcher:
    """Reads a camera as the grab thread does and notes what it saw; reopening is the test's business."""

    def __init__(self, camera: RtspCamera, server: RtspServer) -> None:
        self.camera = camera
        self._server = server
        self.format: Format | None = None
        self.pixels: Pixels = np.zeros((0, 0, 3), np.uint8)
        self.stamp = Stamp()
        self.longest_wait_s = 0.0

    def open(self, deadline_s: float = 30.0) -> Format:
        """Open, again and again until it works."""
        until = time.monotonic() + deadline_s
        while True:
            try:
                self.format = self.camera.open()
                break
            except CameraLost:
                if time.monotonic() > until:
                    raise
        if self.pixels.size == 0:
            self.pixels = np.zeros((self.format.height_px, self.format.width_px, 3), np.uint8)
        return self.format

    def watch(self, enough: Callable[[list[Seen]], bool], deadline_s: float = 30.0) -> list[Seen]:
        """Every picture handed over until `enough`; a loss is the caller's to catch. Fails after `deadline_s`."""
        seen: list[Seen] = []
        until = time.monotonic() + deadline_s
        while not enough(seen):
            started = time.monotonic()
            assert started < until, f"not enough within {deadline_s} s: {seen[-3:]}"
            read = self.camera.read_into(self.pixels, self.stamp)
            self.longest_wait_s = max(self.longest_wait_s, time.monotonic() - started)
            if read is Read.FRAME:
                seen.append(self._note())
        return seen

    def watch_until_lost(self, deadline_s: float = 30.0) -> tuple[list[Seen], str]:
        """What was still handed over before the loss, and why it was lost."""
        seen: list[Seen] = []

        def collect(more: list[Seen]) -> bool:
            seen[:] = more
            return False

        try:
            self.watch(collect, deadline_s)
        except CameraLost as err:
            return seen, str(err)
        raise AssertionError("unreachable")

    def _note(self) -> Seen:
        number, whole = number_in(self.pixels)
        taken_ns = self._server.taken_ns(number)
        return Seen(
            number, whole, self.stamp.broken, self.stamp.missed,
            time.monotonic_ns() - taken_ns, self.stamp.captured_ns - taken_ns,
        )  # fmt: skip


def good(seen: list[Seen]) -> list[Seen]:
    return [one for one in seen if not one.broken]
