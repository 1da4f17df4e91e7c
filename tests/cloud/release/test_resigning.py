"""Everything that is signed holds for a while; it is signed again in time, and what has run out freezes readers."""

from __future__ import annotations

import json
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from tuf.api.exceptions import ExpiredMetadataError

from cloud_inspect.errors import BadRelease
from cloud_inspect.release.publish import keep_signed, resign
from cloud_inspect.release.repository import utc_now
from cloud_inspect.release.verify import verify
from edge_wire.release import SIGNED_AT
from tests.cloud.release.plant import Plant, code_of


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
