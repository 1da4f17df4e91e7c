"""What a device keeps of its models on disk: state, history, the lock; and which model is to judge.

1. The state on disk is always a whole one: the old or the new. One that cannot be read is put aside under another name
   with one line, and the factory's model judges; floors and refusals come back out of the history. It is not written
   over as long as it cannot be put aside, and none is written that could not be read again.
2. Nothing judges that was not hashed at this start: active, else previous, else the factory's. If none verifies, the
   daemon does not start (`no-model`): no results rather than wrong ones.
3. The factory's package is the one that a start finds: what becomes of it on the disk later is an alarm
   (`factory_wrong`) and no reason to go anywhere, as long as its engine is loaded or another model judges.
4. One process at a time has it open: a daemon, or a command while no daemon runs.

    with Store.open(state_dir / "update", models_dir, factory) as store:
        package = store.begin()         # counts the start, verifies, falls back
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import TracebackType

import structlog

from edge_inspect.durable import MORE_TRIES, TRY_AGAIN_S, make_folder, sweep, write_durably
from edge_inspect.errors import BadModel, StorageFailing, code_of
from edge_inspect.inference.package import ModelPackage
from edge_inspect.update.attempts import Attempts
from edge_inspect.update.clock import utc_now
from edge_inspect.update.history import FILE_NAME as HISTORY_NAME
from edge_inspect.update.history import Checked, Entry, History, read_history
from edge_inspect.update.lock import hold
from edge_inspect.update.machine import UNCONFIRMED, after_restart, gave_up, lost_its_model
from edge_inspect.update.record import activated, kept, refused, took_back
from edge_inspect.update.revoked import why_revoked
from edge_inspect.update.stages import MOST_STARTS, Stage
from edge_inspect.update.state import MOST_REFUSED, Candidate, Floor, HistoryHead, RefusedDigest, State
from edge_inspect.update.state_file import (
    MOST_STATE_BYTES,
    STATE_NAME,
    as_a_start_finds,
    parse_state,
    put_aside,
    read_or_put_aside,
    readable,
)
from edge_wire.manifest import MANIFEST_NAME

log = structlog.get_logger()

FOLDER = "update"
PACKAGES = "packages"


class Store:
    """See the module. `state` is what the next step builds on; `save` puts it on disk."""

    def __init__(
        self,
        folder: Path,
        models_dir: Path,
        factory: Path,
        state: State,
        history: History,
        *,
        lock: int,
        now: Callable[[], datetime],
        quarantined: str,
        on_disk: State | None,
    ) -> None:
        self.folder = folder
        self.models_dir = models_dir
        self.factory = factory
        self.history = history
        self.quarantined = quarantined
        """Why the state that lay here was put aside; empty when it was not."""
        self.failing = ""
        """Why the last save failed; empty when it did not."""
        self.factory_wrong = ""
        """Why the factory's package could not be read last; empty when it could."""
        self.attempts = Attempts(folder, self._counted)
        """Starts at which the model that judges could not."""
        self._factory_digest = ""
        self._state = state
        self._on_disk = on_disk
        self._lock = lock
        self._now = now

    @classmethod
    def open(
        cls,
        folder: Path,
        models_dir: Path,
        factory: Path,
        *,
        wait_s: float = 0.0,
        now: Callable[[], datetime] = utc_now,
    ) -> Store:
        """wait_s: how long to wait for another process to be done. Raises InUse, StorageFailing (not for what merely
        cannot be written)."""
        make_folder(folder)
        lock = hold(folder, wait_s)
        try:
            with contextlib.suppress(StorageFailing):
                sweep(folder)
            found, quarantined = read_or_put_aside(folder, now())
            history = History(folder / HISTORY_NAME, found.history if found else None)
            state = found or State(since=now())
            if found is None:  # also where a start ended right after it had put it aside
                state = _recovered(state, history)
            store = cls(
                folder, models_dir, factory, state, history, lock=lock, now=now, quarantined=quarantined, on_disk=found
            )
        except BaseException:
            os.close(lock)
            raise
        return store

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @property
    def state(self) -> State:
        return self._state

    def save(self, state: State) -> None:
        """On disk when it returns, unless a start would make the same of what is there.

        Raises StorageFailing; `state` is then the new one all the same.
        """
        self._state = state.model_copy(update={"history": self.history.head})
        if not self.failing and self._on_disk and as_a_start_finds(self._on_disk) == as_a_start_finds(self._state):
            return
        path = self.folder / STATE_NAME
        try:
            if self.quarantined and self._on_disk is None:
                put_aside(path, self._now())  # if that did not work when it was read
            write_durably(path, readable(path, self._state))
        except StorageFailing as err:
            self.failing = str(err)
            raise
        self.failing = ""
        self._on_disk = self._state

    def begin(self) -> ModelPackage:
        """What a start of the daemon uses: the start counted, every byte verified. Raises BadModel (`no-model`)."""
        if not self.factory_digest:
            log.error("the factory's model cannot be read", why=self.factory_wrong)
        counted = after_restart(self._state, self._now())
        if self.quarantined or counted != self._state:
            try:
                self.save(counted)
            except StorageFailing as err:
                self._cannot_count(err)
        self._give_up()
        package = self._which()
        self.note_active(package)
        return package

    @property
    def gone(self) -> tuple[str, str] | None:
        """Code and words: why a model that was kept had to go, as long as what came in its place judges."""
        last = self.history.last("activated")
        if last is None or last.code not in (UNCONFIRMED, "revoked"):
            return None
        if not any(entry.event == "kept" and entry.digest == last.replaced for entry in self.history.entries):
            return None
        return last.code, f"{last.name} {last.version} judges; {last.why}"

    def _counted(self) -> str | None:
        return None if self._state.stage is Stage.TRIAL else self._state.active

    def _give_up(self) -> None:
        """A model that could not be started again and again goes, whether the disk takes it or not."""
        digest = self._counted()
        held = self.attempts.of(digest)
        if digest is None or held is None or held.starts < MOST_STARTS:
            return
        why = f"{self.named(digest)} could not be started {held.starts} times{f': {held.why}' if held.why else ''}"
        log.error("a model that was kept is given up", model=digest, starts=held.starts, why=held.why)
        self._state = gave_up(self._state, why, self._now())
        with contextlib.suppress(StorageFailing):
            self.save(self._state)

    def named(self, digest: str) -> str:
        """Name and version, as far as they are known here."""
        known = next((one for one in self._state.known if one.digest == digest), None)
        return f"{known.name} {known.version}" if known else digest[:19]

    def package(self, digest: str | None) -> ModelPackage:
        """A package, every byte of it hashed; None: the factory's. Raises BadModel, StorageFailing."""
        if digest is None:
            return self._package_of_factory()
        package = ModelPackage.load(self.folder_of(digest))
        if package.digest != digest:
            raise BadModel("package-other", f"{package.dir}: manifest.json has digest {package.digest[:19]}...")
        return package

    def _package_of_factory(self) -> ModelPackage:
        try:
            package = ModelPackage.load(self.factory)
            if package.digest != (self.factory_digest or package.digest):
                raise BadModel("package-other", f"{self.factory}: is another package than at the start of this process")
        except (BadModel, StorageFailing) as err:
            if not self.factory_wrong:
                log.warning("the factory's model is not what it was; what judges goes on judging", why=str(err))
            self.factory_wrong = str(err)
            raise
        if self.factory_wrong:
            log.info("the factory's model is all right again")
        self._factory_digest, self.factory_wrong = package.digest, ""
        return package

    @property
    def factory_digest(self) -> str:
        """Of its manifest as it was when this process first saw it, not verified by this; empty: it cannot be read."""
        if not self._factory_digest:
            try:
                content = (self.factory / MANIFEST_NAME).read_bytes()
            except OSError as err:
                self.factory_wrong = f"{self.factory}: {err.strerror or err} [manifest-missing]"
            else:
                self._factory_digest = "sha256:" + hashlib.sha256(content).hexdigest()
        return self._factory_digest

    def folder_of(self, digest: str | None) -> Path:
        return self.factory if digest is None else self.models_dir / PACKAGES / digest.removeprefix("sha256:")

    def wanted(self) -> set[str]:
        """Digests of packages that must stay on this box."""
        state = self._state
        candidate = state.candidate.model.digest if state.candidate else None
        on_trial = state.candidate if state.stage is Stage.TRIAL else None
        before = on_trial.before if on_trial and on_trial.before else ()
        return {digest for digest in (state.active, state.previous, candidate, *before) if digest}

    def is_noted(self, digest: str) -> bool:
        """Whether the history says that this one judges."""
        last = self.history.last("activated")
        return last is not None and last.digest == digest

    def note_active(self, package: ModelPackage) -> None:
        """Into the history, if it does not say so already: from now on this one judges."""
        self.history.read_again()
        if not self.is_noted(package.digest):
            last = self.history.last("activated")
            self._append(activated(self._state, package, last, package.dir == self.factory, self._now()))

    def note_kept(self, package: ModelPackage) -> None:
        """Into the history: the candidate that judges stays. What was held against it once is over."""
        self.attempts.over()
        self.history.read_again()
        newest = next(reversed(self.history.entries), None)
        if newest is None or newest.event != "kept" or newest.digest != package.digest:
            self._append(kept(self._state, package, self._now()))

    def note_refused(self, candidate: Candidate | None) -> None:
        """Into the history: the candidate that has just been refused without having judged."""
        refusal = self._state.last_refusal
        if candidate is None or refusal is None or refusal.digest != candidate.model.digest:
            return
        self.history.read_again()
        last = self.history.last("refused")
        if last is None or last.digest != refusal.digest or last.at < candidate.taken_at:
            self._append(refused(candidate, refusal, self._now()))

    def _append(self, entry: Entry) -> None:
        try:
            self.history.append(entry)
        except StorageFailing as err:
            self.failing = str(err)
            log.warning("the history of models cannot be written", why=str(err))

    def _cannot_count(self, err: StorageFailing) -> None:
        """A start that cannot be counted does not try anything: what was confirmed judges."""
        log.warning("this start cannot be counted, so nothing is tried", why=str(err))
        if self._state.stage is Stage.TRIAL:
            self._state = lost_its_model(self._state, "storage-failing", str(err), self._now())

    def _which(self) -> ModelPackage:
        """Falls back until something verifies; each step is saved as far as the disk takes it."""
        while True:
            state = self._state
            revoked = state.active is not None and state.active in state.revoked
            try:
                if revoked:
                    raise BadModel("revoked", why_revoked(state, state.active or ""))
                return self._patiently(state.active)
            except (BadModel, StorageFailing) as err:
                if state.active is None:
                    raise BadModel("no-model", f"no model verifies, nothing is judged; the factory's: {err}") from err
                log.warning("a model does not verify, going back", model=state.active, why=str(err))
                self._state = lost_its_model(state, code_of(err), str(err), self._now())
                with contextlib.suppress(StorageFailing):
                    self.save(self._state)

    def _patiently(self, digest: str | None) -> ModelPackage:
        """A disk that stutters once must not cost the box its model. Raises BadModel, StorageFailing."""
        for _ in range(MORE_TRIES):
            try:
                return self.package(digest)
            except StorageFailing as err:
                log.warning("a model cannot be read, trying again", model=digest, why=str(err))
                time.sleep(TRY_AGAIN_S)
        return self.package(digest)


def look(folder: Path) -> tuple[State | None, Checked]:
    """What lies there, for whoever only reads; None where there is no state, or none that can be read."""
    try:
        state = parse_state((folder / STATE_NAME).read_bytes()[: MOST_STATE_BYTES + 1])
    except (OSError, ValueError):
        state = None
    return state, read_history(folder / HISTORY_NAME, state.history if state else None)


def _recovered(state: State, history: History) -> State:
    """Floors and refusals out of the history: what must never be forgotten is there, too."""
    floors: dict[str, Floor] = {}
    refused: dict[str, RefusedDigest] = {}
    for entry in history.entries:
        if entry.channel and entry.sequence >= (floors[entry.channel].sequence if entry.channel in floors else 0):
            floors[entry.channel] = Floor(sequence=max(1, entry.sequence), digest=entry.digest)
        if entry.event == "refused" and entry.code:
            refused.pop(entry.digest, None)  # its place is that of the newest refusal
            refused[entry.digest] = RefusedDigest(digest=entry.digest, code=entry.code, at=entry.at)
        if entry.event == "activated" and entry.replaced and took_back(entry.code):
            refused.pop(entry.replaced, None)
            refused[entry.replaced] = RefusedDigest(digest=entry.replaced, code=entry.code, at=entry.at)
    head = HistoryHead(lines=history.head.lines, sha256=history.head.sha256)
    newest = tuple(refused.values())[-MOST_REFUSED:]
    return state.model_copy(update={"floors": floors, "refused": newest, "history": head})
