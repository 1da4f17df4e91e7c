"""The line as a local Unix socket: for a program on the same box that brings the triggers and wants the answers.

One JSON object a line, in both directions, UTF-8, at most MOST_LINE_BYTES:

    -> {"trigger": 7}  or  {"trigger": 7, "encoder": 1200}
    <- {"seq": 7, "verdict": "OK", "reason": "no-defect", "part": 3, "latency_ms": 8.4}
    -> {"listen": true}                     from now on every answer, whoever brought its trigger
    <- {"listen": true}
    -> {"status": true}
    <- {"ready": true, "busy": false}
    <- {"error": "..."}                     what was not understood; the connection goes on

1. A client gets the answer to each of its own triggers, once, and nothing that it did not ask for.
2. `tell` never waits. A client that does not read is cut off after MOST_UNREAD_BYTES; it delays nobody.
3. What is not a request gets exactly one error line, however long or strange it is.
4. The socket file belongs to one daemon: a second one is refused, a file left by a dead one is replaced.
5. No connection, no OK: at the end every connection is closed, and that is the fail-safe state.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import select
import socket
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import structlog

from edge_inspect.errors import BadConfig, Refusal
from edge_inspect.line.json_form import answer_fields, parsed, trigger_from
from edge_inspect.line.protocol import LATE, Adapter, Answer, Trigger
from edge_inspect.waker import Waker

log = structlog.get_logger(__name__)

MOST_LINE_BYTES = 1024
MOST_UNREAD_BYTES = 64 * 1024
MOST_CLIENTS = 32
MOST_OPEN_TRIGGERS = 1024
"""Triggers of one client that are not answered yet."""
MOST_UNTOLD = 4096
READ_BYTES = 4096
IDLE_S = 0.5
REST_S = 0.1
REQUESTS = '{"trigger": SEQ}, {"trigger": SEQ, "encoder": N}, {"listen": true}, {"status": true}'

Fire = Callable[[Trigger], None]


class Client:
    """One connection: what it has sent of a line so far, what it has not read yet, what it waits for."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.listens = False
        self.waits_for: set[int] = set()
        self.unread = bytearray()
        self.ended = False
        """It will send no more; answers to what it sent still go out."""
        self._line = bytearray()
        self._skips = False

    def say(self, thing: dict[str, Any]) -> None:
        self.unread += json.dumps(thing).encode() + b"\n"

    def lines(self) -> Iterator[bytes | None]:
        """Whole lines of what has arrived; None for one that was too long. Raises OSError if the peer is gone."""
        try:
            arrived = self.connection.recv(READ_BYTES)
        except BlockingIOError:
            return
        if not arrived:
            self.ended = True
            arrived = b"\n"  # a last line may come without its end
        *whole, rest = arrived.split(b"\n")
        for piece in whole:
            line, too_long = bytes(self._line + piece), self._skips
            self._line.clear()
            self._skips = False
            if too_long or len(line) > MOST_LINE_BYTES:
                yield None
            elif line.strip():
                yield line
        self._line += rest
        if len(self._line) > MOST_LINE_BYTES:
            self._line.clear()
            self._skips = True

    def flush(self) -> None:
        """Send what the peer takes now. Raises OSError if it is gone."""
        with contextlib.suppress(BlockingIOError):
            while self.unread:
                del self.unread[: self.connection.send(self.unread)]

    @property
    def is_done(self) -> bool:
        return self.ended and not self.waits_for and not self.unread and not self.listens


class SocketLine(Adapter):
    """`run` once.

    path: where the socket file is made, mode 0660; its folder must be there.
    """

    name = "socket"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.no_triggers = "this line takes its triggers elsewhere"
        """What a trigger is told where none are taken."""
        self.beat_ns = None
        self.refused = 0
        """Lines that were no request."""
        self.cut_off = 0
        """Clients that did not read what they had asked for."""
        self.late = 0
        """Answers whose deadline had passed before they could be handed out."""
        self._told: deque[Answer] = deque(maxlen=MOST_UNTOLD)
        self._status = (False, False)
        self._clients: dict[int, Client] = {}
        self._deaf_until_s = 0.0
        self._waker = Waker()

    def tell(self, answer: Answer) -> None:
        self._told.append(answer)
        self._waker.wake()

    def status(self, ready: bool, busy: bool) -> None:
        self._status = (ready, busy)

    def counts(self) -> Mapping[str, int]:
        return {LATE: self.late, "refused": self.refused, "cut-off": self.cut_off}

    def run(self, stop: threading.Event, fire: Fire | None = None) -> None:
        """Serve until `stop`. Without `fire` triggers are refused. Raises Refusal: path taken or not usable."""
        try:
            with only_daemon(self.path), listening(self.path) as listener:
                log.info("line.socket_open", path=str(self.path))
                while not stop.is_set():
                    self._serve(listener, fire)
        finally:
            for client in list(self._clients.values()):
                with contextlib.suppress(OSError):
                    client.flush()
                self._drop(client)
            self._waker.close()
            self.beat_ns = None

    def _serve(self, listener: socket.socket, fire: Fire | None) -> None:
        """One round: wait, read, hand out answers, write."""
        self.beat_ns = time.monotonic_ns()
        poller = select.poll()
        poller.register(self._waker, select.POLLIN)
        if len(self._clients) < MOST_CLIENTS and time.monotonic() >= self._deaf_until_s:
            poller.register(listener, select.POLLIN)
        for number, client in self._clients.items():
            reads = 0 if client.ended else select.POLLIN
            poller.register(number, reads | (select.POLLOUT if client.unread else 0))
        events = dict(poller.poll(IDLE_S * 1000))
        self._waker.drain()
        if listener.fileno() in events:
            self._accept(listener)
        for number in events.keys() & self._clients.keys():
            self._read(self._clients[number], fire, hung_up=bool(events[number] & select.POLLHUP))
        while self._told:
            self._hand_out(self._told.popleft())
        for client in list(self._clients.values()):
            self._write(client)

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:  # gone again, or no file descriptor left for a client, who goes on knocking
            self._deaf_until_s = time.monotonic() + REST_S
            return
        connection.setblocking(False)
        self._clients[connection.fileno()] = Client(connection)

    def _read(self, client: Client, fire: Fire | None, *, hung_up: bool) -> None:
        try:
            if not client.ended:
                for line in client.lines():
                    self._take(client, line, fire)
            elif hung_up:  # not only the sending side: nobody is there to read
                self._drop(client)
        except OSError:
            self._drop(client)

    def _take(self, client: Client, line: bytes | None, fire: Fire | None) -> None:
        at_ns = time.monotonic_ns()
        try:
            request = request_from(line)
            if "listen" in request:
                client.listens = request["listen"]
                client.say({"listen": client.listens})
            elif "status" in request:
                client.say({"ready": self._status[0], "busy": self._status[1]})
            else:
                given = request["trigger"], request.get("encoder")
                self._fire(client, trigger_from(*given, at_ns=at_ns, source=self.name), fire)
        except ValueError as err:
            self.refused += 1
            client.say({"error": str(err)})

    def _fire(self, client: Client, trigger: Trigger, fire: Fire | None) -> None:
        if fire is None:
            raise ValueError(self.no_triggers)
        if len(client.waits_for) >= MOST_OPEN_TRIGGERS:
            raise ValueError(f"trigger {trigger.sequence}: {MOST_OPEN_TRIGGERS} triggers are not answered yet")
        client.waits_for.add(trigger.sequence)
        fire(trigger)

    def _hand_out(self, verdict: Answer) -> None:
        now_ns = time.monotonic_ns()
        self.late += verdict.is_late(now_ns)
        answer = verdict.as_of(now_ns)
        ours = answer.trigger.source == self.name
        for client in self._clients.values():
            if client.listens or (ours and answer.sequence in client.waits_for):
                client.say(answer_fields(answer))
            if ours:
                client.waits_for.discard(answer.sequence)
        if ours and answer.kind != verdict.kind:
            self.changed(verdict, now_ns)

    def _write(self, client: Client) -> None:
        try:
            client.flush()
        except OSError:
            self._drop(client)
            return
        if len(client.unread) > MOST_UNREAD_BYTES:
            self.cut_off += 1
            log.warning("line.client_cut_off", unread_bytes=len(client.unread))
            self._drop(client)
        elif client.is_done:
            self._drop(client)

    def _drop(self, client: Client) -> None:
        self._clients.pop(client.connection.fileno(), None)
        client.connection.close()


def request_from(line: bytes | None) -> dict[str, Any]:
    """A request, checked. Raises ValueError: what was found and what is allowed."""
    if line is None:
        raise ValueError(f"line too long; allowed: at most {MOST_LINE_BYTES} bytes")
    request = parsed(line, REQUESTS)
    if not isinstance(request, dict) or set(request) not in (
        {"trigger"}, {"trigger", "encoder"}, {"listen"}, {"status"},
    ):  # fmt: skip
        raise ValueError(f"not a request; allowed: {REQUESTS}")
    for switch in ("listen", "status"):
        if switch in request and not isinstance(request[switch], bool):
            raise ValueError(f"{switch}: allowed: true, false")
    return request


@contextlib.contextmanager
def only_daemon(path: Path) -> Iterator[None]:
    """Hold PATH.lock; the kernel lets go of it however we end. Raises Refusal if somebody else holds it."""
    lock = path.with_name(path.name + ".lock")
    try:
        file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as err:
        raise BadConfig(f"line socket {path}: {lock.name} cannot be made: {err.strerror}") from err
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            raise Refusal(f"line socket {path}: another daemon serves it") from err
        yield
    finally:
        os.close(file)


@contextlib.contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """The socket, 0660 before anybody can connect; its file goes at the end. Raises Refusal."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            remove_stale(path)
            listener.bind(str(path))
            path.chmod(0o660)
            listener.listen(MOST_CLIENTS)
        except OSError as err:  # also "AF_UNIX path too long", which has no errno
            raise BadConfig(f"line socket {path}: cannot be made: {err.strerror or err}") from err
        listener.setblocking(False)
        made = path.stat().st_ino
        try:
            yield listener
        finally:
            with contextlib.suppress(OSError):
                if path.stat().st_ino == made:
                    path.unlink()


def remove_stale(path: Path) -> None:
    """Remove a socket file that nobody serves. Raises Refusal for a living one and for anything else."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise BadConfig(f"line socket {path}: found something that is no socket, allowed: a path of its own")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            probe.connect(str(path))
    except FileNotFoundError:
        return
    except OSError as err:
        if err.errno == errno.ECONNREFUSED:
            path.unlink()
            return
        if err.errno != errno.EAGAIN:  # its queue of callers is full: it lives
            raise
    raise Refusal(f"line socket {path}: another daemon serves it")
