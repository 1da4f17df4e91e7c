"""Which OK parts leave a picture.

It follows from their number alone, a hash and no dice: who knows run and camera can say which they are.

    Samples(run_id, ok_share=0.01).takes("left", 4711)
"""

from __future__ import annotations

import zlib

_MASK = (1 << 64) - 1


class Samples:
    """`ok_share` of the parts of each camera, others in each run. One thread's."""

    def __init__(self, run_id: str, ok_share: float) -> None:
        self._run_id = run_id
        self._below = int(ok_share * (_MASK + 1))
        self._salts: dict[str, int] = {}

    def takes(self, camera: str, part: int) -> bool:
        """Nothing is allocated but numbers."""
        salt = self._salts.get(camera)
        if salt is None:
            salt = self._salts[camera] = zlib.crc32(f"{self._run_id}-{camera}".encode()) << 32
        # The finalizer of SplitMix64 (Steele, Lea, Flood 2014): neighbouring numbers fall far apart.
        mixed = (salt + part * 0x9E3779B97F4A7C15) & _MASK
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        return (mixed ^ (mixed >> 31)) < self._below
