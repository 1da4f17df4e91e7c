"""The thread that waits for one RTSP connection's packets.

1. It only takes packets off the network and notes when they came; decoding is done by whoever takes them. It exists
   because FFmpeg cannot be asked to wait for less than its own time-out without losing its place in the stream.
2. It ends by itself: at the end of the stream, at an error, or after `timeout_s` without a packet; `close` waits for
   that, so at most `timeout_s`, then closes the connection.
3. The queue is bounded. If nobody takes packets, all of it is dropped, counted, and the next packet says `lost`.
4. `lost` also marks the packet before which FFmpeg noticed missing RTP sequence numbers; it tells that only in its log.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import Any, NamedTuple

import av
import av.logging

from edge_inspect.errors import CameraLost

MOST_PACKETS = 512
MOST_BYTES = 64 * 1024 * 1024
LOSS_SIGNS = ("RTP: missed", "bad cseq", "Missing packets")


class Arrival(NamedTuple):
    packet: Any
    arrived_ns: int
    lost: bool


class RtspReader:
    """Owns `container` from now on."""

    def __init__(self, container: Any, stream: Any, timeout_s: float, name: str) -> None:
        self._container = container
        self._stream = stream
        self._timeout_s = timeout_s
        self._arrivals: deque[Arrival] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._closing = False
        self._ended = ""
        self.dropped = 0
        """Packets thrown away because nobody took them."""
        self._thread = threading.Thread(target=self._run, name=f"rtsp {name}", daemon=True)
        self._thread.start()

    def take(self, timeout_s: float) -> Arrival | None:
        """The next packet, or None after `timeout_s`. Raises CameraLost when none will come any more."""
        with self._changed:
            if self.peek(timeout_s) is None:
                if self._ended:
                    raise CameraLost(self._ended)
                return None
            arrival = self._arrivals.popleft()
            self._bytes -= arrival.packet.size
            return arrival

    def peek(self, timeout_s: float) -> Any | None:
        """The packet that `take` would give, left where it is."""
        with self._changed:
            self._changed.wait_for(lambda: self._arrivals or self._ended, timeout_s)
            return self._arrivals[0].packet if self._arrivals else None

    def close(self) -> None:
        self._closing = True
        self._thread.join()
        self._container.close()

    def _run(self) -> None:
        ended = "reading failed"
        try:
            with av.logging.Capture(local=True) as lines:
                waiting_since = time.monotonic()
                for packet in self._container.demux(self._stream):
                    if self._closing or not packet.size:
                        break
                    # At a time-out FFmpeg first gives out what its parser held back; its place in the stream is lost.
                    if time.monotonic() - waiting_since >= self._timeout_s:
                        raise TimeoutError
                    self._put(packet, any(sign in line[2] for line in lines for sign in LOSS_SIGNS))
                    lines.clear()
                    waiting_since = time.monotonic()
            ended = "the server ended the stream"
        except (av.error.ExitError, TimeoutError):
            ended = f"nothing came for {self._timeout_s:g} s"
        except av.FFmpegError as err:
            ended = f"connection lost ({err.strerror})"
        finally:
            with self._changed:
                self._ended = ended
                self._changed.notify_all()

    def _put(self, packet: Any, lost: bool) -> None:
        with self._changed:
            if len(self._arrivals) >= MOST_PACKETS or self._bytes + packet.size > MOST_BYTES:
                self.dropped += len(self._arrivals)
                self._arrivals.clear()
                self._bytes = 0
                lost = True
            self._arrivals.append(Arrival(packet, time.monotonic_ns(), lost))
            self._bytes += packet.size
            self._changed.notify_all()


def listen_to_ffmpeg() -> None:
    """Have FFmpeg's warnings brought to the thread that causes them; nothing of it reaches stderr."""
    logging.getLogger("libav").setLevel(logging.CRITICAL + 1)
    av.logging.set_skip_repeated(False)
    if av.logging.get_level() is None or av.logging.get_level() < av.logging.WARNING:
        av.logging.set_level(av.logging.WARNING)
