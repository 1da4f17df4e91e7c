"""A fresh client of python-tuf reads what was published; what must not be released is refused by name."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tuf.api.exceptions import DownloadError, RepositoryError

from cloud_inspect.errors import BadRelease
from cloud_inspect.release.changes import Change
from cloud_inspect.release.keys import open_signers
from cloud_inspect.release.packages import read_package
from cloud_inspect.release.publish import publish
from cloud_inspect.release.repository import load
from cloud_inspect.release.rollouts import make_wish, released
from cloud_inspect.release.serve import ReleaseServer
from cloud_inspect.release.store import open_store
from tests.cloud.release.plant import PRODUCT, ROLE, Plant, Reader, code_of


def test_fresh_client_reads_over_http_what_was_published(plant: Plant) -> None:
    plant.release("1.0.0", reason="first", audience={"lines": ("press-*",)})
    with serving(plant) as url:
        device = Reader(plant.root, url, plant.folder / "device")
        rollout = device.rollout()
        assert (rollout.model.name, rollout.model.version, rollout.sequence) == ("tiny", "1.0.0", 1)
        assert (rollout.reason, rollout.released_by) == ("first", "anna")
        assert rollout.concerns("p", "press-4", "d") and not rollout.concerns("p", "oven", "d")
        for name, content in device.package().items():
            assert content == (plant.package("1.0.0") / name).read_bytes()


def test_readers_find_a_whole_release_at_any_moment_of_publishing(plant: Plant) -> None:
    plant.release("1.0.0")
    done, failures, reads = threading.Event(), [], []

    def read_on(number: int, url: str) -> None:
        while not done.is_set() or not reads:
            try:
                files = Reader(plant.root, url, plant.folder / f"reader-{number}").package()
                reads.append(hashlib.sha256(files["manifest.json"]).hexdigest())
            except (RepositoryError, DownloadError, OSError, AssertionError) as err:
                failures.append(repr(err))
                return

    with serving(plant) as url:
        readers = [threading.Thread(target=read_on, args=(number, url)) for number in range(2)]
        for reader in readers:
            reader.start()
        for version in ("1.1.0", "1.2.0", "1.3.0"):
            plant.release(version)
        done.set()
        for reader in readers:
            reader.join(60)
    assert failures == [] and reads


def test_rollout_that_devices_would_not_read_is_not_staged(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud_inspect.release.staging.MOST_ROLLOUT_BYTES", 700)
    with pytest.raises(BadRelease) as raised:
        plant.sign("1.0.0", reason="x" * 200)
    assert code_of(raised) == "rollout-too-large"
    assert plant.staged.names("metadata") == []


def test_every_release_of_a_channel_has_the_next_sequence(plant: Plant) -> None:
    for sequence, (version, channel) in enumerate([("1.0.0", "stable"), ("1.1.0", "stable"), ("1.2.0", "stable")], 1):
        plant.release(version, channel)
        assert plant.reader().rollout().sequence == sequence
    plant.release("1.2.0", "canary")
    assert plant.reader().rollout(channel="canary").sequence == 1


def test_client_that_knew_the_old_release_takes_the_new_one(plant: Plant) -> None:
    plant.release("1.0.0")
    device = plant.reader()
    assert device.version() == "1.0.0"
    plant.release("1.1.0")
    assert device.version() == "1.1.0"


def test_same_version_with_other_bytes_is_refused(plant: Plant) -> None:
    plant.release("1.0.0")
    spoiled = plant.package("1.0.0")
    manifest = json.loads((spoiled / "manifest.json").read_text())
    (spoiled / "manifest.json").write_text(json.dumps(manifest | {"description": "other bytes"}))
    with pytest.raises(BadRelease) as raised:
        plant.sign("1.0.0", package=spoiled)
    assert code_of(raised) == "same-version-other-bytes"
    assert plant.staged.names("metadata") == []


def test_older_version_is_refused_unless_it_is_a_rollback(plant: Plant) -> None:
    plant.release("1.0.0")
    plant.release("1.1.0")
    with pytest.raises(BadRelease) as raised:
        plant.sign("1.0.0")
    assert code_of(raised) == "older-version"
    plant.release("1.0.0", rollback=True)
    rollout = plant.reader().rollout()
    assert (rollout.action, rollout.sequence, rollout.model.version) == ("rollback", 3, "1.0.0")


@pytest.mark.parametrize("spoil", ["digest-mismatch", "size-mismatch", "file-missing", "file-not-regular", "onnx"])
def test_package_whose_bytes_are_not_its_manifests_is_refused(plant: Plant, spoil: str) -> None:
    folder = plant.package("1.0.0")
    model = folder / "model.onnx"
    content = model.read_bytes()
    if spoil == "digest-mismatch":
        model.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    elif spoil == "size-mismatch":
        model.write_bytes(content + b"x")
    elif spoil == "file-missing":
        model.unlink()
    elif spoil == "file-not-regular":
        model.rename(folder / "other.onnx")
        model.symlink_to("other.onnx")
    else:
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["variants"][0]["output"]["name"] = "somewhere"
        (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BadRelease) as raised:
        read_package(folder)
    assert code_of(raised) == ("output-name" if spoil == "onnx" else spoil)


def test_what_lies_beside_a_package_stays_at_home(plant: Plant) -> None:
    (plant.package("1.0.0") / "notes.txt").write_text("private")
    plant.sign("1.0.0", package=plant.package("1.0.0"))
    plant.publish()
    assert not [name for name in plant.store.names("targets") if "notes" in name]


def test_staged_elsewhere_is_published_all_the_same(plant: Plant) -> None:
    elsewhere = open_store(str(plant.folder / "stick"))
    change = Change(plant.store, elsewhere, plant.now)
    signers = plant.signers(f"{ROLE}-1")
    change.release(PRODUCT, make_wish("stable", "anna"), read_package(plant.package("1.0.0")), signers)
    publish(plant.store, elsewhere, plant.signers("online"), plant.now)
    assert plant.reader().version() == "1.0.0"


def test_one_change_at_a_time_is_staged(plant: Plant) -> None:
    plant.sign("1.0.0")
    with pytest.raises(BadRelease) as raised:
        plant.sign("1.1.0")
    assert code_of(raised) == "staged"
    plant.change().discard()
    plant.sign("1.1.0")


def test_change_for_an_older_state_is_refused_not_merged(tmp_path: Path) -> None:
    plant = Plant(tmp_path)
    plant.sign("1.0.0")
    late = {name: (Path(plant.staged.url) / name).read_bytes() for name in plant.staged.names("")}
    plant.publish()
    plant.release("1.1.0")
    for name, content in late.items():
        plant.staged.write(name, content)
    with pytest.raises(BadRelease) as raised:
        plant.publish()
    assert code_of(raised) == "staged-outdated"


def test_revoked_package_is_named_on_every_channel_and_never_released_again(plant: Plant) -> None:
    plant.release("1.0.0")
    plant.release("1.1.0")
    plant.release("1.1.0", "canary")
    targets = plant.state().product(PRODUCT)
    bad, good = released(PRODUCT, targets, "tiny", "1.1.0"), released(PRODUCT, targets, "tiny", "1.0.0")
    plant.change().revoke(
        PRODUCT, bad, make_wish("all", "ben", reason="misses dents"), plant.signers(f"{ROLE}-1"), good
    )
    plant.publish()
    for channel in ("stable", "canary"):
        rollout = plant.reader().rollout(channel=channel)
        assert rollout.revoked == (bad.digest,)
        assert (rollout.model, rollout.action, rollout.reason) == (good, "rollback", "misses dents")
    with pytest.raises(BadRelease) as raised:
        plant.sign("1.1.0")
    assert code_of(raised) == "revoked-model"
    plant.release("1.2.0")
    assert plant.reader().rollout().revoked == (bad.digest,)


def test_revoked_package_is_no_replacement_for_another(plant: Plant) -> None:
    plant.release("1.0.0")
    targets = plant.state().product(PRODUCT)
    bad = released(PRODUCT, targets, "tiny", "1.0.0")
    with pytest.raises(BadRelease) as raised:
        plant.change().revoke(PRODUCT, bad, make_wish("all", "ben"), plant.signers(f"{ROLE}-1"), bad)
    assert code_of(raised) == "revoked-model"


def test_unknown_product_and_empty_place_are_refused_by_name(plant: Plant, tmp_path: Path) -> None:
    with pytest.raises(BadRelease, match=f"it has: {PRODUCT}") as raised:
        plant.sign("1.0.0", product="other")
    assert code_of(raised) == "unknown-product"
    with pytest.raises(BadRelease) as nothing:
        load(open_store(str(tmp_path / "nowhere")))
    assert code_of(nothing) == "not-a-repository"
    with pytest.raises(BadRelease) as occupied:
        Plant(tmp_path)
    assert code_of(occupied) == "folder-not-empty"


def test_signers_of_all_kinds_are_opened_from_one_folder(plant: Plant) -> None:
    assert len(open_signers([str(plant.keys), str(plant.keys / "online")])) == 5


@contextmanager
def serving(plant: Plant) -> Iterator[str]:
    """Over real HTTP."""
    with ReleaseServer(Path(plant.url), port=0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server.url
        server.shutdown()
        thread.join(30)
