"""Wherever a request hangs, in the resolver, in a connect, in a share: `stop` and the deadline end it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from edge_inspect.errors import SourceGone
from edge_inspect.update import transport
from edge_inspect.update.transport import FetchLimits, Source

HANGS_S = 60.0
FAR_S = 3600.0
Hang = Any


@pytest.fixture
def let_go() -> Iterator[threading.Event]:
    """What hangs is let go at the end of a test, so that no thread is left."""
    event = threading.Event()
    yield event
    event.set()


def code_of(url: str, *, stop_after_s: float = FAR_S, deadline_s: float = FAR_S, connect_s: float = FAR_S) -> str:
    """How a request to `url` ends."""
    stop = threading.Event()
    timer = threading.Timer(stop_after_s, stop.set)
    timer.start()
    source = Source(ca=None, limits=FetchLimits(connect_s=connect_s, stall_s=FAR_S), stop=stop)
    try:
        with source.open(url, until_s=time.monotonic() + deadline_s) as answer:
            while answer.read(65536):
                pass
        return ""
    except SourceGone as err:
        assert "\n" not in str(err)
        return err.code
    finally:
        timer.cancel()
        timer.join()


ENDS = [({"stop_after_s": 0.3}, "stopped"), ({"deadline_s": 0.3}, "deadline")]


@pytest.mark.parametrize(("ends", "code"), [*ENDS, ({"connect_s": 0.3}, "unreachable")])
def test_resolver_that_hangs_is_left_behind(
    ends: dict[str, float], code: str, let_go: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: let_go.wait(HANGS_S) and [])
    assert code_of("http://models.plant/x", **ends) == code
    assert not let_go.is_set()


@pytest.mark.parametrize(("ends", "code"), ENDS)
def test_connect_that_hangs_is_ended(ends: dict[str, float], code: str) -> None:
    """A host that answers no SYN: here one whose queue is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        try:
            for one in waiting:
                one.setblocking(False)
                one.connect_ex(address)
            began = time.monotonic()
            assert code_of(f"http://127.0.0.1:{address[1]}/x", **ends) == code
            assert time.monotonic() - began < HANGS_S
        finally:
            for one in waiting:
                one.close()


def test_second_address_is_tried_where_the_first_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            end, _ = server.accept()
            with end:
                end.recv(4096)
                end.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

        thread = threading.Thread(target=answer)
        thread.start()
        found = [
            (socket.AF_INET, socket.SOCK_STREAM, 0, "", place) for place in (("127.0.0.1", 9), server.getsockname())
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        assert code_of("http://models.plant/x", deadline_s=HANGS_S) == ""
        thread.join(HANGS_S)


@pytest.mark.parametrize("where", ["open", "read"])
@pytest.mark.parametrize(("ends", "code"), ENDS)
def test_share_that_hangs_is_left_behind(
    ends: dict[str, float], code: str, where: str, let_go: threading.Event, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    class Hanging(FileIO):
        def __init__(self, *given: Any, **named: Any) -> None:
            if where == "open":
                let_go.wait(HANGS_S)
                raise OSError("gone")
            super().__init__(*given, **named)

        def read(self, size: int | None = -1, /) -> bytes:
            let_go.wait(HANGS_S)
            return b""

    (tmp_path / "x").write_bytes(b"x")
    monkeypatch.setattr(transport, "FileIO", Hanging)
    assert code_of((tmp_path / "x").as_uri(), **ends) == code
    assert not let_go.is_set()
