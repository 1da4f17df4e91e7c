"""A repository wherever fsspec goes: object stores, memory, archives (to be read).

1. As atomic as the place's own put; the lock is a file that is made only where there is none.
2. Whatever a file system of fsspec raises is `StoreGone`, one line: they share no base class. A missing file stays
   FileNotFoundError.

    store = Remote("s3://models/plant1")
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader, RawIOBase
from typing import IO, Any, cast

from cloud_inspect.errors import BadRelease, CloudError, StoreGone
from cloud_inspect.release.store import LOCK, QUIET, Progress, copy_checked, first_line, holder_of, read, who, world


class Remote:
    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url
        try:
            self._fs, self._base = fsspec.core.url_to_fs(url)
        except Exception as err:  # an unknown scheme, a missing package or archive, wrong options
            raise BadRelease("store-unknown", f"{url}: {first_line(err)}") from err

    def open(self, name: str) -> IO[bytes]:
        with _far(f"{self.url}/{name}"):
            return cast(
                "IO[bytes]", BufferedReader(_FarFile(self._fs.open(self._at(name), "rb"), f"{self.url}/{name}"))
            )

    def names(self, folder: str) -> list[str]:
        with _far(f"{self.url}/{folder}"):
            self._fs.invalidate_cache()
            try:
                found = self._fs.find(self._at(folder))
            except FileNotFoundError:
                return []
        start = len(self._at("")) if self._base.rstrip("/") else 0
        return sorted(one[start:].lstrip("/") for one in found)

    def write(self, name: str, content: bytes) -> None:
        with _far(f"{self.url}/{name}"):
            self._make_room_for(name)
            self._fs.pipe_file(self._at(name), content)

    def copy_in(self, name: str, source: IO[bytes], length: int, sha256: str, progress: Progress = QUIET) -> None:
        with _far(f"{self.url}/{name}"):
            self._make_room_for(name)
            try:
                with self._fs.open(self._at(name), "wb") as file:
                    copy_checked(source, file, name, length, sha256, progress)
            except BaseException:
                self.remove(name)  # a file object of fsspec keeps what it has when it is closed by an error
                raise

    def remove(self, name: str) -> None:
        with _far(f"{self.url}/{name}"), suppress(FileNotFoundError):
            self._fs.rm_file(self._at(name))

    @contextmanager
    def lock(self) -> Iterator[None]:
        with _far(f"{self.url}/{LOCK}"):
            self._make_room_for(LOCK)
            try:
                self._fs.pipe_file(self._at(LOCK), who().encode(), mode="create")
            except FileExistsError as err:
                holder = holder_of((read(self, LOCK) or b"").decode(errors="replace"))
                raise StoreGone(
                    "locked", f"{self.url}: {holder} is writing; if that is over for sure: --break-lock"
                ) from err
        try:
            yield
        finally:
            self.remove(LOCK)

    def break_lock(self) -> None:
        self.remove(LOCK)

    def _at(self, name: str) -> str:
        return f"{self._base.rstrip('/')}/{name}"

    def _make_room_for(self, name: str) -> None:
        self._fs.makedirs(self._at(name).rpartition("/")[0], exist_ok=True)


class _FarFile(RawIOBase):
    """A file object of fsspec, to be read; what goes wrong on the way is StoreGone."""

    def __init__(self, file: IO[bytes], where: str) -> None:
        self._file, self._where = file, where

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with _far(self._where):
            chunk = self._file.read(len(buffer))
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def close(self) -> None:
        self._file.close()
        super().close()


@contextmanager
def _far(where: object) -> Iterator[None]:
    """`world`, and whatever else fsspec's file systems raise: theirs share no base class."""
    with world(where):
        try:
            yield
        except (OSError, CloudError):
            raise
        except Exception as err:
            raise StoreGone("store-gone", f"{where}: {type(err).__name__}: {first_line(err)}") from err
