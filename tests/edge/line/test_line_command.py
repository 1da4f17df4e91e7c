"""`edge-inspect line trigger` against a served socket."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from edge_inspect.cli import run_command
from edge_inspect.config_line import LineConfig
from edge_inspect.line.open import Around, PartTimes, open_line
from tests.edge.line.served import WAIT_S, Served, connects


def test_triggers_are_sent_one_by_one_and_their_answers_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served = Served(tmp_path / "line.sock")
    served.line.status(True, False)
    command = ["line", "trigger", "--socket", str(tmp_path / "line.sock"), "--count", "3", "--first", "4294967294"]
    assert run_command([*command, "--json"]) == 0
    served.end()
    printed = capsys.readouterr()
    assert [line.split()[:2] for line in printed.err.splitlines()] == [
        ["4294967294", "OK"],
        ["4294967295", "OK"],
        ["0", "OK"],
    ]
    assert json.loads(printed.out.splitlines()[-1]) == {
        "ok": True,
        "answers": 3,
        "verdicts": {"OK": 3},
        "latency_ms": {"p50": 8.4, "p99": 8.4, "max": 8.4},
    }


def test_next_trigger_waits_until_the_line_is_ready_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = Served(tmp_path / "line.sock")
    looks: list[int] = []

    def look(seconds: float) -> None:
        looks.append(len(served.triggers))
        if len(looks) == 3:
            served.line.status(True, False)

    monkeypatch.setattr("edge_inspect.cli.line.time.sleep", look)
    assert run_command(["line", "trigger", "--socket", str(tmp_path / "line.sock"), "--count", "2"]) == 0
    served.end()
    assert looks[:3] == [1, 1, 1]
    assert len(served.triggers) == 2


def test_paced_triggers_wait_for_no_readiness(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    served = Served(tmp_path / "line.sock")
    command = ["line", "trigger", "--socket", str(tmp_path / "line.sock"), "--count", "20", "--every-ms", "1"]
    assert run_command([*command, "--first", "7", "--json"]) == 0
    served.end()
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["answers"] == 20
    assert [trigger.sequence for trigger in served.triggers] == list(range(7, 27))


def test_paced_triggers_that_nobody_answers_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    served = Served(tmp_path / "line.sock", answers=False)
    command = ["line", "trigger", "--socket", str(tmp_path / "line.sock"), "--count", "2", "--every-ms", "1"]
    try:
        assert run_command([*command, "--timeout", "0.05"]) == 1
    finally:
        served.end()
    assert "no answer within 0.05 s" in capsys.readouterr().err


def test_line_whose_camera_finds_the_parts_says_so_to_a_trigger(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = LineConfig.model_validate({"name": "press", "socket": {"path": tmp_path / "line.sock"}})
    around = Around(tmp_path, "t", lambda: "", lambda: None, lambda: True, lambda line: lambda: None)
    line = open_line(config, PartTimes(False, None, 0.0, 0.0), around)
    stop = threading.Event()
    ((_, _, body),) = line.outer()
    thread = threading.Thread(target=body, args=(stop,))
    thread.start()
    try:
        until_s = time.monotonic() + WAIT_S
        while not connects(tmp_path / "line.sock"):
            assert time.monotonic() < until_s
        assert run_command(["line", "trigger", "--socket", str(tmp_path / "line.sock"), "--first", "1"]) == 1
    finally:
        stop.set()
        thread.join()
    assert "trigger 1: this line's camera finds the parts itself" in capsys.readouterr().err


def test_nobody_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["line", "trigger", "--socket", str(tmp_path / "line.sock")]) == 1
    assert "no daemon serves this line socket: No such file" in capsys.readouterr().err


def test_refused_trigger_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    served = Served(tmp_path / "line.sock", takes_triggers=False)
    assert run_command(["line", "trigger", "--socket", str(tmp_path / "line.sock"), "--first", "1"]) == 1
    served.end()
    assert "trigger 1: this line takes its triggers elsewhere" in capsys.readouterr().err


def test_no_answer_in_time_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    served = Served(tmp_path / "line.sock", answers=False)
    try:
        assert run_command(["line", "trigger", "--socket", str(tmp_path / "line.sock"), "--timeout", "0.05"]) == 1
    finally:
        served.end()
    assert "no answer within 0.05 s" in capsys.readouterr().err
