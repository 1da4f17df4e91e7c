"""Nobody brings in what the right people have not signed: with some of the keys, or write access to the store."""

from __future__ import annotations

from pathlib import Path

import pytest
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Targets

from cloud_inspect.errors import BadKey, BadRelease
from cloud_inspect.release.changes import Change
from cloud_inspect.release.keys import make_key
from cloud_inspect.release.layout import metadata_file, target_file
from cloud_inspect.release.repository import load, utc_now
from cloud_inspect.release.store import open_store
from cloud_inspect.release.verify import verify
from tests.cloud.release.plant import PRODUCT, ROLE, Plant, code_of


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


def test_keys_may_not_lie_in_the_repository(tmp_path: Path) -> None:
    from cloud_inspect.release.founding import found

    with pytest.raises(BadKey) as raised:
        found(open_store(str(tmp_path)), tmp_path / "keys", [PRODUCT], utc_now())
    assert code_of(raised) == "keys-in-repository"
    assert list(tmp_path.iterdir()) == []
