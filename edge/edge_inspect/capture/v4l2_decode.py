"""From a driver's buffer into the slot, or why not.

1. The size is looked at before anything is written: a picture of another size is never decoded.
2. Nothing here raises for bad bytes, and no view of the buffer outlives the call (a traceback would keep the mapping,
   and with it the device, alive).
3. A reason other than "" means that the slot holds nothing that may be judged, maybe part of this picture, maybe an
   older one.

Left to others: MJPG that is damaged and still decodes without a warning (a flipped bit within a block; the format has
no checksum). Cameras that send no Huffman tables are decoded (libjpeg-turbo has the standard ones), so are zero bytes
after the end; a camera that leaves out the end marker itself cannot be told from a truncated picture.
"""

from __future__ import annotations

import cv2
import numpy as np
import simplejpeg

from edge_inspect.capture.protocol import Pixels
from edge_inspect.capture.v4l2_settings import Picture
from edge_inspect.capture.v4l2_stream import Mapped

CORRUPT, EMPTY, OTHER_SIZE, TRUNCATED, WRONG_SIZE = "corrupt", "empty", "other-size", "truncated", "wrong-size"


def fill(picture: Picture, mapped: Mapped, used_bytes: int, pixels: Pixels) -> tuple[str, tuple[int, int] | None]:
    """Decode `used_bytes` of the buffer into `pixels` (height, width, 3) BGR, which has the picture's size.

    (reason, size): reason "" when the slot holds the whole picture; size is the (width, height) px that the bytes
    themselves claim, where that is not the picture's.
    """
    if used_bytes == 0:
        return EMPTY, None
    if picture.compressed:
        return _fill_jpeg(picture, mapped, used_bytes, pixels)
    return _fill_yuyv(picture, mapped, used_bytes, pixels), None


def _fill_yuyv(picture: Picture, mapped: Mapped, used_bytes: int, pixels: Pixels) -> str:
    whole = picture.stride_bytes * picture.height_px
    if used_bytes < whole:
        return TRUNCATED
    if used_bytes not in (whole, picture.size_bytes):  # drivers count the picture, or the buffer with its padding
        return WRONG_SIZE
    if _has_empty_rows(picture, mapped):
        return TRUNCATED
    if cv2.cvtColor(mapped.yuyv, cv2.COLOR_YUV2BGR_YUYV, dst=pixels) is not pixels:
        raise RuntimeError("cv2 wrote beside the slot: is it uint8 and C-contiguous?")
    return ""


def _has_empty_rows(picture: Picture, mapped: Mapped) -> bool:
    """True when one of a few rows is all zero bytes, which no colour gives: data that never came (lost packets)."""
    assert mapped.bytes is not None
    for row in range(picture.height_px - 1, -1, -max(1, picture.height_px // 8)):
        start = row * picture.stride_bytes
        if not mapped.bytes[start : start + picture.width_px * 2].any():
            return True
    return False


def _fill_jpeg(picture: Picture, mapped: Mapped, used_bytes: int, pixels: Pixels) -> tuple[str, tuple[int, int] | None]:
    size = jpeg_size(mapped, used_bytes)
    if size is None:
        return CORRUPT, None
    if size != (picture.width_px, picture.height_px):
        return OTHER_SIZE, size
    assert mapped.bytes is not None
    try:
        simplejpeg.decode_jpeg(mapped.bytes[:used_bytes], colorspace="BGR", buffer=pixels)
    except ValueError as err:
        return (TRUNCATED if "Premature end of JPEG file" in str(err) else CORRUPT), None
    return "", None


def jpeg_size(mapped: Mapped, used_bytes: int) -> tuple[int, int] | None:
    """(width, height) px that the JPEG header in the buffer claims; None when it cannot be read."""
    assert mapped.bytes is not None
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(mapped.bytes[:used_bytes])
    except ValueError:
        return None
    return int(width), int(height)


def check_slot(pixels: Pixels) -> None:
    """Once a stream: both decoders write in place only into such memory. Raises ValueError (ours)."""
    if pixels.dtype != np.uint8 or not pixels.flags.c_contiguous or not pixels.flags.writeable:
        raise ValueError("a slot must be uint8, C-contiguous and writeable")
