"""One signed file on its way: resumed where it broke off, never one byte longer than signed, verified before it counts.

1. What has come stays in the part file, on disk, through kills and power cuts; the next try asks for the rest.
2. A server that sends all of it again is compared with what is there, and goes on behind it; nothing is written twice.
3. A part whose digest is wrong in the end is thrown away. If it came in pieces it is fetched once more, whole.
4. A server is asked again with growing waits, as long as each so many tries bring something new and time is left.
5. More bytes, less bytes, another length than signed: refused (`target-length`), not stored.

    Download(source, url, part, length, check).run(until_s=until_s, throttle=throttle)
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import structlog

from edge_inspect.backoff import Backoff
from edge_inspect.durable import TEMPORARY, remove_durably, sync_folder, translated, write_durably
from edge_inspect.errors import SourceGone, Untrusted
from edge_inspect.update.transport import CHUNK_BYTES, STRONG_ETAG, Answer, HttpStatus, Source

log = structlog.get_logger()

MAY_PASS = {408, 425, 429, *range(500, 600)}
"""Statuses after which asking again soon makes sense."""
FINAL = {"stopped", "deadline", "bad-url", "redirects", "tls-untrusted"}
ETAG_SUFFIX = ".etag"
BELIEVED_AFTER = 3
"""So often in one run a server must send something else before what is there is given up."""


@dataclass(slots=True)
class Count:
    """What a download cost; for tests, logs and whoever watches."""

    requests: int = 0
    received_bytes: int = 0
    resumed_bytes: int = 0
    """That were there already when a request was made, summed over them."""
    restarts: int = 0
    """Times that a part was thrown away."""


class Throttle:
    """Keeps what is read below a rate by waiting; the sender then waits, too."""

    def __init__(self, rate_bytes_per_s: int, stop: threading.Event) -> None:
        self.chunk_bytes = CHUNK_BYTES if not rate_bytes_per_s else max(1, min(CHUNK_BYTES, rate_bytes_per_s // 4))
        self._rate = rate_bytes_per_s
        self._stop = stop
        self._free_at_s = 0.0

    def pay(self, count: int) -> None:
        """`count` bytes were read: wait until they are paid for."""
        if not self._rate:
            return
        now_s = time.monotonic()
        self._free_at_s = max(self._free_at_s, now_s) + count / self._rate
        self._stop.wait(self._free_at_s - now_s)


class Download:
    """Fetches `url` into the file `part`.

    length: in bytes, as signed. check: raises Untrusted if the whole file at hand is not the signed one.
    progress: told (bytes there, length) after each piece.
    """

    def __init__(
        self,
        source: Source,
        url: str,
        part: Path,
        length: int,
        check: Callable[[BinaryIO], None],
        *,
        progress: Callable[[int, int], None] = lambda done, length: None,
    ) -> None:
        self.count = Count()
        self._source = source
        self._url = url
        self._part = part
        self._etag_file = part.with_name(part.name + ETAG_SUFFIX)
        self._length = length
        self._check = check
        self._progress = progress
        self._ask_for_all = False
        self._differed = 0
        self._in_one_go = True
        """All that the part holds came in this run, in one answer."""

    def run(self, *, until_s: float, throttle: Throttle) -> None:
        """Return when the part is whole, verified and on disk. Raises SourceGone, Untrusted, StorageFailing."""
        limits = self._source.limits
        backoff, fruitless = Backoff(limits.first_wait_s, limits.longest_wait_s), 0
        self._in_one_go = not self._have()
        while not self._is_whole():
            before = self._have()
            try:
                self._attempt(before, until_s, throttle)
                gone = SourceGone("cut", f"{self._url}: ended after {self._have()} of {self._length} bytes")
            except SourceGone as err:
                gone = err
            if self._have() == self._length:
                continue
            self._in_one_go = False
            if gone.code in FINAL or (isinstance(gone, HttpStatus) and gone.status not in MAY_PASS):
                raise gone
            if self._have() > before:
                fruitless = 0
                backoff.reset()
            fruitless += 1
            wait_s = backoff.next_s()
            if fruitless > limits.tries or time.monotonic() + wait_s > until_s:
                raise gone
            log.debug("download.broke_off", why=str(gone), have=self._have(), length=self._length, wait_s=wait_s)
            if self._source.stop.wait(wait_s):
                raise SourceGone("stopped", f"{self._url}: was stopped")

    def _have(self) -> int:
        with translated(self._part):
            try:
                return self._part.stat().st_size
            except FileNotFoundError:
                return 0

    def _is_whole(self) -> bool:
        """All bytes are there and right. A wrong part goes; Untrusted if it is not worth another try."""
        with translated(self._part):
            if self._have() < self._length or not self._part.exists():
                return False
        try:
            with translated(self._part), self._part.open("rb") as stream:
                os.fsync(stream.fileno())
                self._check(stream)
        except Untrusted:
            self._forget()
            if self._in_one_go or self.count.restarts > 1:
                raise
            self._in_one_go = True
            return False
        remove_durably(self._etag_file)
        return True

    def _forget(self) -> None:
        self.count.restarts += 1
        remove_durably(self._part)
        remove_durably(self._etag_file)

    def _attempt(self, have: int, until_s: float, throttle: Throttle) -> None:
        """One request, and everything it brings."""
        asked = 0 if self._ask_for_all else have
        etag = self._etag() if asked else ""
        self.count.requests += 1
        self.count.resumed_bytes += asked
        try:
            with self._source.open(self._url, start=asked, etag=etag, until_s=until_s) as answer:
                self._insist_on_length(answer)
                if not answer.whole and etag and answer.etag not in ("", etag):
                    raise SourceGone("range-wrong", f"{self._url}: a piece of another file ({answer.etag})")
                self._take(answer, throttle)
        except SourceGone as err:
            if err.code in ("range-wrong", "http-416"):
                self._ask_for_all = True
                if have >= self._length or isinstance(err, HttpStatus):
                    raise SourceGone("range-wrong", str(err)) from err
            raise

    def _insist_on_length(self, answer: Answer) -> None:
        """Before a byte is read: does the server mean the file that is signed?"""
        ends = None if answer.body_bytes is None else answer.start + answer.body_bytes
        if answer.total_bytes not in (None, self._length) or (ends is not None and ends > self._length):
            found = answer.total_bytes if answer.total_bytes is not None else ends
            raise Untrusted("target-length", f"{self._url}: has {found} bytes, signed are {self._length}")

    def _take(self, answer: Answer, throttle: Throttle) -> None:
        """Write what is new at its place; what is there already is compared on the way."""
        with translated(self._part), os.fdopen(_create(self._part), "r+b", buffering=0) as file:
            sync_folder(self._part.parent)
            file.seek(answer.start)
            try:
                self._copy(answer, file, throttle)
            finally:
                os.fsync(file.fileno())

    def _copy(self, answer: Answer, file: BinaryIO, throttle: Throttle) -> None:
        at, end = answer.start, os.fstat(file.fileno()).st_size
        known_to = end
        while True:
            room = self._length - at
            chunk = answer.read(min(throttle.chunk_bytes, room) or 1)
            if not chunk:
                return
            if not room:
                self._forget()
                raise Untrusted("target-length", f"{self._url}: goes on after the {self._length} bytes that are signed")
            self.count.received_bytes += len(chunk)
            known = file.read(min(len(chunk), end - at)) if at < end else b""
            if known != chunk[: len(known)]:
                self._changed()
                file.truncate(at)  # what is behind this place is worth nothing
                end, known_to, known = at, at, b""
                file.seek(at)
            _write_all(file, chunk[len(known) :])
            if answer.whole and answer.etag and at <= known_to < at + len(chunk):  # it begins with all that was there
                write_durably(self._etag_file, answer.etag.encode())
            at += len(chunk)
            end = max(end, at)
            self._progress(end, self._length)
            throttle.pay(len(chunk))

    def _changed(self) -> None:
        """A server sends something else than lies here. Perhaps it is not ours: hotel gateways answer for everybody."""
        self._differed += 1
        if self._differed < BELIEVED_AFTER:
            raise SourceGone("changed", f"{self._url}: sends another content than what was fetched before")
        self.count.restarts += 1

    def _etag(self) -> str:
        try:
            etag = self._etag_file.read_text("ascii", errors="replace")
        except OSError:
            return ""
        return etag if STRONG_ETAG.match(etag) else ""


def _create(part: Path) -> int:
    return os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _write_all(file: BinaryIO, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def parts_of(name: str) -> tuple[str, ...]:
    """The names of all files that a part called `name` may have."""
    return name, name + ETAG_SUFFIX, name + ETAG_SUFFIX + TEMPORARY
