"""When what two models said of the same parts speaks against the new one."""

from __future__ import annotations

import random
from dataclasses import asdict

import pytest
from pydantic import TypeAdapter

from edge_inspect.update.shadow import ClassCounts, Latency, ShadowReport, shadow_verdict
from edge_wire.release import ShadowLimits

LIMITS = ShadowLimits(parts=200, most_new_ng=0.05, most_new_ok=0.05, most_s=3600)


def report(ok: int = 0, ng: int = 0, new_ng: int = 0, new_ok: int = 0, **more: object) -> ShadowReport:
    """`ok` and `ng`: by the model before."""
    same = ok + ng - new_ng - new_ok
    return ShadowReport(
        parts=ok + ng, same=same, active_ok=ok, active_ng=ng, new_ng=new_ng, new_ok=new_ok, **more,  # type: ignore[arg-type]
    )  # fmt: skip


SCRATCH_GONE = {"dent": ClassCounts(active_ng=60), "scratch": ClassCounts(active_ng=3, new_ok=3)}
TABLE = {
    "nothing seen yet": (report(), "go-on"),
    "agrees, too few": (report(150, 49), "go-on"),
    "agrees, enough": (report(160, 40), "pass"),
    "agrees, no bad part came": (report(200, 0), "go-on"),
    "agrees, too few bad parts came": (report(991, 9), "go-on"),
    "agrees, enough bad parts at last": (report(990, 10), "pass"),
    "no bad part came, and the time is over": (report(200, 0, seconds=3600.0), "pass"),
    "too few parts at all, and the time is over": (report(190, 9, seconds=3600.0), "shadow-too-few"),
    "half of the few bad parts passed": (report(990, 10, new_ok=5), "shadow-new-ok"),
    "half of fewer bad parts passed, and the time is over": (report(500, 4, new_ok=2, seconds=3600.0), "shadow-new-ok"),
    "asked again and again while bad parts are waited for": (report(300, 5, new_ng=22), "go-on"),
    "one wrong of the first two": (report(2, 0, new_ng=1), "go-on"),
    "first three bad parts passed": (report(0, 3, new_ok=3), "shadow-new-ok"),
    "first two bad parts passed": (report(10, 2, new_ok=2), "go-on"),
    "everything is bad to it": (report(4, 0, new_ng=4), "shadow-new-ng"),
    "within the limit": (report(160, 40, new_ng=8, new_ok=2), "pass"),
    "above, but by chance": (report(160, 40, new_ng=10, new_ok=3), "pass"),
    "surely above when it counts": (report(160, 40, new_ng=15), "shadow-new-ng"),
    "the same while parts still come": (report(160, 39, new_ng=14), "go-on"),
    "one class forgotten among many bad": (report(100, 63, new_ok=3, by_class=SCRATCH_GONE), "shadow-class-lost"),
    "classes mixed up": (report(50, 10, other_class=10), "shadow-other-class"),
    "one other class": (report(160, 40, other_class=1), "pass"),
    "not finite once": (report(10, 0, non_finite=1), "shadow-non-finite"),
    "nobody comes": (report(3, 0, seconds=3600.0), "shadow-too-few"),
    "nobody comes, not yet": (report(3, 0, seconds=3599.0), "go-on"),
}


@pytest.mark.parametrize("case", TABLE)
def test_verdict_on_a_shadow(case: str) -> None:
    seen, expected = TABLE[case]
    assert shadow_verdict(seen, LIMITS) == expected


def test_a_line_that_asks_for_no_bad_parts_passes_without_any() -> None:
    assert shadow_verdict(report(200, 0), LIMITS.model_copy(update={"least_rejected": 0})) == "pass"


def test_rollouts_from_before_ask_for_rejected_parts_too() -> None:
    old = {"parts": 200, "most_s": 3600, "most_new_ng": 0.05, "most_new_ok": 0.05}
    assert ShadowLimits.model_validate(old).least_rejected == 10


def test_a_good_model_is_not_refused_for_being_looked_at_often() -> None:
    """1 % disagreement where 5 % is allowed, looked at after every fourth part: of 60 models at most a few fall."""
    dice, refused = random.Random(4), 0
    for _ in range(60):
        ok = ng = new_ng = new_ok = 0
        for number in range(400):
            wrong = dice.random() < 0.01
            if dice.random() < 0.2:
                ng, new_ok = ng + 1, new_ok + wrong
            else:
                ok, new_ng = ok + 1, new_ng + wrong
            said = shadow_verdict(report(ok, ng, new_ng, new_ok), LIMITS) if number % 4 == 3 else "go-on"
            if said != "go-on":
                break
        refused += said != "pass"
    assert refused <= 3, refused


def test_report_goes_through_json_unchanged() -> None:
    seen = report(3, 2, new_ok=1, by_class={"scratch": ClassCounts(2, 1, 0)}, answers=Latency(1.0, 2.0))
    adapter = TypeAdapter(ShadowReport)
    assert adapter.validate_json(adapter.dump_json(seen)) == seen
    assert adapter.validate_python(asdict(seen)) == seen
