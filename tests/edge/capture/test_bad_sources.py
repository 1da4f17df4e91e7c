"""Sources that cannot give pictures: one clear line of the right family, and nothing else on the terminal."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import wave
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_inspect.capture.images import ImageFolder
from edge_inspect.capture.open import camera_from
from edge_inspect.capture.rtsp import RtspCamera
from edge_inspect.capture.sim import SimCamera
from edge_inspect.capture.v4l2 import V4L2Camera
from edge_inspect.capture.video import VideoFile
from edge_inspect.cli import run_command
from edge_inspect.errors import BadSource, CameraLost, InspectError
from tests.sim.clips import write_numbered_clip

Make = Callable[[Path], str]
"""Puts something bad into a folder and returns the source that names it."""


def nothing(source: str) -> Make:
    return lambda _: source


def file(name: str, content: bytes) -> Make:
    def make(folder: Path) -> str:
        (folder / name).write_bytes(content)
        return str(folder / name)

    return make


def without_index(folder: Path) -> str:
    """An mp4 whose index, at the end, was never written: power was lost while recording."""
    clip = folder / "clip.mp4"
    write_numbered_clip(clip, frames=50)
    clip.write_bytes(clip.read_bytes()[:8000])
    return str(clip)


def sound_only(folder: Path) -> str:
    with wave.open(str(folder / "sound.wav"), "wb") as out:
        out.setparams((1, 2, 8000, 0, "NONE", ""))
        out.writeframes(bytes(16000))
    return str(folder / "sound.wav")


def empty_folder(folder: Path) -> str:
    (folder / "empty").mkdir()
    (folder / "empty" / "readme.md").write_text("no pictures")
    return str(folder / "empty")


def folder_of_damage(folder: Path) -> str:
    (folder / "a.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    (folder / "b.png").write_bytes(b"")
    return str(folder)


def broken_link(folder: Path) -> str:
    (folder / "link.mp4").symlink_to(folder / "gone.mp4")
    return str(folder / "link.mp4")


def circle_of_links(folder: Path) -> str:
    (folder / "a.mp4").symlink_to(folder / "b.mp4")
    (folder / "b.mp4").symlink_to(folder / "a.mp4")
    return str(folder / "a.mp4")


def pipe(folder: Path) -> str:
    os.mkfifo(folder / "pipe.mp4")
    return str(folder / "pipe.mp4")


def playlist(folder: Path) -> str:
    write_numbered_clip(folder / "clip.ts", frames=5)
    (folder / "list.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nclip.ts\n#EXT-X-ENDLIST\n")
    return str(folder / "list.m3u8")


def half_picture(folder: Path) -> str:
    cv2.imwrite(str(folder / "one.png"), np.random.default_rng(1).integers(0, 255, (90, 90, 3), np.uint8))
    (folder / "one.png").write_bytes((folder / "one.png").read_bytes()[:60])
    return str(folder / "one.png")


def refused(_: Path) -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"rtsp://127.0.0.1:{taken.getsockname()[1]}/stream"


BAD: list[tuple[str, Make, type[InspectError], str]] = [
    ("missing", nothing("/nonsuch/clip.mp4"), BadSource, "no such file, folder or camera; allowed: /dev/video0"),
    ("empty string", nothing("  "), BadSource, "empty; allowed:"),
    ("null byte", nothing("a\0b.mp4"), BadSource, "allowed:"),
    ("name too long", nothing("x" * 5000), BadSource, "File name too long"),
    ("zero length", file("clip.mp4", b""), BadSource, "the file is empty"),
    ("index cut off", without_index, BadSource, "or it is cut off"),
    ("text called mp4", file("clip.mp4", b"hello\n"), BadSource, "not a recording"),
    ("text", file("clip.txt", b"hello\n" * 100), BadSource, "holds no video"),
    ("random bytes", file("clip.mkv", np.random.default_rng(1).bytes(9000)), BadSource, "not a recording"),
    ("sound only", sound_only, BadSource, "holds no video"),
    ("playlist", playlist, BadSource, "holds no video"),
    ("gif cut in its header", file("clip.gif", b"GIF89a\x10\x00"), BadSource, "cut off"),
    ("folder without pictures", empty_folder, BadSource, "holds no pictures; allowed: .bmp, .jpeg"),
    ("folder of damaged pictures", folder_of_damage, BadSource, "none of its 2 pictures can be read"),
    ("half a picture", half_picture, BadSource, "cannot be read as a picture"),
    ("empty picture", file("one.jpg", b""), BadSource, "the file is empty"),
    ("broken link", broken_link, BadSource, "broken link"),
    ("circle of links", circle_of_links, BadSource, "link"),
    ("pipe", pipe, BadSource, "not a regular file"),
    ("unknown scheme", nothing("ftp://camera/clip.mp4"), BadSource, "unknown scheme; allowed:"),
    ("rtsp without host", nothing("rtsp:///stream"), BadSource, "rtsp://[USER:PASSWORD@]HOST"),
    ("rtsp with bad port", nothing("rtsp://u:s3cret@camera:99999/x"), BadSource, "rtsp://[USER:PASSWORD@]HOST"),
    ("rtsp with a blank", nothing("rtsp://u:s3cret@camera/x y"), BadSource, "rtsp://[USER:PASSWORD@]HOST"),
    ("rtsp refused", refused, CameraLost, "connection refused"),
    ("no pipeline", nothing("gst:"), BadSource, "the pipeline is empty"),
    ("sim option without value", nothing("sim:seed"), BadSource, "'seed' is not name=value"),
    ("unknown sim option", nothing("sim:sede=3"), BadSource, "unknown option sede (did you mean seed?); allowed:"),
    ("not a camera", nothing("/dev/null"), InspectError, "/dev/null"),
    ("camera not there", nothing("/dev/video199"), InspectError, "/dev/video199"),
]


@pytest.mark.parametrize(("make", "family", "words"), [pytest.param(*row[1:], id=row[0]) for row in BAD])
def test_bad_source_is_one_clear_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], make: Make, family: type[InspectError], words: str
) -> None:
    source = make(tmp_path)
    with pytest.raises(family) as caught:
        camera = camera_from(source)
        try:
            camera.open()
        finally:
            camera.close()
    line = str(caught.value)
    assert words in line
    assert "\n" not in line and "s3cret" not in line
    assert capfd.readouterr() == ("", ""), "a library has written to the terminal"


ON_THE_COMMAND_LINE = {
    "missing": 1,
    "empty string": 64,
    "zero length": 1,
    "index cut off": 1,
    "text": 1,
    "folder of damaged pictures": 1,
    "half a picture": 1,
    "unknown scheme": 64,
    "rtsp with bad port": 64,
    "rtsp refused": 1,
    "unknown sim option": 64,
    "camera not there": 1,
}


@pytest.mark.parametrize("name", sorted(ON_THE_COMMAND_LINE))
def test_replay_of_a_bad_source_is_one_line_and_an_exit_code(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    make = next(row[1] for row in BAD if row[0] == name)
    assert run_command(["replay", make(tmp_path), "--json"]) == ON_THE_COMMAND_LINE[name]
    out, err = capfd.readouterr()
    assert out == "" or json.loads(out.splitlines()[-1])["exit_code"] == ON_THE_COMMAND_LINE[name]
    assert err.startswith("edge-inspect: ") and err.count("\n") == 1, err
    assert "s3cret" not in err


@pytest.fixture
def readable_by_all() -> Iterator[Path]:
    """A folder that others may enter; pytest's own are closed to them."""
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.parametrize("what", ["clip.mp4", "pictures", "locked/clip.mp4", "one.jpg"])
def test_no_permission_is_one_clear_line(readable_by_all: Path, what: str) -> None:
    """In a process of its own, as `nobody`: root may read everything."""
    for folder in ("pictures", "locked"):
        (readable_by_all / folder).mkdir()
    for name in ("clip.mp4", "one.jpg", "pictures/one.jpg", "locked/clip.mp4"):
        (readable_by_all / name).write_bytes(b"something")
        (readable_by_all / name).chmod(0)
    for folder in ("pictures", "locked"):
        (readable_by_all / folder).chmod(0)
    body = (
        "import json, os, sys\n"
        "from edge_inspect.capture.open import camera_from\n"
        "import edge_inspect.capture.images, edge_inspect.capture.video\n"
        "from edge_inspect.errors import BadSource\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "try:\n    camera_from(sys.argv[1]).open()\n"
        "except BadSource as err:\n    print(json.dumps(str(err)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", body, str(readable_by_all / what)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert "ermission" in json.loads(done.stdout)


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("/dev/video0", V4L2Camera),
        ("/dev/v4l/by-path/pci-0000:00:14.0-usb-0:1:1.0-video-index0", V4L2Camera),
        ("/dev/line-camera", V4L2Camera),
        ("0", V4L2Camera),
        ("rtsp://camera-3/stream", RtspCamera),
        ("RTSPS://camera-3/stream", RtspCamera),
        ("sim", SimCamera),
        ("sim:seed=3,ng_share=0.5", SimCamera),
        ("{folder}", ImageFolder),
        ("{folder}/one.png", ImageFolder),
        ("{folder}/clip.mp4", VideoFile),
        ("file://{folder}/clip.mp4", VideoFile),
    ],
)
def test_each_way_to_name_a_source_is_understood(tmp_path: Path, source: str, kind: type) -> None:
    for name in ("one.png", "clip.mp4"):
        (tmp_path / name).write_bytes(b"x")
    assert isinstance(camera_from(source.format(folder=tmp_path), **{}), kind)


def test_option_that_a_source_does_not_have_names_those_it_has(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"x")
    clip = str(tmp_path / "clip.mp4")
    with pytest.raises(BadSource, match=r"unknown option lop \(did you mean loop\?\); allowed: loop, paced"):
        camera_from(clip, lop=True)
    with pytest.raises(BadSource, match="unknown option width; allowed: transport, timeout_s, max_age_s"):
        camera_from("rtsp://camera/x", width=640)
    with pytest.raises(BadSource, match="transport is 'carrier pigeon'; allowed: tcp, udp"):
        camera_from("rtsp://camera/x", transport="carrier pigeon")
    assert isinstance(camera_from(clip, width=None, loop=True), VideoFile), "None is not given"


def test_device_paths_are_not_even_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the kernel's own calls (open, ioctl, mmap, poll) may meet a camera."""

    def refuse(path: object, **_: object) -> os.stat_result:
        raise AssertionError(f"stat of {path}")

    monkeypatch.setattr(os, "stat", refuse)
    monkeypatch.setattr(Path, "stat", refuse)
    camera_from("/dev/video0")
