"""A device of ours takes what we publish: over HTTP and from a stick."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud_inspect.release.export import export
from cloud_inspect.release.keys import make_key
from cloud_inspect.release.roles import Exchange, rotate
from cloud_inspect.release.serve import ReleaseServer
from edge_inspect.errors import Untrusted
from edge_inspect.inference.package import ModelPackage
from edge_inspect.update.fetch import FetchSettings, fetch_once, import_from
from edge_inspect.update.transport import FetchLimits
from tests.cloud.release.plant import PRODUCT, ROLE, Plant


@pytest.fixture
def url(plant: Plant) -> Iterator[str]:
    with ReleaseServer(Path(plant.url), port=0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server.url
        server.shutdown()
        thread.join(30)


def device(plant: Plant, url: str) -> FetchSettings:
    return FetchSettings(
        models_dir=plant.folder / "models", product=PRODUCT, channel="stable", site="plant1", line="press-4",
        device="edge-0017", url=url, root=plant.root, limits=FetchLimits(deadline_s=60, min_free_bytes=0),
    )  # fmt: skip


def test_device_fetches_release_after_release_through_rotations(plant: Plant, url: str) -> None:
    settings, stop = device(plant, url), threading.Event()
    plant.release("1.0.0", audience={"lines": ("press-*",)})
    offer = fetch_once(settings, stop)
    assert offer is not None and offer.rollout.model.version == "1.0.0"
    key = make_key(plant.keys / "root-2.pem")
    rotate(plant.change(), "root", Exchange((key,), ("root-1",)), plant.signers("root-1"), plant.signers("root-2"))
    plant.publish()
    plant.release("1.1.0")
    offer = fetch_once(settings, stop)
    assert offer is not None and offer.rollout.model.version == "1.1.0"
    packages = {ModelPackage.load(folder).digest for folder in (settings.models_dir / "packages").iterdir()}
    assert offer.rollout.model.digest in packages


def test_device_takes_the_same_from_a_stick(plant: Plant) -> None:
    plant.release("1.0.0")
    stick = plant.folder / "stick"
    stick.mkdir()
    export(plant.store, stick, PRODUCT)
    offer = import_from(stick, device(plant, "http://127.0.0.1:1"), threading.Event())
    assert offer is not None and offer.rollout.model.version == "1.0.0"


def test_device_of_another_plant_takes_nothing(plant: Plant, tmp_path: Path, url: str) -> None:
    plant.release("1.0.0")
    stranger = Plant(tmp_path / "other")
    with pytest.raises(Untrusted):
        fetch_once(device(stranger, url), threading.Event())
    assert ROLE in plant.state().roles
