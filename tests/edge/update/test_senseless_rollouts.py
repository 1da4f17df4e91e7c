"""What is signed by the right people and makes no sense is refused, and is never offered."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edge_inspect.errors import BadModel, Untrusted
from edge_inspect.update.fetch import FetchSettings
from edge_wire.release import channel_target, file_target
from tests.edge.update.boxes import fetch, on_disk
from tests.edge.update.first_release import ONNX, packages, repository, server, settings
from tests.sim.tuf_repository import PRODUCT, ROLE, TufRepository, TufServer

__all__ = ["packages", "repository", "server", "settings"]


def sign_rollout(repository: TufRepository, content: bytes) -> None:
    repository.put(ROLE, channel_target(PRODUCT, "stable"), content)
    repository.publish(ROLE)


def changed(repository: TufRepository, **changes: object) -> bytes:
    path = max(path for path in repository.files if path.endswith("stable.json"))
    said = json.loads(repository.files[path])
    for name, value in changes.items():
        said[name] = {**said[name], **value} if isinstance(value, dict) else value
    return json.dumps(said).encode()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"product": "gears"}, "rollout-product"),
        ({"channel": "beta"}, "rollout-channel"),
        ({"sequence": 0}, "rollout-broken"),
        ({"frobnicate": 1}, "rollout-broken"),
        ({"model": {"version": "9.9.9"}}, "target-unknown"),
        ({"model": {"digest": "sha256:" + "0" * 64}}, "rollout-digest"),
        ({"released_at": "2099-01-01T00:00:00Z"}, "rollout-in-future"),
    ],
)
def test_signed_rollout_that_makes_no_sense_is_refused(
    change: dict[str, object], code: str, settings: FetchSettings, server: TufServer
) -> None:
    sign_rollout(server.repository, changed(server.repository, **change))
    with pytest.raises(Untrusted) as caught:
        fetch(settings)
    assert caught.value.code == code
    assert not server.asked(ONNX)


def test_rollout_of_another_model_of_the_same_product_is_found_out(
    settings: FetchSettings, server: TufServer, packages: dict[str, Path]
) -> None:
    """The manifest's own name and version must be those of the rollout, wherever it lies."""
    repository = server.repository
    for name, content in on_disk(packages["1.0.0"]).items():
        repository.put(ROLE, file_target(PRODUCT, "tiny", "2.0.0", name), content)
    sign_rollout(repository, changed(repository, model={"version": "2.0.0"}))
    with pytest.raises(Untrusted) as caught:
        fetch(settings)
    assert caught.value.code == "rollout-model"


def test_rollout_too_large_is_not_fetched(settings: FetchSettings, server: TufServer) -> None:
    sign_rollout(server.repository, b" " * 70_000)
    with pytest.raises(Untrusted) as caught:
        fetch(settings)
    assert caught.value.code == "rollout-too-large"
    assert not server.asked("targets/*")


def test_other_file_signed_under_the_models_name_is_refused(settings: FetchSettings, server: TufServer) -> None:
    """Same version, other bytes: the rollout's digest covers the manifest, the manifest every file."""
    server.repository.put(ROLE, file_target(PRODUCT, "tiny", "1.0.0", "model.onnx"), b"other")
    server.repository.publish(ROLE)
    with pytest.raises(Untrusted) as caught:
        fetch(settings)
    assert caught.value.code == "target-not-manifest"


def test_package_that_breaks_its_own_contract_never_appears(
    settings: FetchSettings, server: TufServer, packages: dict[str, Path], tmp_path: Path
) -> None:
    """Right signatures over a model that cannot be: refused before it has a name."""
    broken = tmp_path / "broken"
    shutil.copytree(packages["1.0.0"], broken)
    said = json.loads((broken / "manifest.json").read_text())
    said["variants"][0]["input"]["name"] = "pictures"
    (broken / "manifest.json").write_text(json.dumps(said))
    server.repository.release(broken, sequence=6)
    with pytest.raises(BadModel) as caught:
        fetch(settings)
    assert caught.value.code == "input-name"
    assert list((settings.models_dir / "packages").iterdir()) == []
