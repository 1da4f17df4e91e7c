"""How far a shadow or a trial is.

Shares go from 0 to 1 and decide nothing; counts are what `edge-inspect model watch` shows.

    pulse.progress, pulse.counts = share_of_shadow(report, limits), shadow_counts(report, limits)
"""

from __future__ import annotations

from edge_inspect.update.shadow import ShadowReport
from edge_inspect.update.stages import Stage
from edge_inspect.update.state import Shadowed
from edge_inspect.update.trial import TrialReport
from edge_wire.release import ShadowLimits, TrialLimits


def share_of_shadow(report: ShadowReport, limits: ShadowLimits) -> float:
    rejected = report.active_ng / limits.least_rejected if limits.least_rejected else 1.0
    return min(1.0, report.parts / limits.parts, max(rejected, report.seconds / limits.most_s))


def share_of_trial(report: TrialReport, limits: TrialLimits) -> float:
    return min(1.0, report.parts / limits.parts, report.seconds / max(1, limits.least_s))


def shadow_counts(report: ShadowReport, limits: ShadowLimits) -> dict[str, float | str]:
    return {
        "stage": Stage.SHADOW.value, "parts": report.parts, "parts_wanted": limits.parts,
        "seconds": round(report.seconds, 1), "least_rejected": limits.least_rejected, **_disagreement(report),
    }  # fmt: skip


def trial_counts(report: TrialReport, limits: TrialLimits) -> dict[str, float | str]:
    return {
        "stage": Stage.TRIAL.value, "parts": report.parts, "parts_wanted": limits.parts,
        "seconds": round(report.seconds, 1), "least_s": limits.least_s, "ng": report.ng,
        "compared": report.beside.parts, **_disagreement(report.beside),
    }  # fmt: skip


def _disagreement(beside: ShadowReport) -> dict[str, float | str]:
    return {
        "active_ok": beside.active_ok, "new_ng": beside.new_ng, "active_ng": beside.active_ng, "new_ok": beside.new_ok,
    }  # fmt: skip


def numbers(shadowed: Shadowed) -> str:
    """What came of comparing, for the history and for people."""
    return (
        f"{shadowed.parts} parts compared, {shadowed.new_ng} of {shadowed.active_ok} OK became NG, "
        f"{shadowed.new_ok} of {shadowed.active_ng} NG became OK"
    )
