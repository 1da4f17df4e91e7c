"""What the link went through: since when it is down and why, what the last outage was, and what a person should know.

Alarms change their text only when something happens, so that they can stand in the device's retained state.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from edge_inspect.delivery.retry import TAKEN_OVER
from edge_wire.fields import utc_from_ns
from edge_wire.messages import Degraded, Outage

UNSTEADY_LOSSES, UNSTEADY_S = 5, 600.0
TAKEN_OVER_S = 3600.0
CONNECTING = "connecting"


@dataclass(frozen=True, slots=True)
class Down:
    """There is no connection, since `since` (this device's wall clock)."""

    since: datetime
    seconds: float
    code: str
    detail: str


class Outages:
    """Told of every connection that begins, fails or ends; read by other threads, never half-changed."""

    def __init__(
        self, *, utc_ns: Callable[[], int] = time.time_ns, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self.last: Outage | None = None
        """The last one that has ended."""
        self._utc_ns = utc_ns
        self._monotonic_s = monotonic_s
        self._ended_s = 0.0
        self._down: tuple[int, float, str, str] | None = (utc_ns(), monotonic_s(), CONNECTING, "")
        self._losses: deque[float] = deque(maxlen=UNSTEADY_LOSSES)
        self._last_loss = ""
        self._takeovers = 0
        self._taken_over_s = 0.0
        self._taken_over_at = 0

    @property
    def down(self) -> Down | None:
        """None while there is a connection."""
        if (down := self._down) is None:
            return None
        since_ns, since_s, code, detail = down
        return Down(utc_from_ns(max(0, since_ns)), self._monotonic_s() - since_s, code, detail)

    @property
    def total_s(self) -> float:
        """All outages together, the present one too."""
        down = self._down
        return self._ended_s + (0.0 if down is None else self._monotonic_s() - down[1])

    def came_up(self) -> None:
        down, self._down = self._down, None
        if down is not None:
            since_ns, since_s, code, _ = down
            seconds = self._monotonic_s() - since_s
            self._ended_s += seconds
            if code == CONNECTING:  # a start that went well
                return
            self.last = Outage(since=utc_from_ns(max(0, since_ns)), seconds=seconds, code=code)

    def went_down(self, code: str, detail: str) -> None:
        """A connection ended, or could not be made."""
        if self._down is None:
            self._losses.append(self._monotonic_s())
            self._last_loss = code
            self._down = (self._utc_ns(), self._monotonic_s(), code, detail)
        else:
            self._down = (*self._down[:2], code, detail)
        if code == TAKEN_OVER:
            self.taken_over()

    def taken_over(self) -> None:
        """Another client has used our name."""
        self._takeovers += 1
        self._taken_over_s = self._monotonic_s()
        self._taken_over_at = self._utc_ns()

    def alarms(self) -> list[Degraded]:
        found = []
        now_s = self._monotonic_s()
        if self._takeovers and now_s - self._taken_over_s < TAKEN_OVER_S:
            last = utc_from_ns(max(0, self._taken_over_at))
            detail = (
                f"another client used our name, {self._takeovers} times, last {last:%Y-%m-%d %H:%M:%S} UTC; "
                "two devices with one name?"
            )
            found.append(Degraded(code=TAKEN_OVER, detail=detail))
        losses = list(self._losses)
        if len(losses) == UNSTEADY_LOSSES and now_s - losses[0] < UNSTEADY_S:
            detail = f"{UNSTEADY_LOSSES} connections were lost within 10 minutes, the last one: {self._last_loss}"
            found.append(Degraded(code="link-unsteady", detail=detail))
        return found
