"""Which model judged from when to when, and why it was replaced: one line of JSON each, chained by SHA-256.

1. Each line carries the SHA-256 of the line before it, bytes and newline: a line that was changed, left out, put in or
   moved is named by its number (`chain`).
2. What was cut off at the end is seen, too, where a head is given: `state.json` remembers how far the history went.
3. A power cut can leave half a line at the end and nothing else. It is no tampering: it is told and overwritten.
4. Appending never waits for a verified file: a damaged history is an alarm, and goes on being written. One that the
   disk does not give is an alarm, too, nobody waits for it, and it is written again once it can be read.

    history = History(folder / "history.jsonl")
    history.append(entry)
    checked = read_history(folder / "history.jsonl", head)
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from edge_inspect.durable import read_patiently, sync_folder, translated
from edge_inspect.errors import StorageFailing
from edge_inspect.update.chain import BEGIN, Link, faults
from edge_inspect.update.state import HistoryHead, Shadowed
from edge_wire.fields import Block, Count, Digest, OneLine, UtcTime

FILE_NAME = "history.jsonl"


class Entry(Block):
    """One line. `activated`: from `at` on this model judges."""

    line: Count = 0
    before: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] = BEGIN
    """SHA-256 of the line before; 64 zeros in the first."""
    at: UtcTime
    event: Literal["activated", "kept", "refused", "state-lost"]
    digest: Digest
    name: OneLine = ""
    version: OneLine = ""
    role: Literal["factory", "trial", "previous", "kept", "candidate"]
    """As what it judges from now on, or did not come to judge."""
    replaced: Digest | None = None
    code: str = ""
    why: OneLine = ""
    """Why the one before it does not judge any more, or why it was refused; `code` for machines."""
    by: OneLine = ""
    """The person on this box who asked for it."""
    released_by: OneLine = ""
    released_at: UtcTime | None = None
    channel: OneLine = ""
    sequence: Count = 0
    reason: OneLine = ""
    """The release's own words."""
    shadow: Shadowed | None = None
    """What it said beside the other model, as far as it was asked."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A history as it lies there."""

    entries: tuple[Entry, ...]
    head: HistoryHead
    broken: tuple[str, ...] = ()
    """What is wrong, by line; empty when every line is as it was written."""
    doubtful: frozenset[int] = frozenset()
    """`line` of the entries that may have been changed."""
    torn_bytes: int = 0
    """Half a line at the end, after a power cut."""


def read_history(path: Path, saved: HistoryHead | None = None) -> Checked:
    """Read and verify. `saved`: how far it went at least. Raises StorageFailing."""
    try:
        with translated(path):
            content = read_patiently(path)
    except StorageFailing as err:
        if not isinstance(err.__cause__, FileNotFoundError):
            raise
        content = b""
    lines = content.split(b"\n")
    torn = lines.pop()
    entries, links = [], []
    for number, line in enumerate(lines, 1):
        sha256 = hashlib.sha256(line + b"\n").hexdigest()
        try:
            entry = Entry.model_validate_json(line)
        except ValidationError:
            links.append(Link(sha256, None, number))
        else:
            entries.append(entry)
            links.append(Link(sha256, entry.before, entry.line))
    found = faults(links, saved.lines, saved.sha256) if saved else faults(links, 0, BEGIN)
    return Checked(
        tuple(entries), HistoryHead(lines=len(lines), sha256=links[-1].sha256 if links else BEGIN),
        tuple(fault.words for fault in found), frozenset(line for fault in found for line in fault.lines), len(torn),
    )  # fmt: skip


class History:
    """The writing side: one process at a time (`Store` holds the lock)."""

    def __init__(self, path: Path, saved: HistoryHead | None = None) -> None:
        self.path = path
        self._saved = saved
        self._unread = False
        try:
            self._checked = read_history(path, saved)
        except StorageFailing as err:
            if saved is None:  # nobody else knows how far it went, nor what must never be forgotten
                raise
            self._checked = Checked((), saved, (f"cannot be read: {err}",))
            self._unread = True

    @property
    def head(self) -> HistoryHead:
        return self._checked.head

    @property
    def broken(self) -> tuple[str, ...]:
        return self._checked.broken

    @property
    def torn_bytes(self) -> int:
        return self._checked.torn_bytes

    @property
    def entries(self) -> tuple[Entry, ...]:
        return self._checked.entries

    def last(self, event: str) -> Entry | None:
        return next((entry for entry in reversed(self.entries) if entry.event == event), None)

    def read_again(self) -> None:
        """What the disk did not give at the start, if it does now; before anybody asks what is written already."""
        with contextlib.suppress(StorageFailing):  # still an alarm
            self._read()

    def _read(self) -> None:
        if self._unread:
            self._checked, self._unread = read_history(self.path, self._saved), False

    def append(self, entry: Entry) -> None:
        """On disk when it returns. Raises StorageFailing; then nothing of it counts."""
        self._read()
        head = self.head
        numbered = entry.model_copy(update={"line": head.lines + 1, "before": head.sha256})
        line = numbered.model_dump_json(exclude_defaults=False).encode() + b"\n"
        with translated(self.path):
            new = not self.path.exists()
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                end = os.fstat(handle).st_size - self._checked.torn_bytes
                try:
                    os.ftruncate(handle, end)  # half a line, from a power cut or a full disk
                    _write_all(handle, line, end)
                    os.fsync(handle)
                    if new:
                        sync_folder(self.path.parent)
                except OSError:
                    self._checked = replace(self._checked, torn_bytes=_torn_behind(handle, end))
                    raise
            finally:
                os.close(handle)
        grown = HistoryHead(lines=head.lines + 1, sha256=hashlib.sha256(line).hexdigest())
        self._checked = replace(self._checked, entries=(*self.entries, numbered), head=grown, torn_bytes=0)


def _write_all(handle: int, content: bytes, at: int) -> None:
    while content:
        written = os.pwrite(handle, content, at)
        content, at = content[written:], at + written


def _torn_behind(handle: int, end: int) -> int:
    """What of a line that failed lies in the file."""
    try:
        return max(0, os.fstat(handle).st_size - end)
    except OSError:
        return 0
