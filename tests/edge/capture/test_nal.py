"""H.264 and H.265 headers: a missing reference picture is noticed, and what belongs together is known."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_inspect.capture.nal import FrameNumbers, continues_picture, units
from tests.sim.rtsp_server import draw


def packets(folder: Path, **options: str) -> tuple[bytes, list[bytes]]:
    """Parameter sets and packets with start codes, as a network camera sends them."""
    path = folder / "clip.h264"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"preset": "medium", "g": "30", **options})
        stream.width, stream.height, stream.pix_fmt = 320, 192, "yuv420p"
        for number in range(90):
            planes = np.frombuffer(draw(number, 320, 192), np.uint8).reshape(-1, 320)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        out.mux(stream.encode(None))
    with av.open(str(path)) as clip:
        extradata = bytes(clip.streams.video[0].codec_context.extradata or b"")
        return extradata, [bytes(packet) for packet in clip.demux(video=0) if packet.size]


def gaps(extradata: bytes, stream: list[bytes]) -> list[int]:
    numbers = FrameNumbers(extradata)
    return [at for at, packet in enumerate(stream) if numbers.gap(packet)]


OPTIONS = [
    {"profile": "baseline", "bf": "0"},
    {"profile": "main", "bf": "0", "slices": "4"},
    {"profile": "high", "bf": "3", "b-pyramid": "none"},
    {"profile": "high", "bf": "3", "refs": "5", "x264-params": "cqm=jvt"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=["baseline", "slices", "B-frames", "B-pyramid and matrices"])
def test_whole_stream_has_no_gap(tmp_path: Path, options: dict[str, str]) -> None:
    extradata, stream = packets(tmp_path, **options)
    assert len(stream) == 90
    assert gaps(extradata, stream) == []
    assert gaps(b"", stream) == [], "parameter sets in the stream are enough"


@pytest.mark.parametrize("options", OPTIONS[:2], ids=["baseline", "slices"])
@pytest.mark.parametrize("lost", [1, 2, 5])
def test_lost_reference_pictures_are_a_gap_at_the_next_one(tmp_path: Path, options: dict[str, str], lost: int) -> None:
    extradata, stream = packets(tmp_path, **options)
    for at in (1, 17, 40):
        assert gaps(extradata, stream[:at] + stream[at + lost :]) == [at]


def test_lost_key_frame_is_a_gap(tmp_path: Path) -> None:
    extradata, stream = packets(tmp_path, **OPTIONS[0])
    assert gaps(extradata, stream[:30] + stream[31:]) == [30]


def test_rest_of_a_picture_is_known_by_its_first_slice(tmp_path: Path) -> None:
    _, stream = packets(tmp_path, **OPTIONS[1])
    for packet in stream[:40]:
        assert not continues_picture("h264", packet)
        slices = [unit for unit in units(packet) if unit[0] & 31 in (1, 5)]
        assert len(slices) > 1
        assert all(continues_picture("h264", b"\0\0\1" + one) for one in slices[1:])


@given(st.binary(max_size=200), st.sampled_from(["h264", "hevc", "mjpeg"]))
def test_no_bytes_can_break_the_parser(data: bytes, codec: str) -> None:
    numbers = FrameNumbers(data)
    for start in (b"", b"\0\0\1\x67", b"\0\0\1\x68", b"\0\0\1\x65", b"\0\0\1\x41"):
        numbers.gap(start + data)
        continues_picture(codec, start + data)
