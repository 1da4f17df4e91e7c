"""Where a repository lies: a folder, or any URL that fsspec knows.

1. `write` and `copy_in` are all or nothing in a folder: temporary file, fsync, rename, fsync of the folder. On an
   object store they are as atomic as its put; nothing that readers can find refers to a file before it is whole.
2. `copy_in` checks size and SHA-256 on the way; other bytes than announced never get a name.
3. One writer at a time: `lock` is refused at once, with who holds it. In a folder a writer that died holds nothing;
   elsewhere its lock file stays until somebody breaks it.
4. Full disks, missing rights and lost networks are `StoreGone`, one line.

    store = open_store("/srv/models")
    store.write("metadata/timestamp.json", content)
"""

from __future__ import annotations

import errno
import fcntl
import getpass
import hashlib
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from io import FileIO
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import urlsplit

from cloud_inspect.errors import BadRelease, StoreGone

LOCK, PART = ".lock", ".part"
CHUNK_BYTES = 1 << 20
MOST_SMALL_BYTES = 16 << 20
"""Largest file that is read whole: metadata and rollouts."""


class Progress:
    """Told of bytes on their way; this one shows them to nobody."""

    def expect(self, total_bytes: int) -> None:
        """So many bytes in all."""

    def advance(self, name: str, more_bytes: int) -> None:
        """So many more of them, in file `name`."""


QUIET = Progress()


class Store(Protocol):
    url: str

    def open(self, name: str) -> IO[bytes]:
        """For reading. Raises FileNotFoundError, StoreGone."""

    def names(self, folder: str) -> list[str]:
        """Every file below `folder`, as names that the other methods take."""

    def write(self, name: str, content: bytes) -> None: ...

    def copy_in(self, name: str, source: IO[bytes], length: int, sha256: str, progress: Progress = QUIET) -> None: ...

    def remove(self, name: str) -> None:
        """Gone afterwards, also when it was not there."""

    def lock(self) -> Any:
        """A context manager. Raises StoreGone (`locked`)."""

    def break_lock(self) -> None: ...


def open_store(url: str) -> Store:
    """Raises BadRelease for a URL that nothing here can open."""
    scheme = urlsplit(url).scheme
    if len(scheme) < 2:
        return Folder(Path(url))
    if scheme == "file":
        return Folder(Path(urlsplit(url).path))
    from cloud_inspect.release.remote import Remote

    return Remote(url)


def read(store: Store, name: str) -> bytes | None:
    """A small file whole; None where there is none."""
    try:
        with store.open(name) as file, world(f"{store.url}/{name}"):
            content = file.read(MOST_SMALL_BYTES + 1)
    except FileNotFoundError:
        return None
    if len(content) > MOST_SMALL_BYTES:
        raise BadRelease("too-large", f"{store.url}/{name}: more than {MOST_SMALL_BYTES} bytes, no metadata is")
    return content


def holds(store: Store, name: str, length: int, sha256: str) -> bool:
    """Whether the file is there with just these bytes; it is read and hashed."""
    try:
        with store.open(name) as file, world(f"{store.url}/{name}"):
            return measure(file) == (length, sha256)
    except FileNotFoundError:
        return False


def measure(file: IO[bytes]) -> tuple[int, str]:
    """Length and SHA-256 of what is left to read."""
    length, digest = 0, hashlib.sha256()
    while chunk := file.read(CHUNK_BYTES):
        length += len(chunk)
        digest.update(chunk)
    return length, digest.hexdigest()


class Folder:
    """On this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = str(path)

    def open(self, name: str) -> IO[bytes]:
        with world(self.path / name):
            return (self.path / name).open("rb")

    def names(self, folder: str) -> list[str]:
        with world(self.path / folder):
            return sorted(
                str(one.relative_to(self.path))
                for one in (self.path / folder).rglob("*")
                if one.is_file() and not one.name.startswith(".")
            )

    def write(self, name: str, content: bytes) -> None:
        with self._appearing(name) as file:
            file.write(content)

    def copy_in(self, name: str, source: IO[bytes], length: int, sha256: str, progress: Progress = QUIET) -> None:
        with self._appearing(name) as file:
            copy_checked(source, file, name, length, sha256, progress)

    def remove(self, name: str) -> None:
        with world(self.path / name):
            (self.path / name).unlink(missing_ok=True)
            for folder in (self.path / name).parents:
                if folder == self.path:
                    break
                with suppress(OSError):
                    folder.rmdir()

    @contextmanager
    def lock(self) -> Iterator[None]:
        path = self.path / LOCK
        with world(path):
            make_folder(self.path)
            file = path.open("a+b", buffering=0)
        with file:
            with world(path):
                self._take(file)
                self._sweep()
            yield

    def _take(self, file: FileIO) -> None:
        """Unbuffered: what a full disk does not take must not come back when the file is closed."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            file.seek(0)
            holder = holder_of(file.read(4096).decode(errors="replace"))
            raise StoreGone("locked", f"{self.url}: {holder} is writing; try again") from err
        file.truncate(0)
        file.write(who().encode())

    def break_lock(self) -> None:
        """Nothing to do: the kernel takes it from whoever died."""

    def _sweep(self) -> None:
        """Beginnings of files that a killed writer left; nobody else writes while we hold the lock."""
        for folder in ("metadata", "targets"):
            for left in (self.path / folder).rglob(f".*{PART}"):
                with suppress(OSError):
                    left.unlink()

    @contextmanager
    def _appearing(self, name: str) -> Iterator[IO[bytes]]:
        path = self.path / name
        temporary = path.parent / f".{path.name[-80:]}.{os.getpid()}{PART}"
        with world(path):
            make_folder(path.parent)
            try:
                with temporary.open("wb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                temporary.rename(path)
            except BaseException:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)
                raise
            sync_folder(path.parent)


def copy_checked(source: IO[bytes], file: IO[bytes], name: str, length: int, sha256: str, progress: Progress) -> None:
    digest, done = hashlib.sha256(), 0
    while chunk := source.read(CHUNK_BYTES):
        file.write(chunk)
        digest.update(chunk)
        done += len(chunk)
        progress.advance(name, len(chunk))
    if (done, digest.hexdigest()) != (length, sha256):
        found = f"{done} bytes, not {length}" if done != length else "as many, but others"
        raise BadRelease("bytes-changed", f"{name}: not the bytes that were signed: {found}")


def make_folder(path: Path, mode: int = 0o777) -> None:
    """With those above it. Raises StoreGone; also where none can be made at all, as in /proc."""
    with world(path):
        try:
            path.mkdir(mode, parents=True, exist_ok=True)
        except FileNotFoundError as err:
            raise StoreGone("store-gone", f"{path}: no folder can be made there: {err.strerror}") from err
        except (FileExistsError, NotADirectoryError) as err:
            raise StoreGone("store-gone", f"{path}: no folder can be made there: a file is in its place") from err


def sync_folder(path: Path) -> None:
    """What was made, renamed or removed in it outlives a power cut."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def who() -> str:
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return json.dumps({"user": _user(), "host": socket.gethostname(), "pid": os.getpid(), "since": now})


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        return str(os.getuid())


def holder_of(text: str) -> str:
    try:
        who = json.loads(text)
        return f"{who['user']} on {who['host']} (process {who['pid']}, since {who['since']})"
    except (ValueError, KeyError, TypeError):
        return "somebody else"


_CODES = {
    errno.ENOSPC: "disk-full", errno.EDQUOT: "disk-full", errno.EROFS: "read-only",
    errno.EACCES: "no-rights", errno.EPERM: "no-rights",
}  # fmt: skip


@contextmanager
def world(where: object) -> Iterator[None]:
    """What the machine or the network does to us, as one line. A missing file stays FileNotFoundError."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as err:
        raise StoreGone(
            _CODES.get(err.errno or 0, "store-gone"), f"{where}: {err.strerror or first_line(err)}"
        ) from err


def first_line(err: BaseException) -> str:
    return (str(err).splitlines() or [type(err).__name__])[0]
