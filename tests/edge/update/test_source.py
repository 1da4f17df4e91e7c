"""What is offered is believed only after its signatures were checked; what cannot be believed stops no look."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from edge_inspect.errors import BadModel, SourceGone, Untrusted
from edge_inspect.update.offers import offer_file
from edge_inspect.update.source import Offers
from edge_wire.release import Rollout
from tests.edge.update.boxes import fetch, settings_for
from tests.sim.tuf_repository import PRODUCT, TufRepository


@pytest.fixture
def repository() -> TufRepository:
    return TufRepository()


def served(repository: TufRepository, folder: Path) -> str:
    repository.write_to(folder)
    return folder.as_uri()


def look(source: Offers) -> Rollout | None:
    return source.fetch(threading.Event(), lambda share: None)


def test_what_somebody_else_fetched_is_taken_after_it_was_verified(
    repository: TufRepository, models: dict[str, Path], tmp_path: Path
) -> None:
    rollout = repository.release(models["b"])
    settings = settings_for(tmp_path / "models", repository, served(repository, tmp_path / "repository"))
    source = Offers(settings, asks=False)
    assert not source.news() and look(source) is None
    fetch(settings)
    assert source.news() and look(source) == rollout and not source.news()
    assert look(source) == rollout  # a candidate that was put off is taken up again


def test_a_forged_offer_is_not_believed(repository: TufRepository, models: dict[str, Path], tmp_path: Path) -> None:
    repository.release(models["b"])
    settings = settings_for(tmp_path / "models", repository, served(repository, tmp_path / "repository"))
    fetch(settings)
    path = offer_file(settings.models_dir, PRODUCT, "stable")
    path.write_text(path.read_text().replace('\\"sequence\\":1', '\\"sequence\\":9000000000000000'))
    with pytest.raises(Untrusted):
        look(Offers(settings, asks=False))


def test_an_old_offer_whose_package_is_gone_stops_no_look(
    repository: TufRepository, models: dict[str, Path], tmp_path: Path
) -> None:
    repository.release(models["b"])
    settings = settings_for(tmp_path / "models", repository, served(repository, tmp_path / "repository"))
    fetch(settings)
    shutil.rmtree(tmp_path / "models" / "packages")
    (tmp_path / "models" / "packages").mkdir()
    with pytest.raises(BadModel):
        look(Offers(settings, asks=False))
    newer = repository.release(models["c"], 2)
    served(repository, tmp_path / "repository")
    assert look(Offers(settings, asks=True)) == newer


def test_without_a_repository_what_was_imported_is_taken(
    repository: TufRepository, models: dict[str, Path], tmp_path: Path
) -> None:
    rollout = repository.release(models["b"])
    settings = settings_for(tmp_path / "models", repository, served(repository, tmp_path / "repository"))
    fetch(settings)
    shutil.rmtree(tmp_path / "repository")
    source = Offers(settings_for(tmp_path / "models", repository, "http://127.0.0.1:9"), asks=True)
    assert look(source) == rollout
    with pytest.raises(SourceGone):
        look(source)
