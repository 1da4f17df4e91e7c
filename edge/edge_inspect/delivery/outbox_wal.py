"""What SQLite says nothing about: commits in a WAL behind a place that is damaged.

SQLite takes the first frame that does not fit for the end of the WAL: right after a power cut, when what was being
written is torn, and wrong after damage in the middle, when commits that were on disk vanish without a word and their
numbers would be given again. So the frames are counted here before SQLite opens the file, and compared with how many it
accepted. One commit behind the end may be what a power cut tore; two cannot.

Format: https://www.sqlite.org/fileformat2.html#the_write_ahead_log
"""

from __future__ import annotations

import struct
from pathlib import Path

from edge_inspect.errors import StorageFailing

_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")
_MAGIC = 0x377F0682
_MASK = 0xFFFFFFFF


def commits(wal: Path) -> list[int]:
    """Numbers (from 1) of the frames that end a commit of the WAL's present round. Raises StorageFailing."""
    try:
        content = wal.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as err:
        raise StorageFailing(f"{wal}: {err.strerror}") from err
    if len(content) < _HEADER.size + _FRAME.size:
        return []
    magic, _, page_bytes, _, *salts, _, _ = _HEADER.unpack_from(content)
    if magic | 1 != _MAGIC | 1 or not 512 <= page_bytes <= 65536 or not _header_fits(content):
        page_bytes, salts = 4096, list(_FRAME.unpack_from(content, _HEADER.size)[2:4])
    if not any(salts):
        return []
    found = []
    for number, at in enumerate(range(_HEADER.size, len(content) - _FRAME.size, _FRAME.size + page_bytes), start=1):
        _, pages_after_commit, *frame_salts, _, _ = _FRAME.unpack_from(content, at)
        if pages_after_commit and frame_salts == salts:
            found.append(number)
    return found


def _header_fits(content: bytes) -> bool:
    words = struct.unpack_from(">6I" if content[3] & 1 else "<6I", content)
    first = second = 0
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & _MASK
        second = (second + odd + first) & _MASK
    return (first, second) == struct.unpack_from(">2I", content, 24)
