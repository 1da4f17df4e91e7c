"""What the line was told and the outbox may not have yet: kept where a kill of this process leaves it.

1. An entry is written before its verdict is told, as it will be told: a deadline that passed has made it UNKNOWN by
   then. Killed between the two, a part is reported of which the line heard nothing; it does not let such a part pass.
2. The outbox remembers, in the transaction that keeps a report, that the entry is put; only then is the entry cleared.
   Killed anywhere in between, a report is neither lost nor kept twice. What is OK is not written.
3. Writing is one copy into a mapped file, some microseconds. It waits for no disk where the file lies in memory
   (`told_places` says where); in `state_dir` it is the page cache that outlives the process, and a disk that stalls can
   hold a page up.
4. The page goes with the power: entries of another boot are not used. What was told in the last milliseconds before a
   power cut is lost with them.
5. Whatever is wrong with the file is one line in the log, never the end; an entry that is not whole was never told.
6. SLOTS entries, twice what waits for a disk at most: the oldest is written over, and counted if it was not put.

A slot: number, verdict's CLOCK_MONOTONIC and UTC (ns), part, the line's sequence number or -1, check sum of its
outline, kind, reason, check sum. A number is CLOCK_MONOTONIC, or one more than the last: it never comes twice in a
boot. An outline is the report of a camera's part as far as it is known beforehand, as JSON.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import stat
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, NamedTuple

import structlog

from edge_wire.fields import utc_from_ns
from edge_wire.messages import BadMessage, DefectReport, VerdictKind

log = structlog.get_logger(__name__)

FILE_NAME = "told"
SLOTS, SLOT_BYTES = 2048, 128
OUTLINES, OUTLINE_BYTES = 256, 2048
_MAGIC = b"edge-inspect told 1\n".ljust(24, b"\0")
_HEADER_BYTES = 4096
_OUTLINES_AT = _HEADER_BYTES
_SLOTS_AT = _OUTLINES_AT + OUTLINES * OUTLINE_BYTES
SIZE_BYTES = _SLOTS_AT + SLOTS * SLOT_BYTES
_SLOT = struct.Struct("=QQQQqIB40s")
_SUM = struct.Struct("=I")
_OUTLINE = struct.Struct("=II")
_EMPTY = bytes(SLOT_BYTES)
_KINDS: dict[str, int] = {"NG": 1, "UNKNOWN": 2}
_REPORTED: dict[int, Literal[VerdictKind.NG, VerdictKind.UNKNOWN]] = {1: VerdictKind.NG, 2: VerdictKind.UNKNOWN}
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

Key = tuple[str, int, int]
"""Camera, part and the verdict's CLOCK_MONOTONIC: what an entry and its report have in common."""


class Left(NamedTuple):
    """An entry of an earlier life that was not cleared."""

    number: int
    report: DefectReport


class NoJournal(Exception):
    """There is none, for a reason in one line."""


def read_boot() -> str:
    return BOOT_ID.read_text().strip()


class ToldJournal:
    """Any thread may `note`; the outbox's thread does the rest. Raises NoJournal.

    path: of the file. stays: it is kept even when it ends empty. device: whose entries count; others' are left out,
    counted in a line.
    """

    def __init__(
        self,
        path: Path,
        *,
        device: str,
        stays: bool = True,
        boot: Callable[[], str] = read_boot,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        utc_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.path = path
        self.overwritten = 0
        """Entries that were written over before their report was put."""
        self.left: list[Left] = []
        """What earlier lives told and may not have put, oldest first."""
        self._device = device
        self._stays = stays
        self._monotonic_ns = monotonic_ns
        self._utc_ns = utc_ns
        self._lock = threading.Lock()
        self._outlines: dict[str, int] = {}  # camera -> check sum of its outline
        self._numbers: dict[Key, int] = {}
        self._slots: dict[int, int] = {}  # number -> slot
        self._keys: list[tuple[Key, int] | None] = [None] * SLOTS
        self._last = self._next_slot = self._next_outline = 0
        try:
            self.boot = boot()
            self._handle, self._map = _open(self.path)
        except OSError as err:
            raise NoJournal(f"{self.path}: {err.strerror or err}") from err
        self._read()

    def close(self) -> None:
        """Nothing is noted any more. The file stays, or goes where nothing is left in it."""
        with self._lock:
            if not self._map.closed:
                if not self._stays and not self._slots:
                    with contextlib.suppress(OSError):
                        self.path.unlink()
                self._map.close()
                os.close(self._handle)

    def introduce(self, outline: DefectReport) -> None:
        """What is known of a camera's reports beforehand; again when more is known."""
        payload = outline.to_bytes()
        with self._lock:
            check = zlib.crc32(payload)
            if not self._has_outline(payload):
                if len(payload) > OUTLINE_BYTES - _OUTLINE.size:
                    raise ValueError(f"an outline of {len(payload)} bytes")
                at = _OUTLINES_AT + self._next_outline % OUTLINES * OUTLINE_BYTES
                block = _OUTLINE.pack(len(payload), check) + payload
                self._map[at : at + len(block)] = block
                self._next_outline += 1
            self._outlines[outline.camera] = check

    def note(self, camera: str, part: int, kind: str, reason: str, verdict_ns: int, sequence: int | None) -> None:
        """This is about to be told. Never waits; a camera that was not introduced is a KeyError."""
        code = _KINDS.get(kind)
        if code is None:
            return
        key = camera, part, verdict_ns
        with self._lock:
            if self._map.closed:
                return
            number = self._last = max(self._last + 1, self._monotonic_ns())
            slot, self._next_slot = self._next_slot, (self._next_slot + 1) % SLOTS
            if (before := self._keys[slot]) is not None:
                self.overwritten += 1
                self._forget(before[1])
            entry = _SLOT.pack(
                number, verdict_ns, self._utc_ns(), part, -1 if sequence is None else sequence,
                self._outlines[camera], code, reason.encode(),
            )  # fmt: skip
            at = _SLOTS_AT + slot * SLOT_BYTES
            self._map[at : at + _SLOT.size + _SUM.size] = entry + _SUM.pack(zlib.crc32(entry))
            self._remember(key, number, slot)

    def numbers(self, reports: Iterable[DefectReport]) -> list[int]:
        """Of the entries that these reports are told by."""
        with self._lock:
            found = (self._numbers.get(_key(report)) for report in reports)
            return [number for number in found if number is not None]

    def holds(self, number: int) -> bool:
        """The entry is not cleared yet."""
        return number in self._slots

    def clear(self, numbers: Iterable[int]) -> None:
        """Their reports are on disk."""
        with self._lock:
            for number in numbers:
                slot = self._slots.get(number)
                if slot is not None and not self._map.closed:
                    at = _SLOTS_AT + slot * SLOT_BYTES
                    self._map[at : at + SLOT_BYTES] = _EMPTY
                    self._forget(number)

    def _remember(self, key: Key, number: int, slot: int) -> None:
        self._numbers[key] = number
        self._slots[number] = slot
        self._keys[slot] = (key, number)

    def _forget(self, number: int) -> None:
        slot = self._slots.pop(number)
        entry = self._keys[slot]
        assert entry is not None
        if self._numbers.get(entry[0]) == number:
            del self._numbers[entry[0]]
        self._keys[slot] = None

    # What an earlier life has left

    def _read(self) -> None:
        head = _head(self.boot)
        found = self._map[: len(head)]
        if found != head:
            if found.startswith(_MAGIC):
                log.info("told.earlier_boot", path=str(self.path), entries=self._entries_there())
            elif found.strip(b"\0"):
                log.warning("told.not_ours", path=str(self.path), why="the file is something else; it begins anew")
            self._map[:] = bytes(SIZE_BYTES)
            self._map[: len(head)] = head
            return
        outlines = self._read_outlines()
        strange = 0
        for slot in range(SLOTS):
            at = _SLOTS_AT + slot * SLOT_BYTES
            block = self._map[at : at + SLOT_BYTES]
            if block == _EMPTY:
                continue
            left = _entry(block, outlines)
            if left is None or left.report.device != self._device:
                strange += 1
                self._map[at : at + SLOT_BYTES] = _EMPTY
                continue
            self.left.append(left)
            self._remember(_key(left.report), left.number, slot)
            if left.number > self._last:
                self._last, self._next_slot = left.number, (slot + 1) % SLOTS
        self.left.sort()
        if strange:
            log.warning("told.not_whole", path=str(self.path), entries=strange, why="not whole, or of another device")

    def _entries_there(self) -> int:
        slots = range(_SLOTS_AT, SIZE_BYTES, SLOT_BYTES)
        return sum(self._map[at : at + SLOT_BYTES] != _EMPTY for at in slots)

    def _has_outline(self, payload: bytes) -> bool:
        block = _OUTLINE.pack(len(payload), zlib.crc32(payload)) + payload
        starts = range(_OUTLINES_AT, _SLOTS_AT, OUTLINE_BYTES)
        return any(self._map[at : at + len(block)] == block for at in starts)

    def _read_outlines(self) -> dict[int, DefectReport]:
        """By their check sums; the next one is written where there is none, or over the first."""
        found, free = {}, []
        for number in range(OUTLINES):
            at = _OUTLINES_AT + number * OUTLINE_BYTES
            size, check = _OUTLINE.unpack_from(self._map, at)
            payload = self._map[at + _OUTLINE.size : at + OUTLINE_BYTES][:size]
            if size and zlib.crc32(payload) == check:
                try:
                    found[check] = DefectReport.from_bytes(payload)
                except BadMessage:
                    free.append(number)  # of another version of this program
            else:
                free.append(number)
        self._next_outline = free[0] if free else 0
        return found


def holds_entries(path: Path, boot: Callable[[], str] = read_boot) -> bool:
    """Whether an earlier life of this boot has left something there; False for what cannot be read."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            _check_ours(handle, path)
            found = file.read(SIZE_BYTES)
        return found.startswith(_head(boot())) and any(found[_SLOTS_AT:])
    except OSError:
        return False


def _head(boot: str) -> bytes:
    return _MAGIC + boot.encode()[:64].ljust(64, b"\0")


def _key(report: DefectReport) -> Key:
    return report.camera, report.part.number, report.verdict_ns


def _entry(block: bytes, outlines: dict[int, DefectReport]) -> Left | None:
    """None for what is not whole, or of a camera of which nothing is known."""
    entry = block[: _SLOT.size]
    if zlib.crc32(entry) != _SUM.unpack_from(block, _SLOT.size)[0]:
        return None
    number, verdict_ns, utc_ns, part, sequence, check, code, reason = _SLOT.unpack(entry)
    outline = outlines.get(check)
    if outline is None or code not in _REPORTED:
        return None
    said = outline.part.model_copy(update={"number": part, "sequence": None if sequence < 0 else sequence})
    changed = {
        "part": said,
        "verdict": _REPORTED[code],
        "reason": reason.rstrip(b"\0").decode(errors="replace"),
        "verdict_ns": verdict_ns,
        "verdict_utc": utc_from_ns(utc_ns),
        "recovered": True,
    }
    try:  # nothing that is read here is believed
        return Left(number, DefectReport.from_bytes(outline.model_copy(update=changed).to_bytes()))
    except (BadMessage, ValueError, OverflowError):
        return None


def _open(path: Path) -> tuple[int, mmap.mmap]:
    """The file, ours alone, with all of its blocks on disk. Raises OSError."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _check_ours(handle, path)  # now: whoever had it may just have removed it
        if os.fstat(handle).st_size != SIZE_BYTES:
            os.ftruncate(handle, 0)
        os.posix_fallocate(handle, 0, SIZE_BYTES)  # a hole on a full disk would be a SIGBUS
        return handle, mmap.mmap(handle, SIZE_BYTES, flags=mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0))
    except BaseException:
        os.close(handle)
        raise


def _check_ours(handle: int, path: Path) -> None:
    """A folder may be everybody's: what lies there under our name must be ours alone. Raises OSError."""
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode):
        raise OSError("is not a file")
    if found.st_uid not in (os.geteuid(), path.parent.stat().st_uid):
        raise OSError("belongs to somebody else")
    if found.st_nlink != 1 or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise OSError("is not ours alone")
