"""A device that does nothing but take models: real store, machine, signatures and shelf; line and probe are content.

For campaigns that start it a thousand times. `Device.drive` is one life of the daemon's thread `updater`, from opening
the store to the moment when there is nothing left to do. What it leaves on the disk is looked at by `wrong_on_disk`,
which uses none of the daemon's code: hashes, JSON, the chain of the history.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from edge_inspect.inference.package import ModelPackage
from edge_inspect.update.choose import Names
from edge_inspect.update.fetch import FetchSettings
from edge_inspect.update.known import read_known
from edge_inspect.update.live import Role
from edge_inspect.update.pace import Looks
from edge_inspect.update.requests import Request, ask
from edge_inspect.update.shadow import ShadowReport
from edge_inspect.update.source import Offers
from edge_inspect.update.stages import Stage
from edge_inspect.update.store import FOLDER, Store
from edge_inspect.update.transport import FetchLimits
from edge_inspect.update.trial import TrialReport
from edge_inspect.update.updater import Updater
from tests.sim.tiny_model import write_tiny_package
from tests.sim.tuf_repository import PRODUCT, TufRepository

SHADOW = ShadowReport(parts=200, same=200, active_ok=190, active_ng=10, seconds=60.0)
TRIAL = TrialReport(seconds=120.0, frames=900, parts=600, ng=30, beside=SHADOW)
MOST_STEPS = 80
POLL_S = 0.5
"""A look that failed is followed by another one soon."""


def be_quiet() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


@dataclass
class Line:
    """`Live` of a line on which every model is good."""

    judging: str

    def active(self) -> str:
        return self.judging

    def start_shadow(self, package: ModelPackage, *, role: Role) -> None: ...

    def shadow_report(self) -> ShadowReport:
        return SHADOW

    def stop_shadow(self) -> None: ...

    def swap(self, package: ModelPackage, *, trial: bool = False) -> None:
        self.judging = package.digest

    def begin_trial(self) -> None: ...

    def trial_report(self) -> TrialReport:
        return TRIAL

    def end_trial(self) -> None: ...


@dataclass(frozen=True)
class World:
    """What stays the same whatever is killed: the installed model, the repository at each time, all digests."""

    factory: Path
    repositories: tuple[Path, ...]
    """As it was after each release: "a", "b", "c", one after the other."""
    root: bytes
    digests: dict[str, str]

    @classmethod
    def make(cls, folder: Path, releases: int = 3) -> World:
        """Of three packages, released in turn; from the fourth release on each goes back to one by name."""
        factory = write_tiny_package(folder / "factory")
        repository, repositories = TufRepository(), []
        digests = {"factory": ModelPackage.load(factory).digest}
        limits = {"shadow": {"parts": 200}, "trial": {"parts": 500, "least_s": 0}}
        packages = {name: write_tiny_package(folder / name, version=f"1.{at}.0") for at, name in enumerate("abc", 1)}
        digests |= {name: ModelPackage.load(package).digest for name, package in packages.items()}
        for number in range(releases):
            action = "release" if number < len(packages) else "rollback"
            repository.release(packages["abc"[number % 3]], number + 1, action=action, **limits)
            repository.write_to(folder / f"repository-{number + 1}")
            repositories.append(folder / f"repository-{number + 1}")
        return cls(factory, tuple(repositories), repository.first_root, digests)


@dataclass(frozen=True)
class Device:
    root: Path
    world: World

    @property
    def state(self) -> Path:
        return self.root / FOLDER / "state.json"

    def settings(self, release: int) -> FetchSettings:
        """The repository as it was after so many releases."""
        return FetchSettings(
            models_dir=self.root / "models", product=PRODUCT, channel="stable", site="plant-1", line="press-4",
            device="edge-0017", url=self.world.repositories[release - 1].as_uri(), root=self.world.root,
            limits=FetchLimits(min_free_bytes=0), known=lambda: read_known(self.state, PRODUCT, "stable"),
        )  # fmt: skip

    def drive(self, release: int, judging: Path | None = None) -> None:
        """One life, until the machine is idle and has looked. `judging`: gets the digest that a start begins with."""
        store = Store.open(self.root / FOLDER, self.root / "models", self.world.factory)
        line = Line(store.begin().digest)
        if judging is not None:
            _insist_on_writing(judging, line.judging)
        updater = Updater(
            store, Offers(self.settings(release), asks=True), lambda package, active: None, line,
            box=Names("plant-1", "press-4", "edge-0017"), channel=f"{PRODUCT}/stable",
            looks=Looks(POLL_S, first_s=0.0), look_s=0.0, wait_for_disk_s=0.0,
        )  # fmt: skip
        stop = threading.Event()
        updater.pulse.stop = stop
        looked = False
        for _ in range(MOST_STEPS):
            if store.state.stage is Stage.IDLE and looked and not self._is_asked():
                break
            looked |= store.state.stage is Stage.FETCH
            updater.step()
        else:
            raise AssertionError(f"never idle: {store.state.stage}")
        assert line.judging == (store.state.active or self.world.digests["factory"])
        store.close()

    def _is_asked(self) -> bool:
        """Whether a person waits; the disk that fails in a campaign does not give this test its answer either."""
        try:
            return any((self.root / FOLDER).glob("requests/*.json"))
        except OSError:
            return True

    def ask_back(self) -> None:
        """A person asks to go back."""
        ask(self.root / FOLDER, Request(kind="rollback", by="anna", why="rejects good parts"))

    def answered(self) -> bool:
        return any((self.root / FOLDER).glob("answers/*.json"))

    def active(self) -> str:
        """By the state on the disk: which package is to judge."""
        said = json.loads(self.state.read_bytes())["active"] if self.state.exists() else None
        return self.name_of(said or self.world.digests["factory"])

    def name_of(self, digest: str) -> str:
        return next((name for name, known in self.world.digests.items() if known == digest), digest)

    def litter(self) -> list[str]:
        """What lies among the packages and the downloads, packages by their names."""
        models = self.root / "models"
        packages = [self.name_of(f"sha256:{path.name}") for path in (models / "packages").iterdir()]
        return [*packages, *(path.name for path in (models / "staging").iterdir())]

    def sequence(self) -> int:
        """The floor on the disk; 0 without one."""
        floors = json.loads(self.state.read_bytes())["floors"] if self.state.exists() else {}
        return max((floor["sequence"] for floor in floors.values()), default=0)


def _insist_on_writing(path: Path, text: str) -> None:
    """This test's own file is not the one that is to fail."""
    while True:
        try:
            path.write_text(text)
            return
        except OSError:
            continue


def wrong_on_disk(device: Device, *, least_sequence: int) -> list[str]:
    """What must never be: a package that is not what its name says, a floor that fell, a history that does not hold."""
    wrong = []
    for package in (device.root / "models" / "packages").glob("*"):
        if not package.name.endswith(".tmp"):
            wrong += _wrong_in(package)
    said = json.loads(device.state.read_bytes()) if device.state.exists() else {}
    if device.sequence() < least_sequence:
        wrong.append(f"the floor fell from {least_sequence} to {device.sequence()}")
    wrong += _wrong_history(device.root / FOLDER / "history.jsonl", said.get("history", {"lines": 0}))
    wrong += [f"left lying: {path.name}" for path in (device.root / FOLDER).glob("*.broken-*")]
    return wrong


def _wrong_in(package: Path) -> list[str]:
    raw = (package / "manifest.json").read_bytes()
    if hashlib.sha256(raw).hexdigest() != package.name:
        return [f"{package.name[:12]}: its manifest has another digest"]
    manifest: dict[str, Any] = json.loads(raw)
    files = [*manifest["variants"], *manifest["golden"]]
    return [
        f"{package.name[:12]}: {file['file']} is not what the manifest says"
        for file in files
        if hashlib.sha256((package / file["file"]).read_bytes()).hexdigest() != file["sha256"]
    ]


def _wrong_history(path: Path, head: dict[str, Any]) -> list[str]:
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    before = "0" * 64
    for number, line in enumerate(lines, 1):
        if json.loads(line)["before"] != before:
            return [f"history: line {number} does not follow the one before"]
        before = hashlib.sha256(line + b"\n").hexdigest()
    return [f"history: {len(lines)} lines, {head['lines']} were written"] if len(lines) < head["lines"] else []
