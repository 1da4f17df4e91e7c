"""FETCH: look at the repository once; if there is a rollout for this box, bring its package here and offer it.

1. The order: metadata, rollout, is it for us, is it newer, manifest, sizes and room, files, package, offer. Nothing is
   offered before all of it is verified and whole on disk; a look that ends early leaves what it has for the next one.
2. A rollout that is older than one already seen is refused; one for others is left alone, unless it revokes what is in
   use here; the files of a refused or revoked digest are not fetched, but the offer tells what must not run any more.
3. What is in use (active, previous, candidate) is never removed; as long as nobody says what is in use, nothing is.
   It is asked right before anything is removed: a download may take hours, and the daemon goes on meanwhile.
4. Without a network the same from a folder: `import_from`.

    offer = fetch_once(settings, stop)          # None: nothing for this box
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path

import structlog
from tuf.api.metadata import TargetFile

from edge_inspect.config_update import UpdateConfig
from edge_inspect.durable import translated
from edge_inspect.errors import BadConfig, BadModel, Untrusted
from edge_inspect.inference.package import find_model, parse_manifest
from edge_inspect.update.changes import Changes
from edge_inspect.update.clock import Clock, utc_now
from edge_inspect.update.known import Known, read_known
from edge_inspect.update.offers import Offer, read_offer, write_offer
from edge_inspect.update.offline import loaded
from edge_inspect.update.released import files_of, manifest_of, manifest_target, rollout_of, rollout_target
from edge_inspect.update.shelf import Shelf
from edge_inspect.update.state_file import STATE_NAME
from edge_inspect.update.store import FOLDER
from edge_inspect.update.take import Taker
from edge_inspect.update.transport import FetchLimits, Source
from edge_inspect.update.trust import Trust, key_of
from edge_wire.manifest import MANIFEST_NAME
from edge_wire.release import Rollout

log = structlog.get_logger()

MOST_ROOT_BYTES = 512_000


@dataclass(frozen=True, slots=True)
class FetchSettings:
    """root: the first root.json; None: the one in models_dir/trust. url: where `metadata/` and `targets/` lie below."""

    models_dir: Path
    product: str
    channel: str
    site: str
    line: str
    device: str
    url: str
    root: bytes | None
    ca: Path | None = None
    limits: FetchLimits = field(default_factory=FetchLimits)
    known: Callable[[], Known] = Known
    built: datetime | None = None
    """A moment that has surely passed."""
    clock: Clock = utc_now
    progress: Callable[[int, int], None] = lambda done, total: None
    """Told (bytes there, bytes in all) of the package."""
    alive: Callable[[], None] = lambda: None
    """Called at each piece that comes and each file that is asked for: whoever fetches is not hanging."""
    changes: Changes = field(default_factory=Changes)
    """What was logged at the looks before."""

    @classmethod
    def of(cls, config: UpdateConfig, *, site: str, line: str, device: str, state_dir: Path) -> FetchSettings:
        """From the configuration; what the daemon knows is read from its state file. Raises BadConfig."""
        limits = FetchLimits(
            rate_bytes_per_s=config.rate_bytes_per_s or 0, deadline_s=config.deadline_s, cap_bytes=config.cap_bytes,
            min_free_bytes=config.keep_free_bytes,
        )  # fmt: skip
        state_file, changes = state_dir / FOLDER / STATE_NAME, Changes()
        return cls(
            models_dir=config.models_dir or state_dir / "models", product=config.product, channel=config.channel,
            site=site, line=line, device=device, url=config.url or "", root=read_root(config.root), ca=config.ca,
            limits=limits, known=lambda: read_known(state_file, config.product, config.channel, changes),
            built=_built(), changes=changes,
        )  # fmt: skip


def _built() -> datetime | None:
    """When the shipped model was made: a moment that has surely passed."""
    try:
        manifest = find_model() / MANIFEST_NAME
        return parse_manifest(manifest.read_bytes(), manifest).created
    except (BadModel, OSError):
        return None


def read_root(path: Path) -> bytes:
    """The root.json that trust begins with. Raises BadConfig."""
    try:
        with path.open("rb") as stream:
            content = stream.read(MOST_ROOT_BYTES + 1)
    except OSError as err:
        raise BadConfig(f"{path}: cannot be read: {err.strerror}; allowed: the repository's root.json") from err
    if len(content) > MOST_ROOT_BYTES:
        raise BadConfig(f"{path}: more than {MOST_ROOT_BYTES} bytes, allowed: the repository's root.json")
    return content


def fetch_once(settings: FetchSettings, stop: threading.Event) -> Offer | None:
    """Look once. None: there is nothing (new) for this box.

    Raises Untrusted, BadModel (the manifest, the package), SourceGone, StorageFailing; codes in docs/models.md.
    """
    shelf = Shelf(settings.models_dir)
    with translated(settings.models_dir), shelf.hold():
        return _Look(shelf, settings, stop).run()


def newest(settings: FetchSettings, stop: threading.Event) -> Rollout | None:
    """Metadata and rollout only: nothing of the package is fetched, nothing offered. None: it is not for this box.

    Raises as `fetch_once`.
    """
    shelf = Shelf(settings.models_dir)
    with translated(settings.models_dir), shelf.hold():
        return _Look(shelf, settings, stop).newest()


def import_from(folder: Path, settings: FetchSettings, stop: threading.Event) -> Offer | None:
    """The same from a folder (USB stick, share) laid out like the repository. Raises as `fetch_once`."""
    metadata = folder / "metadata"
    if not metadata.is_dir():
        raise Untrusted("not-a-repository", f"{folder}: has no folder `metadata`; `release export` makes one that has")
    return fetch_once(replace(settings, url=folder.resolve().as_uri()), stop)


class _Look:
    """One look at the repository."""

    def __init__(self, shelf: Shelf, settings: FetchSettings, stop: threading.Event) -> None:
        self._shelf = shelf
        self._settings = settings
        source = Source(ca=settings.ca, limits=settings.limits, stop=stop, alive=settings.alive)
        self._trust = Trust(
            shelf.trust, root=settings.root, metadata_url=f"{settings.url}/metadata",
            targets_url=f"{settings.url}/targets", source=source, built=settings.built, clock=settings.clock,
        )  # fmt: skip
        self._taker = Taker(shelf, self._trust, source)

    def newest(self) -> Rollout | None:
        known = self._settings.known()
        _, content, rollout = self._rollout()
        if not self._concerns(rollout) and not _revokes(rollout, known):
            return None
        _insist_on_newer(rollout, content, known, self._last_offer())
        return rollout

    def run(self) -> Offer | None:
        settings, known = self._settings, self._settings.known()
        info, content, rollout = self._rollout()
        last = self._last_offer()
        concerns = self._concerns(rollout)
        if not concerns and not _revokes(rollout, known):
            if settings.changes.seen("rollout-for-others", rollout):
                log.info("a rollout for others", model=rollout.model.digest, sequence=rollout.sequence)
            return None
        _insist_on_newer(rollout, content, known, last)
        if rollout.sequence == known.sequence and known.settled:
            return None
        again = rollout.action == "rollback"  # goes back by name to what was refused here before
        digest = rollout.model.digest
        wanted = concerns and (again or digest not in known.refused) and digest not in rollout.revoked
        try:
            package = self._package(rollout, key_of(info)) if wanted else None
        except BadModel:  # the daemon sees for itself, tells the plant, and remembers it: it is not fetched again
            write_offer(self._shelf, Offer(rollout, content, None, self._trust.chain()))
            raise
        offer = Offer(rollout, content, package, self._trust.chain())
        if last is None or (last.content, last.package, last.metadata) != (content, package, offer.metadata):
            write_offer(self._shelf, offer)
            log.info("offered", model=digest, sequence=rollout.sequence, by=rollout.released_by)
        self._clear({digest} if package else set(), {key_of(info)})
        return offer

    def _rollout(self) -> tuple[TargetFile, bytes, Rollout]:
        """The channel's newest, verified; as it was signed, too."""
        settings = self._settings
        self._trust.refresh()
        info = rollout_target(self._trust, settings.product, settings.channel)
        self._shelf.insist_on_room(info.length, settings.limits.min_free_bytes)
        content = self._taker.take(info).read_bytes()
        rollout = rollout_of(content, settings.product, settings.channel, info)
        self._trust.note_released(rollout.released_at)
        return info, content, rollout

    def _concerns(self, rollout: Rollout) -> bool:
        settings = self._settings
        return rollout.concerns(settings.site, settings.line, settings.device)

    def _last_offer(self) -> Offer | None:
        try:
            return read_offer(self._settings.models_dir, self._settings.product, self._settings.channel)
        except Untrusted as err:
            if self._settings.changes.seen("last-offer", str(err)):
                log.warning("the last offer cannot be read, it is made anew", why=str(err))
            return None

    def _package(self, rollout: Rollout, rollout_key: str) -> Path:
        """Fetch what is missing and put it together."""
        limits, trust = self._settings.limits, self._trust
        manifest_info = manifest_target(trust, rollout)
        raw = self._taker.take(manifest_info).read_bytes()
        manifest = manifest_of(rollout, raw, Path(manifest_info.path))
        files: Mapping[str, TargetFile] = {
            MANIFEST_NAME: manifest_info, **files_of(trust, rollout, manifest),
        }  # fmt: skip
        total = sum(info.length for info in files.values())
        if total > limits.cap_bytes:
            raise Untrusted("package-too-large", f"{rollout.model.name}: {total} bytes, allowed: {limits.cap_bytes}")
        whole = self._whole(rollout)
        if whole is not None:
            return whole
        self._clear({rollout.model.digest}, {rollout_key, *(key_of(info) for info in files.values())})
        missing = [info for info in files.values() if not self._taker.has(info)]
        have = total - sum(info.length for info in missing)
        more = sum(info.length - self._part_bytes(info) for info in missing)
        self._shelf.insist_on_room(more, limits.min_free_bytes)
        for info in missing:
            self._taker.take(info, partial(self._tell, have, total))
            have += info.length
        keys = {name: key_of(info) for name, info in files.items()}
        digest = rollout.model.digest
        return self._shelf.assemble(digest, keys, lambda folder: _check(folder, digest))

    def _tell(self, before: int, total: int, done: int, _: int) -> None:
        self._settings.progress(before + done, total)

    def _whole(self, rollout: Rollout) -> Path | None:
        """The package as it lies there from an earlier look; None where it must be made (anew)."""
        folder = self._shelf.package(rollout.model.digest)
        return folder if folder.is_dir() and _is_sound(folder, rollout.model.digest) else None

    def _part_bytes(self, info: TargetFile) -> int:
        part = self._shelf.part(key_of(info))
        return min(info.length, part.stat().st_size) if part.exists() else 0

    def _clear(self, digests: set[str], keys: set[str]) -> None:
        """Remove packages that are neither in use now nor among `digests`, and other files than those of `keys`."""
        in_use = self._settings.known().in_use
        if in_use is None:
            return
        packages = {digest.removeprefix("sha256:") for digest in in_use | digests}
        if gone := self._shelf.discard(packages=packages, keys=keys):
            log.info("removed what nothing needs any more", files=len(gone))


def _revokes(rollout: Rollout, known: Known) -> bool:
    """Something that is in use here."""
    return bool(set(rollout.revoked) & (known.in_use or frozenset()))


def _insist_on_newer(rollout: Rollout, content: bytes, known: Known, last: Offer | None) -> None:
    """Raises Untrusted: `rollout-older`, `rollout-changed`."""
    where, seen = f"{rollout.product}/{rollout.channel}", max(known.sequence, last.rollout.sequence if last else 0)
    if rollout.sequence < seen:
        raise Untrusted("rollout-older", f"{where}: sequence {rollout.sequence}, {seen} was seen")
    if last and rollout.sequence == last.rollout.sequence and content != last.content:
        raise Untrusted("rollout-changed", f"{where}: sequence {seen} was offered already, with another content")


def _check(folder: Path, digest: str) -> None:
    loaded(folder, digest)


def _is_sound(folder: Path, digest: str) -> bool:
    try:
        loaded(folder, digest)
    except BadModel as err:
        log.warning("a package on the disk is damaged", package=folder.name, why=str(err))
        return False
    return True
