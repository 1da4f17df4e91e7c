"""`evidence list | show | export`: what was kept is found, and goes out whole and readable by others."""

from __future__ import annotations

import json
import re
import sqlite3
import time
import zipfile
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from edge_inspect.cli import run_command
from edge_inspect.cli.evidence import moment_ns
from edge_inspect.delivery.evidence import FOLDER
from edge_inspect.delivery.evidence_read import Wanted, find_parts
from edge_inspect.errors import Usage
from tests.edge.delivery.evidence_parts import (
    DAY_NS,
    HEIGHT,
    NOW_NS,
    WIDTH,
    keep_offered,
    new_store,
    noise,
    pictures,
    rows,
    running,
    subject,
)

KINDS = ("NG", "UNKNOWN", "OK")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Nine parts, an hour apart, in turn NG, UNKNOWN and OK."""
    folder = tmp_path / "state"
    store = new_store(folder / FOLDER)
    for part in range(9):
        utc_ns = NOW_NS + part * DAY_NS // 24
        store.offer(subject(part, KINDS[part % 3], captured_utc_ns=utc_ns), noise(part))
        keep_offered(store)
    return folder


def told(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def listed(state: Path, capsys: pytest.CaptureFixture[str], *options: str) -> list[int]:
    assert run_command(["evidence", "list", "--state", str(state), "--json", *options]) == 0
    return [part["part"] for part in told(capsys)["parts"]]


def test_list_shows_the_newest_first_and_as_many_as_wanted(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert listed(state, capsys) == [8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert listed(state, capsys, "--limit", "2") == [8, 7]


def test_list_filters(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert listed(state, capsys, "--verdict", "ng") == [6, 3, 0]
    assert listed(state, capsys, "--verdict", "NG", "--verdict", "OK", "--limit", "3") == [8, 6, 5]
    assert listed(state, capsys, "--camera", "right") == []
    assert listed(state, capsys, "--camera", "left", "--limit", "1") == [8]
    since = find_parts(state / FOLDER, Wanted(limit=3))[-1].record.captured_utc
    assert listed(state, capsys, "--since", f"{since:%Y-%m-%dT%H:%M:%S}") == [8, 7, 6]
    assert listed(state, capsys, "--until", f"{since:%Y-%m-%dT%H:%M:%S}Z") == [5, 4, 3, 2, 1, 0]


def test_list_is_a_line_a_part_for_people(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["evidence", "list", "--state", str(state), "--verdict", "NG"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert re.search(r"NG +aaaaaaaa-left-6 +scratch 0\.90 .*2 pictures", lines[0])


def test_show_tells_everything_of_one_part(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["evidence", "show", "aaaaaaaa-left-3", "--state", str(state), "--json"]) == 0
    found = told(capsys)
    assert (found["part"], found["verdict"], found["reason"]) == (3, "NG", "defect")
    assert [Path(picture["path"]).is_file() for picture in found["pictures"]] == [True, True]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["list", "--state", "/nowhere"], 1, "there is no evidence"),
        (["list", "--verdict", "BAD"], 64, "allowed: OK, NG, UNKNOWN"),
        (["list", "--since", "yesterday"], 64, "allowed: 90s, 30min"),
        (["list", "--limit", "0"], 64, "--limit"),
        (["show", "none"], 1, "no picture of this part"),
        (["show", "' OR 1=1 --"], 1, "no picture of this part"),
        (["export", "{tmp}/out", "--format", "yolo"], 64, "allowed: files, coco"),
        (["export", "{tmp}/out", "--camera", "right"], 1, "nothing to export"),
        (["export", "{tmp}/state"], 64, "is there already"),
        (["export", "."], 64, "is there already"),
        (["export", "{tmp}/out.tar"], 64, "allowed: a new folder's name or a file that ends in .zip"),
        (["export", "{tmp}/out.tar.gz"], 64, "`.gz` is not written"),
        (["export", "{tmp}/out.7z"], 64, "`.7z` is not written"),
        (["export", "/proc/out"], 1, "cannot be written"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    state: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, said: str
) -> None:
    words = ["evidence", *(word.replace("{tmp}", str(state.parent)) for word in words)]
    words += [] if "--state" in words else ["--state", str(state)]
    assert run_command(words) == code
    err = capsys.readouterr().err
    assert said in err and len(err.splitlines()) == 1


def test_a_folder_may_have_a_date_in_its_name(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to = state.parent / "shift.2026-11-22"
    assert run_command(["evidence", "export", str(to), "--state", str(state), "--limit", "1", "--format", "coco"]) == 0
    assert (to / "evidence.json").is_file()
    assert "1 part, 1 picture, " in capsys.readouterr().out


@pytest.mark.parametrize("closed", ["folder", "index"])
@pytest.mark.parametrize("words", [["list"], ["show", "x"], ["export", "out"]])
def test_another_user_is_told_whom_to_ask_as(
    state: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    closed: str,
) -> None:
    def not_permitted(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    if closed == "folder":
        monkeypatch.setattr(Path, "is_file", not_permitted)
    monkeypatch.setattr(Path, "open", not_permitted)
    assert run_command(["evidence", *words, "--state", str(state)]) == 1
    err = capsys.readouterr().err
    asked = f"sudo -u edge-inspect edge-inspect evidence {words[0]} ..."
    assert len(err.splitlines()) == 1 and f"not permitted; ask as the daemon's user: {asked}" in err


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("90s", NOW_NS - 90 * 10**9),
        ("30min", NOW_NS - 1800 * 10**9),
        ("1.5h", NOW_NS - 5400 * 10**9),
        ("2w", NOW_NS - 14 * DAY_NS),
        ("2026-11-22T06:00", 1_795_327_200 * 10**9),
        ("2026-11-22T06:00Z", 1_795_327_200 * 10**9),
        ("2026-11-22T07:00+01:00", 1_795_327_200 * 10**9),
    ],
)
def test_moments_are_ago_or_utc(text: str, ns: int) -> None:
    assert moment_ns("--since", text, NOW_NS) == ns


@pytest.mark.parametrize("text", ["", "-2h", "2 fortnights", "nan", "99999999999h", "0000-00-00", "2h; rm", "９h "])
def test_other_moments_are_usage(text: str) -> None:
    try:
        assert isinstance(moment_ns("--since", text, NOW_NS), int)
    except Usage as err:
        assert "allowed" in str(err)


def test_exported_pictures_are_the_stored_ones(state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run_command(["evidence", "export", str(out), "--state", str(state), "--json"]) == 0
    done = told(capsys)
    assert (done["parts"], done["pictures"], done["damaged"], done["gone"]) == (9, 18, 0, 0)
    entries = json.loads((out / "evidence.json").read_text())
    stored = {Path(file).name: state / FOLDER / file for file in pictures(state / FOLDER)}
    assert {Path(entry["file"]).name for entry in entries} == set(stored)
    for entry in entries:
        assert (out / entry["file"]).read_bytes() == stored[Path(entry["file"]).name].read_bytes()
        height, width = cv2.imread(str(out / entry["file"])).shape[:2]
        x0, y0, x1, y1 = entry["crop_px"]
        assert (width, height) == (x1 - x0, y1 - y0)
    page = (out / "index.html").read_text()
    linked = set(re.findall(r'(?:src|href)="([^"]+)"', page))
    assert linked == {entry["file"] for entry in entries}
    assert page.count("<rect ") == 3  # one box on each NG part


def test_coco_labels_lie_where_the_defects_are(state: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zip"
    assert run_command(["evidence", "export", str(out), "--state", str(state), "--format", "coco"]) == 0
    with zipfile.ZipFile(out) as packed:
        assert packed.testzip() is None
        packed.extractall(tmp_path / "unpacked")
    labels = COCO(str(tmp_path / "unpacked" / "annotations.json"))
    assert len(labels.getImgIds()) == 9
    assert [category["name"] for category in labels.loadCats(labels.getCatIds())] == ["scratch"]
    bad = labels.loadImgs(labels.getImgIds(catIds=labels.getCatIds()))
    assert {image["part"] for image in bad} == {"aaaaaaaa-left-0", "aaaaaaaa-left-3", "aaaaaaaa-left-6"}
    for image in bad:
        picture = cv2.imread(str(tmp_path / "unpacked" / image["file_name"]))
        assert picture.shape == (image["height"], image["width"], 3)
        (mark,) = labels.loadAnns(labels.getAnnIds(imgIds=[image["id"]]))
        assert mark["bbox"] == [100.0, 60.0, 30.0, 30.0]


def test_coco_boxes_move_with_the_crop_when_there_is_no_frame(tmp_path: Path) -> None:
    store = new_store(tmp_path / FOLDER, full_frames=False)
    picture = noise(1) // 8
    picture[60:90, 100:130] = 255  # where the defect is
    store.offer(subject(1), picture)
    keep_offered(store)
    assert run_command(["evidence", "export", str(tmp_path / "out"), "--state", str(tmp_path), "--format", "coco"]) == 0
    labels = json.loads((tmp_path / "out" / "annotations.json").read_text())
    x, y, width, height = (round(side) for side in labels["annotations"][0]["bbox"])
    crop = cv2.imread(str(tmp_path / "out" / labels["images"][0]["file_name"]))
    assert crop.shape[:2] == (HEIGHT // 4, WIDTH // 4)
    assert np.mean(crop[y : y + height, x : x + width]) > 200
    assert np.mean(crop[:y]) < 100


def test_damaged_and_removed_pictures_are_left_out_and_counted(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = state / FOLDER
    frames = [row[0] for row in rows(folder) if row[5] == "frame"]
    (folder / frames[0]).unlink()
    torn = bytearray((folder / frames[1]).read_bytes())
    torn[-2000:] = bytes(2000)  # as a power cut leaves a file whose blocks were not written
    (folder / frames[1]).write_bytes(torn)
    assert run_command(["evidence", "export", str(tmp_path / "out"), "--state", str(state), "--json"]) == 0
    done = told(capsys)
    assert (done["pictures"], done["damaged"], done["gone"]) == (16, 1, 1)


def test_a_zip_that_cannot_be_finished_leaves_nothing(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    assert run_command(["evidence", "export", str(tmp_path / "out.zip"), "--state", str(state)]) == 1
    assert not list(tmp_path.glob("out.zip*"))


def test_names_from_a_tampered_index_lead_nowhere(state: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes((state / FOLDER / next(iter(pictures(state / FOLDER)))).read_bytes())
    index = state / FOLDER / "index.sqlite3"
    with closing(sqlite3.connect(index)) as db:
        db.execute("UPDATE picture SET file = '../../secret.jpg' WHERE row = 1")
        db.commit()
    assert run_command(["evidence", "export", str(tmp_path / "out"), "--state", str(state)]) == 0
    assert "secret" not in (tmp_path / "out" / "evidence.json").read_text()


def test_all_of_it_works_while_the_daemon_keeps_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = new_store(tmp_path / FOLDER, cap_bytes=4 << 20)
    with running(store):
        part = 0
        while store.pruned < 20:  # writing and removing all the time
            part += store.offer(subject(part), noise(part % 20))
            time.sleep(0.002)
        for number in range(3):
            part += store.offer(subject(part), noise(part % 20))
            out = tmp_path / f"out{number}"
            assert run_command(["evidence", "export", str(out), "--state", str(tmp_path), "--json"]) == 0
            done = told(capsys)
            assert done["damaged"] == 0 and done["pictures"] > 0
        assert listed(tmp_path, capsys, "--limit", "1")
    assert store.failed == 0
