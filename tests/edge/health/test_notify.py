"""The test plays systemd: it owns the notification socket and reads what arrives."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_inspect.health.notify import MAX_AGE_S, Heart, Notifier, Watchdog

SECOND = 1_000_000_000


class Systemd:
    """The receiving end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(5)

    def next(self) -> str:
        return self.socket.recv(4096).decode()

    def heard(self) -> list[str]:
        """Everything that has arrived so far."""
        messages = []
        self.socket.setblocking(False)
        try:
            while True:
                messages.append(self.socket.recv(4096).decode())
        except BlockingIOError:
            return messages
        finally:
            self.socket.settimeout(5)


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@edge-inspect-test-{os.getpid()}"
    end = Systemd(address)
    yield end
    end.socket.close()


def test_each_message_arrives_as_systemd_expects_it(systemd: Systemd) -> None:
    notifier = Notifier(systemd.address, watchdog_s=10)
    assert notifier.ready("watching 2 cameras")
    assert notifier.feed()
    assert notifier.status("camera left:\nlost")
    assert notifier.extend(90)
    assert notifier.stopping()
    assert systemd.heard() == [
        "READY=1\nSTATUS=watching 2 cameras",
        "WATCHDOG=1",
        "STATUS=camera left: lost",
        "EXTEND_TIMEOUT_USEC=90000000",
        "STOPPING=1",
    ]


def test_environment_gives_socket_and_period() -> None:
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "10000000"})
    assert (notifier.address, notifier.watchdog_s) == ("/run/n", 10.0)


def test_watchdog_of_another_process_is_not_fed() -> None:
    environ = {"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "17"}
    assert Notifier.from_environment(environ, pid=18).watchdog_s == 0
    assert Notifier.from_environment(environ, pid=17).watchdog_s == 10


@pytest.mark.parametrize("usec", ["", "soon", "-1", "0"])
def test_nonsense_period_means_no_watchdog(usec: str) -> None:
    assert Notifier.from_environment({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": usec}).watchdog_s == 0


def test_without_systemd_nothing_is_sent_and_nothing_fails() -> None:
    notifier = Notifier.from_environment({})
    assert not notifier.ready()
    assert not notifier.feed()
    assert Watchdog([], notifier).look()


def test_vanished_socket_does_not_stop_inspection(tmp_path: Path) -> None:
    assert not Notifier(str(tmp_path / "gone"), watchdog_s=10).feed()


class Beats:
    """Two threads' hearts and a clock, all moved by hand."""

    def __init__(self) -> None:
        self.now_ns = 1000 * SECOND
        self.capture_ns: int | None = self.now_ns
        self.inference_ns: int | None = self.now_ns

    def advance(self, seconds: float, *, capture: bool = True, inference: bool = True) -> None:
        self.now_ns += int(seconds * SECOND)
        if capture and self.capture_ns is not None:
            self.capture_ns = self.now_ns
        if inference and self.inference_ns is not None:
            self.inference_ns = self.now_ns

    def watchdog(self, systemd: Systemd, *, watchdog_s: float = 10) -> Watchdog:
        hearts = [Heart("grab left", lambda: self.capture_ns), Heart("inspect", lambda: self.inference_ns)]
        return Watchdog(hearts, Notifier(systemd.address, watchdog_s=watchdog_s), clock_ns=lambda: self.now_ns)


def test_watchdog_is_fed_while_capture_and_inference_move(systemd: Systemd) -> None:
    beats = Beats()
    watchdog = beats.watchdog(systemd)
    for _ in range(5):
        beats.advance(2.5)
        assert watchdog.look()
    assert systemd.heard() == ["WATCHDOG=1"] * 5


@pytest.mark.parametrize("hung", ["capture", "inference"])
def test_watchdog_is_not_fed_when_one_hangs_and_again_when_it_moves(systemd: Systemd, hung: str) -> None:
    beats = Beats()
    watchdog = beats.watchdog(systemd)
    watchdog.look()
    beats.advance(MAX_AGE_S + 0.1, **{hung: False})
    assert not watchdog.look()
    assert not watchdog.look()
    name = {"capture": "grab left", "inference": "inspect"}[hung]
    assert watchdog.standing_still == (name,)
    beats.advance(1)
    assert watchdog.look()
    assert systemd.heard() == ["WATCHDOG=1", f"STATUS=standing still: {name}", "STATUS=moving again", "WATCHDOG=1"]


def test_heart_that_ended_in_good_order_does_not_count(systemd: Systemd) -> None:
    beats = Beats()
    watchdog = beats.watchdog(systemd)
    beats.capture_ns = None
    beats.advance(60)
    assert watchdog.look()


def test_no_feeding_when_the_unit_has_no_watchdog(systemd: Systemd) -> None:
    assert Beats().watchdog(systemd, watchdog_s=0).look()
    assert systemd.heard() == []


def test_run_feeds_well_within_the_period_and_ends_on_stop(systemd: Systemd) -> None:
    beats = Beats()
    watchdog = beats.watchdog(systemd, watchdog_s=0.4)
    assert watchdog.period_s <= 0.4 / 2
    stop = threading.Event()
    thread = threading.Thread(target=watchdog.run, args=(stop,))
    thread.start()
    try:
        assert [systemd.next() for _ in range(3)] == ["WATCHDOG=1"] * 3
    finally:
        stop.set()
        thread.join(5)
    assert not thread.is_alive()
