"""Any GStreamer pipeline as a camera: OpenCV's wheel cannot, and it is the way to a Jetson's CSI cameras.

1. The pipeline's pictures are converted from GStreamer's own memory straight into the slot; row padding is respected.
2. A live source is dated by GStreamer's clock, which is CLOCK_MONOTONIC here; a picture older than `max_age_s` is
   dropped and counted. A source that is not live (a file) is read without loss and ends.
3. A buffer flagged as corrupted, or shorter than its format says, is handed over as broken.
4. `read_into` waits at most `LONGEST_WAIT_S`. Errors on the pipeline's bus are CameraLost, or BadSource while opening
   if no retry can help (unknown element, formats that do not fit).

    GStreamerCamera("videotestsrc is-live=true ! video/x-raw,width=640,height=360")
    GStreamerCamera("v4l2src device=/dev/video0 ! jpegdec")

On a Jetson (written after NVIDIA's examples, not verified by our tests: no Jetson there):

    nvarguscamerasrc sensor-id=0 ! video/x-raw(memory:NVMM),width=1920,height=1080,framerate=30/1
        ! nvvidconv ! video/x-raw,format=BGRx

Where the pipeline has no `appsink`, one is added behind a `videoconvert`, which has nothing to do if the format is
BGR, BGRx or GRAY8 already. Needs PyGObject (extra `gstreamer`) and Debian's gir1.2-gst-plugins-base-1.0.
"""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_inspect.capture.protocol import Camera, Format, Pixels, Read, Stamp
from edge_inspect.errors import BadSource, CameraLost, FormatChanged

FORMATS: dict[str, tuple[int, int | None]] = {
    "BGR": (3, None),
    "RGB": (3, cv2.COLOR_RGB2BGR),
    "BGRx": (4, cv2.COLOR_BGRA2BGR),
    "BGRA": (4, cv2.COLOR_BGRA2BGR),
    "RGBx": (4, cv2.COLOR_RGBA2BGR),
    "RGBA": (4, cv2.COLOR_RGBA2BGR),
    "GRAY8": (1, cv2.COLOR_GRAY2BGR),
}
"""Bytes a pixel, and OpenCV's conversion to BGR."""
OWN_SINK = " ! videoconvert ! video/x-raw,format=(string){BGR,BGRx,GRAY8} ! appsink"
LONGEST_WAIT_S = 0.4
FIRST_PICTURE_S = 5.0


class _MapInfo(ctypes.Structure):
    """GstMapInfo. PyGObject's own `info.data` copies the whole picture."""

    _fields_ = [
        ("memory", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_size_t),
        ("maxsize", ctypes.c_size_t),
        ("user_data", ctypes.c_void_p * 4),
        ("reserved", ctypes.c_void_p * 4),
    ]


class GStreamerCamera(Camera):
    """`pipeline` as for gst-launch-1.0, without a sink or with an `appsink`."""

    live = True

    def __init__(self, pipeline: str, *, timeout_s: float = 2.0, max_age_s: float = 0.5) -> None:
        if not pipeline.strip():
            raise BadSource("gst: the pipeline is empty; example: gst:videotestsrc is-live=true")
        self._text = pipeline if "appsink" in pipeline else pipeline + OWN_SINK
        self._timeout_s = timeout_s
        self._max_age_ns = int(max_age_s * 1e9)
        self._pipeline: Any = None
        self._first: Any = None
        self._missed = 0
        self._began = False
        self.label = f"gst {pipeline.split('!', maxsplit=1)[0].split(maxsplit=1)[0]}"

    def open(self) -> Format:
        """Build and start the pipeline and wait for its first picture, which says what it really gives."""
        self.close()
        self._glib, self._gst, self._video, self._library = _load()
        self._build()
        try:
            self._start()
            return self._read_format()
        except BaseException:
            self.close()
            raise

    def read_into(self, pixels: Pixels, stamp: Stamp) -> Read:
        if self._pipeline is None:
            raise CameraLost(f"{self.label}: not open")
        deadline = time.monotonic() + LONGEST_WAIT_S
        while (left_s := deadline - time.monotonic()) > 0:
            sample, self._first = self._first or self._pull(left_s), None
            if sample is None:
                return self._why_nothing()
            self._last_at = time.monotonic()
            captured_ns = self._captured_ns(sample)
            self._count(sample.get_buffer())
            if self.live and time.monotonic_ns() - captured_ns > self._max_age_ns:
                self._missed += 1
                continue
            stamp.broken = self._convert(sample, pixels)
            stamp.index, stamp.missed, self._missed = self._index, self._missed if self._began else 0, 0
            self._began = True  # what went by between opening and the first picture is no loss
            now_ns = time.monotonic_ns()
            stamp.captured_ns = captured_ns
            stamp.utc_ns = time.time_ns() - (now_ns - captured_ns)
            return Read.FRAME
        return Read.NOTHING

    def close(self) -> None:
        if self._pipeline is not None:
            self._first = None
            self._pipeline.set_state(self._gst.State.NULL)
            self._pipeline = None

    def _build(self) -> None:
        try:
            pipeline = self._gst.parse_launch(self._text)
        except self._glib.Error as err:
            raise BadSource(f"{self.label}: {_one_line(err.message)}") from err
        sinks = _appsinks(pipeline) if isinstance(pipeline, self._gst.Bin) else []
        if len(sinks) != 1:
            raise BadSource(f"{self.label}: the pipeline must have one source and one appsink, found {len(sinks)}")
        self._pipeline, self._sink = pipeline, sinks[0]
        if self._sink.get_property("caps") is None:
            formats = ",".join(FORMATS)
            self._sink.set_property("caps", self._gst.Caps.from_string(f"video/x-raw,format={{{formats}}}"))

    def _start(self) -> None:
        gst = self._gst
        self._pipeline.use_clock(gst.SystemClock.obtain())
        self.live = self._pipeline.set_state(gst.State.PAUSED) == gst.StateChangeReturn.NO_PREROLL
        for name, value in (("sync", False), ("max-buffers", 2), ("drop", self.live)):
            self._sink.set_property(name, value)
        self._pipeline.set_state(gst.State.PLAYING)
        self._index, self._missed, self._next_offset, self._began = -1, 0, None, False
        self._last_at = time.monotonic()
        while self._first is None:
            self._first = self._pull(0.1)
            if self._first is None:
                self._raise_bus_error(opening=True)
            if time.monotonic() - self._last_at > FIRST_PICTURE_S:
                raise CameraLost(f"{self.label}: no picture within {FIRST_PICTURE_S:g} s")

    def _read_format(self) -> Format:
        info = self._info(self._first)
        fps = info.fps_n / info.fps_d if info.fps_n and info.fps_d else None
        return Format(info.width, info.height, fps, info.finfo.name, {"live": int(self.live)})

    def _info(self, sample: Any) -> Any:
        info = self._video.VideoInfo.new_from_caps(sample.get_caps())
        if info is None or info.finfo.name not in FORMATS:
            found = sample.get_caps().to_string().split(",")[0] if info is None else info.finfo.name
            raise BadSource(f"{self.label}: gives {found}; allowed: {', '.join(FORMATS)}")
        return info

    def _pull(self, timeout_s: float) -> Any:
        return self._sink.emit("try-pull-sample", int(timeout_s * 1e9))

    def _why_nothing(self) -> Read:
        self._raise_bus_error(opening=False)
        if self._sink.get_property("eos"):
            if self.live:
                raise CameraLost(f"{self.label}: the source ended")
            return Read.END
        if self.live and time.monotonic() - self._last_at > self._timeout_s:
            raise CameraLost(f"{self.label}: nothing came for {self._timeout_s:g} s")
        return Read.NOTHING

    def _raise_bus_error(self, *, opening: bool) -> None:
        message = self._pipeline.get_bus().pop_filtered(self._gst.MessageType.ERROR)
        if message is None:
            return
        error, debug = message.parse_error()
        detail = _one_line((debug or "").splitlines()[-1] if debug else "")
        text = f"{self.label}: {message.src.get_name()}: {_one_line(error.message)}{f' ({detail})' if detail else ''}"
        retry_helps = error.matches(self._gst.resource_error_quark(), error.code)
        if opening and not retry_helps:
            raise BadSource(text)
        raise CameraLost(text)

    def _captured_ns(self, sample: Any) -> int:
        now_ns = time.monotonic_ns()
        buffer = sample.get_buffer()
        if not self.live or buffer.pts == self._gst.CLOCK_TIME_NONE:
            return now_ns
        running_ns = sample.get_segment().to_running_time(self._gst.Format.TIME, buffer.pts)
        return min(int(self._pipeline.get_base_time() + running_ns), now_ns)

    def _count(self, buffer: Any) -> None:
        """Sources that number their buffers show what was lost on the way; others are only counted."""
        self._index += 1
        if not self.live or buffer.offset == self._gst.BUFFER_OFFSET_NONE:
            return
        if self._next_offset is not None and buffer.offset > self._next_offset:
            self._missed += buffer.offset - self._next_offset
            self._index += buffer.offset - self._next_offset
        self._next_offset = buffer.offset + 1

    def _convert(self, sample: Any, pixels: Pixels) -> str:
        """Fill `pixels`; returns why they must not be judged."""
        info, buffer = self._info(sample), sample.get_buffer()
        if pixels.shape != (info.height, info.width, 3):
            raise FormatChanged(
                f"{self.label}: now gives {info.width}x{info.height} px, "
                f"the slot holds {pixels.shape[1]}x{pixels.shape[0]}"
            )
        meta = self._video.buffer_get_video_meta(buffer)
        stride = meta.stride[0] if meta is not None else info.stride[0]
        offset = meta.offset[0] if meta is not None else info.offset[0]
        bytes_a_pixel, conversion = FORMATS[info.finfo.name]
        row_bytes = info.width * bytes_a_pixel
        with self._mapped(buffer) as memory:
            if memory.size < offset + stride * (info.height - 1) + row_bytes:
                return "truncated"
            rows = np.lib.stride_tricks.as_strided(memory[offset:], (info.height, row_bytes), (stride, 1))
            if conversion is None:
                np.copyto(pixels.reshape(info.height, row_bytes), rows)
            else:
                picture = np.lib.stride_tricks.as_strided(
                    rows, (info.height, info.width, bytes_a_pixel), (stride, bytes_a_pixel, 1)
                )
                cv2.cvtColor(picture, conversion, dst=pixels)
        return "corrupt" if buffer.has_flags(self._gst.BufferFlags.CORRUPTED) else ""

    @contextmanager
    def _mapped(self, buffer: Any) -> Iterator[NDArray[np.uint8]]:
        """The buffer's bytes where they lie. `hash` of a PyGObject boxed value is its address."""
        where, info = ctypes.c_void_p(hash(buffer)), _MapInfo()
        if not self._library.gst_buffer_map(where, ctypes.byref(info), 1):
            yield np.empty(0, np.uint8)
            return
        try:
            yield np.frombuffer((ctypes.c_uint8 * info.size).from_address(info.data or 0), np.uint8)
        finally:
            self._library.gst_buffer_unmap(where, ctypes.byref(info))


def _load() -> tuple[Any, Any, Any, Any]:
    """GStreamer by introspection, and its C library. Raises BadSource naming what is missing."""
    try:
        # GStreamer brings libunwind into the process, whose _Unwind_Resume then stands in for libgcc's: the first C++
        # exception in a library loaded later (OpenVINO throws some) aborts the process. The one that is first wins.
        ctypes.CDLL("libgcc_s.so.1", mode=ctypes.RTLD_GLOBAL)
        import gi

        gi.require_version("Gst", "1.0")
        gi.require_version("GstVideo", "1.0")
        from gi.repository import GLib, Gst, GstVideo

        library = ctypes.CDLL("libgstreamer-1.0.so.0")
    except (ImportError, ValueError, OSError) as err:
        raise BadSource(
            "gst: GStreamer is not usable from this Python; add the extra: pip install 'edge-inspect[gstreamer]', "
            f"and Debian's gir1.2-gst-plugins-base-1.0 ({_one_line(str(err))})"
        ) from err
    Gst.init(None)
    return GLib, Gst, GstVideo, library


def _appsinks(pipeline: Any) -> list[Any]:
    found, elements = [], pipeline.iterate_elements()
    while (item := elements.next())[1] is not None:
        if item[1].get_factory().get_name() == "appsink":
            found.append(item[1])
    return found


def _one_line(text: str) -> str:
    """Without line breaks, and without the user names and passwords that addresses may hold."""
    return re.sub(r"://[^@/\s]*@", "://", " ".join(text.split()))
