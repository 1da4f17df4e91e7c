"""What sending every inspected frame upstream as JPEG would have taken: an estimate, to hold what was sent against.

1. It only grows: frames inspected since the last look, times the mean size of this camera's frames as JPEG at that
   moment (`delivery/jpeg_sizes.py`: whole frames that were encoded for the evidence, at its quality).
2. Without such a frame nothing is claimed: no figure, not zero. Once there is one, the frames before it count, too.

    every_frame.look("left", frames=1200, mean_bytes=81_500.0)      # one thread, once a second
    every_frame.of("left")                                          # any thread
"""

from __future__ import annotations


class EveryFrame:
    """See the module."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, float]] = {}  # camera -> frames that are in the sum, the sum

    def look(self, camera: str, frames: int, mean_bytes: float | None) -> None:
        """So many frames were inspected by now."""
        if mean_bytes is not None:
            before, total = self._seen.get(camera, (0, 0.0))
            self._seen[camera] = frames, total + (frames - before) * mean_bytes

    def of(self, camera: str) -> int | None:
        """Bytes; None while nothing is known."""
        seen = self._seen.get(camera)
        return None if seen is None else round(seen[1])
