"""What became of the line since a candidate answers it, and whether that speaks against it. Pure counts.

1. Back at once, without statistics: numbers that are not finite three times in a row, a known answer that is wrong.
2. Parts that became UNKNOWN for the model's sake (late, overrun, not finite) count against it only beyond what the
   model before it left unjudged on this line, too.
3. A line whose parts have changed is not the model's fault: the model before judges the same parts beside it. Only
   where the two differ by more than the shadow predicted, beyond chance, the candidate goes back.
4. Where the model before cannot judge beside it, or never has the time, the candidate's own share of NG parts is held
   against what its shadow let expect; a trial comes to an end either way.

    trial_verdict(report, rollout.trial, predicted, rollout.shadow)     # "go-on", "keep", or the code of going back
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from edge_inspect.update.bounds import least_excess
from edge_inspect.update.shadow import EARLY, FINAL, ShadowReport, disagreement
from edge_wire.release import ShadowLimits, TrialLimits

NON_FINITE_IN_A_ROW = 3
MODELS_FAULT = frozenset({"non-finite", "no-such-class", "deadline", "overrun", "model-swap", "known-answer"})
"""Reasons of UNKNOWN that a model may be the cause of: it computes nonsense, or it is slow."""
LEAST_BESIDE = 0.4
"""Of the parts wanted, so many must have been judged by both models, too: as many as a shadow compares, or a candidate
that only now passes bad parts is kept unseen where few are bad (tests/campaign/candidates.py, `blind-when-dim`)."""
WAITS_FOR_BESIDE = 10
"""So many times the parts and the seconds that are wanted, if the model before hardly comes to judge any."""

Reverted = Literal[
    "trial-non-finite", "trial-known-answer", "trial-deadline", "trial-unknown", "trial-new-ng", "trial-new-ok",
    "trial-disagrees", "trial-rate",
]  # fmt: skip
TrialVerdict = Literal["go-on", "keep"] | Reverted


@dataclass(frozen=True, slots=True)
class TrialReport:
    """Since the trial began; only what the candidate judged."""

    seconds: float = 0.0
    frames: int = 0
    """Run through the network."""
    parts: int = 0
    ng: int = 0
    unknown_by_reason: dict[str, int] = field(default_factory=dict)
    non_finite: int = 0
    """Frames on which the candidate answered numbers that are not finite."""
    non_finite_in_row: int = 0
    """The longest run of such frames of one camera."""
    missed_deadlines: int = 0
    known_answer_failures: int = 0
    before_parts: int = 0
    """Judged by the model before in its time; 0 when nothing is known of it (the daemon was started anew)."""
    before_unknown: dict[str, int] = field(default_factory=dict)
    beside: ShadowReport = field(default_factory=ShadowReport)
    """The predecessor, judging the same parts in the shadow."""


def trial_verdict(
    report: TrialReport,
    limits: TrialLimits,
    predicted: ShadowReport | None = None,
    shadow: ShadowLimits | None = None,
) -> TrialVerdict:
    """Go on, keep the candidate, or go back.

    predicted: what its shadow has shown; None as if it had agreed on as many parts as are wanted here.
    shadow: the rollout's other limits. What a shadow of few rejected parts could not see counts against them now.
    """
    if report.non_finite_in_row >= NON_FINITE_IN_A_ROW:
        return "trial-non-finite"
    if report.known_answer_failures:
        return "trial-known-answer"
    alone = _judges_alone(report, limits)
    enough = report.parts >= limits.parts and (alone or report.beside.parts >= LEAST_BESIDE * limits.parts)
    alpha = FINAL if enough else EARLY
    reverted = _left_unknown(report, limits, alpha) or _shifted(report.beside, limits, predicted, alpha)
    if reverted:
        return reverted
    if shadow is not None and disagreement(report.beside, shadow, alpha):
        return "trial-disagrees"
    if not enough or report.seconds < limits.least_s:
        return "go-on"
    return "trial-rate" if alone and _rate_shifted(report, limits, predicted) else "keep"


def _judges_alone(report: TrialReport, limits: TrialLimits) -> bool:
    """Nobody judges beside it, or too few parts to wait for any longer."""
    if report.beside.seconds == 0:
        return True
    few = report.beside.parts < LEAST_BESIDE * limits.parts
    waited = report.parts >= WAITS_FOR_BESIDE * limits.parts and report.seconds >= WAITS_FOR_BESIDE * limits.least_s
    return few and waited


def _rate_shifted(report: TrialReport, limits: TrialLimits, predicted: ShadowReport | None) -> bool:
    """The share of NG parts, of those that were judged, against that of the candidate in its shadow."""
    if predicted is None or not predicted.parts:
        return False
    expected = predicted.active_ng - predicted.new_ok + predicted.new_ng
    judged = report.parts - sum(report.unknown_by_reason.values())
    more = least_excess(report.ng, judged, expected, predicted.parts, alpha=FINAL)
    fewer = least_excess(judged - report.ng, judged, predicted.parts - expected, predicted.parts, alpha=FINAL)
    return max(more, fewer) > limits.most_rate_shift


def _left_unknown(report: TrialReport, limits: TrialLimits, alpha: float) -> Reverted | None:
    now, before = models_fault(report.unknown_by_reason), models_fault(report.before_unknown)
    if least_excess(now, report.parts, before, report.before_parts, alpha=alpha) <= limits.most_unknown:
        return None
    late = report.unknown_by_reason.get("deadline", 0) + report.unknown_by_reason.get("overrun", 0)
    return "trial-deadline" if 2 * late >= now else "trial-unknown"


def _shifted(
    beside: ShadowReport, limits: TrialLimits, predicted: ShadowReport | None, alpha: float
) -> Reverted | None:
    """More parts rejected, or more passed, than the predecessor did and the shadow had let expect.

    Each direction for itself: a model that mixes up good and bad would not change how many are NG.
    """
    expected = predicted or ShadowReport(parts=limits.parts)
    for code, now, then in (
        ("trial-new-ok", beside.new_ok, expected.new_ok),
        ("trial-new-ng", beside.new_ng, expected.new_ng),
    ):
        if least_excess(now, beside.parts, then, expected.parts, alpha=alpha) > limits.most_rate_shift:
            return code  # type: ignore[return-value]
    return None


def models_fault(unknown_by_reason: Mapping[str, int]) -> int:
    """How many of these parts may be UNKNOWN for the model's sake."""
    return sum(count for reason, count in unknown_by_reason.items() if reason in MODELS_FAULT)
