"""A running appliance whose models come from a repository, and everything that an attacker may bend around it.

    with Victim(folder) as victim:                  # it judges a released model, frames are counted
        victim.reset()                              # the repository and what was fetched as they were when all was well
        victim.repository.files[...] = b"..."
        victim.refusal()                            # one look as edge-inspect-fetch does it: the code

1. The daemon is real: cameras, network, stages, probe, disk; only the camera is drawn. It reads `models_dir`, which
   this process writes as edge-inspect-fetch does.
2. Each frame must get one verdict, by the model that is to judge: `frames` counts what was lost, doubled, unjudged or
   judged by another one.
3. `sound` says what must hold on disk after every attack, whatever it was.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_inspect import updates as updates_module
from edge_inspect.config import Config, config_from_options
from edge_inspect.config_update import UpdateConfig
from edge_inspect.daemon import Appliance
from edge_inspect.delivery.outbox import FILE_NAME
from edge_inspect.errors import BadModel, SourceGone, StorageFailing, Untrusted, code_of
from edge_inspect.inference import package as package_module
from edge_inspect.lane import Judged, Lane
from edge_inspect.update import acts
from edge_inspect.update.fetch import fetch_once
from edge_inspect.update.known import read_known
from edge_inspect.update.offers import Offer
from edge_inspect.update.probe import CHILD, ProbeLimits, probe
from edge_inspect.update.shelf import Shelf
from edge_inspect.update.state import State
from edge_inspect.update.store import Store, look
from edge_inspect.update.trouble import told
from edge_wire.release import Rollout
from tests.edge.update.boxes import QUICK, on_disk, settings_for
from tests.edge.update.packages import Change, package
from tests.line.conftest import RECIPE, with_model_of_the_box
from tests.sim.steady_camera import SteadyCamera
from tests.sim.tiny_model import draw_defect
from tests.sim.tuf_repository import PRODUCT, TufRepository, TufServer

PATIENCE_S = 90.0
FPS = 20.0
SLOTS = 64
FAINT = 0.7
"""Saturation of the scratch on every second part: a model that has become a little deaf passes it."""
SHORT = {"shadow": {"parts": 20, "least_rejected": 0}, "trial": {"parts": 20, "least_s": 0}}


def until(true: Callable[[], bool], what: Callable[[], object] = lambda: "") -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < until_s, f"waited in vain: {what()}"
        time.sleep(0.02)


def belt() -> SteadyCamera:
    """A good part and one with a faint scratch, in turn."""
    good = np.full((192, 320, 3), 128, np.uint8)
    bad = good.copy()
    draw_defect(bad, (100, 60, 130, 90), 0, FAINT)
    return SteadyCamera(good, bad, fps=FPS)


@dataclass
class Frames:
    """What the line was told, in the inspect thread."""

    told: int = 0
    lost: int = 0
    twice: int = 0
    unjudged: int = 0
    by_digest: dict[str, int] = field(default_factory=dict)
    _last: int = -1

    def tell(self, lane: Lane, judged: Judged) -> None:
        self.told += 1
        self.lost += max(0, judged.frame_index - self._last - 1)
        self.twice += judged.frame_index <= self._last
        self._last = judged.frame_index
        if judged.verdict.kind.value == "UNKNOWN" or judged.model is None:
            self.unjudged += 1
        else:
            digest = judged.model.digest
            self.by_digest[digest] = self.by_digest.get(digest, 0) + 1


@dataclass
class Spies:
    """What the product did, seen from outside of it."""

    probes: list[str] = field(default_factory=list)
    """Digests of packages for which a probe's process was started."""
    parsed: set[str] = field(default_factory=set)
    """SHA-256 of every ONNX file that anything but a hash looked into."""
    stages: list[str] = field(default_factory=list)
    """As they were saved."""
    child: tuple[str, ...] = CHILD
    limits: ProbeLimits | None = None
    provider: str = ""


class Victim:
    """See the module."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.frames, self.spies = Frames(), Spies()
        self.stop = threading.Event()
        self.held = contextlib.ExitStack()
        self.factory = package(folder / "factory", version="1.0.0")
        self.good = package(folder / "good", version="1.1.0")
        self.sound_files = {_sha256(folder / "model.onnx") for folder in (self.factory, self.good)}
        """SHA-256 of the ONNX files that may be parsed."""
        self.repository = TufRepository()
        self.server = TufServer(self.repository)
        self._sequence = 9
        self._number = 0
        (folder / "root.json").write_bytes(self.repository.first_root)
        self.config = self._config()
        self.models_dir = self.config.models_dir
        self._settings = settings_for(self.models_dir, self.repository, self.server.url, known=self._known)
        self.settings = self._settings
        self._patch(patch)
        self.appliance = Appliance(self.config, cameras={"camera": belt()}, tell=self.frames.tell)
        self._daemon_stop = threading.Event()
        self._error: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, name="victim")

    def _config(self) -> Config:
        recipe = self.folder / "recipe.toml"
        recipe.write_text(RECIPE)
        plain = config_from_options(
            camera="sim", state=self.folder / "state", provider="cpu", threads=1, recipe=recipe, model=str(self.factory)
        )
        plain = with_model_of_the_box(plain)
        update = UpdateConfig(
            product=PRODUCT, root=self.folder / "root.json", fetch="service", keep_free_bytes=0, shadow_share=1.0,
            probe_latency_factor=4.0,
        )  # fmt: skip
        evidence = plain.evidence.model_copy(update={"enabled": False})
        camera = plain.camera[0].model_copy(update={"slots": SLOTS})
        return plain.model_copy(update={"update": update, "evidence": evidence, "camera": (camera,)})

    def _patch(self, patch: pytest.MonkeyPatch) -> None:
        """Shorter waits, and the spies."""
        patch.setattr(acts, "STEP_S", 0.02)
        patch.setattr(Shelf.hold.__wrapped__, "__kwdefaults__", {"wait_s": 0.3})  # type: ignore[attr-defined]
        inspect, save, spies = package_module.inspect, Store.save, self.spies

        def watched_inspect(content: bytes) -> Any:
            spies.parsed.add(hashlib.sha256(content).hexdigest())
            return inspect(content)

        def watched_probe(folder: Path, **how: Any) -> Any:
            spies.probes.append(f"sha256:{folder.name}")
            how |= {"command": spies.child, "limits": spies.limits or how["limits"], "service": None}
            if spies.provider:
                how["model"] = replace(how["model"], provider=spies.provider)
            return probe(folder, **how)

        def watched_save(store: Store, state: State) -> None:
            if not spies.stages or spies.stages[-1] != state.stage.value:
                spies.stages.append(state.stage.value)
            save(store, state)

        patch.setattr(package_module, "inspect", watched_inspect)
        patch.setattr(updates_module, "probe", watched_probe)
        patch.setattr(Store, "save", watched_save)

    def _run(self) -> None:
        try:
            self.appliance.run(self._daemon_stop)
        except BaseException as err:  # noqa: BLE001 - raised below
            self._error.append(err)

    def __enter__(self) -> Victim:
        self.server.__enter__()
        self._thread.start()
        try:
            self.take_good()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._daemon_stop.set()
        self._thread.join(timeout=PATIENCE_S)
        self.server.__exit__(None, None, None)
        assert not self._error, self._error

    def take_good(self) -> None:
        """The way of a model with which all is well: a refusal means something only beside it."""
        digest = self.repository.release(self.good, self.sequence(), **SHORT).model.digest
        lines = len(look(self.state_folder)[1].entries)
        self.look()
        until(lambda: self._is_kept(lines, digest), self.state)
        self.judges(digest)
        self._all_is_well()

    def _is_kept(self, lines: int, digest: str) -> bool:
        entries = look(self.state_folder)[1].entries[lines:]
        assert not [entry for entry in entries if entry.event == "refused"], entries[-1]
        return any(entry.event == "kept" and entry.digest == digest for entry in entries)

    def judges(self, digest: str) -> None:
        """From now on it must be this one: wait for its first answer."""
        before = self.frames.by_digest.get(digest, 0)
        until(lambda: self.frames.by_digest.get(digest, 0) > before, self.state)
        self.active = digest

    @property
    def kept(self) -> set[str]:
        """Models that were to judge, at some time."""
        return {entry.digest for entry in look(self.state_folder)[1].entries if entry.event == "kept"}

    @property
    def factory_digest(self) -> str:
        return "sha256:" + _sha256(self.factory / "manifest.json")

    def rehash_now(self) -> None:
        """As if a week were over."""
        updates: Any = self.appliance.updates
        updates._updater._acts._next_rehash_s = 0.0

    def _all_is_well(self) -> None:
        self._well = _copy_of(self.repository)
        self._fetched = on_disk(self.models_dir / "trust")
        self._well_sequence = self._sequence

    def renew(self) -> None:
        """The repository names the model that judges with a number that is no older than what the device has seen."""
        if self._sequence == self._well_sequence:
            return
        self.reset()
        self.repository.release(self.good, self.sequence(), **SHORT)
        self.look()
        until(lambda: self.state().floors[f"{PRODUCT}/stable"].sequence == self._sequence, self.state)
        self._all_is_well()

    # What an attack may use

    def reset(self) -> None:
        """As if nothing had happened: the repository, what the device trusts, its settings. The daemon goes on."""
        self.repository = self.server.repository = _copy_of(self._well)
        self.server.faults.clear()
        self.server.requests.clear()
        self.settings = self._settings
        self.spies.child, self.spies.limits, self.spies.provider = CHILD, None, ""
        self.stop.clear()
        self.let_go()
        (self.models_dir / "trouble.json").unlink(missing_ok=True)
        for name in ("trust", "staging"):
            shutil.rmtree(self.models_dir / name)
            (self.models_dir / name).mkdir()
        for file, content in self._fetched.items():
            path = self.models_dir / "trust" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def let_go(self) -> None:
        """Of locks, and of connections on which the server says nothing any more."""
        self.held.close()
        self.server.closing.set()
        self.server.closing = threading.Event()

    @property
    def newest(self) -> int:
        """The sequence that was used last."""
        return self._sequence

    def sequence(self) -> int:
        """Higher than every one before."""
        self._sequence += 1
        return self._sequence

    def package(self, change: Change | None = None, **manifest: Any) -> Path:
        """A package of a version that was never there; its graph is called `candidate`."""
        self._number += 1
        version = manifest.pop("version", f"2.{self._number}.0")
        return package(self.folder / "made" / str(self._number) / "candidate", change, version=version, **manifest)

    def release(self, folder: Path | None = None, **rollout: Any) -> Rollout:
        """Signed by everybody who must."""
        return self.repository.release(folder or self.package(), self.sequence(), **{**SHORT, **rollout})

    def limit(self, **limits: Any) -> None:
        self.settings = replace(self.settings, limits=replace(QUICK, **limits))

    def look(self) -> Offer | None:
        """One look, as edge-inspect-fetch does it."""
        return fetch_once(self.settings, self.stop)

    def refusal(self) -> str:
        """The code with which a look ends; empty when it ends well."""
        try:
            told(self.settings.models_dir, self.look)()
        except (Untrusted, BadModel, SourceGone) as err:
            assert str(err).endswith(f"[{err.code}]") and "\n" not in str(err), str(err)
            return err.code
        except StorageFailing as err:
            return code_of(err)
        return ""

    # What can be seen

    @property
    def state_folder(self) -> Path:
        return self.config.state_dir / "update"

    def state(self) -> State:
        state = look(self.state_folder)[0]
        assert state is not None
        return state

    def last_line(self) -> tuple[str, str, str]:
        """Of the history."""
        entry = look(self.state_folder)[1].entries[-1]
        return entry.event, entry.digest, entry.code

    def alarms(self) -> list[str]:
        """What the plant hears of fetching: codes."""
        found = self.appliance.state().degraded
        return [alarm.detail.partition(":")[0] for alarm in found if alarm.code == "model-fetch"]

    def settled(self, digest: str) -> State:
        """The state once the daemon is done with this model."""

        def done() -> bool:
            state = self.state()
            last = state.last_refusal
            return state.stage.value == "idle" and last is not None and last.digest == digest

        until(done, self.state)
        return self.state()

    def sound(self) -> list[str]:
        """What is wrong on disk, or with what the line was told; it must be empty whatever was done."""
        wrong = []
        for blob in (self.models_dir / "blobs").iterdir():
            if hashlib.sha256(blob.read_bytes()).hexdigest() != blob.name:
                wrong.append(f"blob {blob.name} is not what its name says")
        for found in (self.models_dir / "packages").iterdir():
            if hashlib.sha256((found / "manifest.json").read_bytes()).hexdigest() != found.name:
                wrong.append(f"package {found.name} is not what its name says")
        wrong += [f"left behind: {path}" for path in self.models_dir.rglob("*.tmp")]
        if {path.name for path in self.folder.iterdir()} - TOP:
            wrong.append(f"written outside of the folder: {sorted(path.name for path in self.folder.iterdir())}")
        frames = self.frames
        for what, count in (("lost", frames.lost), ("twice", frames.twice), ("unjudged", frames.unjudged)):
            if count:
                wrong.append(f"{count} frames {what} of {frames.told}")
        if look(self.state_folder)[1].broken:
            wrong.append("the history is broken")
        return wrong

    def reported(self) -> dict[str, int]:
        """Reports in the outbox by the digest that they carry."""
        with sqlite3.connect(f"file:{self.config.state_dir / FILE_NAME}?mode=ro", uri=True) as db:
            rows = [json.loads(payload)["model"]["digest"] for (payload,) in db.execute("SELECT payload FROM report")]
        return {digest: rows.count(digest) for digest in set(rows)}

    def _known(self) -> Any:
        return read_known(self.state_folder / "state.json", PRODUCT, "stable")


TOP = {"factory", "good", "made", "root.json", "recipe.toml", "state"}
"""All that lies in a victim's folder."""


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _copy_of(repository: TufRepository) -> TufRepository:
    """Its keys are shared, everything else is its own."""
    twin = copy.copy(repository)
    twin.files = dict(repository.files)
    twin.signers = {role: list(signers) for role, signers in repository.signers.items()}
    twin.roles = copy.deepcopy(repository.roles)
    return twin
