"""A repository that releases for ever stays small; what goes is never what somebody needs, and never comes back."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import shutil
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import TargetFile
from typer.testing import CliRunner

from cloud_inspect.cli import app
from cloud_inspect.errors import BadKey, BadRelease
from cloud_inspect.release import publish as publishing
from cloud_inspect.release.layout import RETIRED
from cloud_inspect.release.prune import leftovers, plan, sweep
from cloud_inspect.release.repository import State
from cloud_inspect.release.rollouts import make_wish, released
from cloud_inspect.release.store import open_store
from cloud_inspect.release.verify import StoreFetcher, verify
from edge_wire.release import channel_target, file_target
from tests.cloud.release.plant import PRODUCT, ROLE, Plant, Reader
from tests.cloud.release.test_interrupted import Killed, killed_at

VERSIONS = tuple(f"1.{minor}.0" for minor in range(6))


@functools.cache
def _template(versions: Sequence[str]) -> Plant:
    """Signed once a session: what a test gets is a copy."""
    return _released(Plant(Path(tempfile.mkdtemp(prefix="grown-"))), versions)


def _released(plant: Plant, versions: Sequence[str]) -> Plant:
    for version in versions:
        plant.release(version)
    plant.release("1.2.0", "canary")
    return plant


def grown(folder: Path, versions: Sequence[str] = VERSIONS) -> Plant:
    """Six releases on stable, the third of them on canary too."""
    template = _template(versions)
    plant = copy.copy(template)
    shutil.copytree(template.folder, folder, dirs_exist_ok=True)
    plant.folder, plant.url, plant.keys = folder, str(folder / "repository"), folder / "keys"
    plant.store, plant.staged = open_store(plant.url), open_store(f"{plant.url}/staged")
    return plant


def run(plant: Plant, *words: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["release", "prune", plant.url, *words, "--json"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def prune(plant: Plant, *words: str, keep: int = 2) -> dict[str, Any]:
    keys = ("--key", str(plant.keys / f"{ROLE}-1.pem"), "--online-key", str(plant.keys / "online"))
    return run(plant, "--product", PRODUCT, "--keep", str(keep), *keys, *words)


def files(plant: Plant) -> dict[str, bytes]:
    return {str(one): one.read_bytes() for one in sorted(Path(plant.url).rglob("*")) if one.is_file()}


def test_what_would_go_is_only_shown_until_it_is_wanted(tmp_path: Path) -> None:
    plant = grown(tmp_path)
    before = files(plant)
    found = run(plant, "--product", PRODUCT, "--keep", "2")
    assert list(found["packages"]) == ["tiny/1.0.0", "tiny/1.1.0"] and found["done"] is False
    assert found["kept"] == ["tiny/1.2.0", "tiny/1.3.0", "tiny/1.4.0", "tiny/1.5.0"]
    assert files(plant) == before
    words = ["release", "prune", plant.url, "--product", PRODUCT, "--keep", "2"]
    told = CliRunner().invoke(app, words).stdout
    assert "would go: tiny/1.0.0" in told and "nothing was changed; to do it: --yes" in told


def test_what_no_channel_runs_or_ran_lately_goes_and_all_readers_read_on(tmp_path: Path) -> None:
    plant = grown(tmp_path)
    old = plant.reader("knows-the-old")
    old.package()
    before = len(plant.state().content[ROLE])
    done = prune(plant, "--yes")
    assert list(done["packages"]) == ["tiny/1.0.0", "tiny/1.1.0"] and done["done"] is True
    assert set(plant.state().product(PRODUCT).unrecognized_fields[RETIRED]) == {"tiny/1.0.0", "tiny/1.1.0"}
    for reader in (old, plant.reader("fresh")):
        assert reader.version() == "1.5.0" and set(reader.package()) and reader.rollout(channel="canary")
    assert verify(plant.store, plant.root).troubles == ()
    lying = {name.split("/")[3] for name in plant.store.names("targets") if "/tiny/" in name}
    assert lying == {"1.2.0", "1.3.0", "1.4.0", "1.5.0"}
    assert len(plant.state().content[ROLE]) < before
    metadata = [name.removeprefix("metadata/") for name in plant.store.names("metadata")]
    assert "1.root.json" in metadata and "timestamp.json" in metadata
    assert [len([one for one in metadata if one.endswith(f".{role}.json")]) for role in (ROLE, "snapshot")] == [3, 3]
    assert plant.staged.names("metadata") == []


def test_every_root_stays_for_devices_that_slept_for_years(tmp_path: Path) -> None:
    plant = grown(tmp_path)
    for _ in range(5):
        plant.change().renew("root", plant.signers("root-1"))
        plant.publish()
    prune(plant, "--yes", keep=0)
    assert [name for name in plant.store.names("metadata") if name.endswith("root.json")] == [
        f"metadata/{version}.root.json" for version in range(1, 7)
    ]
    assert plant.reader("only-knows-the-first-root").version() == "1.5.0"


def test_rollback_finds_its_target_however_often_it_is_pruned(tmp_path: Path) -> None:
    plant = grown(tmp_path)
    for _ in range(3):
        prune(plant, "--yes")
    assert run(plant, "--product", PRODUCT, "--keep", "2")["packages"] == {}
    plant.release("1.3.0", rollback=True)
    assert plant.reader().version() == "1.3.0"


def test_revoked_package_is_no_rollback_target_and_goes(tmp_path: Path) -> None:
    plant = grown(tmp_path)
    targets = plant.state().product(PRODUCT)
    bad = released(PRODUCT, targets, "tiny", "1.4.0")
    plant.change().revoke(PRODUCT, bad, make_wish("all", "ben"), plant.signers(f"{ROLE}-1"))
    plant.publish()
    assert list(plan(plant.store, plant.state(), PRODUCT, 2).packages) == ["tiny/1.0.0", "tiny/1.1.0", "tiny/1.4.0"]


def test_what_was_taken_out_is_never_released_again_and_may_be_revoked(tmp_path: Path) -> None:
    plant = grown(tmp_path)
    digest = released(PRODUCT, plant.state().product(PRODUCT), "tiny", "1.0.0").digest
    prune(plant, "--yes")
    for rollback in (False, True):
        with pytest.raises(BadRelease, match="raise the version") as raised:
            plant.sign("1.0.0", "new", rollback=rollback)
        assert raised.value.code == "retired"
    words = [
        "release",
        "revoke",
        plant.url,
        "--product",
        PRODUCT,
        "--released",
        "tiny/1.0.0",
        "--reason",
        "misses dents",
    ]
    result = CliRunner().invoke(app, [*words, "--key", str(plant.keys / f"{ROLE}-1.pem")])
    assert result.exit_code == 0, result.exception
    plant.publish()
    assert plant.reader().rollout().revoked == (digest,)
    assert plant.reader("other").version() == "1.5.0"


def test_second_signer_is_told_what_goes_and_the_files_follow(tmp_path: Path) -> None:
    plant = Plant(tmp_path, thresholds={ROLE: (2, 2)})
    for version in VERSIONS[:4]:
        plant.sign(version)
        plant.sign(version, key=[f"{ROLE}-2"])
        plant.publish()
    first = prune(plant, "--yes", keep=1)
    assert first["retired"] == ["tiny/1.0.0", "tiny/1.1.0"] and first["missing"]
    second = plant.change().countersign(ROLE, plant.signers(f"{ROLE}-2"))
    assert (second.retired, second.missing) == (("tiny/1.0.0", "tiny/1.1.0"), ())
    plant.publish()
    assert prune(plant, "--yes", keep=1)["packages"] == {}
    assert {name.split("/")[3] for name in plant.store.names("targets") if "/tiny/" in name} == {"1.2.0", "1.3.0"}
    assert verify(plant.store, plant.root).troubles == ()


def test_nothing_goes_without_the_products_key(tmp_path: Path) -> None:
    plant = grown(tmp_path)
    before = files(plant)
    with pytest.raises(BadKey) as raised:
        run(plant, "--product", PRODUCT, "--keep", "0", "--yes", "--online-key", str(plant.keys / "online"))
    assert raised.value.code == "key-missing"
    assert {name: content for name, content in files(plant).items() if ".lock" not in name} == {
        name: content for name, content in before.items() if ".lock" not in name
    }


@pytest.mark.parametrize("harm", ["part", "named", "channel", "forgotten", "back"])
def test_signed_change_that_takes_more_than_whole_unused_packages_is_refused(tmp_path: Path, harm: str) -> None:
    plant = grown(tmp_path)
    prune(plant, "--yes")
    change = plant.change()
    draft = change.draft(change.state(), plant.signers(f"{ROLE}-1"))
    victim = {"named": "1.5.0"}.get(harm, "1.3.0")
    with draft.edit_targets(ROLE) as targets:
        gone = [path for path in targets.targets if path.startswith(file_target(PRODUCT, "tiny", victim, ""))]
        if harm == "channel":
            del targets.targets[channel_target(PRODUCT, "canary")]
        elif harm == "forgotten":
            del targets.unrecognized_fields[RETIRED]["tiny/1.0.0"]
        elif harm == "back":
            path = file_target(PRODUCT, "tiny", "1.0.0", "x")
            targets.targets[path] = TargetFile.from_data(path, b"x", ["sha256"])
        else:
            for path in gone[: 1 if harm == "part" else None]:
                del targets.targets[path]
            targets.unrecognized_fields[RETIRED][f"tiny/{victim}"] = "0" * 64
    change.staging.write(ROLE, draft.changed[ROLE])
    with pytest.raises(BadRelease) as raised:
        plant.publish()
    wanted = {"part": "retired", "named": "unknown-model", "back": "retired"}
    assert raised.value.code == wanted.get(harm, "target-removed")
    assert plant.reader().version() == "1.5.0"


def test_rollout_that_was_slipped_in_keeps_or_frees_no_package_that_a_channel_names(tmp_path: Path) -> None:
    plant = grown(tmp_path)
    said = plant.reader().rollout()
    oldest = released(PRODUCT, plant.state().product(PRODUCT), "tiny", "1.0.0")
    for sequence in (5, 7):
        made_up = said.model_copy(update={"sequence": sequence, "model": oldest}).model_dump_json().encode()
        name = hashlib.sha256(made_up).hexdigest()
        plant.store.write(f"targets/{PRODUCT}/channels/{name}.stable.json", made_up)
    plant.store.write(f"targets/{PRODUCT}/channels/{'0' * 64}.stable.json", b"{}")
    assert plan(plant.store, plant.state(), PRODUCT, 0).kept == ("tiny/1.2.0", "tiny/1.5.0")
    assert {"tiny/1.2.0", "tiny/1.5.0"} < set(plan(plant.store, plant.state(), PRODUCT, 2).kept)
    prune(plant, "--yes")
    assert verify(plant.store, plant.root).troubles == ()
    assert len(plant.store.names(f"targets/{PRODUCT}/channels")) == 4


def test_prune_killed_at_steps_leaves_a_whole_repository_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant = grown(tmp_path, versions=VERSIONS[:4])
    folder, start, device = Path(plant.url), tmp_path / "start", tmp_path / "device-before"
    shutil.copytree(folder, start)
    Reader(plant.root, "store://", device, StoreFetcher(plant.store)).package()
    for step in range(1, 1000, 17):
        shutil.rmtree(folder)
        shutil.copytree(start, folder)
        done = False
        with killed_at(folder, step, monkeypatch):
            try:
                prune(plant, "--yes", keep=0)
                done = True
            except Killed:
                pass
        for name in ("fresh", "knows-the-old"):
            place = tmp_path / f"reader-{name}-{step}"
            if name != "fresh":
                shutil.copytree(device, place)
            reader = Reader(plant.root, "store://", place, StoreFetcher(plant.store))
            assert reader.version() == "1.3.0" and len(reader.package()) == 3, f"killed at step {step}: {name}"
        assert verify(plant.store, plant.root).troubles == (), f"killed at step {step}"
        prune(plant, "--yes", keep=0)
        assert leftovers(plant.store, plant.state(), 0) == []
        assert plan(plant.store, plant.state(), PRODUCT, 0).packages == {}
        if done:
            break
    assert step > 30
    plant.release("1.4.0")
    assert plant.reader("after").version() == "1.4.0"


def test_repository_on_an_object_store_is_pruned_too(tmp_path: Path) -> None:
    plant = _released(Plant(tmp_path, f"memory://{uuid.uuid4().hex}/models"), VERSIONS)
    prune(plant, "--yes")
    assert plant.reader().version() == "1.5.0"
    assert sweep(plant.store, 2) == []
    assert {name.split("/")[3] for name in plant.store.names("targets") if "/tiny/" in name} == {
        "1.2.0", "1.3.0", "1.4.0", "1.5.0",
    }  # fmt: skip


def test_repository_that_fills_up_is_told_before_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert publishing.filling(State(content={ROLE: bytes(4_000_000), "root": bytes(409_600)})) == []
    lines = publishing.filling(State(content={ROLE: bytes(4_000_001), "snapshot": bytes(1_600_001)}))
    assert len(lines) == 2 and "4000001 bytes; clients read 5000000" in lines[0] and "release prune" in lines[0]
    plant = Plant(tmp_path)
    monkeypatch.setattr(publishing, "FULL_AT", len(plant.state().content[ROLE]) / 5_000_000)
    plant.sign("1.0.0")
    for words in (["publish", plant.url, "--online-key", str(plant.keys / "online")], ["verify", plant.url]):
        told = CliRunner().invoke(app, ["release", *words, "--json"])
        assert any(ROLE in line for line in json.loads(told.stdout.splitlines()[-1])["warnings"])
        assert f"warning: {ROLE}: " in told.stderr
