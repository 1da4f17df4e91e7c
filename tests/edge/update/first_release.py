"""A repository with one release, and a box that is to fetch it. Fixtures: import them where they are used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_inspect.update.fetch import FetchSettings
from edge_inspect.update.offline import check_offline
from tests.edge.update.boxes import settings_for
from tests.sim.tiny_model import write_tiny_package
from tests.sim.tuf_repository import PRODUCT, TufRepository, TufServer

ONNX = "targets/*model.onnx"


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("packages")
    return {
        version: write_tiny_package(folder / version, version=version, classes=("scratch", "dent")[: 1 + (i > 0)])
        for i, version in enumerate(("1.0.0", "1.1.0"))
    }


@pytest.fixture
def repository(packages: dict[str, Path]) -> TufRepository:
    repository = TufRepository()
    repository.release(packages["1.0.0"], sequence=5)
    return repository


@pytest.fixture
def server(repository: TufRepository) -> Iterator[TufServer]:
    with TufServer(repository) as server:
        yield server


@pytest.fixture
def settings(server: TufServer, tmp_path: Path) -> FetchSettings:
    return settings_for(tmp_path / "models", server.repository, server.url)


def check(settings: FetchSettings) -> str:
    """VERIFY as the daemon does it; the digest of what it may take."""
    assert settings.root is not None
    offer, package = check_offline(settings.models_dir, settings.root, PRODUCT, "stable")
    assert package is not None
    assert package.digest == offer.rollout.model.digest
    return package.digest
