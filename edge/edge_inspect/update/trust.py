"""Whom this box believes about models: a TUF client (python-tuf's ngclient) over a store that survives power cuts.

1. Trust begins at one root file; newer roots are followed one by one, each signed by the one before and by itself.
2. Metadata reaches the disk by `write_durably` before anything relies on it: a version once seen is never undercut.
3. No clock before the newest signed time counts (`clock`); expired metadata is `metadata-expired`: nothing new is
   taken, and what runs goes on.
4. Whatever the repository serves ends as verified or as Untrusted or SourceGone with a stable code, never as a crash.

    trust = Trust(shelf.trust, root=root, metadata_url=url + "/metadata", targets_url=url + "/targets", source=source)
    trust.refresh()
    info = trust.target("metal-plate/channels/stable.json")

Of tuf (7.x, hence `tuf>=7,<8`) this relies on, beyond its public API: `Updater._persist_file(filename, data)` writes
every file, `_update_root_symlink()` ends the update of roots, `_trusted_set.root` and `_trusted_set.reference_time`.
ngclient itself writes without fsync and replaces root.json by removing it first. tests/edge/update/test_trust.py
fails if any of it changes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from tuf.api import exceptions as tuf_errors
from tuf.api.metadata import Metadata, Root, TargetFile, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.ngclient import FetcherInterface, Updater

from edge_inspect.durable import make_folder, write_durably
from edge_inspect.errors import SourceGone, StorageFailing, Untrusted
from edge_inspect.update.clock import Clock, ClockFloor, utc_now
from edge_inspect.update.transport import CHUNK_BYTES, HttpStatus, Source
from edge_wire.release import SIGNED_AT

ROOT_FILE = "root.json"
HISTORY = "root_history"
FLOOR_FILE = "clock-floor"
_CODES = {
    tuf_errors.ExpiredMetadataError: "metadata-expired",
    tuf_errors.BadVersionNumberError: "metadata-rollback",
    tuf_errors.UnsignedMetadataError: "metadata-unsigned",
    tuf_errors.LengthOrHashMismatchError: "metadata-digest",
    tuf_errors.DownloadLengthMismatchError: "metadata-too-large",
}


class Trust:
    """folder: where metadata lies; one writer at a time (`Shelf.hold`).

    root: the first root.json; None: the one that `folder` already has. built: a moment that has surely passed.
    Raises Untrusted (`root-missing`, `root-broken`), StorageFailing.
    """

    def __init__(
        self,
        folder: Path,
        *,
        root: bytes | None,
        metadata_url: str,
        targets_url: str,
        source: Source | FetcherInterface,
        built: datetime | None = None,
        clock: Clock = utc_now,
    ) -> None:
        self.folder = folder
        self._bootstrap = root
        self._metadata_url = metadata_url
        self._targets_url = targets_url.rstrip("/") + "/"
        self._fetcher = source if isinstance(source, FetcherInterface) else _Fetcher(source)
        self._floor = ClockFloor(folder / FLOOR_FILE, built=built, clock=clock)
        make_folder(folder / HISTORY)
        self._updater = self._begin()
        self._fresh = False

    def refresh(self) -> None:
        """Get the newest metadata. Raises Untrusted, SourceGone, StorageFailing; what is on disk stays trusted."""
        if self._fresh:  # an Updater refreshes once in its life
            self._updater = self._begin()
        self._fresh = True
        with _ours(self._metadata_url, self._fetcher):
            self._updater.refresh()
        self._note_time()

    def target(self, name: str) -> TargetFile:
        """Length and digests of a target. Raises Untrusted (`target-unknown`, ...), SourceGone, StorageFailing."""
        if not self._fresh:
            self.refresh()
        with _ours(self._metadata_url, self._fetcher):
            found = self._updater.get_targetinfo(name)
        if found is None:
            raise Untrusted("target-unknown", f"{self._metadata_url}: nobody signed a target {name[:200]!r}")
        return found

    def url_of(self, info: TargetFile) -> str:
        """Where its bytes are to be had; the path stands in the url as it was signed."""
        name = info.path
        if self._root().consistent_snapshot:
            folder, slash, file = name.rpartition("/")
            name = f"{folder}{slash}{next(iter(info.hashes.values()))}.{file}"
        return self._targets_url + name

    def now(self) -> datetime:
        return self._floor.now(self._timestamp_keys())

    def note_released(self, moment: datetime) -> None:
        """A verified rollout was released at this moment: it has passed. Raises Untrusted, StorageFailing."""
        if moment > self._timestamp().expires:
            raise Untrusted("rollout-in-future", f"released at {moment}, which the repository's own clock cannot know")
        self._floor.raise_to(moment, self._timestamp_keys())

    def chain(self) -> dict[str, str]:
        """All metadata by file name, so that somebody else can verify without us (`offline`)."""
        files = [*self.folder.glob("*.json"), *(self.folder / HISTORY).glob("*.root.json")]
        return {str(path.relative_to(self.folder)): path.read_text("utf-8") for path in files if path.name != ROOT_FILE}

    def _begin(self) -> _DurableUpdater:
        where = f"{self.folder}/{ROOT_FILE}" if self._bootstrap is None else "the given root.json"
        if self._bootstrap is None and not (self.folder / ROOT_FILE).exists():
            raise Untrusted(
                "root-missing", f"{where}: is not there; put the repository's root.json there, from a place you trust"
            )
        keys = self._timestamp_keys()
        try:
            return _DurableUpdater(
                self.folder, self._metadata_url, self._fetcher, self._bootstrap, self._floor.now(keys)
            )
        except tuf_errors.RepositoryError as err:
            raise Untrusted(
                "root-broken", f"{where}: cannot be trusted: {err}; put the repository's root.json there"
            ) from err

    def _note_time(self) -> None:
        """The timestamp is verified: what it says about its signing has passed, as far as it can be true."""
        timestamp = self._timestamp()
        said = timestamp.unrecognized_fields.get(SIGNED_AT)
        try:
            moment = datetime.fromisoformat(str(said).replace("Z", "+00:00"))
        except ValueError:
            return
        if moment.tzinfo is not None and moment <= timestamp.expires:
            self._floor.raise_to(moment, self._timestamp_keys())

    def _timestamp(self) -> Timestamp:
        with _ours(str(self.folder)):
            return Metadata[Timestamp].from_bytes((self.folder / "timestamp.json").read_bytes()).signed

    def _root(self) -> Root:
        with _ours(str(self.folder)):
            return Metadata[Root].from_bytes((self.folder / ROOT_FILE).read_bytes()).signed

    def _timestamp_keys(self) -> list[str]:
        """Who may sign the timestamp; nobody while there is no readable root (then `_begin` says so)."""
        try:
            return list(self._root().roles[Timestamp.type].keyids)
        except (StorageFailing, Untrusted):
            return []


class _DurableUpdater(Updater):
    """ngclient with files that survive power cuts and a clock that cannot go back. `now` must be aware UTC."""

    def __init__(
        self, folder: Path, url: str, fetcher: FetcherInterface, bootstrap: bytes | None, now: datetime
    ) -> None:
        super().__init__(str(folder), url, fetcher=fetcher, bootstrap=bootstrap)
        self._trusted_set.reference_time = now

    def _persist_file(self, filename: str, data: bytes) -> None:
        path = Path(filename)
        if not (path.is_file() and path.read_bytes() == data):
            write_durably(path, data)

    def _update_root_symlink(self) -> None:
        """root.json is a file: a copy of the newest trusted root. It never goes back to the one we began with."""
        current = Path(self._dir, HISTORY, f"{self._trusted_set.root.version}.root.json")
        root = Path(self._dir, ROOT_FILE)
        if self._begun or not root.is_file():
            self._persist_file(str(root), current.read_bytes())

    _begun = False

    def refresh(self) -> None:
        self._begun = True
        super().refresh()


class _Fetcher(FetcherInterface):
    """Gives ngclient metadata through our Source; lengths are bounded by ngclient, time by us."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.asked = ""
        """The last url."""

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """At most one byte more than `max_length` is ever held; the connection is closed before this returns."""
        self.asked, content = url, b""
        with contextlib.closing(self._fetch(url)) as chunks:
            for chunk in chunks:
                content += chunk[: max_length + 1 - len(content)]
                if len(content) > max_length:
                    raise tuf_errors.DownloadLengthMismatchError(f"{url}: more than {max_length} bytes")
        return content

    def _fetch(self, url: str) -> Generator[bytes, None, None]:
        until_s = time.monotonic() + self._source.limits.metadata_s
        try:
            with self._source.open(url, until_s=until_s) as answer:
                left = answer.body_bytes
                while chunk := answer.read(CHUNK_BYTES):
                    left = None if left is None else left - len(chunk)
                    yield chunk
                if left:
                    raise SourceGone("cut", f"{url}: ended {left} bytes early")
        except HttpStatus as err:
            raise tuf_errors.DownloadHTTPError(str(err), err.status) from err


class ChainFetcher(FetcherInterface):
    """Metadata out of `Trust.chain`, under the names that a repository serves it; nothing else exists."""

    def __init__(self, chain: Mapping[str, str]) -> None:
        self._chain = chain

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.rpartition("/")[2]
        version, dot, role = name.partition(".")
        plain = role if version.isdigit() and dot else name
        found = self._chain.get(f"{HISTORY}/{name}" if plain == ROOT_FILE else plain)
        if found is None:
            raise tuf_errors.DownloadHTTPError(f"{name}: not in the chain", 404)
        yield found.encode()


def check_bytes(info: TargetFile, content: bytes | BinaryIO) -> None:
    """Raises Untrusted (`target-digest`) unless it is exactly what was signed."""
    try:
        info.verify_length_and_hashes(content)
    except tuf_errors.LengthOrHashMismatchError as err:
        raise Untrusted("target-digest", f"{info.path[:200]}: {err}") from err


def key_of(info: TargetFile) -> str:
    """What its bytes are called on this box: a digest, whatever the target's own name is."""
    return info.hashes.get("sha256") or next(iter(info.hashes.values()))


@contextlib.contextmanager
def _ours(where: str, fetcher: FetcherInterface | None = None) -> Iterator[None]:
    """What tuf raises becomes Untrusted, SourceGone or StorageFailing."""
    try:
        yield
    except tuf_errors.DownloadHTTPError as err:
        if isinstance(cause := err.__cause__, HttpStatus):  # says where, too
            raise SourceGone(cause.code, str(cause).removesuffix(f" [{cause.code}]")) from err
        raise SourceGone(f"http-{err.status_code}", f"{where}: {err}") from err
    except DeserializationError as err:
        asked = getattr(fetcher, "asked", "") or where
        raise Untrusted("metadata-broken", f"{asked}: {' '.join(str(err).split())[:300]}") from err
    except (tuf_errors.RepositoryError, tuf_errors.DownloadLengthMismatchError) as err:
        code = next((code for kind, code in _CODES.items() if isinstance(err, kind)), "metadata-broken")
        raise Untrusted(code, f"{where}: {' '.join(str(err).split())[:300]}") from err
    except tuf_errors.DownloadError as err:
        raise SourceGone("unreachable", f"{where}: {err.__cause__ or err}") from err
    except OSError as err:
        raise StorageFailing(f"{where}: {err}") from err
