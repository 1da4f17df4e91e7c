"""SIGKILL at every file system call of some work: what the campaigns of kills have in common.

A dry run under strace counts the calls of each name; then for each name and each n a fresh process is killed as it
enters its n-th call of that name.

    kills = Kills("syscalls", every=25)
    kills.at_every_call_of("closed", lambda *options: run_once(beginning, *options))
    return kills.over()
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from tests.campaign import zygote
from tests.campaign.ledger import summary

CALLS = "%file,%desc"
Run = Callable[..., tuple[int, str, list[str]]]
"""The work once under strace with these options, and a look at what is left: exit status, trace, what is wrong."""


@dataclass
class Kills:
    """What a campaign has tried so far."""

    campaign: str
    every: int = 1
    killed: int = 0
    failures: int = 0
    points: int = 0
    missed: int = 0

    def at_every_call_of(self, name: str, run: Run) -> None:
        """Or at each `every`-th one."""
        status, trace, wrong = run("-e", f"trace={CALLS}")
        assert status == 0 and not wrong, (name, status, wrong)
        points = points_of(trace)
        self.points += len(points)
        for call, number in points[:: self.every]:
            status, _, wrong = run("-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}")
            self.killed += status == zygote.SIGKILLED
            self.missed += status == 0
            if wrong or status not in (0, zygote.SIGKILLED):
                self.failures += 1
                print(f"{name}: killed at {call} number {number} ({status}): {wrong}", file=sys.stderr)
        calls = dict(Counter(call for call, _ in points))
        print(f"{name}: {len(points)} points: {calls}", file=sys.stderr, flush=True)

    def over(self, **more: object) -> int:
        """Tell the last line; the exit code."""
        counted = {"points": self.points, "every": self.every, "not_reached": self.missed, **more}
        print(summary(self.campaign, self.killed, self.failures, **counted))
        return 1 if self.failures else 0


def points_of(trace: str) -> list[tuple[str, int]]:
    """Every system call that was made: its name, and which of that name it was."""
    calls = Counter(re.findall(r"^\d+ +(\w+)\(", trace, re.MULTILINE))
    return [(call, number) for call, times in sorted(calls.items()) for number in range(1, times + 1)]
