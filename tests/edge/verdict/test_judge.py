"""OK is said only of what was seen; a defect is one defect however often it is seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_inspect.errors import BadConfig
from edge_inspect.verdict.judge import OPEN_PARTS, Judge, Kind, Verdict
from edge_inspect.verdict.parts import Look
from edge_inspect.verdict.recipe import Recipe

CLASSES = ("scratch", "dent", "dust")
SCRATCH, DENT, DUST = range(3)
BARRIER = {"part": {"mode": "barrier"}, "barrier": {"looks": 3}}
Row = tuple[int, float, tuple[float, float, float, float]]


def judge_of(**recipe: Any) -> Judge:
    rules = {"scratch": {"threshold": 0.5}, "dent": {"threshold": 0.4}, "dust": {"threshold": 0.3, "severity": "info"}}
    return Judge(Recipe.model_validate({"name": "r", "version": "1", "classes": rules, **recipe}), CLASSES)


def look(x: int = 100, *, part: int = 0, last: bool = False, whole: bool = True) -> Look:
    """A part of 400 x 200 px whose left edge is at x."""
    return Look(part, (x, 50, x + 400, 250), last, (x, 50), whole)


def show(judge: Judge, where: Look, *rows: Row) -> None:
    """Detections on one look, in px of the frame, in arrays that hold more than counts."""
    boxes = np.full((10, 4), 7.0, np.float32)
    scores = np.full(10, 0.99, np.float32)
    classes = np.zeros(10, np.int32)
    for index, (cls, score, box) in enumerate(rows):
        boxes[index], scores[index], classes[index] = box, score, cls
    judge.look(where, boxes, scores, classes, len(rows))


def on_part(x: float, y: float, size: float = 20) -> tuple[float, float, float, float]:
    """A box on a part whose left edge is at 100."""
    return (100 + x, 50 + y, 100 + x + size, 50 + y + size)


def decided(judge: Judge, *rows: Row, where: Look | None = None) -> Verdict:
    where = where or look(last=True)
    show(judge, where, *rows)
    return judge.decide(where.part)


def test_part_without_defects_is_ok() -> None:
    assert decided(judge_of()) == Verdict(Kind.OK, "no-defect", ())


def test_part_with_a_defect_is_ng_and_the_defect_is_described() -> None:
    verdict = decided(judge_of(scale={"mm_per_px": 0.5}), (SCRATCH, 0.75, (140.0, 60.0, 180.0, 90.0)))
    assert (verdict.kind, verdict.reason) == (Kind.NG, "defect")
    (defect,) = verdict.defects
    assert (defect.cls, defect.confidence, defect.severity, defect.looks) == ("scratch", 0.75, "major", 1)
    assert defect.box_px == (140, 60, 180, 90)
    assert defect.part_box_px == (40, 10, 80, 40)
    assert (defect.width_mm, defect.height_mm) == (20.0, 15.0)


def test_sizes_in_mm_are_unknown_without_a_scale() -> None:
    (defect,) = decided(judge_of(), (SCRATCH, 0.75, on_part(10, 10))).defects
    assert defect.width_mm is None
    assert defect.height_mm is None


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ((SCRATCH, 0.49, on_part(10, 10)), "below its class's threshold"),
        ((SCRATCH, 0.9, (540.0, 60.0, 560.0, 80.0)), "on the next part"),
        ((SCRATCH, 0.9, (140.0, 10.0, 160.0, 30.0)), "above the part"),
        ((DUST, 0.9, on_part(10, 10)), "for information only"),
    ],
)
def test_what_is_no_defect_leaves_the_part_ok(row: Row, why: str) -> None:
    assert decided(judge_of(), row).kind is Kind.OK, why


def test_information_is_listed_without_making_the_part_ng() -> None:
    verdict = decided(judge_of(), (DUST, 0.9, on_part(10, 10)))
    assert [defect.severity for defect in verdict.defects] == ["info"]


def test_each_class_has_its_own_threshold() -> None:
    assert decided(judge_of(), (DENT, 0.45, on_part(10, 10))).kind is Kind.NG


def test_a_class_that_the_recipe_does_not_name_never_counts() -> None:
    judge = judge_of(classes={"dent": {}})
    assert decided(judge, (SCRATCH, 1.0, on_part(10, 10))).kind is Kind.OK


def test_a_recipe_for_other_classes_is_refused() -> None:
    with pytest.raises(BadConfig, match=r"key `classes.scrach`: not a class of the model; .* did you mean `scratch`\?"):
        judge_of(classes={"scrach": {}})


@pytest.mark.parametrize(("size", "kind"), [(19.0, Kind.OK), (21.0, Kind.NG)])
@pytest.mark.parametrize("rule", [{"min_size_px": 20}, {"min_size_mm": 5}])
def test_small_marks_are_no_defects(rule: dict[str, float], size: float, kind: Kind) -> None:
    judge = judge_of(classes={"scratch": rule}, scale={"mm_per_px": 0.25})
    assert decided(judge, (SCRATCH, 0.9, on_part(10, 10, size))).kind is kind


SQUARE = [[0, 0], [100, 0], [100, 100], [0, 100]]


@pytest.mark.parametrize(
    ("areas", "kind"),
    [
        ({"ignore": [{"of": "part", "polygon": SQUARE}]}, Kind.OK),
        ({"region": [{"of": "part", "polygon": SQUARE}]}, Kind.NG),
        ({"ignore": [{"of": "frame", "polygon": SQUARE}]}, Kind.NG),
        ({"region": [{"of": "frame", "polygon": SQUARE}]}, Kind.OK),
        ({"region": [{"of": "part", "polygon": SQUARE}], "ignore": [{"of": "part", "polygon": SQUARE}]}, Kind.OK),
        ({"region": [{"of": "frame", "polygon": SQUARE}, {"of": "part", "polygon": SQUARE}]}, Kind.NG),
    ],
)
def test_regions_and_ignored_areas_say_where_defects_count(areas: dict[str, Any], kind: Kind) -> None:
    """The defect lies at (60, 60) on the part, which is (160, 110) in the frame."""
    assert decided(judge_of(**areas), (SCRATCH, 0.9, on_part(50, 50))).kind is kind


def test_as_many_defects_as_the_recipe_says_make_a_part_ng() -> None:
    rows = [(SCRATCH, 0.9, on_part(30.0 * n, 10)) for n in range(3)]
    assert decided(judge_of(verdict={"ng_defects": 3}), *rows[:2]).kind is Kind.OK
    assert decided(judge_of(verdict={"ng_defects": 3}), *rows).kind is Kind.NG


def test_a_class_may_need_fewer_defects_than_all_together() -> None:
    rules = {"scratch": {"threshold": 0.5}, "dent": {"threshold": 0.4, "ng_defects": 1}}
    judge = judge_of(classes=rules, verdict={"ng_defects": 3})
    assert decided(judge, (SCRATCH, 0.9, on_part(10, 10)), (SCRATCH, 0.9, on_part(90, 10))).kind is Kind.OK
    assert decided(judge, (DENT, 0.9, on_part(10, 10))).kind is Kind.NG


# --- several looks ----------------------------------------------------------------------------------------------------


def test_a_defect_seen_on_three_looks_is_one_defect_where_the_surest_look_saw_it() -> None:
    judge = judge_of(**BARRIER)
    for x, score, jitter in ((300, 0.6, 0.0), (200, 0.8, 4.0), (100, 0.7, -3.0)):
        box = (x + 40 + jitter, 60.0, x + 80 + jitter, 90.0)
        show(judge, look(x, last=x == 100), (SCRATCH, score, box))
    (defect,) = judge.decide(0).defects
    assert defect.looks == 3
    assert defect.confidence == pytest.approx(0.8)
    assert defect.part_box_px == (44, 10, 84, 40)
    assert defect.box_px == (144, 60, 184, 90), "where it is in the frame of the last look"


def test_two_defects_side_by_side_stay_two() -> None:
    judge = judge_of(**BARRIER)
    for x in (300, 200, 100):
        rows = [(SCRATCH, 0.9, (x + at, 60.0, x + at + 20, 80.0)) for at in (40.0, 70.0)]
        show(judge, look(x), *rows)
    assert [defect.looks for defect in judge.decide(0).defects] == [3, 3]


def test_a_box_inside_another_on_one_look_is_the_same_defect() -> None:
    rows = [(SCRATCH, 0.8, on_part(10, 10, 100)), (SCRATCH, 0.6, on_part(20, 20, 30)), (DENT, 0.6, on_part(20, 20, 30))]
    verdict = decided(judge_of(), *rows)
    assert [(defect.cls, defect.looks) for defect in verdict.defects] == [("scratch", 1), ("dent", 1)]


@pytest.mark.parametrize(("confirm", "kind"), [(1, Kind.NG), (2, Kind.NG), (3, Kind.OK)])
def test_a_defect_counts_when_enough_looks_confirm_it(confirm: int, kind: Kind) -> None:
    judge = judge_of(**BARRIER, verdict={"confirm": confirm})
    for x in (300, 200):
        show(judge, look(x), (SCRATCH, 0.9, (x + 40.0, 60.0, x + 60.0, 80.0)))
    show(judge, look(100, last=True))
    assert judge.decide(0).kind is kind


def test_a_lost_look_hides_no_defect() -> None:
    """Three looks must confirm; two of them were broken."""
    judge = judge_of(**BARRIER, verdict={"confirm": 3})
    show(judge, look(300), (SCRATCH, 0.9, (340.0, 60.0, 360.0, 80.0)))
    judge.unusable(look(200), "truncated")
    judge.unusable(look(100, last=True), "truncated")
    assert judge.decide(0).kind is Kind.NG


def test_parts_in_sight_together_are_judged_apart() -> None:
    judge = judge_of(**BARRIER)
    left, right = Look(4, (0, 50, 200, 250), True, (0, 50)), Look(5, (220, 50, 420, 250), True, (220, 50))
    rows: list[Row] = [(SCRATCH, 0.9, (300.0, 100.0, 330.0, 130.0))]
    show(judge, left, *rows)
    show(judge, right, *rows)
    assert judge.decide(4).kind is Kind.OK
    assert judge.decide(5).kind is Kind.NG


# --- what could not be seen -------------------------------------------------------------------------------------------


def test_a_part_never_seen_is_unknown() -> None:
    assert judge_of().decide(7) == Verdict(Kind.UNKNOWN, "not-seen", ())
    assert judge_of().decide(7, "camera-lost") == Verdict(Kind.UNKNOWN, "camera-lost", ())


def test_a_part_whose_every_look_was_spoilt_is_unknown_with_the_first_reason() -> None:
    judge = judge_of(**BARRIER)
    judge.unusable(look(300), "truncated")
    judge.unusable(look(100, last=True), "black")
    assert judge.decide(0) == Verdict(Kind.UNKNOWN, "truncated", ())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["box", "score"])
def test_numbers_that_are_not_finite_are_never_no_defect(bad: float, where: str) -> None:
    judge = judge_of()
    row: Row = (SCRATCH, bad, on_part(10, 10)) if where == "score" else (SCRATCH, 0.9, (bad, 60.0, 180.0, 90.0))
    verdict = decided(judge, (SCRATCH, 0.1, on_part(0, 0)), row)
    assert verdict == Verdict(Kind.UNKNOWN, "non-finite", ())


@pytest.mark.parametrize("cls", [-1, 3, 2**31 - 1])
def test_a_class_that_does_not_exist_is_never_no_defect(cls: int) -> None:
    assert decided(judge_of(), (cls, 0.9, on_part(10, 10))) == Verdict(Kind.UNKNOWN, "no-such-class", ())


def test_what_lies_behind_the_first_n_does_not_count() -> None:
    judge = judge_of()
    boxes, scores = np.full((3, 4), np.nan, np.float32), np.full(3, np.nan, np.float32)
    judge.look(look(last=True), boxes, scores, np.full(3, -7, np.int32), 0)
    assert judge.decide(0).kind is Kind.OK


def test_a_part_seen_whole_once_is_judged_though_its_last_look_is_missing() -> None:
    judge = judge_of(**BARRIER)
    show(judge, look(300))
    assert judge.decide(0, "not-seen").kind is Kind.OK


def test_a_long_part_with_a_stretch_missing_is_never_ok() -> None:
    judge = judge_of(**BARRIER)
    show(judge, look(whole=False))
    assert judge.decide(0, "truncated") == Verdict(Kind.UNKNOWN, "truncated", ())
    show(judge, look(whole=False))
    judge.unusable(look(whole=False, last=True), "non-finite")
    assert judge.decide(0) == Verdict(Kind.UNKNOWN, "non-finite", ())


def test_a_long_part_with_every_stretch_seen_is_judged() -> None:
    judge = judge_of(**BARRIER, verdict={"confirm": 3})
    show(judge, look(whole=False))
    show(judge, look(whole=False, last=True))
    assert judge.decide(0).kind is Kind.OK
    show(judge, look(whole=False), (SCRATCH, 0.9, on_part(10, 10)))
    show(judge, look(whole=False, last=True))
    assert judge.decide(0).kind is Kind.NG, "a stretch is seen once: there is nothing to confirm it"


def test_a_defect_is_ng_even_when_other_looks_were_spoilt() -> None:
    judge = judge_of(**BARRIER)
    show(judge, look(300), (SCRATCH, 0.9, (340.0, 60.0, 360.0, 80.0)))
    judge.unusable(look(100, last=True), "truncated")
    assert judge.decide(0).kind is Kind.NG


def test_deciding_forgets_the_part() -> None:
    judge = judge_of()
    assert decided(judge, (SCRATCH, 0.9, on_part(10, 10))).kind is Kind.NG
    assert judge.decide(0).kind is Kind.UNKNOWN


def test_parts_that_are_never_decided_do_not_pile_up() -> None:
    judge = judge_of()
    for part in range(OPEN_PARTS + 50):
        show(judge, look(part=part))
    assert len(judge._open) == OPEN_PARTS
    assert judge.decide(0).kind is Kind.UNKNOWN
    assert judge.decide(OPEN_PARTS + 49).kind is Kind.OK


SCORES = st.floats(0, 1, width=32)
BOXES = st.tuples(st.floats(0, 600, width=32), st.floats(0, 300, width=32), st.floats(0, 99), st.floats(0, 99)).map(
    lambda box: (box[0], box[1], box[0] + box[2], box[1] + box[3])
)
ROWS = st.lists(st.tuples(st.sampled_from([SCRATCH, DENT, DUST]), SCORES, BOXES), max_size=10)


@given(st.lists(ROWS, min_size=1, max_size=4))
def test_whatever_is_found_the_verdict_fits_the_defects(looks: list[list[Row]]) -> None:
    first, second = judge_of(**BARRIER), judge_of(**BARRIER)
    for judge in (first, second):
        for index, rows in enumerate(looks):
            show(judge, look(100 - index), *rows)
    verdict = first.decide(0)
    assert verdict == second.decide(0), "the same looks, the same verdict"
    counting = [defect for defect in verdict.defects if defect.severity != "info"]
    assert (verdict.kind is Kind.NG) == bool(counting)
    assert verdict.kind is not Kind.UNKNOWN
    assert all(1 <= defect.looks <= len(looks) for defect in verdict.defects)
    assert len(verdict.defects) <= sum(len(rows) for rows in looks)
    assert [d.confidence for d in verdict.defects] == sorted((d.confidence for d in verdict.defects), reverse=True)
    for defect in verdict.defects:
        x1, y1, x2, y2 = defect.box_px
        assert 0 <= x1 <= x2
        assert 0 <= y1 <= y2


@given(ROWS)
def test_a_higher_threshold_never_turns_ok_into_ng(rows: list[Row]) -> None:
    low = judge_of(classes={name: {"threshold": 0.2} for name in CLASSES})
    high = judge_of(classes={name: {"threshold": 0.6} for name in CLASSES})
    if decided(high, *rows).kind is Kind.NG:
        assert decided(low, *rows).kind is Kind.NG
