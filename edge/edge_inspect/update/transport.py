"""One request at a time to a repository of models: http, https or a folder; bounded in every direction.

1. A request ends: names, connecting, each silence, and all of it together have their limits; `stop` ends it within a
   moment, wherever it is: in the resolver, in a handshake, in a share that hangs (`guard`).
2. Bytes are those of the file: compressed answers are refused, redirects are few and lead to http or https only, and
   from https never back to http.
3. A dead connection (half-open, cut) is noticed within `stall_s`, a server that drips at the deadline.
4. What goes wrong out there is SourceGone with a stable code; an HTTP status that is no answer is HttpStatus.

    source = Source(ca=None, limits=FetchLimits(), stop=stop)
    with source.open("https://models.plant/targets/ab.model.onnx", start=4096, until_s=until_s) as answer:
        content = answer.read(65536)
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import socket
import ssl
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from edge_inspect.errors import BadConfig, SourceGone
from edge_inspect.update.guard import Ended, Ends, Guard, apart

CHUNK_BYTES = 1 << 16
MOST_REDIRECTS = 5
STRONG_ETAG = re.compile(r'^"[!#-~]{0,190}"$')
_CONTENT_RANGE = re.compile(r"^bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)$")
_REDIRECTS = {301, 302, 303, 307, 308}


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """What one fetch may take of network, disk and time."""

    rate_bytes_per_s: int = 0
    """Of all downloads together; 0: as fast as it goes."""
    deadline_s: float = 6 * 3600.0
    """For all files of a package together."""
    metadata_s: float = 60.0
    """For one file of metadata."""
    connect_s: float = 10.0
    stall_s: float = 20.0
    """No byte for so long: the connection is given up."""
    cap_bytes: int = 2 << 30
    """Largest package."""
    min_free_bytes: int = 256 << 20
    """So much of the disk is left for others: the outbox goes on whatever is downloaded."""
    tries: int = 8
    """Requests in a row that brought nothing new; then it is left for the next poll."""
    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0


class HttpStatus(SourceGone):
    """The server answered with a status that is none of the file; a folder, that there is no such file."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(code or f"http-{status}", message)
        self.status = status


@dataclass(slots=True)
class Answer:
    """The bytes of a file from `start` on; `read` gives b"" at the end, whether all came or not."""

    start: int
    body_bytes: int | None
    """How many bytes the server says will follow; None where it does not say."""
    total_bytes: int | None
    """How long the server says the whole file is."""
    etag: str
    """A strong one, or nothing."""
    whole: bool
    """All of the file (status 200), though less may have been asked for."""
    read: Callable[[int], bytes]


class Source:
    """Opens urls. `ca`: the CA that signed the server's certificate; None: the system's own list.

    alive: called whenever something is asked for or comes.
    """

    def __init__(
        self,
        *,
        ca: Path | None,
        limits: FetchLimits,
        stop: threading.Event,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        self.limits = limits
        self.stop = stop
        self._alive = alive
        self._ca = ca
        self._tls: ssl.SSLContext | None = None

    @contextlib.contextmanager
    def open(self, url: str, *, start: int = 0, etag: str = "", until_s: float) -> Iterator[Answer]:
        """Ask for a file from byte `start` on, if it is still the one of `etag`. Raises SourceGone, HttpStatus.

        until_s: moment of time.monotonic() at which the request ends.
        """
        self._alive()
        if url.startswith("file:"):
            with _open_file(url, start, Ends(self.stop, until_s)) as answer:
                read = answer.read

                def read_alive(count: int) -> bytes:
                    self._alive()
                    return read(count)

                answer.read = read_alive
                yield answer
            return
        for _ in range(MOST_REDIRECTS + 1):
            with self._ask(url, start, etag, until_s) as (response, read):
                if response.status not in _REDIRECTS:
                    yield _answer_of(response, read, url, start)
                    return
                url = _redirected(url, response.getheader("Location") or "")
        raise SourceGone("redirects", f"{url}: more than {MOST_REDIRECTS} redirects")

    @contextlib.contextmanager
    def _ask(
        self, url: str, start: int, etag: str, until_s: float
    ) -> Iterator[tuple[http.client.HTTPResponse, Callable[[int], bytes]]]:
        """The answer's head, and what reads its body."""
        parts = _checked(url)
        headers = {"Accept-Encoding": "identity", "User-Agent": "edge-inspect", "Connection": "close"}
        if start:
            headers["Range"] = f"bytes={start}-"
            if etag:
                headers["If-Range"] = etag
        guard = Guard(Ends(self.stop, until_s))
        connection: http.client.HTTPConnection | None = None
        response: http.client.HTTPResponse | None = None
        try:
            with guard:
                with _as_gone(url, guard):
                    connection = self._connection(parts, guard)
                    connection.request("GET", _path_of(parts), headers=headers)
                    response = head = connection.getresponse()

                def read(count: int) -> bytes:
                    self._alive()
                    with _as_gone(url, guard):
                        return head.read1(count)

                yield head, read
        finally:
            for end in (response, connection):
                if end is not None:
                    end.close()

    def _connection(self, parts: SplitResult, guard: Guard) -> http.client.HTTPConnection:
        """With our own socket, so that the guard can end even a handshake."""
        host = parts.hostname or ""
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(host, parts.port, timeout=self.limits.stall_s)
        end = self._connected(host, connection.port, guard)
        try:
            end.settimeout(self.limits.stall_s)
            guard.watch(end)
            if parts.scheme == "https":
                end = self._context().wrap_socket(end, server_hostname=host, do_handshake_on_connect=False)
                guard.watch(end)
                end.do_handshake()
        except BaseException:
            end.close()
            raise
        connection.sock = end
        return connection

    def _connected(self, host: str, port: int, guard: Guard) -> socket.socket:
        """The first of the host's addresses that answers; the resolver and each address have `connect_s`."""
        most_s, failed = self.limits.connect_s, OSError("no address")
        for family, kind, protocol, _, address in _addresses(host, port, guard.ends, most_s):
            end = socket.socket(family, kind, protocol)
            try:
                end.settimeout(most_s)
                guard.watch(end)
                end.connect(address)
                return end
            except BaseException as err:
                end.close()
                if guard.why or not isinstance(err, OSError):
                    raise
                failed = err
        raise failed

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            try:
                self._tls = ssl.create_default_context(cafile=str(self._ca) if self._ca else None)
            except (OSError, ssl.SSLError) as err:
                raise BadConfig(f"{self._ca}: cannot be used as CA: {err}") from err
        return self._tls


@contextlib.contextmanager
def _as_gone(url: str, guard: Guard) -> Iterator[None]:
    """Foreign exceptions of a request become SourceGone; what the guard did has its name."""
    failed: Exception | None = None
    try:
        yield
    except (OSError, http.client.HTTPException, ValueError) as err:  # ValueError: what no url or header may hold
        failed = err
    # also where nothing failed: to a reader a connection that was shut down looks ended
    if why := str(failed) if isinstance(failed, Ended) else guard.why:
        said = "was stopped" if why == "stopped" else "took longer than it may"
        raise SourceGone(why, f"{url}: {said}") from failed
    if failed is not None:
        raise SourceGone(_code_of(failed), f"{url}: {failed or type(failed).__name__}") from failed


def _code_of(err: Exception) -> str:
    if isinstance(err, ssl.SSLCertVerificationError):
        return "tls-untrusted"
    if isinstance(err, ssl.SSLError):
        return "tls"
    if isinstance(err, TimeoutError):
        return "stalled"
    if isinstance(err, ConnectionRefusedError | socket.gaierror):
        return "unreachable"
    if isinstance(err, http.client.IncompleteRead | http.client.RemoteDisconnected | ConnectionError):
        return "cut"
    return "unreachable" if isinstance(err, OSError) else "not-http"


def _checked(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise SourceGone("bad-url", f"{url}: allowed: http://, https:// or file://")
    return parts


def _path_of(parts: SplitResult) -> str:
    """As it stands in the url; only what no url may hold is quoted."""
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return "".join(c if "!" <= c <= "~" else "".join(f"%{byte:02X}" for byte in c.encode()) for c in path)


def _redirected(url: str, location: str) -> str:
    to = urljoin(url, location)
    if not location or urlsplit(to).scheme not in ("http", "https"):
        raise SourceGone("redirects", f"{url}: redirected to {location[:100]!r}, allowed: http or https")
    if urlsplit(url).scheme == "https" and urlsplit(to).scheme != "https":
        raise SourceGone("redirects", f"{url}: redirected from https to {location[:100]!r}")
    return to


def _answer_of(response: http.client.HTTPResponse, read: Callable[[int], bytes], url: str, asked: int) -> Answer:
    if response.status not in (200, 206):
        raise HttpStatus(response.status, f"{url}: status {response.status}, allowed: 200 or 206")
    encoding = response.getheader("Content-Encoding") or "identity"
    if encoding.strip().lower() != "identity":
        raise SourceGone("encoded", f"{url}: comes as {encoding[:40]!r}, allowed: identity")
    etag = response.getheader("ETag") or ""
    strong = etag if STRONG_ETAG.match(etag) else ""
    if response.status == 200:
        return Answer(0, response.length, response.length, strong, True, read)
    start, stop, total = _range_of(response.getheader("Content-Range") or "", url)
    said = stop + 1 - start
    if not asked or start != asked or (response.length is not None and response.length != said):
        raise SourceGone("range-wrong", f"{url}: asked for bytes from {asked} on, got {start}-{stop}")
    return Answer(start, said, total, strong, False, read)


def _range_of(text: str, url: str) -> tuple[int, int, int | None]:
    found = _CONTENT_RANGE.match(text)
    if found is None or int(found[1]) > int(found[2]):
        raise SourceGone("range-wrong", f"{url}: Content-Range is {text[:60]!r}, allowed: bytes FIRST-LAST/TOTAL")
    return int(found[1]), int(found[2]), None if found[3] == "*" else int(found[3])


def _addresses(host: str, port: int, ends: Ends, most_s: float) -> list[Any]:
    """As socket.getaddrinfo gives them. Raises gaierror, Ended."""
    try:
        return apart(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM), ends, most_s=most_s)
    except Ended:
        raise
    except TimeoutError as err:
        raise socket.gaierror(socket.EAI_AGAIN, f"the name server gave {err}") from err


@contextlib.contextmanager
def _open_file(url: str, start: int, ends: Ends) -> Iterator[Answer]:
    """A folder (USB stick, share) in place of a server: regular files only. A file that is not there is a 404."""
    path = Path(unquote(urlsplit(url).path))
    with _as_unreadable(path):
        stream, size = apart(lambda: _regular(path, start), ends)
    start = min(start, size)

    def read(count: int) -> bytes:
        with _as_unreadable(path):
            return apart(lambda: stream.read(count) or b"", ends)

    with stream:
        yield Answer(start, size - start, size, "", start == 0, read)


def _regular(path: Path, start: int) -> tuple[FileIO, int]:
    """Unbuffered: no lock is held by a read that was left behind."""
    stream = FileIO(path, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK | os.O_CLOEXEC))
    found = os.fstat(stream.fileno())
    if not stat.S_ISREG(found.st_mode):
        stream.close()
        raise ValueError("not a regular file")
    stream.seek(min(start, found.st_size))
    return stream, found.st_size


@contextlib.contextmanager
def _as_unreadable(path: Path) -> Iterator[None]:
    try:
        yield
    except Ended as err:
        said = "was stopped" if str(err) == "stopped" else "took longer than it may"
        raise SourceGone(str(err), f"{path}: {said}") from err
    except FileNotFoundError as err:
        raise HttpStatus(404, f"{path}: no such file", "file-missing") from err
    except (OSError, ValueError) as err:
        raise SourceGone("unreadable", f"{path}: {err}") from err
