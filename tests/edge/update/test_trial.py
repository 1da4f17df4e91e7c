"""When a candidate that answers the line is sent back."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
from pydantic import TypeAdapter

from edge_inspect.update.shadow import ShadowReport
from edge_inspect.update.trial import TrialReport, TrialVerdict, trial_verdict
from edge_wire.release import ShadowLimits, TrialLimits

LIMITS = TrialLimits(parts=500, least_s=60, most_rate_shift=0.05, most_unknown=0.02)
AGREED = ShadowReport(parts=200, same=200, active_ok=160, active_ng=40)
STRICT = replace(AGREED, same=180, new_ng=20)
"""A stricter model: the shadow has seen it reject every tenth part more."""


def beside(parts: int, new_ng: int = 0, new_ok: int = 0, *, ng: int = 0) -> ShadowReport:
    return ShadowReport(
        parts=parts, same=parts - new_ng - new_ok, new_ng=new_ng, new_ok=new_ok, active_ok=parts - ng, active_ng=ng,
        seconds=100.0,
    )  # fmt: skip


def trial(parts: int, seconds: float = 100.0, compared: ShadowReport | None = None, **more: object) -> TrialReport:
    return TrialReport(
        parts=parts, seconds=seconds, frames=parts, beside=compared or beside(parts), **more,  # type: ignore[arg-type]
    )  # fmt: skip


TABLE: dict[str, tuple[TrialReport, ShadowReport | None, TrialVerdict]] = {
    "just begun": (TrialReport(), AGREED, "go-on"),
    "good, too few parts": (trial(499), AGREED, "go-on"),
    "good, too short": (trial(500, 59.0), AGREED, "go-on"),
    "good, enough": (trial(500), AGREED, "keep"),
    "good, nothing predicted": (trial(500), None, "keep"),
    "it is alone, and rejects as many": (trial(500, compared=ShadowReport(), ng=100), AGREED, "keep"),
    "it is alone, and too few": (trial(499, compared=ShadowReport(), ng=99), AGREED, "go-on"),
    "it is alone, and rejects half": (trial(500, compared=ShadowReport(), ng=250), AGREED, "trial-rate"),
    "it is alone, and rejects none": (trial(500, compared=ShadowReport(), ng=0), AGREED, "trial-rate"),
    "it is alone, nothing predicted": (trial(500, compared=ShadowReport(), ng=250), None, "keep"),
    "the model before never has the time": (trial(4999, 600.0, compared=beside(0), ng=999), AGREED, "go-on"),
    "and is not waited for for ever": (trial(5000, 600.0, compared=beside(0), ng=1000), AGREED, "keep"),
    "enough judged beside": (trial(500, compared=beside(200)), AGREED, "keep"),
    "too few judged beside": (trial(500, compared=beside(199)), AGREED, "go-on"),
    "not finite twice in a row": (trial(10, non_finite=2, non_finite_in_row=2), AGREED, "go-on"),
    "not finite three times": (trial(3, non_finite=3, non_finite_in_row=3), AGREED, "trial-non-finite"),
    "known answer wrong": (trial(2, known_answer_failures=1), AGREED, "trial-known-answer"),
    "half of it late": (trial(20, unknown_by_reason={"deadline": 10}), AGREED, "trial-deadline"),
    "overruns": (trial(40, unknown_by_reason={"overrun": 10, "deadline": 4}), AGREED, "trial-deadline"),
    "not finite now and then": (trial(100, unknown_by_reason={"non-finite": 20}), AGREED, "trial-unknown"),
    "late as it ever was": (
        trial(500, unknown_by_reason={"deadline": 50}, before_parts=1000, before_unknown={"deadline": 100}),
        AGREED,
        "keep",
    ),
    "camera unplugged": (trial(500, unknown_by_reason={"camera-lost": 400}), AGREED, "keep"),
    "every part is NG now, to both": (trial(500, compared=beside(500, ng=500)), AGREED, "keep"),
    "every part is NG now, to it alone": (trial(9, compared=beside(9, new_ng=9)), AGREED, "trial-new-ng"),
    "as strict as predicted": (trial(500, compared=beside(500, new_ng=50)), STRICT, "keep"),
    "strict and not predicted": (trial(500, compared=beside(500, new_ng=70)), AGREED, "trial-new-ng"),
    "half of the bad parts pass": (trial(500, compared=beside(500, new_ok=60, ng=120)), AGREED, "trial-new-ok"),
    "mixes up good and bad": (trial(500, compared=beside(500, 60, 60, ng=120)), AGREED, "trial-new-ok"),
}


@pytest.mark.parametrize("case", TABLE)
def test_verdict_on_a_trial(case: str) -> None:
    seen, predicted, expected = TABLE[case]
    assert trial_verdict(seen, LIMITS, predicted) == expected


def test_rare_bad_parts_that_all_pass_are_caught_by_the_rollouts_other_limits() -> None:
    """1 % bad parts: a shadow of 200 parts saw two, and forgetting them shifts the rate by less than allowed."""
    seen = trial(500, compared=beside(500, new_ok=5, ng=5))
    assert trial_verdict(seen, LIMITS, AGREED) == "keep"
    assert trial_verdict(seen, LIMITS, AGREED, ShadowLimits()) == "trial-disagrees"


def test_report_goes_through_json_unchanged() -> None:
    seen = trial(500, unknown_by_reason={"deadline": 2})
    adapter = TypeAdapter(TrialReport)
    assert adapter.validate_json(adapter.dump_json(seen)) == seen
    assert adapter.validate_python(asdict(seen)) == seen
