"""`edge-inspect-fetch` as systemd runs it: ready, alive, stopping; one line for what is wrong."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_inspect.cli.fetch import run_command
from edge_inspect.update.offers import read_offer
from tests.sim.tiny_model import write_tiny_package
from tests.sim.tuf_repository import PRODUCT, TufRepository, TufServer

DEADLINE_S = 60.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TufServer]:
    repository = TufRepository()
    repository.release(write_tiny_package(tmp_path / "package"))
    with TufServer(repository) as server:
        yield server


@pytest.fixture
def config(tmp_path: Path, server: TufServer) -> Path:
    (tmp_path / "root.json").write_bytes(server.repository.first_root)
    path = tmp_path / "edge-inspect.toml"
    path.write_text(
        f"""
        state_dir = "state"
        [device]
        site = "plant1"
        [[camera]]
        name = "left"
        source = "sim"
        [mqtt]
        url = "mqtts://broker.plant"
        ca = "ca-that-only-the-daemon-may-read.pem"
        cert = "device.pem"
        key = "credential:mqtt.key"
        [update]
        product = "{PRODUCT}"
        root = "root.json"
        url = "{server.url}"
        fetch = "service"
        keep_free_bytes = 0
        """
    )
    return path


def test_once_fetches_and_says_what(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The daemon's keys are neither given to it nor looked for."""
    assert run_command(["--config", str(config), "--once", "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (said["offer"], said["sequence"]) == (True, 1)
    assert read_offer(config.parent / "state" / "models", PRODUCT, "stable") is not None


def test_share_is_a_repository_like_any_other(config: Path, server: TufServer, tmp_path: Path) -> None:
    server.repository.write_to(tmp_path / "a share")
    config.write_text(config.read_text().replace(server.url, (tmp_path / "a share").as_uri()))
    assert run_command(["--config", str(config), "--once"]) == 0
    assert read_offer(config.parent / "state" / "models", PRODUCT, "stable") is not None
    assert server.requests == []


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        (("url = \"http", "#"), 78, "has no `url`"),
        (("root.json", "no.json"), 78, "which is not there"),
        (("keep_free_bytes = 0", "keep_free_bytes = 1099511627776"), 1, "[no-space]"),
        (("frobnicate", ""), 64, "No such option"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(
    change: tuple[str, str], code: int, says: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = config.read_text()
    config.write_text(text.replace(*change))
    argv = ["--frobnicate"] if change[0] == "frobnicate" else ["--config", str(config), "--once"]
    assert run_command(argv) == code
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("edge-inspect-fetch: ")]
    assert says in line


def test_single_look_that_fails_is_one_object_too(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text(config.read_text().replace("keep_free_bytes = 0", "keep_free_bytes = 1099511627776"))
    assert run_command(["--config", str(config), "--once", "--json"]) == 1
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert (found["ok"], found["exit_code"], found["code"]) == (False, 1, "no-space")
    assert f"edge-inspect-fetch: {found['error']}" in said.err.splitlines()


def test_repository_that_is_gone_fails_a_single_look(
    config: Path, server: TufServer, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(config.read_text().replace(server.url, "http://127.0.0.1:9"))
    assert run_command(["--config", str(config), "--once"]) == 1
    assert "[unreachable]" in capsys.readouterr().err


def test_service_is_ready_feeds_its_watchdog_fetches_on_a_hint_and_stops(config: Path, tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    hint = tmp_path / "state" / "update" / "hint"
    hint.parent.mkdir(parents=True)
    environ = {**os.environ, "NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        systemd.settimeout(DEADLINE_S)
        command = [sys.executable, "-m", "edge_inspect.cli.fetch", "--config", str(config)]
        with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as service:
            try:
                assert systemd.recv(4096).startswith(b"READY=1")
                fed = 0
                while read_offer(tmp_path / "state" / "models", PRODUCT, "stable") is None:
                    fed += systemd.recv(4096) == b"WATCHDOG=1"
                    hint.touch()
                assert fed
                service.send_signal(signal.SIGTERM)
                while not systemd.recv(4096).startswith(b"STOPPING=1"):
                    pass
                _, said = service.communicate(timeout=DEADLINE_S)
            finally:
                service.kill()
    assert service.returncode == 0, said
    assert "offered" in said
