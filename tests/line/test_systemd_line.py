"""The test plays systemd to the whole appliance: it owns NOTIFY_SOCKET and judges as systemd would."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_inspect import updates
from edge_inspect.cli import run_command
from edge_inspect.delivery.outbox import FILE_NAME, Outbox
from edge_inspect.delivery.outbox_file import hold_lock
from edge_inspect.health.notify import MAX_AGE_S
from edge_inspect.update.store import FOLDER as UPDATES
from edge_inspect.update.store import Store
from tests.sim.tiny_model import write_tiny_package

ROOT = Path(__file__).resolve().parents[2]
WATCHDOG_S = 2.0
pytestmark = pytest.mark.slow


class Service:
    """A service as systemd sees it: its notifications, its process, its stderr."""

    def __init__(self, folder: Path, command: list[str]) -> None:
        self.folder = folder
        self.notifications = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notifications.bind(str(folder / "notify"))
        environ = {
            **os.environ,
            "NOTIFY_SOCKET": str(folder / "notify"),
            "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6)),
            "STATE_DIRECTORY": str(folder / "state"),
        }
        environ.pop("WATCHDOG_PID", None)
        self.log = (folder / "log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, *command], env=environ, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=self.log
        )

    def next(self, within_s: float) -> str | None:
        """The next notification; None when none came in time or the process has ended."""
        until = time.monotonic() + within_s
        while (left := until - time.monotonic()) > 0:
            ready, _, _ = select.select([self.notifications], [], [], min(left, 0.1))
            if ready:
                return self.notifications.recv(4096).decode()
            if self.process.poll() is not None:
                return None
        return None

    def hear(self, start: str, within_s: float = 60) -> list[str]:
        """All notifications until and with the one that begins with `start`."""
        heard: list[str] = []
        until = time.monotonic() + within_s
        while (said := self.next(until - time.monotonic())) is not None:
            heard.append(said)
            if said.startswith(start):
                return heard
        pytest.fail(f"no {start} within {within_s} s, only {heard}; the log:\n{self.logged()}")

    def logged(self) -> str:
        self.log.flush()
        return (self.folder / "log").read_text()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(timeout=10)
        self.notifications.close()
        self.log.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_package(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def line(tmp_path: Path, model: Path) -> Iterator[Service]:
    service = Service(tmp_path, ["-m", "tests.line.hanging_line", str(tmp_path / "state"), str(model)])
    yield service
    service.end()


def test_ready_comes_once_and_watchdog_while_frames_flow(line: Service) -> None:
    assert line.hear("READY=1")[-1].startswith("READY=1\nSTATUS=cameras: camera up")
    for _ in range(6):
        assert line.next(within_s=WATCHDOG_S) == "WATCHDOG=1", line.logged()


def test_a_service_waits_for_another_daemon_to_end_and_then_takes_over(tmp_path: Path, model: Path) -> None:
    lock = hold_lock(tmp_path / "state" / FILE_NAME)
    service = Service(tmp_path, ["-m", "tests.line.hanging_line", str(tmp_path / "state"), str(model)])
    try:
        heard = service.hear("STATUS=waits: ")
        assert f"another daemon (process {os.getpid()}) is using this outbox" in heard[-1]
        os.close(lock)
        service.hear("READY=1")
    finally:
        service.end()


@pytest.fixture
def followed(tmp_path: Path, model: Path) -> Path:
    """A configuration that follows a repository; somebody else has its models' state open, and ends with the test."""
    (tmp_path / "root.json").write_text("{}")
    (tmp_path / "line.toml").write_text(
        f'state_dir = "state"\n[[camera]]\nname = "sim"\nsource = "sim"\n[model]\ndir = "{model}"\n'
        '[update]\nproduct = "tiny"\nroot = "root.json"\n'
    )
    return tmp_path / "line.toml"


def test_a_service_waits_for_the_models_of_another_daemon_too(
    tmp_path: Path, model: Path, followed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []
    store = Store.open(tmp_path / "state" / UPDATES, tmp_path / "state" / "models", model)
    monkeypatch.setattr(updates, "COMMAND_S", 0.0)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))

    def other_ends_when_heard(notifications: socket.socket) -> None:
        while not heard or not heard[-1].startswith("STATUS=waits: "):
            heard.append(notifications.recv(4096).decode())
        store.close()

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifications:
        notifications.bind(str(tmp_path / "notify"))
        notifications.settimeout(60)
        other = threading.Thread(target=other_ends_when_heard, args=(notifications,))
        other.start()
        assert run_command(["run", "--config", str(followed), "--frames", "3"]) == 0
        other.join(timeout=60)
    assert f"another process ({os.getpid()}) has it" in heard[-1]


def test_from_a_shell_a_second_daemon_with_updates_ends_with_75(
    tmp_path: Path, model: Path, followed: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setattr(updates, "COMMAND_S", 0.0)
    with Store.open(tmp_path / "state" / UPDATES, tmp_path / "state" / "models", model):
        assert run_command(["run", "--config", str(followed)]) == 75
    said = capfd.readouterr().err
    assert f"another process ({os.getpid()}) has it: a daemon that runs" in said and said.count("\n") == 1


@pytest.mark.parametrize(("number", "thread"), [(signal.SIGUSR1, "grab-camera"), (signal.SIGUSR2, "inspect")])
def test_no_watchdog_when_capture_or_inference_hangs_and_the_process_ends_by_itself(
    line: Service, number: signal.Signals, thread: str
) -> None:
    line.hear("READY=1")
    line.hear("WATCHDOG=1", within_s=WATCHDOG_S)
    line.process.send_signal(number)
    heard = line.hear("STATUS=standing still", within_s=MAX_AGE_S + 3)
    assert heard[-1] == f"STATUS=standing still: {thread}"
    while (said := line.next(within_s=20)) is not None:
        assert not said.startswith("WATCHDOG"), said
    assert line.process.wait(timeout=1) == 1
    assert "hanging_line.py" in line.logged(), "where it hangs is not in the log"


def test_unplugged_camera_is_no_hang(line: Service) -> None:
    line.hear("READY=1")
    line.process.send_signal(signal.SIGHUP)
    until = time.monotonic() + MAX_AGE_S + 4
    while time.monotonic() < until:
        assert line.next(within_s=WATCHDOG_S) == "WATCHDOG=1", line.logged()
    assert "camera.lost" in line.logged()


def test_abort_by_the_watchdog_leaves_every_stack_in_the_log(tmp_path: Path, model: Path) -> None:
    """What WatchdogSignal=SIGABRT and `-X faulthandler` in the unit are for."""
    command = ["-X", "faulthandler", "-m", "tests.line.hanging_line", str(tmp_path / "state"), str(model)]
    service = Service(tmp_path, command)
    try:
        service.hear("READY=1")
        service.process.send_signal(signal.SIGABRT)
        assert service.process.wait(timeout=10) == -signal.SIGABRT
        assert "grab.py" in service.logged()
        assert "pipeline.py" in service.logged()
    finally:
        service.end()


def test_sigterm_says_stopping_and_exits_0_within_10_s_with_the_outbox_closed(tmp_path: Path, model: Path) -> None:
    config = tmp_path / "line.toml"
    config.write_text(
        '[device]\ndevice = "edge"\n[[camera]]\nname = "sim"\nsource = "sim"\n'
        f'[model]\ndir = "{model}"\nprovider = "cpu"\n'
    )
    service = Service(tmp_path, ["-I", "-B", "-m", "edge_inspect", "run", "--config", str(config)])
    try:
        service.hear("READY=1")
        service.hear("WATCHDOG=1")
        service.process.send_signal(signal.SIGTERM)
        begin = time.monotonic()
        service.hear("STOPPING=1", within_s=10)
        assert service.process.wait(timeout=10) == 0, service.logged()
        assert time.monotonic() - begin < 10
        assert "thread.does_not_end" not in service.logged()
        Outbox(tmp_path / "state" / FILE_NAME, device="edge").close()
    finally:
        service.end()
