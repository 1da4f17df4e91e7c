"""Telling systemd how we are: ready, alive, stopping.

1. The watchdog is fed only while every heart moves: one for each thread. A lost camera or broker is a degraded state,
   not a hang: its thread goes on trying, and its heart goes on moving.
2. All of it on the monotonic clock: a clock set by ten years neither kills the service nor keeps a dead one alive.
3. Without systemd (no NOTIFY_SOCKET) nothing is sent and nothing fails; a standstill and its end are still logged.
4. A notification that cannot be sent never stops inspection: systemd misses it, and that is what the watchdog is for.

    notifier = Notifier.from_environment(os.environ)
    hearts = [Heart.of("grab left", grabber), Heart.of("inspect", pipeline)]
    notifier.ready("watching 1 camera")
    Watchdog(hearts, notifier).run(stop)                # until stop is set
    notifier.stopping()

The protocol is sd_notify(3): datagrams of KEY=VALUE lines. Twenty lines on a socket, so no binding to libsystemd.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from edge_inspect.threads import HasBeat

log = structlog.get_logger()

MAX_AGE_S = 5.0
PATIENCE_S = 10.0
DISK_MAX_AGE_S = 8.0
DISK_PATIENCE_S = 12.0
"""Of threads that wait for the disk: one that stalls for 5 s is slow, not hanging."""
FEEDS_PER_PERIOD = 4
UNWATCHED_PERIOD_S = 4.0
SEND_TIMEOUT_S = 1.0


class Notifier:
    """One end of systemd's notification socket. `watchdog_s` is 0 when the unit has no WatchdogSec=."""

    def __init__(self, address: str | None, *, watchdog_s: float = 0.0) -> None:
        self.address = address
        self.watchdog_s = watchdog_s

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], *, pid: int | None = None) -> Notifier:
        """From NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID; another process's watchdog is not ours to feed."""
        usec, for_pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
        ours = not for_pid or for_pid == str(os.getpid() if pid is None else pid)
        watchdog_s = int(usec) / 1e6 if usec.isdecimal() and ours else 0.0
        return cls(environ.get("NOTIFY_SOCKET") or None, watchdog_s=watchdog_s)

    def ready(self, status: str = "") -> bool:
        return self._send("READY=1", status)

    def stopping(self, status: str = "") -> bool:
        return self._send("STOPPING=1", status)

    def feed(self) -> bool:
        return self._send("WATCHDOG=1")

    def status(self, text: str) -> bool:
        """One line for `systemctl status`."""
        return self._send("", text)

    def extend(self, seconds: float) -> bool:
        """Starting or stopping goes on for up to `seconds` more, e.g. while a runtime builds its engine."""
        return self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def _send(self, message: str, status: str = "") -> bool:
        """True when systemd has it; False without systemd, or when its socket did not take it."""
        if self.address is None:
            return False
        lines = [message, f"STATUS={' '.join(status.split())}" if status else ""]
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as end:
                end.settimeout(SEND_TIMEOUT_S)
                end.connect(address)
                end.send("\n".join(filter(None, lines)).encode())
        except OSError as err:
            log.warning("systemd.not_told", said=message or "STATUS", why=str(err))
            return False
        return True


@dataclass(frozen=True, slots=True)
class Heart:
    """Something that must keep moving."""

    name: str
    beat_ns: Callable[[], int | None]
    """When it last moved, CLOCK_MONOTONIC in ns; None when it has ended in good order (a recording that is over).

    A moment to come announces a call that may take until then: it stands still only after that."""
    max_age_s: float = MAX_AGE_S
    """After so long it counts as standing still: the watchdog is not fed."""
    patience_s: float = PATIENCE_S
    """After so long it will never move again: the process ends."""

    @classmethod
    def of(cls, name: str, owner: HasBeat) -> Heart:
        return cls(name, lambda: owner.beat_ns)

    @classmethod
    def waits_for_disk(cls, name: str, beat_ns: Callable[[], int | None]) -> Heart:
        return cls(name, beat_ns, DISK_MAX_AGE_S, DISK_PATIENCE_S)

    def age_s(self, now_ns: int, awake_since_ns: int = 0) -> float:
        """How long it has stood still while this process was awake; 0 when it has ended in good order."""
        beat_ns = self.beat_ns()
        return 0.0 if beat_ns is None else max(0, now_ns - max(beat_ns, awake_since_ns)) / 1e9

    def stands_still(self, now_ns: int, awake_since_ns: int = 0) -> bool:
        return self.age_s(now_ns, awake_since_ns) > self.max_age_s


class Watchdog:
    """Feeds systemd's watchdog while all `hearts` move."""

    def __init__(
        self,
        hearts: Sequence[Heart],
        notifier: Notifier,
        *,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        awake_since_ns: Callable[[], int] = lambda: 0,
    ) -> None:
        self.period_s = (notifier.watchdog_s or UNWATCHED_PERIOD_S) / FEEDS_PER_PERIOD
        self.standing_still: tuple[str, ...] = ()
        """Names of the hearts that did not move lately; for the vitals."""
        self._hearts = hearts
        self._notifier = notifier
        self._clock_ns = clock_ns
        self._awake_since_ns = awake_since_ns

    def run(self, stop: threading.Event) -> None:
        """Look at the hearts four times in each watchdog period until `stop`."""
        while True:
            self.look()
            if stop.wait(self.period_s):
                return

    def look(self) -> bool:
        """Look once; feed if all is well. Returns whether all hearts move."""
        now_ns, awake_since_ns = self._clock_ns(), self._awake_since_ns()
        still = tuple(heart.name for heart in self._hearts if heart.stands_still(now_ns, awake_since_ns))
        if still != self.standing_still:
            self._tell(still)
            self.standing_still = still
        if not still and self._notifier.watchdog_s:
            self._notifier.feed()
        return not still

    def _tell(self, still: tuple[str, ...]) -> None:
        if still:
            names = ", ".join(still)
            log.error("watchdog.not_fed", threads=names)
            self._notifier.status(f"standing still: {names}")
        else:
            log.info("watchdog.fed_again", threads=", ".join(self.standing_still))
            self._notifier.status("moving again")
