"""The tiny network and a recipe for it, and a whole appliance around drawn pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from edge_inspect.capture.protocol import Camera
from edge_inspect.config import Config, config_from_options
from edge_inspect.daemon import Appliance
from edge_inspect.inference.package import ModelPackage
from tests.line.drawn import Notes
from tests.line.other_models import changed_package, finds_nothing
from tests.sim.tiny_model import write_tiny_package

RECIPE = """
name = "spots"
version = "1"
[classes.scratch]
threshold = 0.5
[part]
mode = "frame"
"""

Build = Callable[..., tuple[Appliance, Notes]]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_package(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def poisoned_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_package(tmp_path_factory.mktemp("poisoned"), name="poisoned", poison=True)


@pytest.fixture(scope="session")
def others(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, ModelPackage]:
    """By what is the matter with them."""
    folder = tmp_path_factory.mktemp("others")
    made = {
        "good": write_tiny_package(folder / "good", name="good", version="2.0.0"),
        "larger": write_tiny_package(folder / "larger", 192, 320, name="larger"),
        "end2end": write_tiny_package(folder / "end2end", layout="end2end", name="end2end"),
        "more classes": write_tiny_package(folder / "more", classes=("scratch", "dent", "stain"), name="more"),
        "poisoned": write_tiny_package(folder / "poisoned", poison=True, name="poisoned"),
        "blind": changed_package(tiny_model, folder / "blind", finds_nothing, name="blind"),
        "other class": write_tiny_package(folder / "dents", classes=("dent",), name="dents"),
    }
    return {name: ModelPackage.load(path) for name, path in made.items()}


def with_model_of_the_box(config: Config) -> Config:
    """The one camera's model as `[model] dir`, as a configuration file for a device has it."""
    camera = config.camera[0]
    model = config.model.model_copy(update={"dir": camera.model})
    return config.model_copy(update={"model": model, "camera": (camera.model_copy(update={"model": None}),)})


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "spots.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def build(tmp_path: Path, tiny_model: Path, recipe: Path) -> Build:
    """Build an appliance around cameras by name; what it tells is noted."""

    def appliance(
        cameras: Mapping[str, Camera],
        *,
        model: Path | None = None,
        deliver: bool = False,
        stall_s: float | None = None,
        **options: Any,
    ) -> tuple[Appliance, Notes]:
        config = config_from_options(
            camera="sim",
            state=tmp_path / "state",
            provider="cpu",
            threads=1,
            recipe=recipe,
            model=str(model or tiny_model),
        )
        config = with_model_of_the_box(config)
        first = config.camera[0]
        named = tuple(first.model_copy(update={"name": name, "stall_s": stall_s}) for name in cameras)
        notes = Notes()
        built = Appliance(
            config.model_copy(update={"camera": named}), cameras=cameras, watchers=(notes,), deliver=deliver, **options
        )
        return built, notes

    return appliance
