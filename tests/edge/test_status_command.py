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
    "dropped": {"overrun": 1},
    "parts": 123_456_789,
    "ok": 123_456_000,
    "ng": 700,
    "unknown": {"camera-lost": 3, "deadline": 60, "no-frame": 26},
    "latency_ms": {"p50": 8.0, "p99": 20.0, "max": None},
    "frame_bytes": 0,
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
    assert row.split()[-6:] == ["1", "123,456,789", "123,456,000", "700", "89", "8/20/-"]
    assert f"UNKNOWN of camera {CAMERA['name']}: deadline 60, no-frame 26, camera-lost 3" in lines
    assert not any("UNKNOWN of line" in line for line in lines)
    assert "gpio of line press: late 1,000, untold 2" in lines and not any("socket" in line for line in lines)
    assert any(line.startswith("alarm") and line.endswith("end") for line in lines)
