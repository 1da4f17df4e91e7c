"""What the headers of H.264 and H.265 packets tell that FFmpeg does not say.

1. `continues_picture`: this packet holds the rest of a picture that the packet before it began. FFmpeg's parser
   cuts a picture in two where a server repeats the parameter sets before every slice (GStreamer's
   `config-interval=-1`).
2. `FrameNumbers.gap`: a picture that later pictures are built on is missing. FFmpeg fills such a hole with the
   picture before it and says nothing: neither an error nor `frame.is_corrupt`. (H.265 names its references in each
   picture; there FFmpeg does report it.)

Only start codes (Annex B, as RTSP delivers) are understood; anything else means "nothing to tell". Fields as in
ITU-T H.264 7.3.2.1 (sequence parameters), 7.3.2.2 (picture parameters), 7.3.3 (slice header), 7.4.3 (frame_num).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

HEAD_BYTES = 8192
"""Headers lie at the front; the rest of a packet is not looked at."""

_SLICE, _IDR_SLICE, _SPS, _PPS = 1, 5, 7, 8
_HIGH_PROFILES = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})


def units(data: bytes) -> Iterator[bytes]:
    """The NAL units between start codes, without them."""
    at = data.find(b"\0\0\1")
    while at >= 0:
        start = at + 3
        at = data.find(b"\0\0\1", start)
        yield data[start : at if at >= 0 else len(data)]


def continues_picture(codec: str, head: bytes) -> bool:
    """True: the first slice in this packet does not begin at the top of a picture."""
    if codec == "h264":
        for unit in units(head):
            if len(unit) > 1 and unit[0] & 31 in (_SLICE, _IDR_SLICE):
                return not unit[1] & 0x80  # first_mb_in_slice is zero: one bit, set
    elif codec == "hevc":
        for unit in units(head):
            if len(unit) > 2 and unit[0] >> 1 & 63 < 32:
                return not unit[2] & 0x80  # first_slice_segment_in_pic_flag
    return False


@dataclass(frozen=True)
class _Sequence:
    number_bits: int
    gaps_allowed: bool
    separate_planes: bool


class FrameNumbers:
    """Follows `frame_num` through an H.264 stream."""

    def __init__(self, extradata: bytes | None) -> None:
        self._sequences: dict[int, _Sequence] = {}
        self._sequence_of: dict[int, int] = {}
        self._last: int | None = None
        if extradata:
            self._learn(extradata)

    def gap(self, head: bytes) -> bool:
        """Feed the front of each packet in order; True: a reference picture before this one never came."""
        for unit in units(head):
            kind = unit[0] & 31 if unit else 0
            if kind in (_SPS, _PPS):
                self._learn(b"\0\0\1" + unit)
            elif kind in (_SLICE, _IDR_SLICE):
                return self._follow(unit)
        return False

    def _follow(self, unit: bytes) -> bool:
        is_reference, is_idr = bool(unit[0] & 0x60), unit[0] & 31 == _IDR_SLICE
        try:
            bits = _Bits(unit[1:64])
            bits.golomb()
            bits.golomb()
            sequence = self._sequences.get(self._sequence_of.get(bits.golomb(), -1))
            if sequence is None:
                return False
            bits.take(2 if sequence.separate_planes else 0)
            number = bits.take(sequence.number_bits)
        except IndexError:
            return False
        before, count = self._last, 1 << sequence.number_bits
        if is_reference:
            self._last = number
        if is_idr or before is None or sequence.gaps_allowed:
            return False
        return (number - before) % count > 1  # 0: the second field of the same frame

    def _learn(self, data: bytes) -> None:
        for unit in units(data):
            try:
                if unit and unit[0] & 31 == _SPS:
                    self._learn_sequence(_Bits(unit[1:]))
                elif unit and unit[0] & 31 == _PPS:
                    bits = _Bits(unit[1:])
                    self._sequence_of[bits.golomb()] = bits.golomb()
            except IndexError:
                continue  # cut off or damaged: the next one comes soon

    def _learn_sequence(self, bits: _Bits) -> None:
        profile = bits.take(8)
        bits.take(16)
        name = bits.golomb()
        separate = False
        if profile in _HIGH_PROFILES:
            chroma = bits.golomb()
            separate = chroma == 3 and bool(bits.take(1))
            bits.golomb()
            bits.golomb()
            bits.take(1)
            if bits.take(1):
                _skip_scaling(bits, 8 if chroma != 3 else 12)
        number_bits = bits.golomb() + 4
        order = bits.golomb()
        if order == 0:
            bits.golomb()
        elif order == 1:
            bits.take(1)
            for _ in range(2):
                bits.golomb()
            for _ in range(min(bits.golomb(), 255)):
                bits.golomb()
        bits.golomb()
        self._sequences[name] = _Sequence(number_bits, bool(bits.take(1)), separate)


def _skip_scaling(bits: _Bits, lists: int) -> None:
    for index in range(lists):
        if not bits.take(1):
            continue
        last, following = 8, 8
        for _ in range(16 if index < 6 else 64):
            if following:
                following = (last + bits.signed_golomb()) % 256
            last = following or last


class _Bits:
    """Reads bits and Exp-Golomb numbers; IndexError at the end of the data."""

    def __init__(self, data: bytes) -> None:
        data = data.replace(b"\0\0\3", b"\0\0")  # emulation prevention, 7.4.1
        self._value = int.from_bytes(data, "big")
        self._left = len(data) * 8

    def take(self, count: int) -> int:
        if count > self._left:
            raise IndexError("no bits left")
        self._left -= count
        return self._value >> self._left & (1 << count) - 1

    def golomb(self) -> int:
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)

    def signed_golomb(self) -> int:
        number = self.golomb()
        return (number + 1) // 2 if number % 2 else -(number // 2)
