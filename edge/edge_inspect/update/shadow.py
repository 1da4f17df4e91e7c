"""What a model said beside another one on the same parts, and whether that speaks against it. Pure counts.

1. Two models are compared part by part, over all looks of a part, and only where both said OK or NG: a part that
   either of them could not judge says nothing about the other.
2. A candidate is refused only when chance is no explanation: when the share's lower bound is above the limit. While
   parts still come that bound is a strict one (it is looked at again and again); once there are enough, an ordinary.
3. Good parts alone show nothing of what a candidate would let through: it passes when enough parts were rejected, too,
   or when the time is over.
4. Whatever a person should read (which class, how many, how slow) is counted, not only what decides.

    shadow_verdict(report, rollout.shadow)      # "go-on", "pass", or the code of a refusal

`active` in a name is the model that was there before: the one that judges while the candidate is in the shadow, the
predecessor that judges beside it in a trial. `new` is the candidate, always.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from edge_inspect.update.bounds import lower
from edge_wire.release import ShadowLimits

EARLY = 0.001
"""Probability of refusing a model that keeps to a limit by a hair, at each look before there are enough parts."""
FINAL = 0.05
"""The same at the one look that decides."""

Refused = Literal[
    "shadow-non-finite", "shadow-new-ng", "shadow-new-ok", "shadow-class-lost", "shadow-other-class", "shadow-too-few"
]
ShadowVerdict = Literal["go-on", "pass"] | Refused


@dataclass(frozen=True, slots=True)
class ClassCounts:
    """Parts on which one class decided. A part with defects of two classes counts for both."""

    active_ng: int = 0
    """NG to the model before, with a defect of this class."""
    new_ok: int = 0
    """Of those, OK to the candidate."""
    new_ng: int = 0
    """OK to the model before, NG to the candidate with a defect of this class."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds of one run of the network; None before the first."""

    p50_ms: float | None = None
    p99_ms: float | None = None


@dataclass(frozen=True, slots=True)
class ShadowReport:
    """Since the shadow began."""

    parts: int = 0
    """Compared: both said OK or NG."""
    same: int = 0
    """Both OK, or both NG with a class in common."""
    new_ng: int = 0
    """Passed by the model before, NG to the candidate."""
    new_ok: int = 0
    """Rejected by the model before, OK to the candidate: possible escapes."""
    other_class: int = 0
    """NG to both, with no class in common."""
    active_ok: int = 0
    active_ng: int = 0
    unknown: int = 0
    """Seen by both and not judged by at least one of them."""
    non_finite: int = 0
    """Of those: the model beside answered numbers that are not finite where the other one did not."""
    skipped: int = 0
    """Not judged beside: no time within the share, or no buffer free."""
    by_class: dict[str, ClassCounts] = field(default_factory=dict)
    seconds: float = 0.0
    answers: Latency = Latency()
    """Of the model that answers the line."""
    beside: Latency = Latency()
    """Of the model in the shadow, which runs at low priority on one thread."""
    share: float = 0.0
    """Of the time since the shadow began, how much of one core it computed."""


def shadow_verdict(report: ShadowReport, limits: ShadowLimits) -> ShadowVerdict:
    """A candidate's shadow: go on, take it to its trial, or refuse it (`shadow-too-few`: put it off)."""
    if report.non_finite:
        return "shadow-non-finite"
    over = report.seconds >= limits.most_s
    decides = report.parts >= limits.parts and (report.active_ng >= limits.least_rejected or over)
    excess = disagreement(report, limits, FINAL if decides else EARLY)
    if excess:
        return excess
    if decides:
        return "pass"
    return "shadow-too-few" if over else "go-on"


def disagreement(report: ShadowReport, limits: ShadowLimits, alpha: float) -> Refused | None:
    """The first limit that is surely exceeded.

    Classes one by one at the strict level only: they are many, and each is another chance of being wrong.
    """
    if lower(report.new_ok, report.active_ng, alpha=alpha) > limits.most_new_ok:
        return "shadow-new-ok"
    if lower(report.new_ng, report.active_ok, alpha=alpha) > limits.most_new_ng:
        return "shadow-new-ng"
    lost = (lower(each.new_ok, each.active_ng, alpha=EARLY) for each in report.by_class.values())
    if max(lost, default=0.0) > limits.most_new_ok:
        return "shadow-class-lost"
    both_ng = report.active_ng - report.new_ok
    if lower(report.other_class, both_ng, alpha=EARLY) > limits.most_new_ok:
        return "shadow-other-class"
    return None
