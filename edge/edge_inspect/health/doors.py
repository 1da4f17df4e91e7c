"""Where others look in while it runs: the status socket and, if asked for, the metrics port. One thread, no more.

1. Nobody who looks in is waited for: at most MOST_AT_ONCE, each for at most PATIENCE_S, sent what the socket takes.
2. The status socket lies in the state directory and is for its owner (0600). One that a killed daemon left is replaced.
3. The metrics port listens on 127.0.0.1 only.
4. An answer is made when it is asked for, in this thread, from counters that other threads own.
5. A door that cannot be opened (a port that is taken, a full disk) keeps no line from being inspected: one line, an
   alarm, and it is tried again every RETRY_S for ever.

    found = doors(config, appliance.observe)
    found.open()
    found.run(stop)                 # the thread `status`
    found.close()
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from edge_inspect.config import Config
from edge_inspect.health.observed import Observed, status
from edge_wire.messages import Degraded

log = structlog.get_logger()

SOCKET_NAME = "status.socket"
MOST_AT_ONCE = 16
PATIENCE_S = 5.0
MOST_REQUEST_BYTES = 8192
LOOK_EVERY_S = 0.5
REST_S = 0.1
RETRY_S = 10.0
LOOPBACK = "127.0.0.1"

Page = Callable[[str], tuple[str, bytes]]
"""Accept header of whoever asks -> (content type, text)."""


@dataclass(frozen=True, slots=True)
class Door:
    """One listening socket and what is said there."""

    code: str
    """Of the alarm while it cannot be opened."""
    open: Callable[[], socket.socket]
    """Raises OSError; its text is for a person."""
    answer: Callable[[bytes], bytes | None]
    """The bytes that came so far -> the whole answer, after which we hang up; None: more must come first."""
    close: Callable[[], None] = lambda: None


@dataclass(slots=True)
class _Visitor:
    door: Door
    until_s: float
    heard: bytes = b""
    unsaid: bytes = b""


class Doors:
    """`run(stop)` is the thread; `open` before it, `close` after it."""

    def __init__(self, doors: Sequence[Door]) -> None:
        self.beat_ns: int | None = time.monotonic_ns()
        """When the thread last moved; None once it has ended."""
        self._doors = doors
        self._shut: dict[str, str] = {}  # code of a door that could not be opened -> why
        self._retry_at_s = 0.0
        self._selector: selectors.BaseSelector = selectors.SelectSelector()

    def open(self) -> None:
        """Listen, where that is possible now."""
        self._selector = selectors.DefaultSelector()
        self._try_to_open(self._doors)

    def alarms(self) -> list[Degraded]:
        """Where nobody can look in, for the device's state."""
        return [Degraded(code=code, detail=why[:200]) for code, why in list(self._shut.items())]

    def run(self, stop: threading.Event) -> None:
        """Answer until `stop`."""
        try:
            while not stop.is_set():
                self.beat_ns = time.monotonic_ns()
                for key, _ in self._selector.select(LOOK_EVERY_S):
                    end = key.fileobj
                    assert isinstance(end, socket.socket)
                    if isinstance(key.data, Door):
                        self._let_in(end, key.data)
                    else:
                        self._attend(end, key.data)
                self._show_out()
                if self._shut and time.monotonic() >= self._retry_at_s:
                    self._try_to_open([door for door in self._doors if door.code in self._shut])
        finally:
            self.beat_ns = None

    def close(self) -> None:
        """Hang up on everybody. May be called twice."""
        for end in [key.fileobj for key in (self._selector.get_map() or {}).values()]:
            self._hang_up(end)
        self._selector.close()
        for door in self._doors:
            door.close()

    def _try_to_open(self, doors: Sequence[Door]) -> None:
        self._retry_at_s = time.monotonic() + RETRY_S
        for door in doors:
            try:
                listening = door.open()
            except OSError as err:
                why = err.strerror or str(err)
                if self._shut.get(door.code) != why:
                    log.warning("status.shut", code=door.code, why=why)
                self._shut = {**self._shut, door.code: why}
                continue
            listening.setblocking(False)
            self._selector.register(listening, selectors.EVENT_READ, door)
            if door.code in self._shut:
                log.warning("status.open_again", code=door.code)
                self._shut = {code: why for code, why in self._shut.items() if code != door.code}

    def _let_in(self, listening: socket.socket, door: Door) -> None:
        try:
            end, _ = listening.accept()
        except OSError:  # gone again, or no file descriptor left for a guest, who goes on knocking
            time.sleep(REST_S)
            return
        if len(self._selector.get_map()) >= len(self._doors) - len(self._shut) + MOST_AT_ONCE:
            end.close()
            return
        end.setblocking(False)
        visitor = _Visitor(door, time.monotonic() + PATIENCE_S)
        self._selector.register(end, selectors.EVENT_READ, visitor)
        self._attend(end, visitor)

    def _attend(self, end: socket.socket, visitor: _Visitor) -> None:
        """Hear, answer once all is heard, hang up once all is said."""
        try:
            if not visitor.unsaid:
                self._hear(end, visitor)
            if visitor.unsaid:
                visitor.unsaid = visitor.unsaid[end.send(visitor.unsaid) :]
                if not visitor.unsaid:
                    self._hang_up(end)
                else:
                    self._selector.modify(end, selectors.EVENT_WRITE, visitor)
        except BlockingIOError:
            if visitor.unsaid:
                self._selector.modify(end, selectors.EVENT_WRITE, visitor)
        except OSError:
            self._hang_up(end)

    def _hear(self, end: socket.socket, visitor: _Visitor) -> None:
        """Raises BlockingIOError when nothing came, ConnectionError when nothing more will."""
        answer = visitor.door.answer(visitor.heard)
        if answer is None:
            came = end.recv(MOST_REQUEST_BYTES)
            visitor.heard += came
            if not came or len(visitor.heard) > MOST_REQUEST_BYTES:
                raise ConnectionError("no request")
            answer = visitor.door.answer(visitor.heard)
        visitor.unsaid = answer or b""

    def _show_out(self) -> None:
        now_s = time.monotonic()
        late = [
            key.fileobj
            for key in self._selector.get_map().values()
            if isinstance(key.data, _Visitor) and now_s > key.data.until_s
        ]
        for end in late:
            self._hang_up(end)

    def _hang_up(self, end: object) -> None:
        assert isinstance(end, socket.socket)
        self._selector.unregister(end)
        end.close()


def doors(config: Config, observe: Callable[[], Observed]) -> Doors:
    """The status socket, and the metrics port if the configuration has one."""
    found = [status_door(config.state_dir, lambda: json.dumps(status(observe())).encode() + b"\n")]
    if config.metrics is not None:
        from edge_inspect.health.metrics import metrics_page  # not everybody's start waits for this import

        found.append(metrics_door(config.metrics.port, metrics_page(observe)))
    return Doors(found)


def status_door(state_dir: Path, status: Callable[[], bytes]) -> Door:
    """Whoever connects gets `status()` at once. The socket is the owner's alone."""

    def open_it() -> socket.socket:
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            with short_name(state_dir) as folder:
                # Made under another name and moved: nobody can connect before it is 0600, and a stale one just goes.
                made = folder / f"{SOCKET_NAME}.new"
                made.unlink(missing_ok=True)
                listening.bind(str(made))
                made.chmod(0o600)
                listening.listen(MOST_AT_ONCE)
                made.rename(folder / SOCKET_NAME)
        except BaseException:
            listening.close()
            raise
        return listening

    def remove() -> None:
        with contextlib.suppress(OSError):
            (state_dir / SOCKET_NAME).unlink()

    return Door("no-status-socket", open_it, lambda _heard: status(), remove)


def metrics_door(port: int, page: Page) -> Door:
    """GET /metrics on 127.0.0.1."""

    def open_it() -> socket.socket:
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((LOOPBACK, port))
            listening.listen(MOST_AT_ONCE)
        except OSError as err:
            listening.close()
            why = "another program has it" if err.errno == errno.EADDRINUSE else err.strerror
            raise OSError(err.errno, f"metrics.port: cannot listen on {LOOPBACK}:{port}: {why}") from err
        return listening

    return Door("no-metrics-port", open_it, lambda heard: _http(heard, page))


def _http(heard: bytes, page: Page) -> bytes | None:
    """Just enough HTTP for a scraper: one request, one answer, goodbye."""
    head, whole, _ = heard.replace(b"\r\n", b"\n").partition(b"\n\n")
    if not whole:
        return None
    request, *headers = head.decode("latin-1").split("\n")
    method, target = [*request.split(), "", ""][:2]
    fields = dict(header.split(":", 1) for header in headers if ":" in header)
    accept = {name.strip().lower(): value.strip() for name, value in fields.items()}.get("accept", "")
    if method not in ("GET", "HEAD"):
        code, kind, body = "405 Method Not Allowed", "text/plain", b"GET /metrics\n"
    elif target.partition("?")[0] != "/metrics":
        code, kind, body = "404 Not Found", "text/plain", b"/metrics is all there is\n"
    else:
        code = "200 OK"
        kind, body = page(accept)
    top = f"HTTP/1.1 {code}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return top.encode("latin-1") + (b"" if method == "HEAD" else body)


@contextmanager
def short_name(folder: Path) -> Iterator[Path]:
    """A name for `folder` that fits into a socket's address (108 bytes), however deep it lies."""
    handle = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield Path(f"/proc/self/fd/{handle}")
    finally:
        os.close(handle)
