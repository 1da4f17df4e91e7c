"""docs/models.md's walk-through, every command of it: trained, released, kept; then a worse one, which goes back.

The page runs as one shell script in an empty folder; ports are free ones. Where torch is missing the
`cloud-inspect train` line is replaced by a model prepared without it (tests/line/prepared_models.py), nothing else.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edge_inspect.update.history import Entry
from edge_inspect.update.store import look
from tests.conftest import ROOT
from tests.mosquitto import BINARY

PAGE = (ROOT / "docs" / "models.md").read_text()
PROGRAMS = {"edge-inspect": "-m edge_inspect", "cloud-inspect": "-m cloud_inspect", "python": ""}
RUNS = "EDGE_INSPECT_TRAINED"
"""A folder with what the page's training gave (`runs`): it takes long on a busy machine."""
TRAIN = re.compile(r"^cloud-inspect train (\S+) --name (\w+) .*$", re.MULTILINE)
FRESH = "sim:seed=9001,parts={parts},ng_share=0.5,kinds={kinds},px_per_frame=32,paced=false"


def script() -> str:
    walk = PAGE.partition("## Walk-through")[2].partition("\n## ")[0]
    return "\n".join(re.findall(r"```bash\n(.*?)```", walk, re.DOTALL))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


class Walk:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "models").symlink_to(ROOT / "models")
        programs = folder / "bin"
        programs.mkdir()
        for name, words in PROGRAMS.items():
            (programs / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {words} "$@"\n')
            (programs / name).chmod(0o755)
        ours = f"{ROOT / 'edge'}:{ROOT / 'cloud'}:{ROOT}"
        path = f"{programs}:{Path(BINARY or '/').parent}:{os.environ['PATH']}"
        self.env = {**os.environ, "PATH": path, "PYTHONPATH": ours, "COLUMNS": "110"}

    def run(self, text: str, timeout_s: float) -> str:
        """Raises AssertionError with what was printed; whatever it started is ended."""
        whole = f"set -euo pipefail\ntrap 'kill $(jobs -p); wait' EXIT\n{text}\n"
        log = self.folder / "printed.log"
        with log.open("wb") as printed:
            shell = subprocess.Popen(
                ["bash", "-c", whole], cwd=self.folder, env=self.env, stdout=printed, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            try:
                code = shell.wait(timeout_s)
            except subprocess.TimeoutExpired:
                os.killpg(shell.pid, signal.SIGTERM)
                code = shell.wait(30)
        assert code == 0, f"exit status {code}\n{log.read_text()[-6000:]}"
        return log.read_text()

    def replay(self, kinds: str, parts: int, *model: str) -> dict[str, Any]:
        source = FRESH.format(kinds=kinds, parts=parts)
        asked = ["edge-inspect", "replay", source, "--recipe", "plates.toml", "--json", *model]
        told = subprocess.run(
            asked, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=600, check=True
        )
        return dict(json.loads(told.stdout.splitlines()[-1]))


def without_torch(text: str) -> str:
    return TRAIN.sub(r"python -m tests.line.prepared_models \2 runs/\2 \1", text)


def on_free_ports(text: str) -> str:
    for port in ("8081", "1883"):
        assert port in text
        text = re.sub(rf"\b{port}\b", str(free_port()), text)
    return text


def told(folder: Path) -> list[Entry]:
    checked = look(folder / "state" / "update")[1]
    assert not checked.broken
    return list(checked.entries)


def check_history(entries: list[Entry]) -> None:
    assert [(entry.event, entry.version) for entry in entries[:3]] == [
        ("activated", "1.0.0"), ("activated", "1.1.0"), ("kept", "1.1.0"),
    ]  # fmt: skip
    good, (worse, refused, back) = entries[1], entries[3:6]
    assert (good.released_by, good.reason, good.sequence) == ("A. Berg", "finds dents", 1)
    assert good.shadow is not None and good.shadow.parts >= 20 and good.shadow.new_ng > 0
    assert (worse.event, worse.version, worse.role) == ("activated", "1.2.0", "trial")
    assert (worse.released_by, worse.sequence) == ("B. Eile", 2)
    assert (refused.event, refused.version) == ("refused", "1.2.0")
    assert refused.code in ("trial-disagrees", "trial-new-ok")
    assert (back.event, back.version, back.code) == ("activated", "1.1.0", refused.code)


def insist_that_git_leaves_out(names: list[str]) -> None:
    """Raises AssertionError with what `git add .` would take."""
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout")
    asked = ["git", "-C", str(ROOT), "check-ignore", "--no-index", *names]
    left_out = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split()
    assert sorted(left_out) == sorted(names)


@pytest.fixture
def walk(tmp_path: Path) -> Walk:
    if BINARY is None:
        if os.environ.get("CI"):
            pytest.fail("mosquitto is not installed")
        pytest.skip("mosquitto is not installed")
    return Walk(tmp_path)


def test_the_page_trains_once_and_everything_else_needs_no_torch() -> None:
    assert [name for _, name in TRAIN.findall(script())] == ["dents"]


def test_private_keys_are_nothing_that_git_takes() -> None:
    insist_that_git_leaves_out(["keys/root-1.pem", "keys/online/timestamp-1.pem", "elsewhere/root-1.pem", "state/x"])


def test_no_wait_of_the_page_is_for_one_outcome_only() -> None:
    waits = re.findall(r"^until (.*); do", script(), re.MULTILINE)
    assert len(waits) == 3
    for wait in waits:
        assert "kill -0" in wait or re.search(r"refused\|active", wait), wait


@pytest.mark.slow
@pytest.mark.timeout(660)
def test_walk_through_with_a_prepared_model(walk: Walk) -> None:
    there = {path.name for path in walk.folder.iterdir()}
    walk.run(on_free_ports(without_torch(script())), 600)
    check_history(told(walk.folder))
    made = {path.name + "/" * path.is_dir() for path in walk.folder.iterdir() if path.name not in there}
    insist_that_git_leaves_out(sorted(made - {"printed.log"}))
    before, after = walk.replay("dent", 120), walk.replay("dent", 120, "--model", "metal-plate-1.1.0")
    assert before["escapes"] >= 45 and after["escapes"] <= before["escapes"] / 2
    assert after["overkill"] <= 0.02 * (120 - before["escapes"])  # of the good ones


@pytest.mark.train
@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_walk_through_with_a_real_training(walk: Walk) -> None:
    """The loop: escapes on fresh parts fall by at least half, overkill stays within 2 %."""
    trained = os.environ.get(RUNS)
    if trained is None and importlib.util.find_spec("ultralytics") is None:
        pytest.skip("needs the extra `train` (torch and ultralytics)")
    text = script()
    if trained:
        shutil.copytree(trained, walk.folder / "runs")
        text = TRAIN.sub("", text)
    walk.run(on_free_ports(text), 7000)
    check_history(told(walk.folder))
    figures = {}
    for kinds in ("dent", "scratch", "scratch+dent"):
        before = walk.replay(kinds, 300)
        after = walk.replay(kinds, 300, "--model", "metal-plate-1.1.0")
        figures[kinds] = {name: (before[name], after[name]) for name in ("parts", "escapes", "overkill")}
    sys.stderr.write(json.dumps(figures) + "\n")
    before, after = figures["scratch+dent"]["escapes"]
    assert after <= before / 2
    assert figures["scratch+dent"]["overkill"][1] <= 0.02 * 147  # of the good ones among these 300
