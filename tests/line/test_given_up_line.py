"""The whole appliance: a model that was kept cannot be started any more; the line does not stay dark for that."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import pytest

from edge_inspect.config import Config, config_from_options
from edge_inspect.config_update import UpdateConfig
from edge_inspect.daemon import Appliance
from edge_inspect.errors import BadModel
from edge_inspect.inference.engine import Engine
from edge_inspect.inference.package import ModelPackage
from edge_inspect.update.history import Entry
from edge_inspect.update.state import State
from edge_inspect.update.store import Store
from edge_wire.release import ReleasedModel
from tests.line.conftest import with_model_of_the_box
from tests.line.drawn import DrawnCamera
from tests.sim.tiny_model import write_tiny_package
from tests.sim.tuf_repository import TufRepository

pytestmark = pytest.mark.slow
NOW = datetime(2026, 11, 22, 8, 0, tzinfo=timezone.utc)


@pytest.fixture
def config(tmp_path: Path, tiny_model: Path, recipe: Path) -> Config:
    (tmp_path / "root.json").write_bytes(TufRepository().first_root)
    plain = config_from_options(
        camera="sim", state=tmp_path / "state", provider="cpu", threads=1, recipe=recipe, model=str(tiny_model)
    )
    update = UpdateConfig(product="tiny", root=tmp_path / "root.json", url="http://127.0.0.1:9", keep_free_bytes=0)
    return with_model_of_the_box(plain).model_copy(update={"update": update})


@pytest.fixture
def kept(config: Config, tmp_path: Path, tiny_model: Path) -> str:
    """Digest of a model that was kept here: 1.1.0."""
    package = ModelPackage.load(write_tiny_package(tmp_path / "b", version="1.1.0"))
    shutil.copytree(package.dir, config.models_dir / "packages" / package.digest.removeprefix("sha256:"))
    model = ReleasedModel(name="tiny", version="1.1.0", digest=package.digest)
    with Store.open(config.state_dir / "update", config.models_dir, tiny_model) as store:
        for event, role in (("activated", "trial"), ("kept", "kept")):
            entry = Entry(at=NOW, event=event, digest=package.digest, name="tiny", version="1.1.0", role=role)  # type: ignore[arg-type]
            store.history.append(entry)
        store.save(State(since=NOW, active=package.digest, known=(model,)))
    return package.digest


def lived(config: Config, steps: int = 20) -> tuple[str, BaseException | None, list[str]]:
    """One life of the daemon: the model at its start, what ended it, its alarms."""
    appliance = Appliance(config, cameras={"camera": DrawnCamera(["good", "rest"] * steps)})
    began_with = appliance.models.active()
    codes = [alarm.code for alarm in appliance.updates.alarms()] if appliance.updates else []
    try:
        appliance.run(threading.Event())
    except (BadModel, RuntimeError) as err:
        return began_with, err, codes
    return began_with, None, codes


def breaks_at_frame(number: int, run: Callable[[], None]) -> Callable[[], None]:
    frames = iter(range(1, number))

    def runs() -> None:
        if next(frames, None) is None:
            raise BadModel("runtime-refuses", f"frame {number}")
        run()

    return runs


@pytest.mark.parametrize("when", ["at the start", "while it judges"])
def test_line_goes_on_with_the_model_before_after_three_starts(
    when: str, config: Config, kept: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = Engine.known_answer

    def wrong(engine: Engine, *args: int) -> None:
        if engine.package.digest == kept and when == "at the start":
            raise BadModel("known-answer", "plate-1.png: found no scratch")
        answers(engine, *args)
        if engine.package.digest == kept and when == "while it judges":
            engine.run = breaks_at_frame(7, engine.run)

    monkeypatch.setattr(Engine, "known_answer", wrong)
    for _ in range(3):
        began_with, err, alarms = lived(config)
        assert began_with == kept and isinstance(err, BadModel) and "model-given-up" not in alarms
    began_with, err, alarms = lived(config)
    assert began_with == ModelPackage.load(tiny_model).digest and err is None and "model-given-up" in alarms


def test_model_that_judges_is_not_given_up_for_what_somebody_else_does(
    config: Config, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crashes(*_: object) -> None:
        raise RuntimeError("a camera's driver")

    monkeypatch.setattr(DrawnCamera, "read_into", crashes)
    for _ in range(4):
        began_with, err, _ = lived(config)
        assert began_with == kept and isinstance(err, RuntimeError)
