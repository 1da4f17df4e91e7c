"""What every camera is to the rest of the house.

1. A camera writes pixels only into the slot it is handed, never anywhere else, and never more than fits.
2. `read_into` waits at most about half a second, so that whoever calls it can stop.
3. A frame that the source knows to be damaged is still handed over, with `stamp.broken` set: its part becomes UNKNOWN.
4. Time stamps are CLOCK_MONOTONIC; the wall clock is only written beside them for people.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""One picture: shape (height, width, 3), dtype uint8, BGR, C-contiguous."""


@dataclass(frozen=True, slots=True)
class Format:
    """What the source really gives, as read back after opening it (not what was asked for)."""

    width_px: int
    height_px: int
    fps: float | None
    pixel_format: str
    settings: Mapping[str, str | int | float | None] = field(default_factory=dict)


@dataclass(slots=True)
class Stamp:
    """Travels with a slot and is written in place by the camera for each frame."""

    index: int = 0
    """The source's own number: kernel sequence, frame number in the file."""
    captured_ns: int = 0
    """CLOCK_MONOTONIC when the picture was taken (kernel time stamp where there is one), nanoseconds."""
    utc_ns: int = 0
    """Wall clock for the same moment, nanoseconds since 1970; only for people."""
    missed: int = 0
    """Frames that the source knows were lost between the previous frame and this one."""
    broken: str = ""
    """Not empty: the picture must not be judged; the reason, e.g. `truncated`, `corrupt`, `driver-error`."""


class Read(Enum):
    FRAME = "frame"
    """The slot holds a new picture (or a broken one, see `Stamp.broken`)."""
    NOTHING = "nothing"
    """No picture yet; call again."""
    END = "end"
    """A file or folder is at its end; a live camera never says this."""


class Camera(Protocol):
    """A source of pictures. Not thread-safe: only the grab thread of this camera calls it.

    Cameras derive from it: what has a value here is what most of them are.
    """

    label: str
    """For people and logs; never holds a password."""
    live: bool
    """True: pictures come at the camera's pace. False: a file, which waits for us and ends."""
    may_repeat: bool = False
    """Equal pictures in a row are no sign that it hangs: a codec that repeats a still scene, a drawn picture."""
    patience_s: float = 2.0
    """No picture for so long is a loss, and so are ten frame periods if that is longer."""
    can_be_cut_short: bool = False
    """A signal ends a call of its driver that does not return."""
    ended_early: str = ""
    """Not empty at a recording's end: it is cut off or damaged; one line for a person."""

    def open(self) -> Format:
        """Open and configure; called again after every loss.

        Raises CameraLost when trying again may help, BadSource when it cannot.
        """

    def read_into(self, pixels: Pixels, stamp: Stamp) -> Read:
        """Decode the next picture straight into `pixels` and fill in `stamp`.

        Raises CameraLost (unplugged, cut) or FormatChanged (another size than `pixels` holds; nothing was written).
        """

    def close(self) -> None:
        """Let go of the device. May be called twice; never raises."""
