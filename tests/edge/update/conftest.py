from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edge.update.box import Box, write_models
from tests.sim.tuf_repository import TufRepository, TufServer


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def box(tmp_path: Path, models: dict[str, Path]) -> Iterator[Box]:
    box = Box(tmp_path, models)
    yield box
    box.end()


@pytest.fixture
def repository() -> TufRepository:
    """As bare as conformance scenarios want it: the four top roles, no product."""
    repository = TufRepository(products=())
    repository.publish("targets", bump=False)
    return repository


@pytest.fixture
def server(repository: TufRepository) -> Iterator[TufServer]:
    with TufServer(repository) as server:
        yield server
