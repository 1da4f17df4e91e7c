"""What `edge-inspect status` shows a person, of an answer that it was given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge_inspect.cli import run_command

CAMERA: dict[str, Any] = {
    "name": "a-camera-with-a-long-name-for-a-narrow-table",
    "state": "up",
    "trouble": "",
    "frames": 123_456_789,
    "dropped": {"overrun": 1, "frames-lost": 0, "black": 2_000},
    "reconnects": 1,
    "parts": 123_456_789,
    "ok": 123_456_000,
    "ng": 700,
    "unknown": {"camera-lost": 3, "deadline": 60, "no-frame": 26},
    "latency_ms": {"p50": 8.0, "p99": 20.0, "max": None},
    "frame_bytes": 0,
    "stages_ms": {
        name: {"p50": 1.25, "p99": 20.0, "max": 312.4}
        for name in ("capture", "letterbox", "inference", "decode", "judge", "total")
    },
    "ring": {"free": 3, "filling": 1, "ready": 0, "in use": 0},
}
TOLD: dict[str, Any] = {
    "device": "plant/line/box",
    "version": "1",
    "uptime_s": 1.0,
    "rss_bytes": 1,
    "temperature_c": None,
    "cameras": [CAMERA],
    "lines": [
        {
            **CAMERA, "name": "press", "triggers": 5, "missed_deadlines": 2, "unknown": {},
            "late_verdicts": 3, "withdrawn": 1, "repeated": 0, "skipped": 7, "rejected": 40, "rejects_missed": 0,
            "adapters": {"gpio": {"late": 1_000, "cut": 0, "untold": 2}, "socket": {"late": 0}},
        }
    ],
    "outbox": None,
    "link": None,
    "alarms": [{"code": "line-down", "detail": "why " * 60 + "end"}],
    "threads": {},
}  # fmt: skip


def test_reasons_have_a_line_of_their_own_and_a_pipe_clips_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr("edge_inspect.cli.status.fetch", lambda state_dir: TOLD)
    assert run_command(["status", "--state", str(tmp_path)]) == 0
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    (row,) = (line for line in lines if line.startswith(CAMERA["name"]))
    assert row.split()[-6:] == ["2,001", "123,456,789", "123,456,000", "700", "89", "8.0/20/-"]
    assert f"UNKNOWN of camera {CAMERA['name']}: deadline 60, no-frame 26, camera-lost 3" in lines
    assert not any("UNKNOWN of line" in line for line in lines)
    assert "gpio of line press: late 1,000, untold 2" in lines and not any("socket" in line for line in lines)
    assert any(line.startswith("alarm") and line.endswith("end") for line in lines)
    assert f"camera {CAMERA['name']}: frames dropped: overrun 1, black 2,000; came back 1 time" in lines
    told = "verdicts after the line was told 3; verdicts told as UNKNOWN on their way 1; numbers skipped 7; rejected 40"
    assert f"line press: {told}" in lines
    assert not any("ring" in line for line in lines)


def test_all_shows_where_the_time_goes_in_a_hundred_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    link = {"connected": True, "trouble": "", "reports_sent": 3, "bytes_sent": 4096, "connects": 2, "outage_s": 61.0,
            "failures": {"refused-auth": 1}, "resent": 4, "resynced": 0, "unheard": 0, "gone": 0}  # fmt: skip
    told = {**TOLD, "cameras": [{**CAMERA, "name": "left"}], "link": link}
    monkeypatch.setattr("edge_inspect.cli.status.NO_TERMINAL_WIDTH", 100)
    monkeypatch.setattr("edge_inspect.cli.status.fetch", lambda state_dir: told)
    assert run_command(["status", "--state", str(tmp_path), "--all"]) == 0
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    (row,) = (line for line in lines if line.startswith("left") and "312" in line)
    assert row.split() == ["left", *6 * ["1.2/20/312"]]
    assert "ring of camera left: 3 free, 1 filling" in lines
    assert "link so far: connections 2, away 61 s in all, refused-auth 1, resent 4" in lines
