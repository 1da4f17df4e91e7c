"""`edge-inspect replay` as a user runs it: repeatable, scored against the truth, with a page and a video to look at."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import cv2
import pytest

from edge_wire.messages import DefectReport

SIM = "sim:seed=11,parts=5,ng_share=0.6"
KEYS = {
    "frames", "fps", "parts", "ok", "ng", "unknown", "escapes", "overkill", "map50", "latency_ms", "own_ms",
    "inference_ms", "bytes_sent", "reports", "model", "provider",
}  # fmt: skip


def edge_inspect(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_inspect", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)


def replay(*arguments: str | Path) -> dict[str, Any]:
    done = edge_inspect("replay", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    first, second = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    result = replay(SIM, "--out", first, "--annotate", first / "copy.mp4")
    replay(SIM, "--out", second)
    return first, second, result


def test_two_runs_give_the_same_report_byte_for_byte(two_runs: tuple[Path, Path, dict[str, Any]]) -> None:
    first, second, _ = two_runs
    assert (first / "report.jsonl").read_bytes() == (second / "report.jsonl").read_bytes()
    assert (first / "parts.jsonl").read_bytes() == (second / "parts.jsonl").read_bytes()
    assert (first / "report.jsonl").stat().st_size > 0


def test_the_json_object_has_the_agreed_keys(two_runs: tuple[Path, Path, dict[str, Any]]) -> None:
    _, _, result = two_runs
    assert result.keys() >= KEYS
    assert result["latency_ms"].keys() == {"p50", "p99", "p999", "max"}
    assert result["own_ms"].keys() == result["inference_ms"].keys() == {"p50", "p99"}
    assert result["parts"] == 5 == result["ok"] + result["ng"] + result["unknown"]
    assert result["reports"] == result["ng"] + result["unknown"]


def test_every_simulated_part_is_found_once(two_runs: tuple[Path, Path, dict[str, Any]]) -> None:
    first, _, result = two_runs
    assert (result["parts_missed"], result["parts_found_twice"]) == (0, 0)
    parts = [json.loads(line) for line in (first / "parts.jsonl").read_text().splitlines()]
    assert [part["part"] for part in parts] == list(range(parts[0]["part"], parts[0]["part"] + 5))


def test_reports_are_in_the_wire_format_and_number_themselves(two_runs: tuple[Path, Path, dict[str, Any]]) -> None:
    first, _, result = two_runs
    reports = [DefectReport.from_bytes(line) for line in (first / "report.jsonl").read_bytes().splitlines()]
    assert [report.seq for report in reports] == list(range(1, result["reports"] + 1))
    assert all(report.thumbnail and report.thumbnail.jpeg for report in reports if report.frame)


def test_the_page_shows_a_picture_for_each_part_that_was_not_ok(two_runs: tuple[Path, Path, dict[str, Any]]) -> None:
    first, _, result = two_runs
    page = (first / "index.html").read_text()
    pictures = re.findall(r'<img src="([^"]+)"', page)
    assert len(pictures) == result["ng"]
    assert all(cv2.imread(str(first / name)) is not None for name in pictures)
    assert "<script" not in page and "http" not in page.split("</style>")[1]


def test_the_annotated_copy_plays_and_has_every_frame(two_runs: tuple[Path, Path, dict[str, Any]]) -> None:
    first, _, result = two_runs
    with av.open(str(first / "copy.mp4")) as video:
        stream = video.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert sum(1 for _ in video.decode(stream)) == result["frames"]


def test_a_recorded_line_with_truth_is_scored(data_dir: Path) -> None:
    clip = data_dir / "replay" / "metal_tag_line_dev.mp4"
    result = replay(clip, "--truth", clip.with_suffix(".gt.json"), "--frames", "700")
    assert result["frames"] == 700
    assert (result["parts_missed"], result["parts_found_twice"]) == (0, 0)
    assert result["map50"] > 0.5


def test_growing_wear_is_scored_by_its_first_alarm(data_dir: Path) -> None:
    clip = data_dir / "replay" / "wear_277500_315_crop_2.mp4"
    result = replay(clip, "--truth", clip.with_suffix(".gt.json"))
    assert result["onset_frame"] == 40
    assert result["escapes"] is None


@pytest.mark.parametrize("truth", ["", "[]", "{", '{"parts": 3}'])
def test_a_truth_that_is_none_is_one_line(tmp_path: Path, truth: str) -> None:
    path = tmp_path / "truth.json"
    path.write_text(truth)
    done = edge_inspect("replay", SIM, "--truth", path)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1 and str(path) in done.stderr
