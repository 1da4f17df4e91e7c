"""The grab thread: keeps one camera open for ever and fills its ring.

1. A lost camera is reopened with back-off and jitter (0.5 s to 10 s), for ever; nothing but `stop` ends that.
2. No picture for `stall_s` on the monotonic clock is a loss, even if the driver says nothing.
3. Each loss is one gap in the ring, so that what passed unseen becomes UNKNOWN.
4. A live camera's call that does not return is told as a loss after TOLD_AFTER_S by whoever looks after this thread,
   and cut short where the driver can be interrupted; then the camera is reopened like any lost one.
5. `beat_ns` moves as long as this thread is in charge of itself; a driver call that never returns stops it, and
   whoever watches the beat ends the process: a thread stuck for good in a driver cannot be freed from inside.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import structlog

from edge_inspect.capture.cut_short import cut_short
from edge_inspect.capture.protocol import Camera, Format, Read
from edge_inspect.capture.ring import Ring, Slot
from edge_inspect.counts import LaneCounts
from edge_inspect.errors import BadSource, CameraLost, FormatChanged

log = structlog.get_logger()

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 10.0
TOLD_AFTER_S = 4.0
CUT_EVERY_S = 1.0


class Grabber:
    """Owns `camera` and the filling side of its ring. `prepare(format)` builds the ring once the size is known."""

    def __init__(
        self,
        name: str,
        camera: Camera,
        prepare: Callable[[Format], Ring],
        counts: LaneCounts,
        *,
        first_open_s: float | None = None,
        stall_s: float | None = None,
    ) -> None:
        self.name = name
        self.camera = camera
        self.format: Format | None = None
        self.state = "opening"
        self.beat_ns: int | None = time.monotonic_ns()
        self.ended = threading.Event()
        self.settled = threading.Event()
        """Set once the camera gave its first picture or failed for the first time."""
        self._telling = threading.Lock()
        self._prepare = prepare
        self._thread_ident = 0
        self._next_cut_ns = 0
        self._ring: Ring | None = None
        self._counts = counts
        self._gave_pictures = False
        self._first_open_s = first_open_s
        self._stall_s = stall_s

    def run(self, stop: threading.Event) -> None:
        """Grab until `stop` or until a file ends. Raises BadSource; CameraLost if the first opening took too long."""
        started = time.monotonic()
        self._thread_ident = threading.get_ident()
        wait_s = FIRST_WAIT_S / 2
        try:
            while not stop.is_set():
                self._beat()
                self._gave_pictures = False
                try:
                    ring = self._open()
                    if self._fill_until_end(ring, stop):
                        return
                except FormatChanged as err:
                    if not self.camera.live:
                        raise BadSource(str(err)) from err
                    self._lost(err, started)
                except CameraLost as err:
                    self._lost(err, started)
                except BadSource as err:
                    if self._ring is None:
                        raise
                    self._lost(err, started)
                self.camera.close()
                # A camera that opens and fails at once is not back: only a picture starts the back-off anew.
                wait_s = FIRST_WAIT_S if self._gave_pictures else min(wait_s * 2, LONGEST_WAIT_S)
                self._sleep(stop, wait_s * random.uniform(0.75, 1.25))
        finally:
            self.camera.close()
            self.settled.set()
            self.state = "ended"
            self.beat_ns = None
            self.ended.set()
            if self._ring is not None:
                self._ring.close()

    def look_after(self, now_ns: int, awake_since_ns: int) -> None:
        """By another thread, several times a second: tell and cut short a driver's call that does not return."""
        beat_ns = self.beat_ns
        if beat_ns is None or self.state not in ("up", "lost") or not self.camera.live:
            return
        still_s = (now_ns - max(beat_ns, awake_since_ns)) / 1e9
        if still_s <= TOLD_AFTER_S:
            return
        if self.state == "up":
            self._tell_lost(f"the driver's call has not returned for {still_s:.1f} s")
        if now_ns >= self._next_cut_ns and self.camera.can_be_cut_short:
            self._next_cut_ns = now_ns + round(CUT_EVERY_S * 1e9)
            cut_short(self._thread_ident)

    def _beat(self) -> None:
        self.beat_ns = time.monotonic_ns()

    def _sleep(self, stop: threading.Event, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not stop.wait(min(left, 0.5)):
            self._beat()

    def _open(self) -> Ring:
        form = self.camera.open()
        if self._ring is None:
            self.beat_ns = None  # building an engine may take minutes, and that is no hang
            self._ring = self._prepare(form)
            self._beat()
        elif self.format is not None and (form.width_px, form.height_px) != (
            self.format.width_px,
            self.format.height_px,
        ):
            raise FormatChanged(
                f"camera {self.name} ({self.camera.label}) came back with {form.width_px}x{form.height_px} px, "
                f"the line runs with {self.format.width_px}x{self.format.height_px}; waiting for that size, or restart"
            )
        self.format = form
        return self._ring

    def _came_up(self, form: Format) -> None:
        """The first picture since it was opened."""
        self._gave_pictures = True
        if self.state == "up":
            return
        if self.state == "lost":
            self._counts.reconnects += 1
        self.state = "up"
        self.settled.set()
        log.info("camera.up", camera=self.name, source=self.camera.label, size=f"{form.width_px}x{form.height_px}",
                 fps=form.fps, pixel_format=form.pixel_format, **form.settings)  # fmt: skip

    def _lost(self, err: Exception, started: float) -> None:
        if self._ring is None and self._first_open_s is not None:
            if time.monotonic() - started > self._first_open_s:
                raise err
            return  # never had, so not lost; if it stays away, that error is all there is to say
        self._tell_lost(str(err))

    def _tell_lost(self, why: str) -> None:
        with self._telling:
            if self.state == "lost":
                return
            self.state = "lost"
        if self._ring is not None:  # before the log, which may be slow: a line waits for it
            self._ring.note_gap(time.monotonic_ns(), "camera-lost")
        self.settled.set()
        log.warning("camera.lost", camera=self.name, source=self.camera.label, why=why)

    def _fill_until_end(self, ring: Ring, stop: threading.Event) -> bool:
        """True when stopped or at the end of a file; a loss leaves by its exception."""
        assert self.format is not None
        stall_s = self._stall_s or max(self.camera.patience_s, 10 / (self.format.fps or 10))
        last_frame = time.monotonic()
        while not stop.is_set():
            self._beat()
            read = self._read_one(ring)
            if read is Read.END:
                return True
            if read is Read.FRAME and not (self._gave_pictures and self.state == "up"):
                self._came_up(self.format)
            now = time.monotonic()
            if read is not Read.NOTHING:
                last_frame = now  # or we are the slow side: a full ring is no silence of the camera
            elif self.camera.live and now - last_frame > stall_s:
                raise CameraLost(f"camera {self.name} ({self.camera.label}) gave no picture for {stall_s:.1f} s")
        return True

    def _count_missed(self, slot: Slot) -> None:
        """What passed before the first picture since an opening is known as a gap already, or was before our time."""
        if not self._gave_pictures:
            slot.stamp.missed = 0
        self._counts.camera_missed += slot.stamp.missed

    def _read_one(self, ring: Ring) -> Read | None:
        """Read into a slot; None when a lossless ring had no room yet, which is no fault of the camera."""
        lease = ring.fill(timeout_s=0.5)
        with lease as slot:
            if slot is not None:
                read = self.camera.read_into(slot.pixels, slot.stamp)
                if read is Read.FRAME:
                    self._count_missed(slot)
                else:
                    lease.discard()
                return read
        if ring.spare is None:
            return None
        read = self.camera.read_into(ring.spare.pixels, ring.spare.stamp)
        if read is Read.FRAME:
            self._count_missed(ring.spare)
            ring.refuse(ring.spare.stamp.captured_ns, ring.spare.stamp.missed)
        return read
