"""A network camera (RTSP) whose pictures are new, whole, and dated by the sender.

1. No picture is older than `max_age_s` when it is handed over: what a stall held back and then delivered late is
   decoded, dropped and counted in `missed`; so is what comes while it is unclear how old it is, which happens again
   when a packet proves the others late. Directly after connecting nothing is handed over until the server's stored
   pictures have passed; these are not counted.
2. A picture that is damaged, concealed or built on a lost one is handed over as broken `corrupt` (see `pictures`);
   where nothing at all could be decoded, black and broken.
3. Silence for `timeout_s`, a cut connection, the end of the stream, nothing but late pictures: CameraLost; the caller
   reopens.
4. `read_into` waits at most `LONGEST_WAIT_S`, `close` at most `timeout_s`, `open` a few seconds.
5. Neither user name nor password nor the query of the URL appears in `label`, in an error or in a traceback of ours.

    camera = RtspCamera("rtsp://user:password@camera-3/stream1")

FFmpeg gives a picture out when the next one begins: one frame period of latency that this adapter cannot avoid.
"""

from __future__ import annotations

import struct
import time
from collections import deque
from typing import Any, Literal
from urllib.parse import SplitResult, urlsplit

import av

from edge_inspect.capture.nal import HEAD_BYTES, continues_picture
from edge_inspect.capture.pictures import Frame, PictureDecoder
from edge_inspect.capture.protocol import Camera, Format, Pixels, Read, Stamp
from edge_inspect.capture.rtsp_reader import Arrival, RtspReader, listen_to_ffmpeg
from edge_inspect.capture.sender_clock import Overlay, SenderClock
from edge_inspect.errors import BadSource, CameraLost, FormatChanged

LONGEST_WAIT_S = 0.4
OPEN_TIMEOUT_S = 4.0
NO_KEY_FRAME_S = 30.0
"""Without a trustworthy key frame for so long the connection is made anew: servers begin with one."""
WALL_FORGET_S = 60.0
"""After only late pictures for so long, what was learnt about the sender's wall clock is taken to be wrong."""


class RtspCamera(Camera):
    """`transport`: "tcp" (default: nothing is lost on the way) or "udp"."""

    live = True
    may_repeat = True
    """A still scene at a low bit rate decodes to the same bytes again and again."""
    patience_s = 8.0
    """After an opening, stored pictures and settling clocks may take this long before a picture is new."""

    def __init__(
        self,
        url: str,
        *,
        transport: Literal["tcp", "udp"] = "tcp",
        timeout_s: float = 2.0,
        max_age_s: float = 0.5,
    ) -> None:
        parts = _split(url)
        if transport not in ("tcp", "udp"):
            raise BadSource(f"{_shown(parts)}: transport is {transport!r}; allowed: tcp, udp")
        if not 0.1 <= timeout_s <= 60 or not 0.01 <= max_age_s <= 60:
            raise BadSource(
                f"{_shown(parts)}: timeout_s is {timeout_s:g}, max_age_s {max_age_s:g}; "
                "allowed: 0.1 to 60 and 0.01 to 60"
            )
        self._url = url
        self._transport = transport
        self._timeout_s = timeout_s
        self._max_age_ns = int(max_age_s * 1e9)
        self._wall = Overlay()
        self._fresh_at = time.monotonic()
        self._reader: RtspReader | None = None
        self.label = _shown(parts)

    def open(self) -> Format:
        """Connect and start to play. Raises CameraLost, or BadSource when user name or password are refused."""
        self.close()
        listen_to_ffmpeg()
        container, stream = self._connect()
        context = stream.codec_context
        self._codec = str(context.name)
        self._tick_ns = float(stream.time_base) * 1e9
        rate = float(stream.average_rate or 0)
        self._period_ns = 1e9 / rate if rate else 0.0
        self._decoder = PictureDecoder(stream, from_key=True)
        self._clock = SenderClock(self._wall)
        self._waiting: deque[tuple[Frame | None, int | None, str]] = deque()
        self._split_keys: bool | None = None
        self._began = False
        self._index = 0
        self._missed = 0
        self._told: int | None = None
        self._last_sent_ns: float | None = None
        self._opened_at = time.monotonic()
        self._reader = RtspReader(container, stream, self._timeout_s, self.label)
        return Format(
            context.width, context.height, rate or None, self._codec,
            {"transport": self._transport, "sent_as": context.pix_fmt},
        )  # fmt: skip

    def read_into(self, pixels: Pixels, stamp: Stamp) -> Read:
        if self._reader is None:
            raise CameraLost(f"{self.label}: not open")
        deadline = time.monotonic() + LONGEST_WAIT_S
        try:
            while not self._hand_over(pixels, stamp):
                left_s = deadline - time.monotonic()
                arrival = self._reader.take(left_s) if left_s > 0 else None
                if arrival is None:
                    self._check_patience()
                    return Read.NOTHING
                self._decode(arrival)
        except CameraLost as err:
            raise type(err)(f"{self.label}: {err}") from err
        return Read.FRAME

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _connect(self) -> tuple[Any, Any]:
        """Errors of FFmpeg are not chained: their text holds the URL with its password."""
        options = {
            "rtsp_transport": self._transport,
            "max_delay": "200000",
            "fpsprobesize": "0",
            "analyzeduration": "1000000",  # its key frame may be seconds away; size and format stand in the SDP
            "allowed_media_types": "video",
        }
        if self._transport == "tcp":
            options["reorder_queue_size"] = "2"  # with less FFmpeg does not look for gaps in the sequence numbers
        started = time.monotonic()
        try:
            container = av.open(self._url, options=options, timeout=(OPEN_TIMEOUT_S, self._timeout_s))
        except (av.FFmpegError, OSError) as err:
            failure = _explain(self.label, err, time.monotonic() - started)
        else:
            stream = container.streams.video[0] if container.streams.video else None
            if stream is not None and stream.codec_context is not None and stream.codec_context.width:
                return container, stream
            container.close()
            failure = CameraLost(f"{self.label}: sends no video that can be decoded")
        raise failure

    def _decode(self, arrival: Arrival) -> None:
        packet, lost = self._whole_picture(arrival)
        if lost:
            self._missed += 1
            self._decoder.doubt()
        if packet.pts is not None:
            self._clock.arrived(int(packet.pts * self._tick_ns), arrival.arrived_ns, _wall_ns(packet))
        errors, found = self._decoder.errors, self._decoder.decode(packet)
        self._began = self._began or bool(found)
        if self._decoder.errors > errors or not self._began:  # before its first key frame FFmpeg gives out nothing
            self._waiting.append((None, packet.pts, "corrupt"))
        self._waiting.extend((frame, frame.pts, broken) for frame, broken in found)

    def _whole_picture(self, arrival: Arrival) -> tuple[Any, bool]:
        """The packet, joined with what FFmpeg's parser cut off it (see `nal`), and whether anything before it was lost.

        Looks ahead at key frames only, and waits there only in a stream that is known, or may turn out, to need it.
        """
        assert self._reader is not None
        packet, _, lost = arrival
        if not packet.is_keyframe:
            return packet, lost
        if continues_picture(self._codec, _head(packet)):
            self._split_keys = True
        while (rest := self._reader.peek(0.0 if self._split_keys is False else LONGEST_WAIT_S / 2)) is not None:
            if not continues_picture(self._codec, _head(rest)):
                self._split_keys = bool(self._split_keys)
                break
            following = self._reader.take(0.0)
            lost = lost or following is None or following.lost
            self._split_keys = True
            whole = av.Packet(bytes(packet) + bytes(rest))
            whole.pts, whole.dts, whole.time_base = rest.pts, rest.dts, rest.time_base
            whole.is_keyframe = True
            packet = whole
        return packet, lost

    def _hand_over(self, pixels: Pixels, stamp: Stamp) -> bool:
        """Put the next decoded frame that is fresh into the slot; False: none left."""
        while self._waiting:
            frame, pts, broken = self._waiting.popleft()
            self._index += 1
            if pts is None:
                continue  # FFmpeg dates all but the very first
            sent_ns = pts * self._tick_ns
            self._count_gap(sent_ns)
            now_ns = time.monotonic_ns()
            if not self._clock.settled(now_ns):
                self._missed += 1
                continue
            captured_ns = self._clock.captured_ns(int(sent_ns))
            if now_ns - captured_ns > self._max_age_ns:
                self._missed += 1
                continue
            self._fill(frame, pixels)
            self._stamp(stamp, captured_ns, broken)
            self._fresh_at = time.monotonic()
            return True
        return False

    def _count_gap(self, sent_ns: float) -> None:
        """A hole of more than two periods in the sender's time. Uneven cameras skip one; that is no loss."""
        last_ns, self._last_sent_ns = self._last_sent_ns, sent_ns
        if last_ns is not None and self._period_ns and sent_ns - last_ns > 2.5 * self._period_ns:
            self._missed += round((sent_ns - last_ns) / self._period_ns) - 1

    def _fill(self, frame: Frame | None, pixels: Pixels) -> None:
        if frame is None:
            pixels.fill(0)
            return
        if (frame.height, frame.width, 3) != pixels.shape:
            raise FormatChanged(
                f"now sends {frame.width}x{frame.height} px, the slot holds {pixels.shape[1]}x{pixels.shape[0]}"
            )
        self._decoder.fill(frame, pixels)

    def _stamp(self, stamp: Stamp, captured_ns: int, broken: str) -> None:
        assert self._reader is not None
        now_ns = time.monotonic_ns()
        lost = self._reader.dropped
        if self._told is None:  # what came before the first picture of a connection is no loss of ours
            self._missed, self._told = 0, lost
        stamp.index = self._index
        stamp.captured_ns = min(captured_ns, now_ns)
        stamp.utc_ns = time.time_ns() - (now_ns - stamp.captured_ns)
        stamp.missed = self._missed + lost - self._told
        stamp.broken = broken
        self._missed, self._told = 0, lost

    def _check_patience(self) -> None:
        """Packets but no pictures to show: a new connection has no backlog and begins with a key frame."""
        now = time.monotonic()
        late_s = now - max(self._opened_at, self._fresh_at)
        if self._decoder.doubtful_s() > NO_KEY_FRAME_S:
            raise CameraLost(f"no undamaged key frame for {NO_KEY_FRAME_S:g} s")
        if now - self._fresh_at > WALL_FORGET_S:
            self._wall.offset_ns = None
        if late_s > max(2.0, self._timeout_s) + OPEN_TIMEOUT_S:
            raise CameraLost(f"pictures come more than {self._max_age_ns / 1e9:g} s late")


def _split(url: str) -> SplitResult:
    """Raises BadSource without ever showing what may hold a password."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as err:
        raise BadSource(f"RTSP address: {err}; allowed: rtsp://[USER:PASSWORD@]HOST[:PORT]/PATH") from None
    if parts.scheme.lower() not in ("rtsp", "rtsps") or not host or port == 0 or any(c.isspace() for c in url):
        raise BadSource("RTSP address: not of the form rtsp://[USER:PASSWORD@]HOST[:PORT]/PATH")
    return parts


def _shown(parts: SplitResult) -> str:
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme.lower()}://{host}{f':{parts.port}' if parts.port else ''}{parts.path}"


def _explain(label: str, err: Exception, took_s: float) -> BadSource | CameraLost:
    if isinstance(err, (av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError)):
        return BadSource(f"{label}: user name or password refused")
    if isinstance(err, av.error.HTTPNotFoundError):
        return CameraLost(f"{label}: the server has no stream of that name (404)")
    if isinstance(err, ConnectionRefusedError):
        return CameraLost(f"{label}: connection refused: no RTSP server listens there")
    if took_s >= OPEN_TIMEOUT_S:  # FFmpeg's own word for it depends on where in the handshake it waited
        return CameraLost(f"{label}: no answer within {OPEN_TIMEOUT_S:g} s")
    return CameraLost(f"{label}: cannot connect ({getattr(err, 'strerror', None) or type(err).__name__})")


def _head(packet: Any) -> bytes:
    return bytes(memoryview(packet)[:HEAD_BYTES])


def _wall_ns(packet: Any) -> int | None:
    """The sender's wall clock for this packet, from RTCP sender reports (AVProducerReferenceTime, microseconds)."""
    if not hasattr(packet, "has_sidedata") or not packet.has_sidedata("prft"):
        return None
    return int(struct.unpack_from("q", bytes(packet.get_sidedata("prft")))[0]) * 1000
