"""The whole appliance takes a signed model through all its stages, and a worse one back, while parts go by."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_inspect.capture.protocol import Pixels, Read, Stamp
from edge_inspect.config import Config, config_from_options
from edge_inspect.config_update import UpdateConfig
from edge_inspect.daemon import Appliance
from edge_inspect.inference.package import ModelPackage
from edge_inspect.update.history import Entry
from edge_inspect.update.requests import Request, ask, wait_for
from edge_inspect.update.store import look
from edge_wire.messages import Desired
from edge_wire.release import Rollout
from tests.line.conftest import with_model_of_the_box
from tests.line.drawn import DrawnCamera, Notes
from tests.sim.tiny_model import write_tiny_package
from tests.sim.tuf_repository import PRODUCT, TufRepository, TufServer

pytestmark = pytest.mark.slow
PATIENCE_S = 60.0
LIMITS = {"shadow": {"parts": 20, "least_rejected": 0}, "trial": {"parts": 20, "least_s": 0}}


class EndlessCamera(DrawnCamera):
    """Nine good parts, then a bad one, and so on."""

    def __init__(self) -> None:
        super().__init__([], live=True)

    def read_into(self, pixels: Pixels, stamp: Stamp) -> Read:
        if not self.steps:
            self.steps = [step for part in ["good"] * 9 + ["bad"] for step in (part, "rest")]
        return super().read_into(pixels, stamp)


@pytest.fixture
def repository() -> TufRepository:
    return TufRepository()


@pytest.fixture
def config(tmp_path: Path, tiny_model: Path, recipe: Path, repository: TufRepository) -> Iterator[Config]:
    (tmp_path / "root.json").write_bytes(repository.first_root)
    plain = config_from_options(
        camera="sim", state=tmp_path / "state", provider="cpu", threads=1, recipe=recipe, model=str(tiny_model)
    )
    with TufServer(repository) as server:
        update = UpdateConfig(
            product=PRODUCT, root=tmp_path / "root.json", url=server.url, poll_s=10, keep_free_bytes=0
        )
        yield with_model_of_the_box(plain).model_copy(update={"update": update})


def until(true: Callable[[], bool], what: str) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < until_s, f"never: {what}"
        time.sleep(0.05)


def entries(config: Config) -> list[Entry]:
    return list(look(config.state_dir / "update")[1].entries)


class Running:
    def __init__(self, config: Config) -> None:
        self.notes = Notes()
        self.appliance = Appliance(config, cameras={"camera": EndlessCamera()}, watchers=(self.notes,))
        self._stop = threading.Event()
        self._error: list[BaseException] = []
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.appliance.run(self._stop)
        except BaseException as err:  # noqa: BLE001 - raised by the test that started it
            self._error.append(err)

    def __enter__(self) -> Running:
        self._thread.start()
        return self

    def hint(self, rollout: Rollout) -> None:
        """As the courier does when the plant has said so."""
        model = rollout.model.digest
        desired = Desired(product=PRODUCT, channel="stable", sequence=rollout.sequence, digest=model)
        assert self.appliance.updates is not None
        self.appliance.updates.hint(desired)

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        self._thread.join(timeout=PATIENCE_S)
        assert not self._error, self._error


def package(tmp_path: Path, version: str, **options: Any) -> Path:
    return write_tiny_package(tmp_path / f"package-{version}", version=version, **options)


def test_a_release_goes_through_its_stages_and_a_person_takes_it_back(
    config: Config, repository: TufRepository, tmp_path: Path
) -> None:
    rollout = repository.release(package(tmp_path, "1.1.0"), **LIMITS)
    folder = config.state_dir / "update"
    with Running(config) as running:
        running.hint(rollout)
        until(lambda: any(entry.event == "kept" for entry in entries(config)), "kept")
        update = running.appliance.state().update
        assert update is not None and update.active == rollout.model.digest and update.sequence == 1
        assert running.appliance.observe().update is not None
    with Running(config) as running:  # a restart begins with it
        update = running.appliance.state().update
        assert update is not None and update.active == rollout.model.digest
        answer = wait_for(folder, ask(folder, Request(kind="rollback", by="anna", why="too strict")), PATIENCE_S)
        assert answer is not None and answer.ok, answer
    told = [(entry.event, entry.version, entry.code) for entry in entries(config)]
    assert told == [
        ("activated", "1.0.0", "start"), ("activated", "1.1.0", "rollout"), ("kept", "1.1.0", ""),
        ("activated", "1.0.0", "rolled-back"),
    ]  # fmt: skip
    assert entries(config)[1].shadow is not None and entries(config)[1].released_by == "A. Tester"
    assert (entries(config)[3].by, entries(config)[3].why) == ("anna", "too strict")
    state, checked = look(folder)
    assert not checked.broken and state is not None
    assert state.refusal_of(rollout.model.digest) is not None and state.floors[f"{PRODUCT}/stable"].settled


def test_a_trial_goes_on_after_a_stop_in_good_order_and_ends_when_a_person_says_so(
    config: Config, repository: TufRepository, tmp_path: Path, tiny_model: Path
) -> None:
    limits = {**LIMITS, "trial": {"parts": 1_000_000}}
    rollout = repository.release(package(tmp_path, "1.1.0"), **limits)
    folder = config.state_dir / "update"

    def stage() -> str:
        state = look(folder)[0]
        return state.stage.value if state else ""

    with Running(config) as running:
        running.hint(rollout)
        until(lambda: stage() == "trial" and len(entries(config)) == 2, "on trial")
    state = look(folder)[0]
    assert state is not None and (state.stage.value, state.starts) == ("trial", 0)  # nothing to be blamed for
    with Running(config) as running:
        update = running.appliance.state().update
        assert update is not None and update.active == rollout.model.digest
        until(lambda: running.appliance.models.trial_report().beside.parts > 0, "its predecessor beside it")
        answer = wait_for(folder, ask(folder, Request(kind="rollback", by="anna")), PATIENCE_S)
        assert answer is not None and answer.ok, answer
        assert running.appliance.models.active() == ModelPackage.load(tiny_model).digest
    assert entries(config)[-1].code == "rolled-back"


def test_a_model_that_does_not_know_the_defect_never_gets_to_the_line(
    config: Config, repository: TufRepository, tmp_path: Path, tiny_model: Path
) -> None:
    rollout = repository.release(package(tmp_path, "2.0.0", classes=("dent",)), **LIMITS)
    with Running(config) as running:
        running.hint(rollout)
        until(lambda: any(entry.event == "refused" for entry in entries(config)), "refused")
        update = running.appliance.state().update
        assert update is not None and update.active == ModelPackage.load(tiny_model).digest
        assert running.notes.judged_parts
    refused = entries(config)[-1]
    assert refused.digest == rollout.model.digest and refused.code and refused.why
