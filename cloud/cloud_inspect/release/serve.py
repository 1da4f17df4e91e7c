"""A small static HTTP server for a plant without one: what is below `metadata/` and `targets/`, and nothing else.

1. GET and HEAD only. Whatever is not plainly a file below those two folders is 404: no `..`, no link that leads out, no
   hidden file, nothing staged, no listing.
2. One byte range is answered with 206, one that cannot be with 416; several at once get the whole file (RFC 9110 lets
   us). `If-Range`, `If-None-Match` and strong ETags: a resumed download never gets the tail of another file.
3. At most `most_connections` at a time, one more is told 503. A request must be there whole within `idle_s`, and each
   16 KiB of an answer taken within that: nobody holds a place for long.
4. `timestamp.json` must be asked for again each time; all else never changes and may be kept.

    with ReleaseServer(Path("/srv/models"), "127.0.0.1", 8080) as server:
        server.serve_forever()

Authenticity comes from the signatures, so plain HTTP is enough; put a proxy in front where TLS is the rule.
"""

from __future__ import annotations

import os
import re
import socket
import stat
import sys
import threading
import time
from contextlib import suppress
from email.utils import formatdate, parsedate_to_datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import IO, Any
from urllib.parse import unquote, urlsplit

import structlog

from cloud_inspect.errors import StoreGone

_log = structlog.get_logger()
SERVED = ("metadata", "targets")
IDLE_S = 30.0
CHUNK_BYTES = 1 << 14
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
_FULL = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Unsatisfiable(Exception):
    """No byte of the range is in the file."""


class ReleaseServer(ThreadingHTTPServer):
    """Port 0 takes a free one; `url` says which. Raises StoreGone when the address cannot be had."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self,
        folder: Path,
        host: str = "127.0.0.1",
        port: int = 8080,
        *,
        most_connections: int = 32,
        idle_s: float = IDLE_S,
    ) -> None:
        self.folder, self.idle_s = folder.resolve(), idle_s
        self._waited_for: dict[socket.socket, float] = {}
        self._waiting = threading.Lock()
        self._places = threading.BoundedSemaphore(most_connections)
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), _Handler)
        except OSError as err:
            raise StoreGone("address", f"{host}:{port}: {err.strerror or err}") from err
        name = f"[{host}]" if ":" in host else host
        self.url = f"http://{name}:{self.server_port}"

    def server_bind(self) -> None:
        """Without the look-up of our own name, which waits for name servers where there are none."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def wait_for(self, connection: socket.socket) -> None:
        """The next request on it must be there, whole, in `idle_s`."""
        with self._waiting:
            self._waited_for[connection] = time.monotonic() + self.idle_s

    def heard(self, connection: socket.socket) -> None:
        with self._waiting:
            self._waited_for.pop(connection, None)

    def service_actions(self) -> None:
        """Lets go whoever sends a request byte by byte; called by `serve_forever` again and again."""
        now = time.monotonic()
        with self._waiting:
            for connection, until in list(self._waited_for.items()):
                if now > until:
                    del self._waited_for[connection]
                    with suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            with suppress(OSError):
                request.sendall(_FULL)
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no event; anything else is logged with its trace."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            _log.exception("request failed", client=str(client_address))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "edge-inspect"
    sys_version = ""
    server: ReleaseServer

    def setup(self) -> None:
        self.request.settimeout(self.server.idle_s)
        super().setup()

    def handle_one_request(self) -> None:
        self.server.wait_for(self.connection)
        try:
            super().handle_one_request()
        finally:
            self.server.heard(self.connection)

    def parse_request(self) -> bool:
        understood = super().parse_request()
        self.server.heard(self.connection)
        return understood

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """No page, nothing of what was asked for in the answer."""
        if code == HTTPStatus.NOT_IMPLEMENTED:
            code = HTTPStatus.METHOD_NOT_ALLOWED
        self.send_response(code)
        if code == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.send_header("Content-Length", "0")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """A line for each poll of each device helps nobody."""

    def _answer(self, body: bool) -> None:
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            return self.send_error(HTTPStatus.BAD_REQUEST)  # what follows would be read as the next request
        path = find_file(self.server.folder, self.path)
        try:
            file = path.open("rb") if path is not None else None
        except OSError:
            file = None
        if file is None:
            return self._empty(HTTPStatus.NOT_FOUND)
        with file:
            self._send(file, os.fstat(file.fileno()), body)
        return None

    def _send(self, file: IO[bytes], facts: os.stat_result, body: bool) -> None:
        etag = f'"{facts.st_ino:x}-{facts.st_mtime_ns:x}-{facts.st_size:x}"'
        if _matches(self.headers.get("If-None-Match"), etag):
            return self._empty(HTTPStatus.NOT_MODIFIED, ETag=etag)
        first, last, status = 0, facts.st_size - 1, HTTPStatus.OK
        asked = self.headers.get("Range") if body else None
        if asked is not None and _still(self.headers.get("If-Range"), etag, facts.st_mtime):
            try:
                found = parse_range(asked, facts.st_size)
            except Unsatisfiable:
                told = {"Content-Range": f"bytes */{facts.st_size}"}
                return self._empty(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, **told)
            if found is not None:
                (first, last), status = found, HTTPStatus.PARTIAL_CONTENT
        self.send_response(status)
        self.send_header(
            "Content-Type", "application/json" if self.path.endswith(".json") else "application/octet-stream"
        )
        self.send_header("Content-Length", str(last - first + 1))
        if status == HTTPStatus.PARTIAL_CONTENT:
            self.send_header("Content-Range", f"bytes {first}-{last}/{facts.st_size}")
        self._describe(etag, facts.st_mtime)
        self.end_headers()
        if body:
            self._copy(file, first, last - first + 1)
        return None

    def _describe(self, etag: str, mtime: float) -> None:
        changes = urlsplit(self.path).path.endswith("/timestamp.json")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", etag)
        self.send_header("Last-Modified", formatdate(mtime, usegmt=True))
        self.send_header("Cache-Control", "no-cache" if changes else "public, max-age=31536000, immutable")
        self.send_header("X-Content-Type-Options", "nosniff")

    def _copy(self, file: IO[bytes], first: int, length: int) -> None:
        file.seek(first)
        while length > 0 and (chunk := file.read(min(CHUNK_BYTES, length))):
            self.wfile.write(chunk)
            length -= len(chunk)
        if length:
            self.close_connection = True  # it shrank under our hands: the client sees a short answer

    def _empty(self, status: HTTPStatus, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Length", "0")
        self.end_headers()


def find_file(folder: Path, target: str) -> Path | None:
    """The file that a request means, or None: names are plain, so a path that means something else has none."""
    try:
        path = unquote(urlsplit(target).path, errors="strict")
    except (ValueError, UnicodeDecodeError):
        return None
    parts = path.split("/")
    if parts[0] or len(parts) < 3 or parts[1] not in SERVED or not all(map(_NAME.fullmatch, parts[1:])):
        return None
    found = folder.joinpath(*parts[1:])
    try:
        real = found.resolve(strict=True)
        if real.is_relative_to(folder) and stat.S_ISREG(real.stat().st_mode):
            return real
    except (OSError, RuntimeError):  # not there; links in a circle
        return None
    return None


def parse_range(text: str, size: int) -> tuple[int, int] | None:
    """First and last byte, both included; None where the header is to be ignored. Raises Unsatisfiable."""
    match = _RANGE.fullmatch(text.strip())
    if match is None or match[1] == match[2] == "":
        return None
    if not match[1]:  # the last n bytes
        if int(match[2]) == 0 or size == 0:
            raise Unsatisfiable
        return max(0, size - int(match[2])), size - 1
    first = int(match[1])
    last = min(int(match[2]), size - 1) if match[2] else size - 1
    if match[2] and int(match[2]) < first:
        return None  # RFC 9110: an invalid range is no range
    if first >= size:
        raise Unsatisfiable
    return first, last


def _matches(header: str | None, etag: str) -> bool:
    return header is not None and any(one.strip() in ("*", etag, f"W/{etag}") for one in header.split(","))


def _still(if_range: str | None, etag: str, mtime: float) -> bool:
    """Whether the client's part belongs to the file as it is now."""
    if if_range is None:
        return True
    if if_range.startswith(('"', "W/")):
        return if_range == etag
    try:
        return parsedate_to_datetime(if_range).timestamp() == int(mtime)
    except (ValueError, TypeError):
        return False
