"""Who revoked a package and why, beside who released the others and why: in the repository, in `list`, for devices."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cloud_inspect.cli import app
from cloud_inspect.release.rollouts import make_wish, released
from cloud_inspect.release.staging import rollouts
from edge_inspect.update.revoked import why_revoked, with_revoked
from edge_inspect.update.state import State
from edge_wire.release import REVOCATIONS, Rollout, channel_target, revocations_in
from tests.cloud.release.plant import PRODUCT, ROLE, Plant

OLDER_DEVICES_KNOW = {
    "format", "product", "channel", "sequence", "action", "model", "audience", "shadow", "trial", "revoked",
    "released_by", "released_at", "reason",
}  # fmt: skip


@pytest.fixture
def revoking(tmp_path: Path) -> Plant:
    """1.1.0 was on stable and is revoked; canary goes on with 1.2.0."""
    plant = Plant(tmp_path)
    plant.release("1.1.0", reason="new camera")
    plant.release("1.2.0", "canary", reason="finds dents")
    bad = released(PRODUCT, plant.state().product(PRODUCT), "tiny", "1.1.0")
    plant.later(minutes=1)
    wish = make_wish("all", "ben", reason="misses dents")
    plant.change().revoke(PRODUCT, bad, wish, plant.signers(f"{ROLE}-1"))
    plant.publish()
    return plant


def said(plant: Plant) -> dict[str, Rollout]:
    return rollouts(PRODUCT, plant.state().product(PRODUCT), plant.store)


def test_revocation_leaves_who_released_each_channels_model_and_why(revoking: Plant) -> None:
    found = said(revoking)
    assert {name: (one.released_by, one.reason, one.sequence) for name, one in found.items()} == {
        "stable": ("anna", "new camera", 2), "canary": ("anna", "finds dents", 2),
    }  # fmt: skip
    for rollout in found.values():
        assert [(one.by, one.reason) for one in rollout.revocations] == [("ben", "misses dents")]
    revoking.release("1.3.0", "canary", reason="faster")
    assert said(revoking)["canary"].revocations == found["canary"].revocations


def test_list_tells_the_revocation_and_the_releases_apart_within_80_columns(revoking: Plant) -> None:
    lines = CliRunner().invoke(app, ["release", "list", revoking.url]).stdout.splitlines()
    assert any("metal-plate canary: " in one and one.endswith("by anna; reason: finds dents") for one in lines)
    assert f"{PRODUCT}: revoked: tiny 1.1.0, by ben, {revoking.now:%Y-%m-%d %H:%M} UTC: misses dents" in lines
    table = [one for one in lines if one.startswith(f"{PRODUCT}  ")]
    assert len(table) == 2 and all(len(one) <= 80 for one in table)
    assert [one.endswith("REVOKED") for one in table] == [False, True]


def test_rollout_file_after_a_revocation_is_read_by_devices_that_know_nothing_of_it(revoking: Plant) -> None:
    content = (Path(revoking.url) / "targets" / PRODUCT / "channels").glob("*.json")
    assert all(set(json.loads(one.read_text())) == OLDER_DEVICES_KNOW for one in content)


def test_device_says_who_revoked_it_whatever_release_it_reads_that_from(revoking: Plant) -> None:
    rollout = said(revoking)["canary"]
    state = State(since=revoking.now)
    state = state.model_copy(update=with_revoked(state, rollout))
    why = why_revoked(state, rollout.revoked[0])
    assert why.endswith(f" was revoked by ben on {revoking.now:%Y-%m-%d %H:%M} UTC: misses dents")
    assert "anna" not in why and "finds dents" not in why


def test_client_finds_the_words_in_what_is_signed_and_leaves_out_what_it_cannot_read(revoking: Plant) -> None:
    info = revoking.reader().updater().get_targetinfo(channel_target(PRODUCT, "canary"))
    assert info is not None and revocations_in(info.custom)[0].by == "ben"
    later = {REVOCATIONS: [info.custom[REVOCATIONS][0] | {"new": 1}, {"digest": "?"}, 7]}  # type: ignore[index]
    assert [one.by for one in revocations_in(later)] == ["ben"]
    assert revocations_in(None) == revocations_in({REVOCATIONS: 1}) == ()


def test_who_signs_a_revocation_reads_who_revokes_and_why(tmp_path: Path) -> None:
    plant = Plant(tmp_path)
    plant.release("1.0.0", reason="first")
    words = ["revoke", plant.url, "--product", PRODUCT, "--released", "tiny/1.0.0", "--reason", "misses dents",
             "--released-by", "ben", "--key", str(plant.keys)]  # fmt: skip
    out = CliRunner().invoke(app, ["release", *words]).stdout
    assert "  revoked: tiny 1.0.0, by ben, " in out and "UTC: misses dents" in out and "  reason: first" in out
