"""A moment that has surely passed: no clock is believed that says it is earlier.

1. Boxes start in 1970 without a battery. What expired years ago must not become valid by that: the floor is the newest
   time that somebody we trust has signed, and the clock counts only from there on.
2. The clock itself never raises the floor: one that was set ten years ahead by mistake does no harm once it is right.
3. A signed time raises the floor no further than to the end of the timestamp's own life, and the floor falls with the
   keys that signed it: who stole the online keys cannot stop updates for longer than it takes to rotate them.

    floor = ClockFloor(folder / "clock-floor", built=manifest.created)
    floor.now(keys)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from datetime import datetime, timezone
from pathlib import Path

from edge_inspect.durable import write_durably

Clock = Callable[[], datetime]
MOST_BYTES = 4096


def utc_now() -> datetime:
    return datetime.now(timezone.utc)


class ClockFloor:
    """built: a moment that this installation knows by itself, e.g. when its factory model was made."""

    def __init__(self, path: Path, *, built: datetime | None = None, clock: Clock = utc_now) -> None:
        self._path = path
        self._built = built
        self._clock = clock

    def now(self, keys: Collection[str]) -> datetime:
        """What the clock says, or the floor if that is later. keys: those of the timestamp role, now."""
        moments = [self._clock(), self._built, self.signed(keys)]
        return max(moment for moment in moments if moment is not None)

    def signed(self, keys: Collection[str]) -> datetime | None:
        """The newest signed time seen, as far as the keys that vouched for it are still the ones."""
        try:
            said = json.loads(self._path.read_bytes()[:MOST_BYTES])
            seen = datetime.fromisoformat(said["utc"])
            return seen if said["keys"] == sorted(keys) and seen.tzinfo else None
        except (OSError, ValueError, TypeError, KeyError):
            return None  # not there, or no longer readable: the next refresh writes it anew

    def raise_to(self, moment: datetime, keys: Collection[str]) -> None:
        """A verified signature says that it is at least so late. Raises StorageFailing."""
        seen = self.signed(keys)
        if seen is None or moment > seen:
            content = {"utc": moment.astimezone(timezone.utc).isoformat(), "keys": sorted(keys)}
            write_durably(self._path, json.dumps(content).encode())
