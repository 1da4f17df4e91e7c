"""GStreamer pipelines as cameras, in a process of its own: PyGObject is the system's, and GLib stays out of here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.sim.clips import write_numbered_clip

SYSTEM_PACKAGES = "/usr/lib/python3/dist-packages"
PROBE = """
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstVideo", "1.0")
from gi.repository import Gst, GstVideo
"""
READ = """
import json, sys, threading, time
import numpy as np
from edge_inspect.capture.open import camera_from
from edge_inspect.capture.protocol import Read, Stamp
from edge_inspect.errors import InspectError

def read(source, most):
    told = {"stamps": [], "end": None}
    camera = camera_from(source)
    try:
        found = camera.open()
        told["format"] = [found.width_px, found.height_px, found.pixel_format]
        around = np.full((found.height_px + 2, found.width_px, 3), 7, np.uint8)
        pixels, stamp = around[1:-1], Stamp()
        until = time.monotonic() + 20
        while len(told["stamps"]) < most and time.monotonic() < until:
            got = camera.read_into(pixels, stamp)
            if got is Read.END:
                told["end"] = "end"
                break
            if got is Read.FRAME:
                age_ms = (time.monotonic_ns() - stamp.captured_ns) / 1e6
                told["stamps"].append([stamp.index, stamp.missed, stamp.broken, age_ms])
        told["corners"] = pixels[[0, 0, -1, -1], [0, -1, 0, -1]].tolist()
        told["untouched"] = bool((around[0] == 7).all() and (around[-1] == 7).all())
        told["live"] = camera.live
    except InspectError as err:
        told["end"] = f"{type(err).__name__}: {err}"
    finally:
        camera.close()
        camera.close()
    return told
"""


@pytest.fixture(scope="module")
def python_with_gi() -> list[str]:
    """What starts this Python so that it can import gi."""
    plain = [sys.executable, "-c"]
    if subprocess.call([*plain, PROBE], stderr=subprocess.DEVNULL) == 0:
        return [""]
    system = f"import sys; sys.path.append({SYSTEM_PACKAGES!r})\n"
    if subprocess.call([*plain, system + PROBE], stderr=subprocess.DEVNULL) == 0:
        return [system]
    pytest.skip("PyGObject with GStreamer's typelibs is not in this environment, and the system's does not fit it")


def run(start: list[str], body: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", start[0] + READ + body], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def read(start: list[str], pipeline: str, most: int = 5) -> Any:
    return read_all(start, [pipeline], most)[0]


def read_all(start: list[str], pipelines: list[str], most: int = 5) -> Any:
    return run(start, f"print(json.dumps([read('gst:' + one, {most}) for one in {pipelines!r}]))")


def test_picture_arrives_in_the_slot_whatever_the_format(python_with_gi: list[str]) -> None:
    formats = ["BGR", "RGB", "BGRx", "RGBA", "I420", "NV12", "YUY2"]
    source = "videotestsrc is-live=true pattern=blue ! video/x-raw,format={},width=322,height=180"
    for told in read_all(python_with_gi, [source.format(name) for name in formats], most=2):
        assert told["format"][:2] == [322, 180]
        assert all(blue > 250 and green < 5 and red < 5 for blue, green, red in told["corners"]), told
        assert told["untouched"]


def test_own_appsink_needs_no_converter_and_padded_rows_are_skipped(python_with_gi: list[str]) -> None:
    formats = ["BGR", "RGB", "BGRx", "RGBx", "BGRA", "RGBA", "GRAY8"]
    source = "videotestsrc pattern=white ! video/x-raw,format={},width=321,height=5 ! appsink"
    for name, told in zip(formats, read_all(python_with_gi, [source.format(name) for name in formats]), strict=True):
        assert told["format"] == [321, 5, name]
        assert all(min(corner) > 230 for corner in told["corners"])


def test_live_pictures_are_dated_by_the_clock(python_with_gi: list[str]) -> None:
    told = read(python_with_gi, "videotestsrc is-live=true ! video/x-raw,framerate=25/1", most=20)
    assert told["live"] is True
    assert [stamp[0] for stamp in told["stamps"]] == sorted({stamp[0] for stamp in told["stamps"]})
    assert all(0 <= stamp[3] < 600 for stamp in told["stamps"])


def test_late_live_pictures_are_dropped(python_with_gi: list[str]) -> None:
    """A queue that holds each picture for a second, until the end lets the newest ones out early."""
    told = read(
        python_with_gi,
        "videotestsrc is-live=true num-buffers=60 ! queue min-threshold-time=1000000000 max-size-buffers=0",
        most=10_000,
    )
    assert told["end"] == "CameraLost: gst videotestsrc: the source ended", "all of it passed"
    assert all(stamp[0] >= 30 for stamp in told["stamps"]), "those that waited a second are dropped"
    assert all(stamp[3] < 600 for stamp in told["stamps"])


def test_recording_is_read_without_loss_and_ends(python_with_gi: list[str], tmp_path: Path) -> None:
    clip = tmp_path / "numbered.mp4"
    write_numbered_clip(clip, frames=60)
    told = read(python_with_gi, f"filesrc location={clip} ! decodebin", most=10_000)
    assert told["end"] == "end"
    assert [stamp[0] for stamp in told["stamps"]] == list(range(60))


def test_end_of_a_live_source_is_a_loss(python_with_gi: list[str]) -> None:
    told = read(python_with_gi, "videotestsrc is-live=true num-buffers=5", most=100)
    assert told["end"] == "CameraLost: gst videotestsrc: the source ended"


def test_flagged_and_short_buffers_are_broken(python_with_gi: list[str]) -> None:
    told = run(
        python_with_gi,
        """
from edge_inspect.capture.gstreamer import GStreamerCamera
caps = "video/x-raw,format=BGR,width=16,height=8,framerate=25/1"
camera = GStreamerCamera(f"appsrc name=feed format=time caps={caps} ! appsink")

def feed():
    while camera._pipeline is None:
        time.sleep(0.01)
    from gi.repository import Gst
    source = camera._pipeline.get_by_name("feed")
    for number in range(3):
        buffer = Gst.Buffer.new_wrapped(bytes(16 * 8 * 3 if number < 2 else 100))
        buffer.pts = number * 40_000_000
        if number == 1:
            buffer.set_flags(Gst.BufferFlags.CORRUPTED)
        source.emit("push-buffer", buffer)
    source.emit("end-of-stream")

thread = threading.Thread(target=feed)
thread.start()
camera.open()
thread.join()
pixels, stamp, broken = np.zeros((8, 16, 3), np.uint8), Stamp(), []
while (got := camera.read_into(pixels, stamp)) is not Read.END:
    if got is Read.FRAME:
        broken.append(stamp.broken)
camera.close()
print(json.dumps(broken))
""",
    )
    assert told == ["", "corrupt", "truncated"]


WRONG = [
    ("nonsuch ! fakesink", "BadSource", 'no element "nonsuch"'),
    ("videotestsrc ! fakesink", "BadSource", "could not link"),
    ("videotestsrc !", "BadSource", "syntax error"),
    ("appsink", "BadSource", "one source and one appsink"),
    ("videotestsrc ! tee name=t ! appsink t. ! appsink", "BadSource", "found 2"),
    ("videotestsrc ! video/x-raw,format=I420 ! appsink", "BadSource", "not-negotiated"),
    ("audiotestsrc is-live=true", "BadSource", "could not link"),
    ("filesrc location=/nonsuch.mp4 ! decodebin", "CameraLost", "No such file"),
    ("filesrc location=/etc/passwd ! decodebin", "BadSource", "text file"),
    ("rtspsrc location=rtsp://operator:s3cret@127.0.0.1:9/x ! decodebin", "CameraLost", "rtspsrc"),
]


def test_wrong_pipeline_is_one_clear_line(python_with_gi: list[str]) -> None:
    for (pipeline, family, words), told in zip(
        WRONG, read_all(python_with_gi, [wrong[0] for wrong in WRONG]), strict=True
    ):
        assert told["end"].startswith(family + ": gst "), pipeline
        assert words in told["end"] and "\n" not in told["end"], told["end"]
        assert "s3cret" not in told["end"]


def test_without_pygobject_the_extra_is_named() -> None:
    body = "import sys; sys.modules['gi'] = None\n" + READ + "print(json.dumps(read('gst:videotestsrc', 1)))"
    done = subprocess.run([sys.executable, "-c", body], capture_output=True, text=True, timeout=60, check=False)
    told = json.loads(done.stdout)
    assert told["end"].startswith("BadSource: gst: ")
    assert "edge-inspect[gstreamer]" in told["end"]


def test_openvino_loads_after_gstreamer(python_with_gi: list[str]) -> None:
    """GStreamer's libunwind must not catch the exceptions of C++ libraries that are loaded later: that aborts."""
    pytest.importorskip("onnxruntime_ep_openvino")
    told = run(
        python_with_gi,
        """
import cv2
from edge_inspect.inference.providers import survey
from edge_inspect.capture.open import camera_from
camera = camera_from("gst:videotestsrc is-live=true")
camera.open()
survey()
camera.close()
print(json.dumps("alive"))
""",
    )
    assert told == "alive"
