"""A V4L2 camera (USB, CSI): the driver's own buffers, decoded straight into the slot.

1. No picture that the driver, the byte count or the decoder calls damaged is handed over without `stamp.broken`:
   driver-error, empty, truncated, corrupt, wrong-size, other-size.
2. Pixels are written once, into the slot: YUYV by cv2 and MJPG by libjpeg-turbo from the mapped buffer.
3. Another size than the slot's is never written: FormatChanged. (One MJPG header that says so is a damaged picture;
   the second in a row is a change.)
4. A picture older than `max_age_s` when we get it is dropped and counted in `stamp.missed`, as are gaps in the
   driver's sequence.
5. After a loss the same camera is looked for under its old path, its udev names and every other number (v4l2_find).
6. A read waits at most half a second. A driver that hangs inside an ioctl cannot be interrupted from here: the
   daemon sees the grab thread's heart stop and ends the process.

Not through cv2.VideoCapture, which hands out flagged, truncated and stale buffers as good pictures.

    camera = V4L2Camera("/dev/video0", width=1280, height=720, exposure_us=2000)
    given = camera.open()
    pixels, stamp = np.empty((given.height_px, given.width_px, 3), np.uint8), Stamp()
    if camera.read_into(pixels, stamp) is Read.FRAME and not stamp.broken: ...
"""

from __future__ import annotations

import errno
import time

from linuxpy.video import raw

from edge_inspect.capture import v4l2_decode, v4l2_settings
from edge_inspect.capture.protocol import Camera, Format, Pixels, Read, Stamp
from edge_inspect.capture.v4l2_arrivals import Arrivals
from edge_inspect.capture.v4l2_find import Finder
from edge_inspect.capture.v4l2_node import Node, explain
from edge_inspect.capture.v4l2_settings import Asked, Picture, PixelFormat
from edge_inspect.capture.v4l2_stream import Mapped, Stream
from edge_inspect.errors import CameraLost, FormatChanged

_WAIT_S = 0.4
_LOOK_AT_HEADERS_S = 1.5
_STUMBLES_IN_A_ROW = 2  # each may have cost one of the buffers

DRIVER_ERROR = "driver-error"


class V4L2Camera(Camera):
    """One camera by path (`/dev/video0`, `/dev/v4l/by-id/...`) or number (`0`)."""

    live = True
    can_be_cut_short = True
    """A signal ends a driver's call that does not return (`Node.call` gives it up)."""

    def __init__(
        self,
        device: str,
        *,
        width: int | None = None,
        height: int | None = None,
        fps: float | None = None,
        pixel_format: PixelFormat = "auto",
        exposure_us: int | None = None,
        gain: int | None = None,
        white_balance_k: int | None = None,
        buffers: int = 4,
        max_age_s: float = 0.5,
    ) -> None:
        self.label = f"/dev/video{device}" if device.isdigit() else device
        self._asked = Asked(width, height, fps, pixel_format)
        self._locks = {"exposure_us": exposure_us, "gain": gain, "white_balance_k": white_balance_k}
        self._buffers = buffers
        self._max_age_ns = int(max_age_s * 1e9)
        self._finder = Finder(self.label)
        self._node: Node | None = None
        self._running: _Running | None = None
        self._headers_differ = False
        self._has_given = False

    def open(self) -> Format:
        """Find the camera, set what was asked, start the stream. `settings`: what the driver holds now.

        `settings["note"]` is there when something is not as asked: one line for the log.
        """
        self.close()
        try:
            self._node, notes = self._finder.find()
            return self._start(self._node, notes)
        except OSError as err:
            path = self._node.path if self._node else self.label
            self.close()
            raise explain(path, err, was_there=self._finder.was_there) from err
        except BaseException:
            self.close()
            raise

    def _start(self, node: Node, notes: list[str]) -> Format:
        picture = v4l2_settings.negotiate(node, self._asked)
        notes = [*notes, *v4l2_settings.differences(self._asked, picture)]
        v4l2_settings.lock(node, self._locks)
        self._running = _Running(self.label, node, picture, self._buffers, self._max_age_ns)
        if self._headers_differ:
            notes += self._running.believe_headers()
            picture = self._running.picture
        self._finder.remember(picture.fourcc)
        # After a loss the same size is asked for again, whatever the driver holds by then.
        self._asked = self._asked._replace(
            width_px=self._asked.width_px or picture.width_px, height_px=self._asked.height_px or picture.height_px
        )
        identity, _ = node.capability()
        held, unheld = v4l2_settings.held(node, self._locks)
        settings: dict[str, str | int | float | None] = {"device": node.path, **identity._asdict(), **held}
        if notes := [*notes, *unheld]:
            settings["note"] = "; ".join(notes)
        return Format(picture.width_px, picture.height_px, picture.fps, picture.fourcc, settings)

    def read_into(self, pixels: Pixels, stamp: Stamp) -> Read:
        """See `Camera.read_into`."""
        if self._running is None:
            raise CameraLost(f"{self.label}: the camera is not open")
        try:
            read = self._running.read_into(pixels, stamp)
        except OSError as err:
            raise explain(self.label, err, was_there=True) from err
        finally:
            self._headers_differ = self._running.headers_differ
        if read is Read.FRAME and not self._has_given:
            self._has_given = True
            stamp.missed = 0  # what passed before the first picture of all was nobody's
        return read

    def close(self) -> None:
        if self._running is not None:
            self._running.stop()
            self._running = None
        if self._node is not None:
            self._node.close()
            self._node = None


class _Running:
    """One stream from start to stop. Raises OSError, which the camera explains."""

    def __init__(self, label: str, node: Node, picture: Picture, buffers: int, max_age_ns: int) -> None:
        self._label = label
        self._node = node
        self.picture = picture
        self._stream = Stream(node, buffers)
        try:
            for mapped in () if picture.compressed else self._stream.mapped:
                mapped.view_yuyv(picture.height_px, picture.width_px, picture.stride_bytes)
        except OSError:
            self._stream.stop()
            raise
        self._arrivals = Arrivals(time.monotonic_ns(), max_age_ns=max_age_ns, buffers=len(self._stream.mapped))
        self.headers_differ = False
        """The JPEG headers show another size than the driver holds: at the next open they are looked at first."""
        self._odd_size: tuple[int, int] | None = None
        self._stumbles = 0
        self._lost: OSError | None = None
        self._slot_checked = False

    def stop(self) -> None:
        self._stream.stop()

    def believe_headers(self) -> list[str]:
        """Take the picture's size from the next JPEG headers instead of the driver; a note where they differ."""
        until = time.monotonic() + _LOOK_AT_HEADERS_S
        while time.monotonic() < until:
            mapped = self._next()
            if mapped is None:
                continue
            size = v4l2_decode.jpeg_size(mapped, self._stream.taken.bytesused)
            self._stream.requeue(self._stream.taken.index)
            if size is not None:
                said, self.picture = self.picture, self.picture._replace(width_px=size[0], height_px=size[1])
                return [] if said == self.picture else [f"the driver says {said}, its pictures are {self.picture}"]
        raise OSError(errno.ETIMEDOUT, "no readable picture came after a change of size")

    def read_into(self, pixels: Pixels, stamp: Stamp) -> Read:
        if pixels.shape != (self.picture.height_px, self.picture.width_px, 3):
            raise FormatChanged(f"{self._label}: pictures are {self.picture}, the slot has the shape {pixels.shape}")
        if not self._slot_checked:
            v4l2_decode.check_slot(pixels)
            self._slot_checked = True
        if self._lost is not None:
            raise self._lost
        self._arrivals.come_back(time.monotonic_ns())
        try:
            mapped = self._next()
            return Read.NOTHING if mapped is None else self._take(mapped, pixels, stamp)
        except OSError as err:
            return self._stumble(err, stamp)
        finally:
            self._arrivals.leave(time.monotonic_ns())

    def _next(self) -> Mapped | None:
        if self._arrivals.doubtful and not self._stream.wait(0):
            self._arrivals.was_empty()
        if not self._stream.wait(_WAIT_S):
            return None
        if self._stream.source_changed():
            raise FormatChanged(f"{self._label}: the driver announces another picture size; {self._was()}")
        return self._stream.dequeue()

    def _take(self, mapped: Mapped, pixels: Pixels, stamp: Stamp) -> Read:
        taken = self._stream.taken
        self._stumbles = 0
        try:
            if self._arrivals.take(time.monotonic_ns(), _kernel_ns(taken), taken.sequence):
                return Read.NOTHING
            self._sign(stamp, self._fill(mapped, pixels))
            return Read.FRAME
        finally:
            self._give_back(taken.index)

    def _sign(self, stamp: Stamp, broken: str) -> None:
        stamp.broken = broken
        stamp.index = self._arrivals.number
        stamp.captured_ns = self._arrivals.captured_ns
        stamp.utc_ns = time.time_ns() - (time.monotonic_ns() - stamp.captured_ns)
        stamp.missed = self._arrivals.missed()

    def _stumble(self, err: OSError, stamp: Stamp) -> Read:
        """EIO may pass (V4L2: "temporary problems like signal loss"): a broken picture, a few times in a row."""
        self._stumbles += 1
        if err.errno != errno.EIO or self._stumbles > _STUMBLES_IN_A_ROW:
            raise err
        self._arrivals.take_none(time.monotonic_ns())
        self._sign(stamp, DRIVER_ERROR)
        return Read.FRAME

    def _give_back(self, index: int) -> None:
        """A picture that is in the slot stays good when the camera is unplugged now: the next read will say so."""
        try:
            self._stream.requeue(index)
        except OSError as err:
            self._lost = err

    def _fill(self, mapped: Mapped, pixels: Pixels) -> str:
        taken, used_bytes = self._stream.taken, int(self._stream.taken.bytesused)
        if taken.flags & raw.BufferFlag.ERROR:
            return DRIVER_ERROR
        if used_bytes > mapped.length_bytes:
            self._check_format(used_bytes)
            return DRIVER_ERROR
        reason, claimed = v4l2_decode.fill(self.picture, mapped, used_bytes, pixels)
        if claimed is not None and claimed == self._odd_size:
            self.headers_differ = True
            raise FormatChanged(f"{self._label}: pictures are now {claimed[0]}x{claimed[1]}; {self._was()}")
        self._odd_size = claimed
        if reason and not self.picture.compressed:
            self._check_format(used_bytes)
        return reason

    def _check_format(self, used_bytes: int) -> None:
        """A byte count that does not fit: is it damage, or has the driver changed its format?"""
        now = v4l2_settings.read_format(self._node)
        if now is not None and now[:3] != self.picture[:3]:
            raise FormatChanged(f"{self._label}: the driver now gives {now}; {self._was()}")
        whole = self.picture.stride_bytes * self.picture.height_px
        if not self.picture.compressed and used_bytes > max(self.picture.size_bytes, whole):
            raise FormatChanged(f"{self._label}: a picture of {used_bytes} bytes came; {self._was()}")

    def _was(self) -> str:
        return f"it was {self.picture}"


def _kernel_ns(taken: raw.v4l2_buffer) -> int:
    """The driver's time stamp where it is CLOCK_MONOTONIC, else 0."""
    if taken.flags & raw.BufferFlag.TIMESTAMP_MASK != raw.BufferFlag.TIMESTAMP_MONOTONIC:
        return 0
    return int(taken.timestamp.secs) * 1_000_000_000 + int(taken.timestamp.usecs) * 1_000
