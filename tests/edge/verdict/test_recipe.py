"""A recipe either makes sense or is one line that says what to change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_inspect.errors import BadConfig
from edge_inspect.verdict.recipe import OFF, find_recipe, load_recipe

GOOD = """
name = "plates"
version = "1.2.0"
[classes.scratch]
threshold = 0.4
[part]
mode = "barrier"
[barrier]
looks = 3
"""
TRIGGERED = """
name = "plates"
version = "1"
[classes.scratch]
[part]
mode = "trigger"
deadline_ms = 50
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


BAD = {
    "no name": (changed('name = "plates"', ""), "key `name`: missing"),
    "name with a slash": (changed('"plates"', '"a/b"'), 'key `name`: found "a/b", allowed: match pattern'),
    "version as a number": (changed('"1.2.0"', "1.2"), "key `version`: found 1.2, allowed: a valid string"),
    "no classes": ('name = "a"\nversion = "1"\n', "key `classes`: missing"),
    "empty classes": ('name = "a"\nversion = "1"\n[classes]\n', "key `classes`: found an empty table, allowed:"),
    "unknown table": (GOOD + "[verdicts]\n", "key `verdicts`: unknown key; allowed: barrier, classes, frames,"),
    "unknown table, nearest": (GOOD + "[verdicts]\n", "did you mean `verdict`?"),
    "slip in a class": (
        changed("threshold =", "treshold ="),
        "key `classes.scratch.treshold`: unknown key; "
        "allowed: min_size_mm, min_size_px, ng_defects, severity, threshold; did you mean `threshold`?",
    ),
    "threshold as text": (
        changed("0.4", '"0.4"'),
        'key `classes.scratch.threshold`: found "0.4", allowed: a valid number',
    ),
    "threshold in percent": (changed("0.4", "40"), "key `classes.scratch.threshold`: found 40, allowed: less than or"),
    "threshold zero": (changed("0.4", "0"), "key `classes.scratch.threshold`: found 0, allowed: greater than 0"),
    "threshold nan": (changed("0.4", "nan"), "key `classes.scratch.threshold`: found nan, allowed: a finite number"),
    "negative size": (changed("0.4", "0.4\nmin_size_px = -1"), "key `classes.scratch.min_size_px`: found -1, allowed:"),
    "size in mm without a scale": (
        changed("0.4", "0.4\nmin_size_mm = 2"),
        "key `classes.scratch.min_size_mm`: sizes in mm need `scale.mm_per_px`",
    ),
    "size in px and mm": (
        changed("0.4", "0.4\nmin_size_mm = 2\nmin_size_px = 9") + "[scale]\nmm_per_px = 0.1",
        "key `classes.scratch.min_size_mm`: allowed: either min_size_px or min_size_mm",
    ),
    "scale zero": (GOOD + "[scale]\nmm_per_px = 0", "key `scale.mm_per_px`: found 0, allowed: greater than 0"),
    "scale empty": (GOOD + "[scale]", "key `scale.mm_per_px`: missing"),
    "unknown severity": (
        changed("0.4", "0.4\nseverity = 'mayor'"),
        "key `classes.scratch.severity`: found \"mayor\", allowed: 'critical', 'major', 'minor' or 'info'; "
        "did you mean 'major'?",
    ),
    "nothing can be NG": (changed("0.4", "0.4\nseverity = 'info'"), "key `classes`: every severity is `info`"),
    "no defects needed": (
        GOOD + "[verdict]\nng_defects = 0",
        "key `verdict.ng_defects`: found 0, allowed: greater than or",
    ),
    "half a defect": (
        GOOD + "[verdict]\nng_defects = 1.5",
        "key `verdict.ng_defects`: found 1.5, allowed: a valid integer",
    ),
    "more to confirm than looks": (
        GOOD + "[verdict]\nconfirm = 4",
        "key `verdict.confirm`: found 4, a part has only 3",
    ),
    "mode gate": (
        changed('"barrier"', '"gate"'),
        "key `part.mode`: found \"gate\", allowed: 'frame', 'barrier' or 'trigger'",
    ),
    "mode misspelt": (changed('"barrier"', '"barier"'), "did you mean 'barrier'?"),
    "barrier without its mode": (changed('"barrier"', '"frame"'), "key `barrier`: needs part.mode = 'barrier'"),
    "direction": (GOOD + "direction = 'north'", "key `barrier.direction`: found \"north\", allowed: 'auto', 'left',"),
    "belt of two colours": (GOOD + "belt_bgr = [1, 2]", "key `barrier.belt_bgr[2]`: missing"),
    "belt too bright": (GOOD + "belt_bgr = [1, 2, 256]", "key `barrier.belt_bgr[2]`: found 256, allowed: less than or"),
    "contrast zero": (GOOD + "contrast = 0", "key `barrier.contrast`: found 0, allowed: greater than or equal to 2"),
    "length in px": (GOOD + "min_length = 200", "key `barrier.min_length`: found 200, allowed: less than 1"),
    "gap as wide as the picture": (GOOD + "gap = 1.0", "key `barrier.gap`: found 1.0, allowed: less than 0.5"),
    "band turned round": (GOOD + "band = [0.9, 0.1]", "key `barrier.band`: found [0.9, 0.1], allowed: [from, to]"),
    "no looks": (
        changed("looks = 3", "looks = 0"),
        "key `barrier.looks`: found 0, allowed: greater than or equal to 1",
    ),
    "region without place": (
        GOOD + "[[region]]\npolygon = [[0, 0], [9, 0], [9, 9]]",
        "key `region[0].of`: missing",
    ),
    "region of two points": (
        GOOD + "[[region]]\nof = 'part'\npolygon = [[0, 0], [9, 0]]",
        "key `region[0].polygon`: found [[0, 0], [9, 0]], allowed:",
    ),
    "region without area": (
        GOOD + "[[ignore]]\nof = 'part'\npolygon = [[0, 0], [9, 9], [18, 18]]",
        "key `ignore[0].polygon`: found [[0, 0], [9, 9], [18, 18]], allowed: at least 3 points that enclose",
    ),
    "region as a table": (GOOD + "[region]\nof = 'part'", "key `region`: found something else, allowed:"),
    "point of three": (
        GOOD + "[[ignore]]\nof = 'part'\npolygon = [[0, 0, 0], [9, 0], [9, 9]]",
        "key `ignore[0].polygon[0]`: found [0, 0, 0], allowed:",
    ),
    "thumbnail as text": (
        GOOD + "[report]\nthumbnail = 'yes'",
        'key `report.thumbnail`: found "yes", allowed: a valid bool',
    ),
    "thumbnail too large": (GOOD + "[report]\nthumbnail_max_bytes = 1000000", "found 1000000, allowed: less than or"),
    "unknown policy": (
        GOOD + "[frames]\npolicy = 'latest'",
        "key `frames.policy`: found \"latest\", allowed: 'newest',",
    ),
    "trigger policy with the barrier": (GOOD + "[frames]\npolicy = 'trigger'", "key `frames.policy`: 'trigger' needs"),
    "trigger without deadline": (TRIGGERED.replace("deadline_ms", "#"), "key `part.deadline_ms`: missing"),
    "deadline of nothing": (
        TRIGGERED.replace("= 50", "= 0"),
        "key `part.deadline_ms`: found 0, allowed: greater than 0",
    ),
    "delay beyond the deadline": (
        TRIGGERED + "delay_ms = 50",
        "key `part.delay_ms`: found 50, allowed: less than deadline_ms = 50",
    ),
    "delay without trigger": (
        changed('mode = "barrier"', 'mode = "barrier"\ndelay_ms = 1'),
        "key `part.delay_ms`: needs part.mode = 'trigger', found 'barrier'",
    ),
    "a line that is made to wait": (TRIGGERED + "[frames]\npolicy = 'every'", "key `frames.policy`: 'every' waits"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_recipe_is_one_line_with_file_key_and_what_is_allowed(case: str, tmp_path: Path) -> None:
    text, expected = BAD[case]
    path = written(tmp_path, text)
    with pytest.raises(BadConfig) as caught:
        load_recipe(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert expected in message
    assert message.isprintable()
    assert caught.value.exit_code == 78


@pytest.mark.parametrize("name", ["ball-screw", "cookies", "metal-plate", "metal-plate-triggered", "screws"])
def test_shipped_recipes_load(name: str) -> None:
    recipe = load_recipe(find_recipe(name))
    assert recipe.name == name
    modes = {"ball-screw": "frame", "metal-plate-triggered": "trigger"}
    assert recipe.part.mode == modes.get(name, "barrier")


def test_a_recipe_that_is_not_shipped_is_one_line_with_those_that_are() -> None:
    with pytest.raises(BadConfig, match=r"ball-screw, cookies, .*screws, a path .*did you mean `cookies`"):
        find_recipe("cookie")


def test_a_path_is_taken_as_it_is(tmp_path: Path) -> None:
    assert find_recipe("mine.toml") == Path("mine.toml")
    assert find_recipe(tmp_path / "metal-plate") == tmp_path / "metal-plate"


def test_classes_that_the_recipe_does_not_name_are_switched_off(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, GOOD))
    thresholds = recipe.thresholds(("dent", "scratch"))
    assert thresholds.dtype == np.float32
    assert thresholds.tolist() == [OFF, pytest.approx(0.4)]


def test_a_star_stands_for_every_other_class(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, GOOD + '[classes."*"]\nthreshold = 0.7'))
    assert recipe.thresholds(("dent", "scratch")).tolist() == pytest.approx([0.7, 0.4])


def test_a_class_that_the_model_lacks_is_one_line(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, GOOD))
    with pytest.raises(BadConfig, match=r"recipe plates 1\.2\.0: key `classes\.scratch`.*did you mean `scratches`"):
        recipe.thresholds(("scratches", "dent"))


def test_digest_changes_with_the_meaning_only(tmp_path: Path) -> None:
    same = [
        GOOD,
        "# a comment\n" + GOOD,
        changed("0.4", "0.40"),
        changed("threshold = 0.4", 'severity = "major"\nthreshold = 0.4'),
        GOOD + "[report]\nthumbnail = true",
    ]
    other = [changed("0.4", "0.41"), changed("1.2.0", "1.2.1"), changed("looks = 3", "looks = 2")]
    digests = {load_recipe(written(tmp_path, text)).digest for text in same}
    assert len(digests) == 1
    assert all(load_recipe(written(tmp_path, text)).digest not in digests for text in other)
    assert digests.pop().startswith("sha256:")


def test_a_triggered_part_has_a_deadline(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, TRIGGERED + "delay_ms = 12.5"))
    assert (recipe.part.deadline_ms, recipe.part.delay_ms, recipe.part.window_ms) == (50, 12.5, 100)


def test_what_came_into_recipes_later_changes_no_digest(tmp_path: Path) -> None:
    """Of a recipe that was written before there were triggers: reports of old and new devices can be compared."""
    digest = load_recipe(written(tmp_path, GOOD)).digest
    assert digest == "sha256:eaf8ec3563b07dad6e1b0d97475ed1d1facbd924ae0401bda7105f3267b6056a"
    in_time = GOOD.replace('mode = "barrier"', 'mode = "barrier"\ndeadline_ms = 80')
    assert load_recipe(written(tmp_path, in_time)).digest != digest


def test_every_key_of_a_triggered_part_changes_the_digest(tmp_path: Path) -> None:
    texts = [TRIGGERED, TRIGGERED.replace("50", "60"), TRIGGERED + "delay_ms = 5", TRIGGERED + "window_ms = 5"]
    assert len({load_recipe(written(tmp_path, text)).digest for text in texts}) == 4
