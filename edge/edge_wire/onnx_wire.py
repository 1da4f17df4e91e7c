"""ONNX's wire format (protocol buffers), read by hand and strictly.

1. Every length is checked against the bytes that are there; nothing is copied but the texts that are asked for.
2. Two readers must not read two things: a field that may stand once and stands twice, a number of another wire type, a
   number above 64 bits and a field that is not in the message's table are refused.
3. Time is bounded: a model may have MOST_FIELDS fields in all, wherever they stand.

The format is four kinds of fields: https://protobuf.dev/programming-guides/encoding/; the tables follow
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.

    for number, encoded, payload in encoded_fields(memoryview(content)): ...
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

MOST_FIELDS = 200_000
"""YOLOv8x as INT8 has about 30,000."""
MOST_NAME_BYTES = 512
MOST_TEXT_BYTES = 1 << 18
"""Descriptions and metadata, which nobody here reads."""

Value = int | memoryview

# Wire types.
INT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class BadOnnx(Exception):
    """A model that must not reach a runtime. `code` is stable and meant for machines, e.g. `onnx-external-data`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Slot:
    """One field of a message's table: its wire types, whether it may stand more than once, its greatest length.

    inner: of a message that nobody here reads, so that whoever does finds it whole.
    """

    __slots__ = ("inner", "kinds", "many", "most", "name")

    def __init__(
        self, name: str, *kinds: int, many: bool = False, most: int = 1 << 62, inner: Table | None = None
    ) -> None:
        self.name, self.kinds, self.many, self.most, self.inner = name, kinds, many, most, inner


Table = Mapping[int, Slot]


class Budget:
    """Counts the fields of one model, over all its messages."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = MOST_FIELDS

    def read(self, content: memoryview, table: Table, what: str) -> Iterator[tuple[int, Value]]:
        """Every field of one message, in the file's order: (number, integer or bytes).

        Raises BadOnnx: onnx-not-readable, onnx-text-too-long, onnx-too-many-fields.
        """
        seen = 0
        for number, value, kind, _, _ in walk(content):
            self.left -= 1
            if self.left < 0:
                raise BadOnnx("onnx-too-many-fields", f"more than {MOST_FIELDS} fields in it")
            slot = table.get(number)
            if slot is None:
                raise _broken(f"{what} has a field {number}, which is not known here")
            if kind not in slot.kinds:
                raise _broken(f"{what}: {slot.name} has wire type {kind}")
            if not slot.many:
                if seen >> number & 1:
                    raise _broken(f"{what} has two of {slot.name}")
                seen |= 1 << number
            if kind == BYTES and len(value) > slot.most:  # type: ignore[arg-type]
                raise BadOnnx("onnx-text-too-long", f"{what}: {slot.name} is longer than {slot.most} bytes")
            if slot.inner is not None:
                for _ in self.read(inside(value), slot.inner, slot.name):
                    pass
            yield number, value


def text(name: str = "name", *, many: bool = False) -> Slot:
    """A text that is read."""
    return Slot(name, BYTES, many=many, most=MOST_NAME_BYTES)


def remark(name: str, *, many: bool = False) -> Slot:
    """A text that is skipped, but must not be endless."""
    return Slot(name, BYTES, many=many, most=MOST_TEXT_BYTES)


def entries(name: str) -> Slot:
    """Pairs of texts that are skipped."""
    return Slot(name, BYTES, many=True, most=MOST_TEXT_BYTES, inner={1: remark("key"), 2: remark("value")})


def encoded_fields(content: memoryview) -> Iterator[tuple[int, memoryview, memoryview]]:
    """Every field of one message: its number, the whole field as it is encoded, and what is inside (if it is bytes)."""
    for number, value, _, start, end in walk(content):
        yield number, content[start:end], content[:0] if isinstance(value, int) else value


def walk(content: memoryview) -> Iterator[tuple[int, Value, int, int, int]]:
    """Every field of one message: number, value, wire type, and where it starts and ends."""
    at, end = 0, len(content)
    while at < end:
        start = at
        key, at = varint(content, at)
        number, kind = key >> 3, key & 7
        if not 0 < number < 1 << 29:
            raise _broken(f"field number {number}")
        value: Value
        if kind == INT:
            value, at = varint(content, at)
        elif kind in (FIXED64, FIXED32):
            size = 8 if kind == FIXED64 else 4
            value, at = content[at : at + size], at + size
        elif kind == BYTES:
            size, at = varint(content, at)
            value, at = content[at : at + size], at + size
        else:
            raise _broken(f"wire type {kind}")
        if at > end:
            raise _broken("it ends in the middle of a field")
        yield number, value, kind, start, at


def varint(content: memoryview, at: int) -> tuple[int, int]:
    """An unsigned number below 2^64 and where it ends."""
    result = 0
    for shift in range(0, 70, 7):
        if at >= len(content):
            raise _broken("it ends in the middle of a number")
        byte = content[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            if result >> 64:
                raise _broken("a number of more than 64 bits")
            return result, at
    raise _broken("a number longer than 10 bytes")


def number32(value: Value) -> int:
    """A number of a field that has 32 bits; readers disagree on more."""
    assert isinstance(value, int)
    if value >= 1 << 31:
        raise _broken("a number above 2^31 where 32 bits belong")
    return value


def number64(value: Value) -> int:
    """A signed number (two's complement)."""
    assert isinstance(value, int)
    return value - (1 << 64) if value >> 63 else value


def numbers64(value: Value) -> Iterator[int]:
    """One number, or several packed into bytes."""
    if isinstance(value, int):
        yield number64(value)
        return
    at = 0
    while at < len(value):
        one, at = varint(value, at)
        yield number64(one)


def decoded(value: Value) -> str:
    assert isinstance(value, memoryview)
    try:
        return bytes(value).decode()
    except UnicodeDecodeError as err:
        raise _broken("a text that is not UTF-8") from err


def inside(value: Value) -> memoryview:
    assert isinstance(value, memoryview)
    return value


def _broken(why: str) -> BadOnnx:
    return BadOnnx("onnx-not-readable", f"not an ONNX model: {why}")
