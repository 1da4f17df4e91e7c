"""`edge-inspect demo`: one command, a real broker, every report arrives, and it ends by itself."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.mosquitto import Mosquitto

DEMO = [sys.executable, "-m", "edge_inspect", "demo", "--fast", "--seed", "6", "--ng-share", "0.6"]


def run_demo(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **({"PATH": path} if path is not None else {})}
    return subprocess.run(
        [*DEMO, *arguments], capture_output=True, text=True, timeout=150, check=False, env=environment
    )


def test_every_report_of_the_demo_arrives_at_a_subscriber() -> None:
    done = run_demo("--parts", "4", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["parts"] == 4 == result["ok"] + result["ng"] + result["unknown"]
    assert result["reports_arrived"] == result["reports"] > 0
    assert result["bytes_sent"] > 0
    assert result["h264_bytes"] > result["bytes_sent"]
    assert (result["escapes"], result["overkill"], result["map50"]) != (None, None, None)


def test_with_a_plc_each_plate_is_triggered_and_decided_once_at_the_gate() -> None:
    pytest.importorskip("pymodbus", reason="needs the extra `line`")
    command = [sys.executable, "-m", "edge_inspect", "demo", "--plc", "--seed", "6", "--ng-share", "0.6", "--no-meter"]
    done = subprocess.run(
        [*command, "--parts", "4", "--fps", "60", "--json"], capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["triggers"] == 4 == result["passed"] + result["rejected"]
    assert result["answers"] + result["missed_deadlines"] >= 4
    assert result["escapes"] == result["skipped"] == 0
    assert result["rejected"] >= 1


def test_without_mosquitto_the_demo_brings_its_own_broker() -> None:
    pytest.importorskip("amqtt", reason="needs the extra `demo`")
    code = (
        "import shutil, sys; shutil.which = lambda *a, **k: None\n"
        "from edge_inspect.cli import main\n"
        "main(['demo', '--fast', '--seed', '4', '--ng-share', '1', '--parts', '2', '--json'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["reports_arrived"] == result["reports"] == 2
    assert "amqtt" in done.stderr


def test_the_demo_uses_the_broker_it_is_given(mosquitto: Mosquitto) -> None:
    done = run_demo("--parts", "2", "--json", "--mqtt", mosquitto.url)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["reports_arrived"] == result["reports"]


def test_sigterm_ends_the_daemon_in_good_order(mosquitto: Mosquitto, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edge_inspect", "--camera", "sim:seed=4,ng_share=1.0", "--mqtt", mosquitto.url]
    daemon = subprocess.Popen(
        [*command, "--state", str(tmp_path), "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert daemon.stderr is not None
    for line in daemon.stderr:  # until its first verdict: what is told goes to stderr with --json
        if line.startswith(("NG", "UNKNOWN")):
            break
    asked = time.monotonic()
    daemon.send_signal(signal.SIGTERM)
    out, _ = daemon.communicate(timeout=30)
    assert time.monotonic() - asked < 10
    assert daemon.returncode == 0
    result = json.loads(out.splitlines()[-1])
    with sqlite3.connect(tmp_path / "outbox.sqlite3") as db:
        (kept,) = db.execute("SELECT count(*) FROM report").fetchone()
        (whole,) = db.execute("PRAGMA integrity_check").fetchone()
    db.close()
    assert (kept, whole) == (result["reports"], "ok")
    assert not (tmp_path / "outbox.sqlite3-wal").exists(), "closed: the log was folded into the file"
