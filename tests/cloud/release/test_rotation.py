"""Keys exchanged, lost and stolen: the chain from the root that a device was given never breaks."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from tuf.api.exceptions import RepositoryError

from cloud_inspect.errors import BadKey, BadRelease
from cloud_inspect.release.keys import make_key
from cloud_inspect.release.layout import metadata_file
from cloud_inspect.release.publish import resign
from cloud_inspect.release.roles import Exchange, RoleKeys, add_product, rotate
from cloud_inspect.release.verify import verify
from tests.cloud.release.plant import PRODUCT, ROLE, Plant


def exchange_key(plant: Plant, role: str, number: int, *, signers: tuple[str, ...]) -> None:
    """The role's only key becomes `<role>-<number>`."""
    online = role in ("snapshot", "timestamp")
    key = make_key((plant.keys / "online" if online else plant.keys) / f"{role}-{number}.pem")
    own = [] if online else plant.signers(f"{role}-{number}")
    exchange = Exchange(add=(key,), remove=(f"{role}-{number - 1}",))
    signed = rotate(plant.change(), role, exchange, plant.signers(*signers), own)
    assert signed.missing == ()
    plant.publish()


SIGNERS = {
    "root": ("root-1",),
    "targets": ("root-1", "targets-1"),
    "snapshot": ("root-1",),
    "timestamp": ("root-1",),
    ROLE: ("targets-1",),
}


@pytest.mark.parametrize("role", list(SIGNERS))
def test_old_and_fresh_devices_follow_a_rotation_of(tmp_path: Path, role: str) -> None:
    plant = Plant(tmp_path)
    plant.release("1.0.0")
    old = plant.reader("old")
    assert old.version() == "1.0.0"
    exchange_key(plant, role, 2, signers=SIGNERS[role])
    assert old.version() == "1.0.0"
    plant.release("1.1.0", key=[f"{ROLE}-{2 if role == ROLE else 1}"])
    assert old.version() == plant.reader("fresh").version() == "1.1.0"
    assert verify(plant.store, plant.root).troubles == ()


@pytest.mark.parametrize("role", [ROLE, "targets", "root"])
def test_key_that_was_taken_away_signs_nothing_any_more(tmp_path: Path, role: str) -> None:
    plant = Plant(tmp_path)
    plant.release("1.0.0")
    exchange_key(plant, role, 2, signers=SIGNERS[role])
    with pytest.raises(BadKey) as raised:
        plant.change().renew(role, plant.signers(f"{role}-1"))
    assert raised.value.code == "key-not-of-role"


def test_stolen_online_key_is_worthless_after_its_rotation(tmp_path: Path) -> None:
    plant = Plant(tmp_path)
    plant.release("1.0.0")
    device = plant.reader()
    assert device.version() == "1.0.0"
    exchange_key(plant, "timestamp", 2, signers=("root-1",))
    assert device.version() == "1.0.0"
    draft = plant.change().draft(plant.state(), plant.signers("online/timestamp-1"))
    draft.do_timestamp(force=True)
    metadata = draft.changed["timestamp"]
    metadata.sign(plant.signers("online/timestamp-1")[0])
    plant.store.write(metadata_file("timestamp", 0), metadata.to_bytes())
    with pytest.raises(RepositoryError):
        device.version()


def test_device_of_the_first_day_walks_through_every_root_since(tmp_path: Path) -> None:
    plant = Plant(tmp_path)
    plant.release("1.0.0")
    asleep = plant.reader("asleep")
    for number in range(2, 6):
        exchange_key(plant, "root", number, signers=(f"root-{number - 1}",))
    names = [name for name in plant.store.names("metadata") if name.endswith("root.json")]
    assert names == [f"metadata/{number}.root.json" for number in range(1, 6)]
    assert asleep.version() == "1.0.0"


def test_root_needs_the_old_threshold_and_the_new_one(tmp_path: Path) -> None:
    plant = Plant(tmp_path, thresholds={"root": (2, 3)})
    key = make_key(plant.keys / "root-4.pem")
    exchange = Exchange(add=(key,), remove=("root-1",), threshold=3)
    signed = rotate(plant.change(), "root", exchange, plant.signers("root-2"), plant.signers("root-4"))
    assert len(signed.missing) == 2
    with pytest.raises(BadRelease) as raised:
        plant.publish()
    assert raised.value.code == "threshold"
    assert plant.change().countersign("root", plant.signers("root-1")).missing != (), "old threshold met, new one not"
    assert plant.change().countersign("root", plant.signers("root-3")).missing == ()
    plant.publish()
    assert plant.state().root.version == 2
    assert verify(plant.store, plant.root).troubles == ()


def test_lost_online_key_is_replaced_by_root_alone(tmp_path: Path) -> None:
    plant = Plant(tmp_path)
    plant.release("1.0.0")
    (plant.keys / "online/timestamp-1.pem").unlink()
    key = make_key(plant.keys / "online/timestamp-2.pem")
    rotate(plant.change(), "timestamp", Exchange(add=(key,), remove=("timestamp-1",)), plant.signers("root-1"))
    with pytest.raises(BadRelease, match=r"timestamp-1 .*; .* if they are lost, --old-keys-lost") as raised:
        plant.publish()
    assert raised.value.code == "threshold"
    with pytest.raises(BadRelease) as raised:
        plant.publish("online/snapshot-1")
    assert "--old-keys-lost" not in str(raised.value), "the new key has not signed either"
    plant.publish(old_keys_lost=True)
    assert plant.reader().version() == "1.0.0"


def test_lost_targets_key_is_replaced_by_root(tmp_path: Path) -> None:
    plant = Plant(tmp_path)
    plant.release("1.0.0")
    key = make_key(plant.keys / "targets-2.pem")
    exchange = Exchange(add=(key,), remove=("targets-1",))
    rotate(plant.change(), "targets", exchange, plant.signers("root-1"), plant.signers("targets-2"))
    with pytest.raises(BadRelease):
        plant.publish()
    plant.publish(old_keys_lost=True)
    assert plant.reader().version() == "1.0.0"


def test_threshold_beyond_the_number_of_keys_is_refused(tmp_path: Path) -> None:
    plant = Plant(tmp_path)
    with pytest.raises(BadRelease, match="allowed: 1 to 1") as raised:
        rotate(plant.change(), ROLE, Exchange(threshold=2), plant.signers("targets-1"))
    assert raised.value.code == "threshold-impossible"
    with pytest.raises(BadKey, match=f"{ROLE}-1") as unknown:
        rotate(plant.change(), ROLE, Exchange(remove=("nobody",)), plant.signers("targets-1"))
    assert unknown.value.code == "unknown-key"
    assert plant.staged.names("metadata") == []


def test_new_product_line_has_its_own_keys(tmp_path: Path) -> None:
    plant = Plant(tmp_path)
    plant.release("1.0.0")
    key = make_key(plant.keys / "product-ball-screw-1.pem")
    own = plant.signers("product-ball-screw-1")
    assert add_product(plant.change(), "ball-screw", RoleKeys((key,)), plant.signers("targets-1"), own).missing == ()
    plant.publish()
    plant.sign("1.0.0", product="ball-screw", key=["product-ball-screw-1"])
    plant.publish()
    assert plant.reader().rollout("ball-screw").model.version == "1.0.0"
    assert plant.reader().rollout(PRODUCT).model.version == "1.0.0"
    with pytest.raises(BadRelease) as raised:
        add_product(plant.change(), "ball-screw", RoleKeys((key,)), plant.signers("targets-1"))
    assert raised.value.code == "product-exists"


def test_offline_roles_are_renewed_one_after_the_other_even_when_all_have_expired(tmp_path: Path) -> None:
    from cloud_inspect.release.repository import utc_now

    plant = Plant(tmp_path, now=utc_now() - timedelta(days=400))
    plant.release("1.0.0")
    plant.now = utc_now()
    for role in ("root", "targets", ROLE):
        plant.change().renew(role, plant.signers(f"{role}-1"))
        plant.publish()
    resign(plant.store, plant.signers("online"), plant.now)
    assert plant.reader().version() == "1.0.0"
