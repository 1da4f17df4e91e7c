"""The command line that conformance suites drive, as a process of its own: exit codes, one line, a clock that is faked.

What it does in each of their scenarios: test_tuf_refresh.py, test_tuf_keys.py, test_tuf_targets.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.edge.update.cli_client import COMMAND, Client
from tests.sim.tuf_repository import TufRepository, TufServer

TARGETS = "targets"
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
"""What the program `faketime` preloads."""


@pytest.fixture
def server() -> Iterator[TufServer]:
    with TufServer(TufRepository(products=())) as server:
        server.repository.put(TARGETS, "a/b.txt", b"content")
        server.repository.publish(TARGETS, bump=False)
        yield server


class Process(Client):
    days = 0
    """How far its clock is ahead."""
    said = ""

    def run(self, *words: str) -> int:
        search = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        faked = {"FAKETIME": f"+{self.days}d", "LD_PRELOAD": str(FAKETIME)} if self.days else {}
        done = subprocess.run(
            [str(COMMAND), "--metadata-dir", str(self.metadata), *words],
            env={**os.environ, "PATH": search, **faked}, timeout=60, check=False, capture_output=True, text=True,
        )  # fmt: skip
        assert done.stdout == ""
        self.said = done.stderr
        return done.returncode


def test_refresh_download_and_failure_have_their_exit_codes_and_one_line(server: TufServer, tmp_path: Path) -> None:
    client = Process(server, tmp_path)
    assert (client.refresh(), client.said) == (0, "")
    assert client.asked() == [f"metadata/{name}.json" for name in ("2.root", "timestamp", "1.snapshot", "1.targets")]
    assert client.trusted() == "root 1 timestamp 1 snapshot 1 targets 1"
    assert (client.download("a/b.txt"), client.said) == (0, "")
    assert client.contents() == [b"content"]
    assert client.download("nobody/knows") == 1
    assert client.said.startswith("tuf_client_cli: ")
    assert client.said.count("\n") == 1


@pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not installed")
def test_faked_clock_is_believed_and_nothing_hangs_under_it(server: TufServer, tmp_path: Path) -> None:
    server.repository.root.expires = server.repository.now + timedelta(days=7)
    server.repository.publish("root")
    client = Process(server, tmp_path)
    for days, code in ((5, 0), (9, 1)):
        client.days = days
        assert client.refresh() == code
        assert client.download("a/b.txt") == code
    assert "[metadata-expired]" in client.said
    assert client.trusted() == "root 2 timestamp 1 snapshot 1 targets 1"
    assert client.contents() == [b"content"]


@pytest.mark.parametrize("has_venv", [True, False], ids=["with-venv", "without"])
def test_started_by_another_python_it_goes_on_under_the_checkouts_own(has_venv: bool, tmp_path: Path) -> None:
    command = tmp_path / "tests" / COMMAND.name
    command.parent.mkdir()
    shutil.copy(COMMAND, command)
    if has_venv:
        python = tmp_path / ".venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        python.chmod(0o755)
    (tmp_path / "root.json").write_bytes(b"{}")
    words = ["--metadata-dir", str(tmp_path / "metadata"), "init", str(tmp_path / "root.json")]
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(command), *words], timeout=60, check=False, capture_output=True, text=True
    )
    if has_venv:
        assert (done.returncode, done.stderr) == (0, "")
        assert (tmp_path / "metadata" / "root.json").read_bytes() == b"{}"
    else:
        assert done.returncode == 1
        assert done.stderr.startswith("tuf_client_cli: ") and done.stderr.count("\n") == 1
        assert "deploy/venv cpu" in done.stderr
