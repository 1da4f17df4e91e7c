"""Counts what two models said of the same parts, as a `ShadowReport`.

1. What counts is what makes a part OK or NG: defects that a recipe only lists (`severity = "info"`) do not.
2. Written by the thread that judges beside, read by others at any time: a report may be one part old, never torn.

    tally = Tally("candidate")
    tally.add(active=verdict, beside=other)     # True where they disagree
    tally.report()
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from edge_inspect.counts import Durations
from edge_inspect.update.shadow import ClassCounts, Latency, ShadowReport
from edge_inspect.verdict.judge import NON_FINITE, Kind, Verdict

Role = Literal["candidate", "predecessor"]
_NOTHING = ClassCounts()


class Tally:
    """role: who judges beside. A predecessor is the old one of the two, a candidate the new one."""

    def __init__(self, role: Role, clock_s: Callable[[], float] = time.monotonic) -> None:
        self.skipped = 0
        """Parts that were not judged beside. Counted by whoever hands them over."""
        self.runs = Durations()
        """Of the network beside."""
        self.busy_ns = 0
        """How long was computed beside, everything together."""
        self._role = role
        self._clock_s = clock_s
        self._since_s = clock_s()
        self._counts = ShadowReport()

    def add(self, answered: Verdict, beside: Verdict) -> bool:
        """One part: what the model that answers the line found, and the one beside. Returns whether they disagree."""
        counts = self._counts
        if Kind.UNKNOWN in (answered.kind, beside.kind):
            silent = beside.reason == NON_FINITE and answered.reason != NON_FINITE
            self._counts = replace(counts, unknown=counts.unknown + 1, non_finite=counts.non_finite + silent)
            return False
        old, new = (answered, beside) if self._role == "candidate" else (beside, answered)
        new_ng, new_ok = _ng(new) and not _ng(old), _ng(old) and not _ng(new)
        other = _ng(old) and _ng(new) and not classes_of(old) & classes_of(new)
        self._counts = replace(
            counts,
            parts=counts.parts + 1,
            same=counts.same + (not (new_ng or new_ok or other)),
            new_ng=counts.new_ng + new_ng,
            new_ok=counts.new_ok + new_ok,
            other_class=counts.other_class + other,
            active_ok=counts.active_ok + (not _ng(old)),
            active_ng=counts.active_ng + _ng(old),
            by_class=self._by_class(old, new, new_ng, new_ok),
        )
        return new_ng or new_ok or other

    def report(self, answers: Durations | None = None) -> ShadowReport:
        """As of now. `answers`: the runs of the model that answers the line."""
        seconds = self._clock_s() - self._since_s
        return replace(
            self._counts,
            skipped=self.skipped,
            seconds=round(seconds, 3),
            answers=_latency(answers) if answers else Latency(),
            beside=_latency(self.runs),
            share=round(self.busy_ns / 1e9 / seconds, 4) if seconds > 0 else 0.0,
        )

    def _by_class(self, old: Verdict, new: Verdict, new_ng: bool, new_ok: bool) -> dict[str, ClassCounts]:
        if not _ng(old) and not new_ng:
            return self._counts.by_class
        found = dict(self._counts.by_class)
        for name in classes_of(old) if _ng(old) else classes_of(new):
            before = found.get(name, _NOTHING)
            found[name] = ClassCounts(before.active_ng + _ng(old), before.new_ok + new_ok, before.new_ng + new_ng)
        return found


def classes_of(verdict: Verdict) -> frozenset[str]:
    """Of the defects that count."""
    return frozenset(defect.cls for defect in verdict.defects if defect.severity != "info")


def _ng(verdict: Verdict) -> bool:
    return verdict.kind is Kind.NG


def _latency(runs: Durations) -> Latency:
    return Latency(runs.percentile_ms(50), runs.percentile_ms(99))
