"""Files that are either what they were or what they shall be, whatever happens in between.

1. A written file appears under its name whole and on disk: temporary file, fsync, rename, fsync of the folder.
2. What a kill leaves behind is a file whose name ends in `.tmp`; nobody reads one, and `sweep` removes them.
3. Errors of the disk are StorageFailing (NoSpace when it is full); the file under its name is then the old one.

    write_durably(folder / "state.json", content)
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

from edge_inspect.errors import NoSpace, StorageFailing

TEMPORARY = ".tmp"
MORE_TRIES = 2
TRY_AGAIN_S = 0.2
"""What a start cannot do without is read again so often before it is given up."""
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


def write_durably(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Replace the file at `path` by `content`. Raises StorageFailing, NoSpace."""
    fresh = path.with_name(path.name + TEMPORARY)
    with translated(path):
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode), "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        fresh.rename(path)
        sync_folder(path.parent)


def read_patiently(path: Path) -> bytes:
    """The whole file; asked for again where the disk does not give it. Raises OSError; FileNotFoundError at once."""
    for _ in range(MORE_TRIES):
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise
        except OSError:
            time.sleep(TRY_AGAIN_S)
    return path.read_bytes()


def move_durably(old: Path, new: Path) -> None:
    """Give what lies synced at `old` its name; both folders on disk. Raises StorageFailing."""
    with translated(new):
        old.rename(new)
        sync_folder(new.parent)
        if old.parent != new.parent:
            sync_folder(old.parent)


def make_folder(folder: Path, mode: int = 0o755) -> None:
    """The folder and those above it, on disk. Raises StorageFailing."""
    with translated(folder):
        if folder.is_dir():
            return
        make_folder(folder.parent, mode)
        folder.mkdir(mode=mode, exist_ok=True)
        sync_folder(folder.parent)


def remove_durably(path: Path) -> None:
    """Gone, also after a power cut; what is not there is gone already. Raises StorageFailing."""
    with translated(path):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
            sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Names in it that were made, changed or removed are on disk. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """What was written into it is on disk. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep(folder: Path) -> None:
    """Remove what a kill in `write_durably` left in this folder. Raises StorageFailing."""
    with translated(folder):
        for left in folder.glob(f"*{TEMPORARY}"):
            if left.is_file():
                left.unlink()


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Errors of the operating system become ours, with the file's name."""
    try:
        yield
    except OSError as err:
        kind = NoSpace if err.errno in _NO_ROOM else StorageFailing
        raise kind(f"{path}: {err.strerror or err} [{kind.code}]") from err
