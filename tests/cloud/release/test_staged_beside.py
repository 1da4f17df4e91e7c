"""Changes of several roles wait beside each other: none costs another its signatures, none blocks another for ever."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cloud_inspect.cli import app
from cloud_inspect.errors import BadRelease
from cloud_inspect.release.publish import resign
from cloud_inspect.release.repository import utc_now
from cloud_inspect.release.roles import RoleKeys, add_product
from cloud_inspect.release.verify import verify
from tests.cloud.release.plant import PRODUCT, ROLE, Plant, code_of

TWO = {ROLE: (2, 2)}


def sign_late(tmp_path: Path) -> Plant:
    """200 days on, targets have expired; a release waits for its second signature."""
    plant = Plant(tmp_path, thresholds=TWO, now=utc_now() - timedelta(days=200))
    plant.later(days=200)
    resign(plant.store, plant.signers("online"), plant.now)
    signed = plant.sign("1.0.0")
    assert [one for one in signed.warnings if one.startswith("targets: expired ")]
    return plant


def test_expired_targets_are_renewed_beside_a_release_that_waits_and_keeps_its_signatures(tmp_path: Path) -> None:
    plant = sign_late(tmp_path)
    plant.change().renew("targets", plant.signers("targets-1"))
    assert plant.change().countersign(ROLE, plant.signers(f"{ROLE}-2")).missing == ()
    assert set(plant.publish().roles) == {"targets", ROLE, "snapshot", "timestamp"}
    assert plant.reader().version() == "1.0.0"


def test_renewal_is_published_alone_while_the_release_waits_on(tmp_path: Path) -> None:
    plant = sign_late(tmp_path)
    plant.change().renew("targets", plant.signers("targets-1"))
    assert set(plant.publish(only="targets").roles) == {"targets", "snapshot", "timestamp"}
    signed = plant.change().countersign(ROLE, plant.signers(f"{ROLE}-2"))
    assert (signed.missing, signed.warnings) == ((), ())
    plant.publish()
    assert plant.reader().version() == "1.0.0" and plant.staged.names("") == []


def test_sign_says_that_targets_have_expired_and_what_can_go_alone(tmp_path: Path) -> None:
    plant = sign_late(tmp_path)
    words = ["release", "sign", plant.url, "--role", "targets", "--renew", "--key", str(plant.keys / "targets-1.pem")]
    result = CliRunner().invoke(app, words)
    assert f"missing: {ROLE}: 1 of 2 signatures" in result.stdout
    assert result.stdout.splitlines()[-1].endswith("--role targets")
    plant.change().discard("targets")
    again = CliRunner().invoke(app, ["release", "sign", plant.url, "--product", PRODUCT, "--key", str(plant.keys)])
    assert "warning: targets: expired " in again.stderr


def test_one_role_is_discarded_and_the_others_wait_on(tmp_path: Path) -> None:
    plant = sign_late(tmp_path)
    plant.change().renew("targets", plant.signers("targets-1"))
    assert plant.change().discard("targets") == ["targets"]
    assert plant.change().staging.roles() == [ROLE]
    assert plant.change().countersign(ROLE, plant.signers(f"{ROLE}-2")).missing == ()


def test_new_product_is_not_published_without_its_own_first_metadata(plant: Plant) -> None:
    key = plant.signers(f"{ROLE}-1")
    keys = RoleKeys((key[0].public_key,))
    add_product(plant.change(), "screws", keys, plant.signers("targets-1"), key)
    with pytest.raises(BadRelease, match="product-screws beside it") as raised:
        plant.publish(only="targets")
    assert code_of(raised) == "staged"
    plant.publish()
    assert verify(plant.store, plant.root).troubles == ()
