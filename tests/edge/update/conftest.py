from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edge.update.box import Box, write_models


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def box(tmp_path: Path, models: dict[str, Path]) -> Iterator[Box]:
    box = Box(tmp_path, models)
    yield box
    box.end()
