"""The folder of models on this box: what is being fetched, what is verified, what is whole.

    staging/<key>.part    on its way (`download`)
    blobs/<key>           verified, read-only; the key is a digest, never a name that somebody else chose
    packages/<digest>/    a whole package, its files linked from blobs: it appears by one rename
    offers/               what the updater may take (`offers`)
    trust/                signed metadata (`trust`)

1. What lies under its final name is whole, verified and on disk.
2. One writer at a time (`hold`); readers need no lock.
3. Nothing is fetched for which there is no room: `insist_on_room` asks before the first byte.
4. `discard` keeps what it is told to keep, and whatever it does not know.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import structlog

from edge_inspect.durable import TEMPORARY, make_folder, move_durably, sync_file, sync_folder, translated
from edge_inspect.errors import BadModel, Busy, NoSpace, StorageFailing, Untrusted
from edge_inspect.update.download import parts_of

log = structlog.get_logger()

PART_SUFFIX = ".part"
READ_ONLY = 0o444
SLACK_BYTES = 1 << 20
"""For folders, metadata and what a file system rounds up."""
_GOING = ".gone" + TEMPORARY
_KEY = re.compile(r"^[0-9a-f]{32,128}$")
_CANNOT_LINK = {errno.EPERM, errno.EMLINK, errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS}


class Shelf:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trust = folder / "trust"
        self.staging = folder / "staging"
        self.blobs = folder / "blobs"
        self.packages = folder / "packages"
        self.offers = folder / "offers"

    @contextlib.contextmanager
    def hold(self, *, wait_s: float = 10.0) -> Iterator[None]:
        """Be the only writer. Raises Busy if somebody else is for longer than `wait_s`."""
        for place in (self.trust, self.staging, self.blobs, self.packages, self.offers):
            make_folder(place)
        path = self.folder / "lock"
        with translated(path):
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            _lock(lock, path, time.monotonic() + wait_s)
            yield
        finally:
            os.close(lock)

    def part(self, key: str) -> Path:
        return self.staging / (_checked(key) + PART_SUFFIX)

    def blob(self, key: str) -> Path:
        return self.blobs / _checked(key)

    def package(self, digest: str) -> Path:
        """Where the package of this manifest digest (`sha256:...` or its hex) lies once it is whole."""
        return self.packages / _checked(digest.removeprefix("sha256:"))

    def has(self, key: str, check: Callable[[BinaryIO], None]) -> bool:
        """A blob that is there and right. One that is wrong (bit rot) goes."""
        blob = self.blob(key)
        try:
            with translated(blob), blob.open("rb") as stream:
                check(stream)
        except Untrusted:
            blob.unlink(missing_ok=True)
            return False
        except StorageFailing as err:
            if isinstance(err.__cause__, FileNotFoundError):
                return False
            raise
        return True

    def accept(self, key: str) -> Path:
        """A verified part becomes a blob. Raises StorageFailing."""
        part, blob = self.part(key), self.blob(key)
        with translated(part):
            part.chmod(READ_ONLY)
            sync_file(part)
        move_durably(part, blob)
        return blob

    def insist_on_room(self, more_bytes: int, min_free_bytes: int) -> None:
        """Raises NoSpace unless `min_free_bytes` stay free after `more_bytes` were written."""
        with translated(self.folder):
            disk = os.statvfs(self.folder)
        free = disk.f_bavail * disk.f_frsize
        if free < more_bytes + SLACK_BYTES + min_free_bytes:
            raise NoSpace(
                f"{self.folder}: {free >> 20} MiB free, needs {(more_bytes + SLACK_BYTES) >> 20} MiB and "
                f"{min_free_bytes >> 20} MiB that stay free for others [{NoSpace.code}]"
            )

    def assemble(self, digest: str, files: Mapping[str, str], check: Callable[[Path], None]) -> Path:
        """Make the package folder out of blobs.

        files: key of the blob by name in the package. check: looks at the folder before anybody else can see it, and
        raises what is wrong with it.
        """
        final = self.package(digest)
        if final.is_dir():
            try:
                check(final)
                return final
            except BadModel:
                log.warning("a package on the disk is damaged and is made anew", package=final.name)
        fresh = final.with_name(final.name + TEMPORARY)
        with translated(fresh):
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir()
            for name, key in files.items():
                _link(self.blob(key), fresh / name)
            for place in {(fresh / name).parent for name in files} | {fresh}:
                sync_folder(place)
        try:
            check(fresh)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        with translated(final):
            if final.is_dir():
                _remove(final)
        move_durably(fresh, final)
        return final

    def discard(self, *, packages: Collection[str], keys: Collection[str]) -> list[str]:
        """Remove packages whose hex digest is not in `packages`, and parts and blobs whose key is not in `keys`.

        Blobs of packages that stay need not be kept: their files are links of their own. Returns what went.
        """
        parts = {name for key in keys for name in parts_of(key + PART_SUFFIX)}
        unwanted = [
            *(p for p in _entries(self.packages) if p.name not in packages and _is_package(p.name)),
            *(b for b in _entries(self.blobs) if b.name not in keys and _KEY.match(b.name.removesuffix(TEMPORARY))),
            *(s for s in _entries(self.staging) if s.name not in parts and _KEY.match(s.name.partition(".")[0])),
        ]
        for path in unwanted:
            with translated(path):
                _remove(path)
        for place in {path.parent for path in unwanted}:
            with translated(place):
                sync_folder(place)
        return [f"{path.parent.name}/{path.name}" for path in unwanted]


def _checked(key: str) -> str:
    if not _KEY.match(key):
        raise Untrusted("target-digest", f"{key[:80]!r} is no digest, allowed: 32 to 128 hex digits in lower case")
    return key


def _is_package(name: str) -> bool:
    return bool(_KEY.match(name.partition(".")[0]))


def _entries(folder: Path) -> list[Path]:
    with translated(folder):
        return sorted(folder.iterdir()) if folder.is_dir() else []


def _lock(lock: int, path: Path, until_s: float) -> None:
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as err:
            if time.monotonic() >= until_s:
                raise Busy(
                    f"{path}: another process is fetching into this folder; try again later [{Busy.code}]"
                ) from err
        time.sleep(0.1)


def _link(blob: Path, name: Path) -> None:
    """Another name for the same bytes; a copy where the file system has no such thing."""
    name.parent.mkdir(exist_ok=True)
    try:
        name.hardlink_to(blob)
    except OSError as err:
        if err.errno not in _CANNOT_LINK:
            raise
        shutil.copyfile(blob, name)
        name.chmod(READ_ONLY)
        sync_file(name)


def _remove(path: Path) -> None:
    """A package vanishes by a rename first: half of one is never seen under its name."""
    if not stat.S_ISDIR(path.lstat().st_mode):
        path.unlink()
        return
    if not path.name.endswith(_GOING):
        shutil.rmtree(path.with_name(path.name + _GOING), ignore_errors=True)
        path = path.rename(path.with_name(path.name + _GOING))
    shutil.rmtree(path)
