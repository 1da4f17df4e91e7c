"""The driver's own buffers, mapped once: what comes out of them, and giving them back.

1. Buffers are mapped when the stream starts and unmapped when it stops; nothing is copied in between.
2. A buffer is either with the driver or with us, and we hold at most one.
3. A wait is at most the seconds asked for. DQBUF on a non-blocking file returns at once by the V4L2 rules; with a
   driver that hangs in it all the same nothing here can help: the grab thread's heartbeat stops, and whoever
   watches that (the daemon, then systemd) ends the process.
4. `stop` unmaps before it lets the buffers go, and never raises: the way REQBUFS(0) works on every kernel.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import select
import time

import numpy as np
from linuxpy.video import raw
from numpy.typing import NDArray

from edge_inspect.capture import v4l2_node
from edge_inspect.capture.v4l2_node import CAPTURE, MMAP, Node

_SPURIOUS_REST_S = 0.002


class Mapped:
    """One of the driver's buffers in our memory, with the views that are needed on it."""

    def __init__(self, node: Node, length: int, offset: int) -> None:
        self.memory = mmap.mmap(node.fd, length, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=offset)
        self.bytes: NDArray[np.uint8] | None = np.frombuffer(self.memory, np.uint8)
        self.length_bytes = length
        self.yuyv: NDArray[np.uint8] | None = None
        """(height, width, 2) of the packed pixels, respecting bytesperline."""

    def view_yuyv(self, height_px: int, width_px: int, stride_bytes: int) -> None:
        """Raises OSError when the buffer is too small for such a picture."""
        assert self.bytes is not None
        if height_px * stride_bytes > self.length_bytes:
            raise OSError(errno.EPROTO, f"buffers of {self.length_bytes} bytes are too small for the picture")
        shape, strides = (height_px, width_px, 2), (stride_bytes, 2, 1)
        self.yuyv = np.lib.stride_tricks.as_strided(self.bytes, shape, strides, writeable=False)

    def unmap(self) -> None:
        self.bytes = self.yuyv = None
        # BufferError: someone still holds a view (a traceback); the memory goes when that goes.
        with contextlib.suppress(BufferError):
            self.memory.close()


class Stream:
    """A running capture. Raises OSError everywhere except in `stop`."""

    def __init__(self, node: Node, buffers: int) -> None:
        self._node = node
        self.mapped: list[Mapped] = []
        self.taken = raw.v4l2_buffer()
        """The buffer that `dequeue` took last: bytesused, flags, timestamp, sequence."""
        self._given = raw.v4l2_buffer()
        self._poll = select.poll()
        self._events = False
        self._told = 0
        try:
            self._start(buffers)
        except BaseException:
            self.stop()
            raise

    def _start(self, buffers: int) -> None:
        asked = raw.v4l2_requestbuffers()
        asked.count, asked.type, asked.memory = buffers, CAPTURE, MMAP
        self._node.call(v4l2_node.REQBUFS, asked)
        if asked.count < 2:
            raise OSError(errno.ENOMEM, "the driver gives fewer than 2 buffers")
        described = raw.v4l2_buffer()
        for index in range(asked.count):
            described.index, described.type, described.memory = index, CAPTURE, MMAP
            self._node.call(v4l2_node.QUERYBUF, described)
            self.mapped.append(Mapped(self._node, described.length, described.m.offset))
            self.requeue(index)
        wanted = raw.v4l2_event_subscription()
        wanted.type = raw.EventType.SOURCE_CHANGE
        self._events = self._node.has(v4l2_node.SUBSCRIBE_EVENT, wanted)
        self._poll.register(self._node.fd, select.POLLIN | (select.POLLPRI if self._events else 0))
        self._node.call(v4l2_node.STREAMON, raw.cint(CAPTURE))

    def wait(self, seconds: float) -> bool:
        """True when there is something to take. Raises OSError(ENODEV) when the device is gone."""
        ready = self._poll.poll(int(seconds * 1000))
        self._told = ready[0][1] if ready else 0
        if self._told & select.POLLNVAL:
            raise OSError(errno.ENODEV, "the device file is gone")
        if not ready and seconds > 0:
            self._node.capability()  # some drivers do not wake a poll when they are unplugged, but say so here
        return bool(ready)

    def source_changed(self) -> bool:
        """After `wait`: True when the driver has announced another picture size."""
        if not self._told & select.POLLPRI:
            return False
        event = raw.v4l2_event()
        return self._node.has(v4l2_node.DQEVENT, event) and bool(event.type == raw.EventType.SOURCE_CHANGE)

    def dequeue(self) -> Mapped | None:
        """After `wait`: take the oldest filled buffer into `taken`; None when there is none after all."""
        taken = self.taken
        taken.type, taken.memory = CAPTURE, MMAP
        try:
            self._node.call(v4l2_node.DQBUF, taken)
        except BlockingIOError:
            if self._told & (select.POLLERR | select.POLLHUP):
                raise OSError(errno.ENODEV, "the driver reports an error and has no picture") from None
            time.sleep(_SPURIOUS_REST_S)  # the wait promised more than there is: do not spin
            return None
        index = int(taken.index)
        if index >= len(self.mapped):
            raise OSError(errno.EPROTO, f"the driver answers with buffer {index} of {len(self.mapped)}")
        return self.mapped[index]

    def requeue(self, index: int) -> None:
        given = self._given
        given.index, given.type, given.memory = index, CAPTURE, MMAP
        self._node.call(v4l2_node.QBUF, given)

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._node.call(v4l2_node.STREAMOFF, raw.cint(CAPTURE))
        for mapped in self.mapped:
            mapped.unmap()
        self.mapped.clear()
        none = raw.v4l2_requestbuffers()
        none.count, none.type, none.memory = 0, CAPTURE, MMAP
        with contextlib.suppress(OSError):
            self._node.call(v4l2_node.REQBUFS, none)
