"""`edge-inspect run` with a `[[line]]` over Modbus and the PLC simulator at the other end: processes, as in a plant."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("pymodbus", reason="needs the extra `line`")

from edge_inspect.line import modbus_map as at
from edge_inspect.line.plc_program import PlcPart, PlcProgram
from edge_inspect.line.plc_sim import PlcAsClient, PlcAsServer
from tests.edge.line.modbus_ends import WAIT_S, running, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CONFIG = """
state_dir = "{folder}/state"
[[camera]]
name = "camera"
source = "sim:seed=3,fps=50"
recipe = "{folder}/recipe.toml"
[model]
dir = "{model}"
provider = "cpu"
threads = 1
[[line]]
[line.{side}]
host = "127.0.0.1"
port = {port}
{more}
"""
RECIPE = """
name = "line"
version = "1"
[classes.scratch]
threshold = 0.5
[part]
mode = "trigger"
deadline_ms = 5000
window_ms = 5000
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def daemon(folder: Path, model: Path, side: str, port: int, more: str = "") -> Iterator[subprocess.Popen[bytes]]:
    (folder / "recipe.toml").write_text(RECIPE)
    (folder / "edge.toml").write_text(CONFIG.format(folder=folder, model=model, side=side, port=port, more=more))
    command = [sys.executable, "-m", "edge_inspect", "run", "--config", str(folder / "edge.toml")]
    with (folder / "daemon.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.kill()
            process.wait(WAIT_S)


class Plant:
    """A PLC on the side that the daemon does not take, and what its gate decided."""

    def __init__(self, daemon_side: str, port: int) -> None:
        self.gate: list[PlcPart] = []
        # The belt stands until a part is answered: a machine that is busy elsewhere must not make it a reject.
        self.program = PlcProgram(
            deadline_ms=8000, gate_ms=10, heartbeat_ms=3000, stops_at_gate=True, decided=self.gate.append,
            fires_per_scan=1,
        )  # fmt: skip
        self.plc: PlcAsServer | PlcAsClient
        if daemon_side == "modbus_client":
            self.plc = PlcAsServer(self.program, port=port)
        else:
            self.plc = PlcAsClient(self.program, port=port, timeout_s=WAIT_S)

    def run(self, stop: threading.Event) -> None:
        self.plc.run(stop)

    def part(self) -> PlcPart:
        before = len(self.gate)
        self.program.arrives()
        wait_for(lambda: len(self.gate) > before, "a part at the gate")
        return self.gate[-1]


SIDES = [("modbus_server", "heartbeat_ms = 50"), ("modbus_client", "heartbeat_ms = 50\nring = 16")]


@pytest.mark.parametrize(("side", "more"), SIDES)
def test_parts_pass_while_the_daemon_lives_and_none_after_it_was_killed(
    tmp_path: Path, tiny_model: Path, side: str, more: str
) -> None:
    port = free_port()
    plant = Plant(side, port)
    with running(plant.run), daemon(tmp_path, tiny_model, side, port, more) as process:
        wait_for(lambda: plant.program.ready or process.poll() is not None, "Ready")
        assert process.poll() is None, (tmp_path / "daemon.log").read_text()
        wait_for(lambda: plant.part().passed, "a part passes")
        process.send_signal(signal.SIGKILL)
        process.wait(WAIT_S)
        wait_for(lambda: not plant.program.alive, "the PLC misses the heartbeat")
        part = plant.part()
        assert (part.passed, part.kind) == (False, None)


@pytest.mark.parametrize(("side", "more"), SIDES)
def test_a_clean_stop_leaves_no_ready_and_no_result(tmp_path: Path, tiny_model: Path, side: str, more: str) -> None:
    port = free_port()
    plant = Plant(side, port)
    with running(plant.run), daemon(tmp_path, tiny_model, side, port, more) as process:
        wait_for(lambda: plant.program.ready or process.poll() is not None, "Ready")
        wait_for(lambda: plant.part().kind == "OK", "an answer")
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0, (tmp_path / "daemon.log").read_text()
        if side == "modbus_client":  # in the PLC's own memory, for good
            assert not any(plant.plc.edge[at.NEWEST :])
            assert not plant.plc.edge[at.STATUS] & at.Status.READY
        wait_for(lambda: not plant.program.ready, "not ready")
        assert plant.part().passed is False


def test_sim_plc_plays_against_the_daemon_from_the_command_line(tmp_path: Path, tiny_model: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "edge_inspect", "sim", "plc", "--connect", f"127.0.0.1:{port}", "--ring", "16"]
    command += ["--parts", "5", "--every-ms", "100", "--deadline-ms", "10000", "--gate-ms", "3000"]
    with daemon(tmp_path, tiny_model, "modbus_server", port):
        done = subprocess.run(
            [*command, "--log", str(tmp_path / "parts"), "--json"],
            capture_output=True, text=True, timeout=150, check=False, env={**os.environ, "COLUMNS": "120"},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["triggers"] == 5 == result["passed"] + result["rejected"]
    parts = [json.loads(line) for line in (tmp_path / "parts").read_text().splitlines()]
    assert [part["sequence"] for part in parts] == list(range(parts[0]["sequence"], parts[0]["sequence"] + 5))


def test_sim_plc_without_a_port_says_what_it_wants() -> None:
    command = [sys.executable, "-m", "edge_inspect", "sim", "plc", "--listen", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 64
    assert "HOST:PORT" in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("side", ["--listen", "--connect"])
def test_sim_plc_without_a_daemon_says_so_and_ends(side: str) -> None:
    command = [sys.executable, "-m", "edge_inspect", "sim", "plc", side, f"127.0.0.1:{free_port()}"]
    done = subprocess.run(
        [*command, "--parts", "2", "--wait-s", "0.3"], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 1
    assert "no daemon's heartbeat within 0.3 s" in done.stderr and len(done.stderr.splitlines()) == 1
    assert "waiting for a daemon" in done.stdout, "nobody sits before a screen that says nothing"
