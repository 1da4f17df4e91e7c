"""`edge-inspect line trigger` against a served socket."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_inspect.cli import run_command
from tests.edge.line.served import Served


def test_triggers_are_sent_one_by_one_and_their_answers_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served = Served(tmp_path / "line.sock")
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
