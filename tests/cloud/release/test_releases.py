"""A fresh client of python-tuf reads what was published, and nothing else can be made to be published."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from tuf.api.exceptions import DownloadError, ExpiredMetadataError, RepositoryError
from tuf.api.metadata import Metadata, Targets

from cloud_inspect.errors import BadKey, BadRelease, StoreGone
from cloud_inspect.release.changes import Change
from cloud_inspect.release.keys import make_key, open_signers
from cloud_inspect.release.layout import metadata_file, target_file
from cloud_inspect.release.packages import read_package
from cloud_inspect.release.publish import keep_signed, publish, resign
from cloud_inspect.release.repository import load, utc_now
from cloud_inspect.release.rollouts import make_wish, released
from cloud_inspect.release.serve import ReleaseServer
from cloud_inspect.release.store import open_store
from cloud_inspect.release.verify import verify
from edge_wire.release import SIGNED_AT
from tests.cloud.release.plant import PRODUCT, ROLE, Plant, Reader


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    return Plant(tmp_path)


def code_of(raised: pytest.ExceptionInfo[BadRelease] | pytest.ExceptionInfo[BadKey]) -> str:
    assert str(raised.value).endswith(f"[{raised.value.code}]")
    assert "\n" not in str(raised.value)
    return raised.value.code


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


@pytest.mark.parametrize("url", ["memory://{name}/models", "file://{folder}/models", "local://{folder}/models"])
def test_a_repository_may_lie_anywhere_fsspec_goes(tmp_path: Path, url: str) -> None:
    plant = Plant(tmp_path, url.format(name=uuid.uuid4().hex, folder=tmp_path))
    plant.release("1.0.0")
    plant.release("1.1.0")
    assert plant.reader().version() == "1.1.0"
    assert verify(plant.store, plant.root).troubles == ()
    assert plant.staged.names("") == [] or plant.staged.names("metadata") == []


def test_repository_in_an_archive_is_read_and_a_write_to_it_is_one_line(plant: Plant) -> None:
    plant.release("1.0.0")
    archive = shutil.make_archive(str(plant.folder / "models"), "zip", plant.url)
    stores = [open_store(f"zip://::{archive}") for _ in range(2)]
    assert verify(stores[0], plant.root).troubles == ()
    with pytest.raises(StoreGone, match=r"\[store-gone\]$") as raised:
        resign(stores[1], plant.signers("online"), plant.now, force=True)
    assert "\n" not in str(raised.value)
    with pytest.raises(BadRelease, match=r"\[store-unknown\]$"):
        open_store(f"zip://::{plant.folder}/none.zip")


def test_file_that_breaks_off_far_away_is_one_line(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clients below fsspec raise what they like, e.g. aiohttp.ClientPayloadError."""
    from fsspec.implementations.memory import MemoryFile

    far = Plant(plant.folder / "far", f"memory://{uuid.uuid4().hex}")
    far.release("1.0.0")

    def breaks_off(*_: object) -> bytes:
        raise RuntimeError("payload is not completed")

    monkeypatch.setattr(MemoryFile, "read", breaks_off)
    with pytest.raises(StoreGone, match="payload is not completed") as raised:
        load(far.store)
    assert raised.value.code == "store-gone"


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


def test_one_products_key_cannot_sign_anothers_model(tmp_path: Path) -> None:
    plant = Plant(tmp_path, products=(PRODUCT, "ball-screw"))
    with pytest.raises(BadKey) as raised:
        plant.sign("1.0.0", key=["product-ball-screw-1"])
    assert code_of(raised) == "key-not-of-role"


def test_one_products_metadata_is_not_believed_about_another(tmp_path: Path) -> None:
    """Whoever holds ball-screw's key and the online keys still cannot give metal-plate a model."""
    plant = Plant(tmp_path, products=(PRODUCT, "ball-screw"))
    plant.release("1.0.0")
    change = plant.change()
    draft = change.draft(change.state(), plant.signers("product-ball-screw-1", "online"))
    with draft.edit_targets("product-ball-screw") as targets:
        stolen = dict(plant.state().product(PRODUCT).targets)
        targets.targets |= stolen
        path = f"{PRODUCT}/channels/evil.json"
        targets.targets[path] = next(iter(stolen.values()))
    change.staging.write("product-ball-screw", draft.changed["product-ball-screw"])
    with pytest.raises(BadRelease) as raised:
        plant.publish()
    assert code_of(raised) == "target-not-of-product"
    draft.do_snapshot()
    draft.do_timestamp()
    for role, metadata in draft.changed.items():  # past our own gate
        plant.store.write(metadata_file(role, metadata.signed.version), metadata.to_bytes())
    device = plant.reader()
    assert device.version() == "1.0.0"
    assert device.updater().get_targetinfo(f"{PRODUCT}/channels/evil.json") is None


def test_nothing_is_published_below_the_threshold_and_the_line_says_who_is_missing(tmp_path: Path) -> None:
    plant = Plant(tmp_path, thresholds={ROLE: (2, 3)})
    signed = plant.sign("1.0.0")
    assert len(signed.missing) == 1
    with pytest.raises(BadRelease, match=f"1 of 2 signatures.*{ROLE}-2.*{ROLE}-3") as raised:
        plant.publish()
    assert code_of(raised) == "threshold"
    assert plant.reader().version() is None
    again = plant.change().countersign(ROLE, plant.signers(f"{ROLE}-1"))
    assert len(again.missing) == 1, "the same key twice counts once"
    second = plant.sign("1.0.0", key=[f"{ROLE}-3"])
    assert second.missing == ()
    plant.publish()
    assert plant.reader().version() == "1.0.0"


def test_signer_may_not_sign_what_was_changed_after_the_first_signature(tmp_path: Path) -> None:
    plant = Plant(tmp_path, thresholds={ROLE: (2, 2)})
    plant.sign("1.0.0")
    victim = next(name for name in plant.staged.names("targets") if name.endswith("model.onnx"))
    content = (Path(plant.staged.url) / victim).read_bytes()
    plant.staged.write(victim, content[:-1] + b"\0")
    with pytest.raises(BadRelease) as raised:
        plant.change().countersign(ROLE, plant.signers(f"{ROLE}-2"))
    assert code_of(raised) == "target-missing"


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


def test_beginnings_of_files_that_a_killed_writer_left_are_swept(plant: Plant) -> None:
    left = Path(plant.url) / "targets/p/.model.onnx.1.part"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    plant.release("1.0.0")
    assert not left.exists()


def test_timestamp_says_when_it_was_signed(plant: Plant) -> None:
    content = json.loads((Path(plant.url) / "metadata/timestamp.json").read_bytes())
    assert content["signed"][SIGNED_AT] == f"{plant.now:%Y-%m-%dT%H:%M:%SZ}"


def test_expired_timestamp_freezes_readers_until_it_is_signed_again(tmp_path: Path) -> None:
    plant = Plant(tmp_path, now=utc_now() - timedelta(days=3))
    plant.release("1.0.0")
    with pytest.raises(ExpiredMetadataError):
        plant.reader().version()
    assert verify(plant.store, plant.root).troubles[0].endswith("[expired]")
    done = resign(plant.store, plant.signers("online"), utc_now())
    assert set(done) == {"timestamp"}
    assert plant.reader().version() == "1.0.0"


def test_resigning_signs_nothing_before_half_of_the_time_is_over(plant: Plant) -> None:
    assert resign(plant.store, plant.signers("online"), plant.now + timedelta(hours=23)) == {}
    assert set(resign(plant.store, plant.signers("online"), plant.now + timedelta(hours=25))) == {"timestamp"}
    assert set(resign(plant.store, plant.signers("online"), plant.now + timedelta(days=8))) == {"snapshot", "timestamp"}


def test_stick_that_travels_is_signed_for_longer(plant: Plant) -> None:
    plant.release("1.0.0")
    done = resign(plant.store, plant.signers("online"), plant.now, holds_for=timedelta(days=20))
    assert set(done) == {"snapshot", "timestamp"}
    assert min(one.signed.expires for one in plant.state().roles.values()) > plant.now + timedelta(days=19)
    assert plant.reader().version() == "1.0.0"


def test_online_keys_alone_can_add_no_model(plant: Plant) -> None:
    """What somebody can do who broke into the publishing machine: sign snapshots of a product file he made himself."""
    plant.release("1.0.0")
    change = plant.change()
    draft = change.draft(change.state(), plant.signers("online"))
    with draft.edit_targets(ROLE) as targets:
        info = targets.targets[f"{PRODUCT}/channels/stable.json"]
        targets.targets[f"{PRODUCT}/channels/other.json"] = info
    draft.do_snapshot()
    draft.do_timestamp()
    for role, metadata in draft.changed.items():
        plant.store.write(metadata_file(role, metadata.signed.version), metadata.to_bytes())
    with pytest.raises(RepositoryError):
        plant.reader().version()
    with pytest.raises(BadRelease) as raised:
        load(plant.store)
    assert code_of(raised) == "metadata-refused"


def test_resigning_watcher_goes_on_through_a_locked_repository(plant: Plant) -> None:
    stop = threading.Event()
    plant.later(hours=30)
    watcher = threading.Thread(
        target=keep_signed, args=(plant.store, plant.signers("online"), lambda: plant.now, stop, 0.05)
    )
    with plant.store.lock():
        before = (Path(plant.url) / "metadata/timestamp.json").read_bytes()
        watcher.start()
    deadline = 60.0
    try:
        while (Path(plant.url) / "metadata/timestamp.json").read_bytes() == before and deadline > 0:
            deadline -= 0.05
            stop.wait(0.05)
    finally:
        stop.set()
        watcher.join(30)
    assert deadline > 0


def test_expired_product_is_not_published_over(tmp_path: Path) -> None:
    plant = Plant(tmp_path)
    plant.later(days=181)
    resign(plant.store, plant.signers("online"), plant.now)
    with pytest.raises(BadRelease) as raised:
        plant.release("1.0.0")
    assert code_of(raised) == "expired"
    plant.change().discard()
    plant.change().renew("targets", plant.signers("targets-1"))
    plant.publish()
    plant.release("1.0.0")


def test_second_writer_is_refused_while_the_first_is_at_it(plant: Plant) -> None:
    plant.sign("1.0.0")
    with plant.store.lock():
        with pytest.raises(StoreGone, match="is writing") as raised:
            plant.publish()
    assert raised.value.code == "locked"
    plant.publish()


def test_lock_of_a_dead_writer_on_an_object_store_can_be_broken(tmp_path: Path) -> None:
    plant = Plant(tmp_path, f"memory://{uuid.uuid4().hex}")
    plant.sign("1.0.0")
    plant.store.write(".lock", b'{"user": "x", "host": "y", "pid": 1, "since": "z"}')
    with pytest.raises(StoreGone, match="x on y") as raised:
        plant.publish()
    assert raised.value.code == "locked"
    plant.store.break_lock()
    plant.publish()


def test_full_disk_is_one_line_and_publishing_can_be_repeated(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant.sign("1.0.0")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreGone, match="No space left") as raised:
            plant.publish()
    assert raised.value.code == "disk-full"
    plant.publish()
    assert plant.reader().version() == "1.0.0"


@pytest.mark.parametrize("harm", ["changed", "missing", "truncated"])
def test_verify_finds_every_harmed_file(plant: Plant, harm: str) -> None:
    plant.release("1.0.0")
    info = next(one for path, one in plant.state().product(PRODUCT).targets.items() if path.endswith("model.onnx"))
    victim = Path(plant.url) / target_file(info)
    content = victim.read_bytes()
    if harm == "changed":
        victim.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif harm == "truncated":
        victim.write_bytes(content[:-1])
    else:
        victim.unlink()
    found = verify(plant.store, plant.root)
    assert len(found.troubles) == 1
    assert found.troubles[0].endswith("[target-missing]" if harm == "missing" else "[target-changed]")
    assert found.files == 3


def test_verify_believes_only_the_root_it_was_given(plant: Plant, tmp_path: Path) -> None:
    other = Plant(tmp_path / "other")
    with pytest.raises(BadRelease) as raised:
        verify(plant.store, other.root)
    assert code_of(raised) == "metadata-refused"


def test_signer_who_has_the_root_signs_nothing_on_top_of_a_repository_that_was_made_up(
    plant: Plant, tmp_path: Path
) -> None:
    """With our public targets key an attacker makes a repository of his own, which gives our product his key; were it
    renewed by us, he could carry our signature into the real one."""
    make_key(tmp_path / "evil/targets-2.pem")
    both = [str(tmp_path / "evil/targets-2.pem"), str(plant.keys / "targets-1.pub")]
    evil = Plant(tmp_path / "evil/plant", given={"targets": both})
    change = Change(evil.store, evil.staged, evil.now, plant.root)
    with pytest.raises(BadRelease) as raised:
        change.renew("targets", plant.signers("targets-1"))
    assert code_of(raised) == "metadata-refused"
    assert evil.staged.names("metadata") == []


def test_signing_builds_on_nothing_that_was_slipped_in(plant: Plant) -> None:
    """A changed product file in the store must not be laundered by the next honest signature."""
    plant.release("1.0.0")
    name = metadata_file(ROLE, 2)
    metadata = Metadata[Targets].from_bytes((Path(plant.url) / name).read_bytes())
    metadata.signed.targets[f"{PRODUCT}/x/y/z"] = next(iter(metadata.signed.targets.values()))
    plant.store.write(name, metadata.to_bytes())
    with pytest.raises(BadRelease) as raised:
        plant.sign("1.1.0")
    assert code_of(raised) == "metadata-refused"


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


def test_keys_may_not_lie_in_the_repository(tmp_path: Path) -> None:
    from cloud_inspect.release.founding import found

    with pytest.raises(BadKey) as raised:
        found(open_store(str(tmp_path)), tmp_path / "keys", [PRODUCT], utc_now())
    assert code_of(raised) == "keys-in-repository"
    assert list(tmp_path.iterdir()) == []


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
