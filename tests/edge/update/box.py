"""A device for tests of updates: its disk is real, its repository, probe and cameras are not.

`Box.start()` is a start of the daemon: store opened, start counted, what judges chosen. `Kill` in an act ends that
process as SIGKILL would: nothing of it is closed or written any more.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

from edge_inspect.inference.package import ModelPackage
from edge_inspect.update.choose import Names
from edge_inspect.update.history import FILE_NAME
from edge_inspect.update.live import Role
from edge_inspect.update.pace import Looks
from edge_inspect.update.shadow import ShadowReport
from edge_inspect.update.stages import Stage
from edge_inspect.update.state import Candidate
from edge_inspect.update.store import FOLDER, Store
from edge_inspect.update.trial import TrialReport
from edge_inspect.update.updater import Updater
from edge_wire.release import ReleasedModel, Rollout, ShadowLimits, TrialLimits
from tests.sim.tiny_model import write_tiny_package

NAMES = Names("plant-1", "press-4", "edge-0017")
BEGIN = datetime(2026, 11, 22, 8, 0, tzinfo=timezone.utc)
PARTS = 200
GOOD_SHADOW = ShadowReport(parts=PARTS, same=PARTS, active_ok=190, active_ng=10, seconds=60.0)
GOOD_TRIAL = TrialReport(seconds=120.0, frames=900, parts=600, ng=30, beside=replace(GOOD_SHADOW, parts=600))


class Kill(BaseException):
    """The process is gone."""


Fault = Callable[[], None]


@dataclass
class Faults:
    """What happens when a stage's work is done: the next fault of the list for that stage, then none any more."""

    by_stage: dict[Stage, list[Fault]] = field(default_factory=dict)

    def strike(self, stage: Stage) -> None:
        if waiting := self.by_stage.get(stage):
            waiting.pop(0)()


@dataclass
class FakeSource:
    box: Box
    rollout: Rollout | None = None
    tidied: list[set[str]] = field(default_factory=list)
    is_news: bool = False
    brought: Callable[[threading.Event], Rollout | None] | None = None
    """In place of `rollout`: what a fetch does until it is told to stop."""
    looked: Callable[[threading.Event], Rollout | None] | None = None
    """The same of a look that fetches nothing."""

    def fetch(self, stop: threading.Event, progress: Callable[[float], None]) -> Rollout | None:
        progress(0.5)
        self.is_news = False
        if self.brought:
            return self.brought(stop)
        self.box.faults.strike(Stage.FETCH)
        return self.rollout

    def newest(self, stop: threading.Event, alive: Callable[[], None]) -> Rollout | None:
        alive()
        self.is_news = False
        return self.looked(stop) if self.looked else self.rollout

    def verify(self, candidate: Candidate) -> ModelPackage:
        self.box.faults.strike(Stage.VERIFY)
        return self.box.package(candidate.model.digest)

    def news(self) -> bool:
        return self.is_news

    def tidy(self, wanted: set[str]) -> None:
        self.box.faults.strike(Stage.KEEP)
        self.tidied.append(wanted)


@dataclass
class FakeLive:
    box: Box
    judging: str
    beside: tuple[str, Role] | None = None
    on_trial: bool = False
    shadow: ShadowReport = GOOD_SHADOW
    trial: TrialReport = GOOD_TRIAL
    swaps: list[str] = field(default_factory=list)

    def active(self) -> str:
        return self.judging

    def start_shadow(self, package: ModelPackage, *, role: Role) -> None:
        if role == "candidate":
            self.box.faults.strike(Stage.SHADOW)
        self.beside = (package.digest, role)

    def shadow_report(self) -> ShadowReport:
        return self.shadow

    def stop_shadow(self) -> None:
        self.beside = None

    def swap(self, package: ModelPackage, *, trial: bool = False) -> None:
        self.box.faults.strike(Stage.TRIAL if trial else Stage.REVERT)
        self.judging, self.beside, self.on_trial = package.digest, None, trial
        self.swaps.append(package.digest)

    def begin_trial(self) -> None:
        self.box.faults.strike(Stage.TRIAL)
        self.on_trial = True

    def trial_report(self) -> TrialReport:
        return self.trial

    def end_trial(self) -> None:
        self.on_trial = False


class Box:
    """models: the packages that exist, by name; "factory" is the installed one."""

    def __init__(self, root: Path, models: dict[str, Path]) -> None:
        self.root = root
        self.models_dir = root / "models"
        self.factory = root / "factory"
        shutil.copytree(models["factory"], self.factory)
        self.digests = {name: ModelPackage.load(folder).digest for name, folder in models.items()}
        for name, folder in models.items():
            if name != "factory":
                self.deliver(name, folder)
        self.faults = Faults()
        self.now = BEGIN
        self.chain: list[str] = []
        self.source = FakeSource(self)
        self.shadow, self.trial = GOOD_SHADOW, GOOD_TRIAL
        self.probe: Callable[[ModelPackage, ModelPackage], object] = lambda package, active: None
        self.store: Store | None = None
        self.live: FakeLive | None = None
        self.updater: Updater | None = None
        self.starts = 0
        self.wait_for_disk_s = 0.0

    def deliver(self, name: str, folder: Path) -> None:
        shutil.copytree(folder, self.folder_of(self.digests[name]), dirs_exist_ok=True)

    def folder_of(self, digest: str) -> Path:
        return self.models_dir / "packages" / digest.removeprefix("sha256:")

    def package(self, digest: str) -> ModelPackage:
        return ModelPackage.load(self.folder_of(digest))

    @property
    def state_dir(self) -> Path:
        return self.root / FOLDER

    def release(self, name: str, sequence: int = 1, **changes: object) -> Rollout:
        """What the repository says from now on."""
        version = {"b": "1.1.0", "c": "1.2.0"}.get(name, "1.0.0")
        said = Rollout(
            product="tiny", channel="stable", sequence=sequence, released_by="anna", released_at=BEGIN,
            model=ReleasedModel(name="tiny", version=version, digest=self.digests[name]), reason=f"model {name}",
            shadow=ShadowLimits(parts=PARTS), trial=TrialLimits(),
        )  # fmt: skip
        self.source.rollout = said.model_copy(update=changes)
        return self.source.rollout

    def tick(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now

    def start(self) -> Updater:
        """A start of the daemon; the one before is gone, however it ended."""
        self.end()
        self.starts += 1
        store = Store.open(self.state_dir, self.models_dir, self.factory, now=self.tick)
        self.store = store
        _record(store, self.chain)
        package = store.begin()
        self.live = FakeLive(self, package.digest, shadow=self.shadow, trial=self.trial)
        self.updater = Updater(
            store, self.source, self._ask_probe, self.live, box=NAMES, channel="tiny/stable",
            looks=Looks(600.0, first_s=0.0), look_s=0.0, wait_for_disk_s=self.wait_for_disk_s, now=self.tick,
        )  # fmt: skip
        return self.updater

    def end(self) -> None:
        if self.store is not None:
            self.store.close()
            self.store = None

    def run(self, most_steps: int = 60) -> None:
        """Processes, one after the other as they are killed, until one is idle again with nothing to do."""
        updater = self.start()
        for _ in range(most_steps):
            try:
                updater.step()
            except Kill:
                self.chain.append("|")
                updater = self.start()
            assert self.store is not None
            if self.store.state.stage is Stage.IDLE:
                return
        raise AssertionError(f"never came home: {self.chain}")

    def _ask_probe(self, package: ModelPackage, active: ModelPackage) -> object:
        self.faults.strike(Stage.PROBE)
        return self.probe(package, active)


def _record(store: Store, chain: list[str]) -> None:
    """Every stage that is saved, in order, repeats left out."""
    save = store.save

    def recorded(state: object) -> None:
        stage = state.stage.value  # type: ignore[attr-defined]
        if not chain or chain[-1] != stage:
            chain.append(stage)
        save(state)  # type: ignore[arg-type]

    store.save = recorded  # type: ignore[method-assign]


def write_models(root: Path) -> dict[str, Path]:
    """Three different packages: the factory's and two to come."""
    folders = {}
    for name, version in (("factory", "1.0.0"), ("b", "1.1.0"), ("c", "1.2.0")):
        folders[name] = write_tiny_package(root / name, version=version)
    return folders


def updated(box: Box, name: str = "b", sequence: int = 1) -> None:
    box.release(name, sequence)
    box.run()
    assert box.live is not None and box.live.judging == box.digests[name]
    box.end()


def judging(box: Box) -> str:
    box.start()
    assert box.live is not None
    return next(name for name, digest in box.digests.items() if digest == box.live.judging)


def history_of(box: Box) -> Path:
    return box.state_dir / FILE_NAME


def lines_of(box: Box) -> list[bytes]:
    return history_of(box).read_bytes().splitlines(keepends=True)
