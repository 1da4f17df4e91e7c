"""Two programs as their units start them: one has the network and fetches, the other has the cameras and never asks."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_inspect.cli import run_command
from edge_inspect.update.history import Entry
from edge_inspect.update.store import FOLDER, look
from tests.cloud.release.plant import PRODUCT, Plant
from tests.conftest import ROOT
from tests.line.conftest import RECIPE
from tests.sim.tiny_model import write_tiny_package

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
PATIENCE_S = 100.0
QUICK: dict[str, Any] = {"shadow": {"parts": 20, "least_rejected": 0}, "trial": {"parts": 20, "least_s": 0}}
CONFIG = """
state_dir = "state"
[device]
site = "plant1"
line = "press-4"
device = "edge-0017"
[model]
dir = "factory"
provider = "cpu"
threads = 1
[[camera]]
name = "plates"
source = "sim:seed=3,fps=20"
recipe = "spots.toml"
[mqtt]
url = "mqtt://127.0.0.1:9"
[update]
product = "{product}"
root = "root.json"
url = "{url}"
fetch = "service"
poll_s = 10
keep_free_bytes = 0
shadow_share = 1.0
probe_latency_factor = 50.0
"""


@contextlib.contextmanager
def started(folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A program of ours, its log in a file; told to end at the end, and it must end well."""
    log = folder / f"{words[0]}.log"
    with log.open("w") as printed:
        process = subprocess.Popen(
            [sys.executable, "-m", *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=printed, text=True
        )
        try:
            yield process
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0, log.read_text()[-4000:]
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def until(true: Callable[[], object], folder: Path) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < until_s, "\n".join(log.read_text()[-3000:] for log in folder.glob("*.log"))
        time.sleep(0.2)


def lines(folder: Path) -> list[Entry]:
    """Of the history."""
    return list(look(folder / "state" / FOLDER)[1].entries)


def status(folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    code = run_command(["status", "--state", str(folder / "state"), "--json"])
    printed = capsys.readouterr().out
    return dict(json.loads(printed.splitlines()[-1])) if code == 0 else {}


def test_what_one_program_fetches_the_other_keeps_and_what_it_refuses_the_other_tells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant = Plant(tmp_path)
    write_tiny_package(tmp_path / "factory")
    (tmp_path / "spots.toml").write_text(RECIPE)
    (tmp_path / "root.json").write_bytes(plant.root)
    with started(tmp_path, "cloud_inspect", "release", "serve", plant.url, "--port", "0") as server:
        assert server.stdout is not None
        config = tmp_path / "line.toml"
        config.write_text(CONFIG.format(product=PRODUCT, url=server.stdout.readline().split()[-1]))
        plant.release("1.1.0", **QUICK)
        with (
            started(tmp_path, "edge_inspect", "run", "--config", str(config)),
            started(tmp_path, "edge_inspect.cli.fetch", "--config", str(config)) as fetcher,
        ):
            until(lambda: any((entry.event, entry.version) == ("kept", "1.1.0") for entry in lines(tmp_path)), tmp_path)
            assert "model-fetch" not in json.dumps(status(tmp_path, capsys))
            fetcher.send_signal(signal.SIGSTOP)
            plant.release("1.2.0", **QUICK)
            (manifest,) = (tmp_path / "repository" / "targets").rglob("1.2.0/*.manifest.json")
            manifest.write_bytes(manifest.read_bytes()[:-1] + b"?")
            fetcher.send_signal(signal.SIGCONT)
            until(lambda: "target-digest" in json.dumps(status(tmp_path, capsys)), tmp_path)
            alarms = status(tmp_path, capsys)["alarms"]
            assert [alarm["code"] for alarm in alarms if "target-digest" in alarm["detail"]] == ["model-fetch"]
    assert [(entry.event, entry.version) for entry in lines(tmp_path)] == [
        ("activated", "1.0.0"), ("activated", "1.1.0"), ("kept", "1.1.0"),
    ]  # fmt: skip
    logs = {name: (tmp_path / f"{name}.log").read_text() for name in ("edge_inspect", "edge_inspect.cli.fetch")}
    assert [name for name, log in logs.items() if '"offered"' in log] == ["edge_inspect.cli.fetch"]
