"""What is offered is believed only after its signatures were checked; what cannot be believed stops no look."""

from __future__ import annotations

import json
import shutil
import threading
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from edge_inspect.errors import BadModel, SourceGone, Untrusted
from edge_inspect.update.fetch import FetchSettings
from edge_inspect.update.offers import offer_file
from edge_inspect.update.source import Offers
from edge_inspect.update.state import Candidate
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


def forge(settings: FetchSettings, **changes: object) -> None:
    """As whoever can write the folder of models may."""
    path = offer_file(settings.models_dir, PRODUCT, "stable")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def settings(repository: TufRepository, models: dict[str, Path], tmp_path: Path) -> FetchSettings:
    """Model b is offered."""
    repository.release(models["b"])
    settings = settings_for(tmp_path / "models", repository, served(repository, tmp_path / "repository"))
    fetch(settings)
    return settings


def candidate_of(settings: FetchSettings) -> Candidate:
    rollout = look(Offers(settings, asks=False))
    assert rollout is not None
    return Candidate.of(rollout, datetime.now(timezone.utc))


def test_no_word_that_nobody_signed_refuses_a_model(settings: FetchSettings) -> None:
    """A digest that is refused is refused for good: only what is signed may do that."""
    candidate, source = candidate_of(settings), Offers(settings, asks=False)
    forge(settings, refusal=["onnx-operator", "a lie"])
    assert source.verify(candidate).digest == candidate.model.digest
    forge(settings, refusal=["onnx-operator", "a lie"], package=None)
    with pytest.raises(Untrusted) as caught:
        source.verify(candidate)
    assert caught.value.code == "offer-empty"


@pytest.mark.parametrize("rots", ["manifest.json", "model.onnx", "golden/spot.png"])
def test_no_disk_that_rots_refuses_a_model(rots: str, settings: FetchSettings) -> None:
    candidate = candidate_of(settings)
    file = settings.models_dir / "packages" / candidate.model.digest[7:] / rots
    file.chmod(0o600)
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    for package in (None, candidate.model.digest[7:]):  # the blob is the same file
        forge(settings, package=package)
        with pytest.raises(Untrusted) as caught:
            Offers(settings, asks=False).verify(candidate)
        assert caught.value.code == ("digest-mismatch" if package else "offer-empty")


def test_model_is_refused_by_its_own_signed_bytes(
    repository: TufRepository, models: dict[str, Path], tmp_path: Path
) -> None:
    """What the fetcher could not put together the daemon judges by what was fetched, file by file."""
    broken = tmp_path / "broken"
    shutil.copytree(models["b"], broken)
    said = json.loads((broken / "manifest.json").read_text())
    said["variants"][0]["input"]["name"] = "pictures"
    (broken / "manifest.json").write_text(json.dumps(said))
    repository.release(broken)
    settings = settings_for(tmp_path / "models", repository, served(repository, tmp_path / "repository"))
    with pytest.raises(BadModel):
        fetch(settings)
    source, candidate = Offers(settings, asks=False), candidate_of(settings)
    with pytest.raises(BadModel) as caught:
        source.verify(candidate)
    assert caught.value.code == "input-name"
    for blob in (settings.models_dir / "blobs").iterdir():
        blob.unlink()
    with pytest.raises(Untrusted) as gone:
        source.verify(candidate)
    assert gone.value.code == "offer-empty"


def test_candidate_is_not_blamed_for_what_is_offered_after_it(
    settings: FetchSettings, repository: TufRepository, models: dict[str, Path], tmp_path: Path
) -> None:
    candidate = candidate_of(settings)
    newer = repository.release(models["c"], 2)
    served(repository, tmp_path / "repository")
    fetch(settings)
    shutil.rmtree(settings.models_dir / "packages" / newer.model.digest[7:])
    with pytest.raises(Untrusted) as caught:
        Offers(settings, asks=False).verify(candidate)
    assert caught.value.code == "offer-other"


def test_old_offer_that_cannot_be_believed_is_logged_once(settings: FetchSettings) -> None:
    shutil.rmtree(settings.models_dir / "packages")
    source = Offers(replace(settings, url="http://127.0.0.1:9"), asks=True)
    structlog.reset_defaults()  # whatever level a command before set for its process
    with capture_logs() as lines:
        for _ in range(3):
            with pytest.raises((SourceGone, Untrusted)):
                look(source)
            source._seen = None  # as if it had come anew
    assert [line["event"] for line in lines if "old_offer" in line["event"]] == ["update.old_offer"]


def test_an_old_offer_whose_package_is_gone_stops_no_look(
    repository: TufRepository, models: dict[str, Path], tmp_path: Path
) -> None:
    repository.release(models["b"])
    settings = settings_for(tmp_path / "models", repository, served(repository, tmp_path / "repository"))
    fetch(settings)
    shutil.rmtree(tmp_path / "models" / "packages")
    (tmp_path / "models" / "packages").mkdir()
    with pytest.raises(Untrusted, match=r"\[file-missing\]"):
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
