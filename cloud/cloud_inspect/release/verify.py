"""The whole repository, looked at as a device would that has just been given its root.

python-tuf's own client does the reading; every target of every product is hashed. Each trouble is a line with a code,
and looking goes on, so that one broken file does not hide another.

    verified = verify(store, root)
    verified.troubles              # () when all is well
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tuf.api.exceptions import DownloadError, DownloadHTTPError, ExpiredMetadataError, RepositoryError
from tuf.api.metadata import TargetFile
from tuf.ngclient import FetcherInterface, Updater

from cloud_inspect.errors import BadRelease, StoreGone
from cloud_inspect.release.layout import ROOT, metadata_file, target_file
from cloud_inspect.release.repository import State, load
from cloud_inspect.release.staging import rollouts
from cloud_inspect.release.store import CHUNK_BYTES, QUIET, Progress, Store, measure, read, world

_BASE = "store://"


@dataclass(frozen=True)
class Verified:
    products: tuple[str, ...]
    versions: dict[str, int]
    files: int
    bytes: int
    """Of files whose length and hash were right."""
    troubles: tuple[str, ...]


def verify(store: Store, root: bytes | None = None, progress: Progress = QUIET) -> Verified:
    """`root`: what devices were given; the repository's own first root where it is left out.

    Raises StoreGone, and BadRelease when it is no repository or its metadata cannot be trusted at all.
    """
    trusted = root or read(store, metadata_file(ROOT, 1))
    state = load(store, trusted)
    troubles: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        client = Updater(str(Path(folder)), f"{_BASE}metadata/", fetcher=StoreFetcher(store), bootstrap=trusted)
        try:
            client.refresh()
        except (RepositoryError, DownloadError) as err:
            troubles.append(_line("metadata", err))
            return Verified(state.products, _versions(state), 0, 0, tuple(troubles))
        wanted = [(product, info) for product in state.products for info in state.product(product).targets.values()]
        progress.expect(sum(info.length for _, info in wanted))
        right = [info for _, info in wanted if _is_right(client, store, info, troubles, progress)]
    for product in state.products:
        try:
            rollouts(product, state.product(product), store)
        except (BadRelease, StoreGone) as err:
            troubles.append(str(err))
    return Verified(
        state.products, _versions(state), len(right), sum(one.length for one in right), tuple(dict.fromkeys(troubles))
    )


class StoreFetcher(FetcherInterface):
    """python-tuf's client reads a store as it would read a server."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def _fetch(self, url: str) -> Iterator[bytes]:
        try:
            file = self._store.open(url.removeprefix(_BASE))
        except FileNotFoundError as err:
            raise DownloadHTTPError(f"{url}: is not there", 404) from err
        return _chunks(file, url)


def _chunks(file: IO[bytes], url: str) -> Iterator[bytes]:
    with file:
        try:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
        except OSError as err:
            raise DownloadError(f"{url}: {err.strerror or err}") from err


def _is_right(client: Updater, store: Store, info: TargetFile, troubles: list[str], progress: Progress) -> bool:
    name = target_file(info)
    progress.advance(info.path, 0)
    try:
        found = client.get_targetinfo(info.path)
        if found != info:
            troubles.append(f"{info.path}: a client finds other bytes signed for it [target-hidden]")
            return False
        with store.open(name) as file, world(f"{store.url}/{name}"):
            length, sha256 = measure(file)
    except FileNotFoundError:
        troubles.append(f"{store.url}/{name}: is signed and not there [target-missing]")
        return False
    except StoreGone as err:
        troubles.append(str(err))
        return False
    except (RepositoryError, DownloadError) as err:
        troubles.append(_line(info.path, err))
        return False
    finally:
        progress.advance(info.path, info.length)
    if (length, sha256) != (info.length, info.hashes["sha256"]):
        troubles.append(f"{store.url}/{name}: {length} bytes, not those that were signed [target-changed]")
        return False
    return True


def _versions(state: State) -> dict[str, int]:
    return {role: metadata.signed.version for role, metadata in state.roles.items()}


def _line(what: str, err: Exception) -> str:
    code = "expired" if isinstance(err, ExpiredMetadataError) else "metadata-refused"
    return f"{what}: {(str(err).splitlines() or [''])[0]} [{code}]"
