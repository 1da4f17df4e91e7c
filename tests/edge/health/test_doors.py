"""Doors alone: what a visitor may do to them, and what is left when they are closed."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge_inspect.health import doors as doors_module
from edge_inspect.health.doors import SOCKET_NAME, Doors, metrics_door, short_name, status_door

LONG = b"x" * 4_000_000
"""More than any socket takes at once."""


@contextmanager
def open_doors(doors: Doors) -> Iterator[None]:
    stop = threading.Event()
    doors.open()
    thread = threading.Thread(target=doors.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(60)
        doors.close()
    assert not thread.is_alive()
    assert doors.beat_ns is None


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def ask(port: int, *pieces: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as end:
        for piece in pieces:
            end.sendall(piece)
        return b"".join(iter(lambda: end.recv(65536), b""))


def read(folder: Path) -> bytes:
    with short_name(folder) as name, socket.socket(socket.AF_UNIX) as end:
        end.settimeout(60)
        end.connect(str(name / SOCKET_NAME))
        return b"".join(iter(lambda: end.recv(65536), b""))


def test_long_answers_arrive_whole_however_slowly_they_are_read(tmp_path: Path) -> None:
    with open_doors(Doors([status_door(tmp_path, lambda: LONG)])):
        with short_name(tmp_path) as name, socket.socket(socket.AF_UNIX) as slow:
            slow.settimeout(60)
            slow.connect(str(name / SOCKET_NAME))
            assert read(tmp_path) == LONG  # meanwhile
            assert b"".join(iter(lambda: slow.recv(65536), b"")) == LONG


def test_folder_may_lie_deeper_than_a_sockets_address_is_long(tmp_path: Path) -> None:
    deep = tmp_path / ("a" * 100) / ("b" * 100)
    deep.mkdir(parents=True)
    with open_doors(Doors([status_door(deep, lambda: b"here")])):
        assert read(deep) == b"here"
    assert list(deep.iterdir()) == []


@pytest.mark.parametrize(
    ("pieces", "answer"),
    [
        ([b"GET /metrics HT", b"TP/1.1\r\nHost: x\r\n", b"\r\n"], b"HTTP/1.1 200 OK"),
        ([b"GET /metrics?x=1 HTTP/1.0\n\n"], b"HTTP/1.1 200 OK"),
        ([b"\r\n\r\n"], b"HTTP/1.1 405 "),
        ([b"\xff\xfe\x00 \x01\r\n\r\n"], b"HTTP/1.1 405 "),
        ([b"GET ../etc/passwd HTTP/1.1\r\nno colon\r\n\r\n"], b"HTTP/1.1 404 "),
    ],
)
def test_whatever_is_asked_gets_one_answer(pieces: list[bytes], answer: bytes) -> None:
    port = free_port()
    with open_doors(Doors([metrics_door(port, lambda accept: ("text/plain", b"numbers"))])):
        assert ask(port, *pieces).startswith(answer)


def test_accept_header_reaches_the_page() -> None:
    port, asked = free_port(), []

    def page(accept: str) -> tuple[str, bytes]:
        asked.append(accept)
        return "text/plain", b""

    with open_doors(Doors([metrics_door(port, page)])):
        ask(port, b"GET /metrics HTTP/1.1\r\naCCept:  text/openmetrics \r\n\r\n")
    assert asked == ["text/openmetrics"]


def test_a_request_without_end_is_hung_up_on() -> None:
    port = free_port()
    with open_doors(Doors([metrics_door(port, lambda accept: ("text/plain", b""))])):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as end:
            with pytest.raises(OSError):
                while True:
                    end.sendall(b"x" * 4096)


def test_nothing_is_left_open(tmp_path: Path) -> None:
    def handles() -> int:
        return len(os.listdir("/proc/self/fd"))

    port = free_port()
    make: Callable[[], Doors] = lambda: Doors(  # noqa: E731
        [status_door(tmp_path, lambda: b"x"), metrics_door(port, lambda accept: ("text/plain", b""))]
    )
    with open_doors(make()):
        ask(port, b"GET /metrics HTTP/1.1\r\n\r\n")
    before = handles()
    for _ in range(5):
        with open_doors(make()):
            read(tmp_path)
            ask(port, b"GET /metrics HTTP/1.1\r\n\r\n")
    assert handles() == before


def test_doors_that_cannot_be_opened_are_alarms_and_open_once_they_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doors_module, "RETRY_S", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        doors = Doors(
            [
                status_door(tmp_path / "state", lambda: b"x"),
                metrics_door(port, lambda accept: ("text/plain", b"numbers")),
            ]
        )
        opened = open_doors(doors)
        opened.__enter__()
        found = {alarm.code: alarm.detail for alarm in doors.alarms()}
        assert found.keys() == {"no-status-socket", "no-metrics-port"}
        assert found["no-metrics-port"] == f"metrics.port: cannot listen on 127.0.0.1:{port}: another program has it"
    (tmp_path / "state").mkdir()
    try:
        deadline_s = time.monotonic() + 60
        while doors.alarms():
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        assert read(tmp_path / "state") == b"x"
        assert ask(port, b"GET /metrics HTTP/1.1\r\n\r\n").endswith(b"numbers")
    finally:
        opened.__exit__(None, None, None)
