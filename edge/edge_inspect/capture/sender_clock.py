"""When was this picture taken, on our own clock? The sender's time stamps laid over CLOCK_MONOTONIC.

1. The packet that came quickest shows how the two clocks lie to each other; every other one is late by its distance
   to that. So the time of a picture does not move when the network stalls: what arrives late is seen to be old.
2. The sender's clock may run away from ours by `DRIFT` (crystals differ by up to 100 ppm each); a network that gets
   slower is not mistaken for that.
3. `settled` only when no packet has come in better time for `SETTLE_S`: after connecting, servers first send what they
   have stored.
4. Where the sender also tells its wall clock (RTCP sender reports), what was learnt outlives the connection: a delay
   that was there when we came back is seen too. A delay that was there from the very first is not; nobody can tell it
   from a clock.
"""

from __future__ import annotations

DRIFT = 200e-6
SETTLE_S = 0.4
WALL_WAIT_S = 1.5
"""If the sender told its wall clock before, so long is waited for it to do so again."""
BETTER_NS = 20_000_000
"""A packet has come in better time if by more than this; less is jitter."""


class Overlay:
    """The least distance from sender time to our time seen so far, allowed to grow by DRIFT."""

    def __init__(self) -> None:
        self.offset_ns: int | None = None
        self._at_ns = 0

    def seen(self, sent_ns: int, arrived_ns: int) -> None:
        self.lower_to(arrived_ns - sent_ns, arrived_ns)

    def lower_to(self, offset_ns: int, now_ns: int) -> None:
        if self.offset_ns is not None:
            offset_ns = min(offset_ns, self.offset_ns + int((now_ns - self._at_ns) * DRIFT))
        self.offset_ns, self._at_ns = offset_ns, now_ns


class SenderClock:
    """One connection's clock. `wall` is kept by the camera from one connection to the next."""

    def __init__(self, wall: Overlay) -> None:
        self._media = Overlay()
        self._wall = wall
        self._wall_known = wall.offset_ns is not None
        self._wall_ahead_ns: int | None = None
        self._best_ns = 0
        self._best_at_ns = 0
        self._first_at_ns = 0

    def arrived(self, sent_ns: int, arrived_ns: int, wall_ns: int | None) -> None:
        """A packet came; `wall_ns`: the sender's wall clock for `sent_ns`, if it told us."""
        self._media.seen(sent_ns, arrived_ns)
        if wall_ns is not None:
            self._follow_wall(sent_ns, arrived_ns, wall_ns)
        assert self._media.offset_ns is not None
        self._first_at_ns = self._first_at_ns or arrived_ns
        if not self._best_at_ns or self._media.offset_ns < self._best_ns - BETTER_NS:
            self._best_ns, self._best_at_ns = self._media.offset_ns, arrived_ns

    def captured_ns(self, sent_ns: int) -> int:
        """CLOCK_MONOTONIC for the sender's time `sent_ns`."""
        assert self._media.offset_ns is not None
        return sent_ns + self._media.offset_ns

    def settled(self, now_ns: int) -> bool:
        if not self._first_at_ns or now_ns - self._best_at_ns <= SETTLE_S * 1e9:
            return False
        told = self._wall_ahead_ns is not None
        return told or not self._wall_known or now_ns - self._first_at_ns > WALL_WAIT_S * 1e9

    def _follow_wall(self, sent_ns: int, arrived_ns: int, wall_ns: int) -> None:
        """The media clock never jumps; if the wall clock jumps against it, somebody has set it: forget."""
        ahead_ns = wall_ns - sent_ns
        if self._wall_ahead_ns is not None and abs(ahead_ns - self._wall_ahead_ns) > 10 * BETTER_NS:
            self._wall.offset_ns = None
        self._wall_ahead_ns = ahead_ns
        self._wall.seen(wall_ns, arrived_ns)
        assert self._wall.offset_ns is not None
        self._media.lower_to(self._wall.offset_ns + ahead_ns, arrived_ns)
