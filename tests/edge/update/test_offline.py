"""From a stick, or from what lies on the disk: without a network everything is verified as with one."""

from __future__ import annotations

import json
import threading
import tracemalloc
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from tuf.api.metadata import TargetFile

from edge_inspect.errors import SourceGone, Untrusted
from edge_inspect.update import offline
from edge_inspect.update.fetch import FetchSettings, import_from
from edge_inspect.update.offers import read_offer
from edge_inspect.update.offline import check_offline
from edge_wire.release import Rollout
from tests.edge.update.boxes import fetch, settings_for
from tests.edge.update.first_release import check, packages, repository, server, settings
from tests.sim.tuf_repository import PRODUCT, ROLE, TufRepository, TufServer

__all__ = ["packages", "repository", "server", "settings"]


def test_usb_stick_is_verified_like_the_network(repository: TufRepository, tmp_path: Path) -> None:
    stick = tmp_path / "a stick"
    repository.write_to(stick)
    settings = settings_for(tmp_path / "models", repository, "")
    offer = import_from(stick, settings, threading.Event())
    assert offer is not None
    check(settings)
    model = next(path for path in stick.rglob("*model.onnx"))
    model.write_bytes(model.read_bytes()[:-1] + b"?")
    fresh = replace(settings, models_dir=tmp_path / "fresh")
    with pytest.raises(Untrusted) as caught:
        import_from(stick, fresh, threading.Event())
    assert caught.value.code == "target-digest"
    model.unlink()
    model.symlink_to("/dev/zero")
    with pytest.raises(SourceGone) as gone:
        import_from(stick, fresh, threading.Event())
    assert gone.value.code == "unreadable"
    with pytest.raises(Untrusted) as caught:
        import_from(tmp_path, fresh, threading.Event())
    assert caught.value.code == "not-a-repository"


def test_old_stick_cannot_bring_back_what_was_left_behind(
    settings: FetchSettings, server: TufServer, packages: dict[str, Path], tmp_path: Path
) -> None:
    server.repository.write_to(tmp_path / "stick")
    server.repository.release(packages["1.1.0"], sequence=6)
    fetch(settings)
    with pytest.raises(Untrusted) as caught:
        import_from(tmp_path / "stick", settings, threading.Event())
    assert caught.value.code == "metadata-rollback"


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda said: said.update(content=said["content"].replace("A. Tester", "B. Tester")), "target-digest"),
        (lambda said: said["metadata"].pop("timestamp.json"), "offer-broken"),
        (lambda said: said["metadata"].update({"timestamp.json": "{}"}), "metadata-broken"),
        (lambda said: said.update(metadata=[1]), "offer-broken"),
        (lambda said: said.pop("content"), "offer-broken"),
        (lambda said: said.update(package="../../etc"), "offer-broken"),
        (lambda said: said.update(format=2), "offer-broken"),
        (lambda said: said.pop("format"), "offer-broken"),
    ],
    ids=["content", "no-timestamp", "timestamp", "list", "no-content", "path", "newer", "no-format"],
)
def test_offer_that_was_tampered_with_is_refused_offline(spoil, code: str, settings: FetchSettings) -> None:  # type: ignore[no-untyped-def]
    fetch(settings)
    path = settings.models_dir / "offers" / f"{PRODUCT}-stable.json"
    said = json.loads(path.read_text())
    spoil(said)
    path.write_text(json.dumps(said))
    with pytest.raises((Untrusted, SourceGone)) as caught:
        check(settings)
    assert caught.value.code == code


def test_file_is_hashed_without_being_in_memory(tmp_path: Path) -> None:
    """A model may have 512 MiB."""
    size = 64 << 20
    with (tmp_path / "model.onnx").open("wb") as stream:
        stream.truncate(size)
    info = TargetFile.from_file("model.onnx", str(tmp_path / "model.onnx"))
    tracemalloc.start()
    try:
        offline.check(tmp_path / "model.onnx", info)
        assert tracemalloc.get_traced_memory()[1] < size // 8
    finally:
        tracemalloc.stop()


def test_stale_offer_is_put_off_until_it_was_fetched_again(settings: FetchSettings, server: TufServer) -> None:
    fetch(settings)
    late = datetime.now(timezone.utc) + timedelta(days=31)
    assert settings.root is not None
    with pytest.raises(Untrusted) as caught:
        check_offline(settings.models_dir, settings.root, PRODUCT, "stable", clock=lambda: late)
    assert caught.value.code == "metadata-expired"
    for role in ("targets", ROLE, "snapshot", "timestamp"):
        server.repository.signed(role).expires = late + timedelta(days=30)
    server.repository.root.expires = late + timedelta(days=30)
    server.repository.publish("root", "targets", ROLE)
    fetch(replace(settings, clock=lambda: late))
    check_offline(settings.models_dir, settings.root, PRODUCT, "stable", clock=lambda: late)


def test_rollout_says_the_same_on_both_sides(settings: FetchSettings) -> None:
    offer = fetch(settings)
    assert offer is not None
    again = read_offer(settings.models_dir, PRODUCT, "stable")
    assert again is not None
    assert (again.rollout, again.content, again.package) == (offer.rollout, offer.content, offer.package)
    assert Rollout.model_validate_json(again.content) == offer.rollout
