"""Escapes, overkill and mAP50 are what the plant and everyone else mean by them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from edge_inspect.capture.open import camera_from
from edge_inspect.capture.protocol import Format
from edge_inspect.capture.ring import Slot
from edge_inspect.cli.scoring import Score, Scorer, check_same_recording, load_truth, missed_boxes, mistake
from edge_inspect.errors import Refusal, Usage
from edge_inspect.inference.decode import Detections
from edge_inspect.pipeline import Judged, Lane
from edge_inspect.verdict.judge import Kind, Verdict
from edge_inspect.verdict.parts import Look

CLASSES = ("scratch", "dent")
WIDTH, STEP = 400, 10
"""Parts are 400 px wide and 500 apart; the belt moves 10 px a frame: part n is in the middle, x = 120, on middle(n)."""
SCRATCH_ON_PART = [50.0, 60.0, 90.0, 100.0]
Row = tuple[int, float, list[float]]


def middle(part: int) -> int:
    return 52 + 50 * part


def truth_of(*verdicts: str, cls: str | float = "scratch") -> dict[str, Any]:
    """Parts with these verdicts; each NG one has one scratch."""
    parts = [
        {"id": n, "x": 640 + 500 * n, "w": WIDTH, "verdict": verdict, "enter_frame": 50 * n, "exit_frame": 104 + 50 * n}
        for n, verdict in enumerate(verdicts)
    ]
    frames: list[list[dict[str, Any]]] = [[] for _ in range(106 + 50 * len(parts))]
    x1, y1, x2, y2 = SCRATCH_ON_PART
    for n, verdict in enumerate(verdicts):
        for frame in range(50 * n, 104 + 50 * n) if verdict == "NG" else ():
            x = 640 + 500 * n - STEP * frame
            frames[frame].append({"part": n, "cls": cls, "bbox": [x1 + x, y1, x2 + x, y2]})
    return {"fps": 25, "width": 640, "height": 360, "px_per_frame": STEP, "parts": parts, "frames": frames}


class Replayed:
    """A scorer that is told of parts as the pipeline would tell it."""

    def __init__(self) -> None:
        self.scorer = Scorer()
        self._lane = cast(Lane, SimpleNamespace(engine=SimpleNamespace(classes=CLASSES)))
        self._numbered = 0

    def frame(self, index: int, looks: list[Look], rows: list[Row]) -> None:
        found = Detections(max(1, len(rows)))
        found.n, found.finite = len(rows), True
        for row, (cls, score, box) in enumerate(rows):
            found.boxes[row], found.scores[row], found.classes[row] = box, score, cls
        slot = cast(Slot, SimpleNamespace(stamp=SimpleNamespace(index=index)))
        self.scorer.frame(self._lane, slot, looks, found if looks else None)

    def part(self, kind: Kind, frame: int, x: int | None = 120, rows: list[Row] | None = None) -> None:
        """A part whose box is at x on `frame`; x None: it was told without ever having been looked at."""
        box = None if x is None else (x, 30, x + WIDTH, 330)
        judged = Judged(self._numbered, Verdict(kind, "test"), frame, 0, 0, 0, box, None)
        self.scorer.judged(self._lane, judged, None)
        self.frame(frame, [] if box is None else [Look(self._numbered, box, True)], rows or [])
        self._numbered += 1

    def score(self, truth: dict[str, Any]) -> Score:
        self.frame(len(truth["frames"]), [], [])
        return self.scorer.score(truth, CLASSES)


def replayed(*kinds: Kind) -> Replayed:
    run = Replayed()
    for number, kind in enumerate(kinds):
        run.part(kind, middle(number))
    return run


def test_right_verdicts_are_neither_escapes_nor_overkill() -> None:
    score = replayed(Kind.NG, Kind.OK, Kind.NG).score(truth_of("NG", "OK", "NG"))
    assert (score.escapes, score.overkill, score.parts_missed, score.parts_found_twice, score.parts_invented) == (
        0,
    ) * 5


def test_a_bad_part_passed_as_ok_is_an_escape_and_a_good_one_rejected_is_overkill() -> None:
    score = replayed(Kind.OK, Kind.NG, Kind.NG).score(truth_of("NG", "OK", "NG"))
    assert (score.escapes, score.overkill) == (1, 1)


def test_a_bad_part_that_was_never_found_is_an_escape() -> None:
    run = Replayed()
    run.part(Kind.NG, middle(0))
    score = run.score(truth_of("NG", "NG", "OK"))
    assert (score.escapes, score.parts_missed) == (1, 2)


def test_unknown_is_neither_escape_nor_overkill() -> None:
    score = replayed(Kind.UNKNOWN, Kind.UNKNOWN).score(truth_of("NG", "OK"))
    assert (score.escapes, score.overkill, score.parts_missed) == (0, 0, 0)


def test_unknown_for_a_part_that_was_never_looked_at_stands_for_the_one_that_passed_then() -> None:
    run = Replayed()
    run.part(Kind.NG, middle(0))
    run.part(Kind.UNKNOWN, middle(1), x=None)
    run.part(Kind.NG, middle(2))
    score = run.score(truth_of("NG", "NG", "NG"))
    assert (score.escapes, score.parts_missed) == (0, 0)


def test_a_verdict_told_late_is_matched_by_where_the_part_was_last_looked_at() -> None:
    run = Replayed()
    run.frame(middle(0), [Look(0, (120, 30, 520, 330), False)], [])
    run.part(Kind.OK, middle(0) + 50, x=None)
    score = run.score(truth_of("NG"))
    assert (score.escapes, score.parts_missed) == (1, 0)


def test_a_part_found_twice_and_one_that_is_none_are_counted() -> None:
    run = Replayed()
    run.part(Kind.NG, middle(0), x=120)
    run.part(Kind.NG, middle(0) + 2, x=100)
    run.part(Kind.NG, 5, x=100)
    score = run.score(truth_of("NG"))
    assert (score.parts_found_twice, score.parts_invented) == (1, 1)


def test_a_recording_cut_short_is_not_held_against_anyone() -> None:
    run = Replayed()
    run.part(Kind.NG, middle(0))
    run.frame(120, [], [])
    score = run.scorer.score(truth_of("NG", "NG", "NG"), CLASSES)
    assert (score.escapes, score.parts_missed) == (0, 0)


@pytest.mark.parametrize("cls", ["scratch", 0, 0.0])
def test_map50_is_one_when_every_box_is_found_and_half_of_that_when_half_are(cls: str | float) -> None:
    x1, y1, x2, y2 = SCRATCH_ON_PART
    hit: Row = (0, 0.9, [x1 + 120, y1, x2 + 120, y2])
    far: Row = (0, 0.8, [300.0, 200.0, 340.0, 240.0])
    run = Replayed()
    run.part(Kind.NG, middle(0), rows=[hit])
    run.part(Kind.NG, middle(1), rows=[hit])
    assert run.score(truth_of("NG", "NG", cls=cls)).map50 == pytest.approx(1.0)
    run = Replayed()
    run.part(Kind.NG, middle(0), rows=[hit])
    run.part(Kind.NG, middle(1), rows=[far])
    assert run.score(truth_of("NG", "NG", cls=cls)).map50 == pytest.approx(0.5, abs=0.01)


def test_boxes_on_the_next_part_are_left_to_the_look_at_that_part() -> None:
    x1, y1, x2, y2 = SCRATCH_ON_PART
    hit: Row = (0, 0.5, [x1 + 120, y1, x2 + 120, y2])
    elsewhere: Row = (0, 0.9, [560.0, 60.0, 600.0, 100.0])
    run = Replayed()
    run.part(Kind.NG, middle(0), rows=[elsewhere, hit])
    assert run.score(truth_of("NG")).map50 == pytest.approx(1.0)


def test_map50_is_null_when_nothing_true_was_looked_at_and_zero_when_nothing_was_found() -> None:
    assert replayed(Kind.OK).score(truth_of("OK")).map50 is None
    assert replayed(Kind.OK).score(truth_of("NG")).map50 == 0.0
    assert replayed(Kind.OK).score(truth_of("NG", cls="hole")).map50 is None


def test_wear_is_scored_by_its_first_alarm() -> None:
    run = replayed(Kind.OK, Kind.UNKNOWN, Kind.NG, Kind.NG)
    score = run.scorer.score({"onset_frame": 140, "frames": [{}]}, CLASSES)
    assert (score.first_alarm_frame, score.onset_frame, score.escapes, score.map50) == (middle(2), 140, None, None)
    assert Scorer().score({"onset_frame": 140, "frames": []}, CLASSES).first_alarm_frame is None


GOOD = truth_of("NG", "OK")
BAD = {
    "not JSON": ("{", "not JSON"),
    "not UTF-8": ("\udcff", "not JSON"),
    "a list": ("[]", "allowed: an object with fps, px_per_frame, parts, frames"),
    "another object": ("{}", "fps: Field required"),
    "no parts": (json.dumps({**GOOD, "parts": None}), "parts: Input should be a valid list"),
    "a part without a place": (json.dumps({**GOOD, "parts": [{"id": 0}]}), "parts.0.x: Field required"),
    "a verdict that is none": (
        json.dumps({**GOOD, "parts": [{**GOOD["parts"][0], "verdict": "BAD"}]}),
        "parts.0.verdict: Input should be 'OK' or 'NG'",
    ),
    "a box of three": (
        json.dumps({**GOOD, "frames": [[{"part": 0, "cls": "a", "bbox": [1, 2, 3]}]]}),
        "frames.0.0.bbox.3: Field required",
    ),
    "speed not a number": (
        json.dumps({**GOOD, "px_per_frame": "fast"}),
        "px_per_frame: Input should be a valid number",
    ),
    "wear before its start": (json.dumps({"onset_frame": -1, "frames": []}), "onset_frame: Input should be greater"),
    "deep": ("[" * 100_000, "not JSON"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_truth_is_one_line(case: str, tmp_path: Path) -> None:
    text, expected = BAD[case]
    path = tmp_path / "gt.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(Refusal) as caught:
        load_truth(path)
    assert str(caught.value).startswith(f"truth {path}: ")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_truth_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"truth .*gt\.json: cannot be read: No such file"):
        load_truth(tmp_path / "gt.json")


@pytest.mark.parametrize("clip", ["metal_tag_line_dev", "cookie_line", "screw_line", "wear_277500_315_crop_2"])
def test_truth_of_the_recorded_clips_is_understood(clip: str, data_dir: Path) -> None:
    assert load_truth(data_dir / "replay" / f"{clip}.gt.json")["frames"]


def test_non_finite_detections_are_not_scored() -> None:
    run = Replayed()
    found = Detections(3)
    found.n, found.finite = 2, False
    found.boxes[:] = np.nan
    slot = cast(Slot, SimpleNamespace(stamp=SimpleNamespace(index=5)))
    run.scorer.frame(run._lane, slot, [Look(0, (0, 0, 9, 9), True)], found)
    assert run.scorer.looks == []


@pytest.mark.parametrize(
    ("verdict", "kind", "wrong"),
    [
        ("NG", Kind.OK, "escape"),
        ("OK", Kind.NG, "overkill"),
        ("OK", Kind.OK, ""),
        ("NG", Kind.NG, ""),
        ("NG", Kind.UNKNOWN, ""),
    ],
)
def test_a_mistake_is_named_part_by_part(verdict: str, kind: Kind, wrong: str) -> None:
    judged = Judged(0, Verdict(kind, "test"), middle(0), 0, 0, 0, (120, 30, 520, 330), None)
    assert mistake(truth_of(verdict), judged) == wrong
    assert mistake({"onset_frame": 1, "frames": []}, judged) == ""


def test_the_truth_of_an_escape_is_where_the_part_was_judged() -> None:
    judged = cast(Judged, SimpleNamespace(box_px=(120, 0, 520, 360), frame_index=middle(1), part=7))
    ((cls, box),) = missed_boxes(truth_of("NG", "NG"), judged)
    assert (cls, box) == ("scratch", (170.0, 60.0, 210.0, 100.0))


RECORDING = Format(640, 360, 25.0, "h264", {"frames": 156})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (Format(1280, 720, 25.0, "h264", {"frames": 156}), "640x360 px, the recording 1280x720 px"),
        (Format(640, 360, 25.0, "h264", {"frames": 400}), "156 frames, the recording 400"),
        (Format(640, 360, 30.0, "h264", {"frames": 156}), "25 frames a second, the recording 30"),
    ],
)
def test_the_truth_of_another_recording_is_refused(given: Format, said: str) -> None:
    with pytest.raises(Usage, match=f"is of another recording: it has {said}"):
        check_same_recording(Path("gt.json"), truth_of("OK"), given)


@pytest.mark.parametrize(
    "given",
    [
        RECORDING,
        Format(640, 360, None, "h264", {"frames": None}),
        Format(640, 360, 25.0, "h264", {"frames": 155}),
        Format(640, 360, 5.0, "pictures", {"frames": 156}),
    ],
)
def test_what_a_recording_does_not_say_is_not_held_against_its_truth(given: Format) -> None:
    check_same_recording(Path("gt.json"), truth_of("OK"), given)


@pytest.mark.parametrize("clip", ["metal_tag_line_dev", "cookie_line", "screw_line", "wear_277500_315_crop_2"])
def test_each_recorded_clip_goes_with_its_own_truth(clip: str, data_dir: Path) -> None:
    path = data_dir / "replay" / f"{clip}.gt.json"
    camera = camera_from(str(path.with_name(f"{clip}.mp4")))
    try:
        check_same_recording(path, load_truth(path), camera.open())
    finally:
        camera.close()
