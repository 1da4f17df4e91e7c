"""Every way to lie to a TUF client that we know by name: refused with its code, and what is on disk stays trusted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, MetaFile, Root

from edge_inspect import durable
from edge_inspect.errors import SourceGone, Untrusted
from edge_wire.release import SIGNED_AT
from tests.edge.update.boxes import on_disk, start_from, trust
from tests.sim.tuf_repository import ROLE, Fault, TufRepository, TufServer

TARGET = "metal-plate/tiny/manifest.json"


@pytest.fixture
def repository() -> TufRepository:
    repository = TufRepository()
    repository.put(ROLE, TARGET, b"first")
    repository.publish(ROLE)
    return repository


@pytest.fixture
def server(repository: TufRepository) -> Iterator[TufServer]:
    with TufServer(repository) as server:
        yield server


def versions(folder: Path) -> dict[str, int]:
    return {p.stem: json.loads(p.read_bytes())["signed"]["version"] for p in folder.glob("*.json")}


def expire(role: str) -> Callable[[TufRepository], None]:
    def do(repository: TufRepository) -> None:
        repository.signed(role).expires = repository.now - timedelta(days=1)
        repository.publish(role)

    return do


def old_timestamp(repository: TufRepository) -> None:
    repository.timestamp.version -= 1
    repository.files["metadata/timestamp.json"] = repository.sign("timestamp")


def old_snapshot(repository: TufRepository) -> None:
    repository.timestamp.snapshot_meta = MetaFile(1)
    repository.publish("timestamp")


def old_product(repository: TufRepository) -> None:
    repository.publish("snapshot")
    repository.signed("snapshot").meta[f"{ROLE}.json"] = MetaFile(1)
    repository.publish("snapshot")


def forgotten_product(repository: TufRepository) -> None:
    del repository.signed("snapshot").meta[f"{ROLE}.json"]
    repository.publish("snapshot")


def mixed_snapshot(repository: TufRepository) -> None:
    """Mix and match: a timestamp of one state with the snapshot of another, under its number."""
    repository.publish("snapshot")
    version = repository.signed("snapshot").version
    repository.files[f"metadata/{version}.snapshot.json"] = repository.files[f"metadata/{version - 1}.snapshot.json"]


def swapped_snapshot(repository: TufRepository) -> None:
    """Other bytes than the timestamp's hash says."""
    snapshot = repository.signed("snapshot")
    snapshot.version += 1
    content = repository.sign("snapshot")
    repository.timestamp.snapshot_meta = MetaFile.from_data(snapshot.version, content, ["sha256"])
    repository.publish("timestamp")
    repository.files[f"metadata/{snapshot.version}.snapshot.json"] = content.replace(b'"sig":"', b'"sig":"00', 1)[:-2]


def unsigned(role: str) -> Callable[[TufRepository], None]:
    def do(repository: TufRepository) -> None:
        repository.signers[role] = []
        repository.publish(role)

    return do


def wrong_key(role: str) -> Callable[[TufRepository], None]:
    """Signed, but by somebody else."""

    def do(repository: TufRepository) -> None:
        repository.signers[role] = TufRepository().signers["timestamp"]
        repository.publish(role)

    return do


def foreign_key_id(repository: TufRepository) -> None:
    """The right key id over a signature of another key."""
    repository.publish("timestamp")
    said = json.loads(repository.files["metadata/timestamp.json"])
    other = json.loads(TufRepository().files["metadata/timestamp.json"])
    said["signatures"][0]["sig"] = other["signatures"][0]["sig"]
    repository.files["metadata/timestamp.json"] = json.dumps(said).encode()


def threshold_not_met(repository: TufRepository) -> None:
    repository.add_key("timestamp")
    repository.root.roles["timestamp"].threshold = 2
    repository.publish("root")
    repository.signers["timestamp"] = repository.signers["timestamp"][:1]
    repository.publish("timestamp")


def one_key_twice(repository: TufRepository) -> None:
    """A threshold of two, met by two signatures of one key."""
    threshold_not_met(repository)
    said = json.loads(repository.files["metadata/timestamp.json"])
    said["signatures"] *= 2
    repository.files["metadata/timestamp.json"] = json.dumps(said).encode()


def root_by_new_keys_only(repository: TufRepository) -> None:
    repository.rotate("root")
    repository.publish("root")


def root_that_skips(repository: TufRepository) -> None:
    repository.root.version += 1
    repository.publish("root")
    version = repository.root.version
    repository.files[f"metadata/{version - 1}.root.json"] = repository.files[f"metadata/{version}.root.json"]


def not_json(repository: TufRepository) -> None:
    repository.files["metadata/timestamp.json"] = b"<html>please log in</html>"


def other_type(repository: TufRepository) -> None:
    repository.files["metadata/timestamp.json"] = repository.files["metadata/1.root.json"]


def nested(repository: TufRepository) -> None:
    repository.files["metadata/timestamp.json"] = b"[" * 16_000


def too_large(repository: TufRepository) -> None:
    repository.files["metadata/timestamp.json"] = b" " * 20_000


def online_keys_only(repository: TufRepository) -> None:
    """Who has the publishing server has snapshot and timestamp keys; the model's role is signed by a key of its own."""
    repository.put(ROLE, TARGET, b"evil")
    repository.signers[ROLE] = repository.signers["snapshot"]
    repository.publish(ROLE)


def other_products_key(repository: TufRepository) -> None:
    """Another product line signs under our name: its role is not asked for our paths."""
    repository.delegate("targets", "product-gears", ["gears/*/*"], terminating=True)
    del repository.signed(ROLE).targets[TARGET]
    repository.put("product-gears", TARGET, b"evil")
    repository.publish("targets", "product-gears", ROLE)


ATTACKS = {
    "metadata-rollback": [old_timestamp, old_snapshot, old_product, mixed_snapshot, root_that_skips],
    "metadata-expired": [expire(role) for role in ("root", "timestamp", "snapshot", "targets", ROLE)],
    "metadata-unsigned": [
        unsigned("timestamp"), unsigned("snapshot"), unsigned("targets"), unsigned(ROLE), unsigned("root"),
        wrong_key("timestamp"), wrong_key(ROLE), foreign_key_id, threshold_not_met, root_by_new_keys_only,
        online_keys_only,
    ],
    "metadata-digest": [swapped_snapshot],
    "metadata-broken": [forgotten_product, one_key_twice, not_json, other_type, nested],
    "metadata-too-large": [too_large],
    "target-unknown": [other_products_key],
}  # fmt: skip
CASES = [
    pytest.param(code, attack, id=f"{code}-{attack.__name__}-{number}")
    for code, attacks in ATTACKS.items()
    for number, attack in enumerate(attacks)
]


@pytest.mark.parametrize(("code", "attack"), CASES)
def test_lie_is_refused_by_its_code_and_what_was_trusted_stays(
    code: str, attack: Callable[[TufRepository], None], server: TufServer, tmp_path: Path
) -> None:
    before = trust(tmp_path, server)
    assert before.target(TARGET).length == 5
    trusted = on_disk(tmp_path)
    attack(server.repository)
    with pytest.raises(Untrusted) as caught:
        trust(tmp_path, server).target(TARGET)
    assert caught.value.code == code, str(caught.value)
    assert "\n" not in str(caught.value)
    left = on_disk(tmp_path)
    for name in trusted:  # whatever changed on disk went up, is signed and was once valid
        if left[name] != trusted[name] and name.endswith(".json"):
            assert json.loads(left[name])["signed"]["version"] > json.loads(trusted[name])["signed"]["version"]


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets"])
def test_same_version_with_other_bytes_is_not_taken(role: str, server: TufServer, tmp_path: Path) -> None:
    first_root = server.repository.first_root
    trust(tmp_path, server).refresh()
    trusted = on_disk(tmp_path)
    signed = server.repository.signed(role)
    signed.unrecognized_fields["other"] = 1
    name = "timestamp" if role == "timestamp" else f"{signed.version}.{role}"
    server.repository.files[f"metadata/{name}.json"] = server.repository.sign(role)
    trust(tmp_path, server, root=first_root).refresh()
    assert on_disk(tmp_path) == trusted


def test_roots_are_followed_one_by_one_however_many_there_were(server: TufServer, tmp_path: Path) -> None:
    repository = server.repository
    for _ in range(12):
        old = repository.rotate("root")
        repository.signers["root"] += old
        repository.publish("root")
        repository.signers["root"] = repository.signers["root"][:1]
    trust(tmp_path, server).refresh()
    assert versions(tmp_path)["root"] == 13
    asked = len(server.requests)
    trust(tmp_path, server).refresh()
    assert [request.path for request in server.requests[asked:]] == ["metadata/14.root.json", "metadata/timestamp.json"]


def test_root_in_the_folder_is_trusted_where_none_is_given(server: TufServer, tmp_path: Path) -> None:
    start_from(tmp_path, server.repository.first_root)
    trust(tmp_path, server, root=None).refresh()
    server.repository.publish("root")
    trust(tmp_path, server, root=None).refresh()
    assert versions(tmp_path) == {"root": 2, "timestamp": 2, "snapshot": 2, "targets": 1}


def test_lost_root_says_what_to_do(server: TufServer, tmp_path: Path) -> None:
    with pytest.raises(Untrusted, match=r"root\.json there, from a place you trust \[root-missing\]"):
        trust(tmp_path, server, root=None)
    with pytest.raises(Untrusted, match=r"\[root-broken\]"):
        trust(tmp_path, server, root=b"{}")
    assert server.requests == []


def test_new_first_root_begins_a_new_trust(server: TufServer, tmp_path: Path) -> None:
    """The plant lost its root keys and made a new repository; somebody carries its root.json to the box."""
    trust(tmp_path, server).refresh()
    server.repository.publish("timestamp")
    anew = TufRepository()
    anew.put(ROLE, TARGET, b"anew")
    anew.publish(ROLE)
    server.repository = anew
    with pytest.raises(Untrusted):
        trust(tmp_path, server, root=None).refresh()
    assert trust(tmp_path, server).target(TARGET).length == 4


@pytest.mark.parametrize("role", ["timestamp", "snapshot"])
def test_fast_forward_is_healed_by_new_keys(role: str, server: TufServer, tmp_path: Path) -> None:
    repository = server.repository
    repository.signed(role).version = 99_999
    repository.publish(role)
    trust(tmp_path, server).refresh()
    for online in ("snapshot", "timestamp"):
        repository.rotate(online)
    repository.publish("root")
    repository.signed(role).version = 5
    repository.publish("snapshot")
    trust(tmp_path, server).refresh()
    assert versions(tmp_path)[role] == 6


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_repository_that_is_gone_is_the_world_not_a_lie(status: int, server: TufServer, tmp_path: Path) -> None:
    server.faults["metadata/timestamp.json"] = Fault(status=status)
    with pytest.raises(SourceGone) as caught:
        trust(tmp_path, server).refresh()
    assert caught.value.code == f"http-{status}"


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Fault(gzip=True), "encoded"),
        (Fault(cut_after=40), "cut"),
        (Fault(stall_after=40), "stalled"),
        (Fault(redirect="file:///etc/passwd"), "redirects"),
        (Fault(redirect="/metadata/timestamp.json"), "redirects"),
    ],
    ids=["gzip", "cut", "half-open", "to-a-file", "in-circles"],
)
def test_metadata_over_a_bad_line_is_the_world(fault: Fault, code: str, server: TufServer, tmp_path: Path) -> None:
    server.faults["metadata/timestamp.json"] = fault
    with pytest.raises(SourceGone) as caught:
        trust(tmp_path, server).refresh()
    assert caught.value.code == code
    server.faults.clear()
    trust(tmp_path, server).refresh()


def test_endless_metadata_ends_at_what_may_come(server: TufServer, tmp_path: Path) -> None:
    server.faults["metadata/timestamp.json"] = Fault(endless=True)
    with pytest.raises(Untrusted) as caught:
        trust(tmp_path, server).refresh()
    assert caught.value.code == "metadata-too-large"


@pytest.mark.parametrize("role", ["?", "#", "/delegated", "../delegated", "a b", "ü", "clock-floor", "x" * 150])
def test_odd_role_name_is_asked_for_quoted_and_stays_in_its_folder(
    role: str, repository: TufRepository, server: TufServer, tmp_path: Path
) -> None:
    repository.delegate("targets", role, ["odd/*"])
    repository.put(role, "odd/x", b"odd")
    repository.publish("targets", role)
    assert trust(tmp_path / "trust", server).target("odd/x").length == 3
    assert {path.name for path in tmp_path.iterdir()} == {"trust"}
    assert len(list((tmp_path / "trust").glob("*.json"))) == 5


class SetClock:
    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


def sign_at(repository: TufRepository, moment: datetime) -> None:
    repository.timestamp.unrecognized_fields[SIGNED_AT] = f"{moment:%Y-%m-%dT%H:%M:%SZ}"
    repository.publish("timestamp")


def test_clock_of_1970_does_not_make_expired_metadata_valid(server: TufServer, tmp_path: Path) -> None:
    repository = server.repository
    sign_at(repository, repository.now)
    trust(tmp_path, server).refresh()
    repository.signed(ROLE).expires = repository.now - timedelta(seconds=1)
    repository.publish(ROLE)
    clock = SetClock(datetime(1970, 1, 1, tzinfo=timezone.utc))
    with pytest.raises(Untrusted) as caught:
        trust(tmp_path, server, clock=clock).target(TARGET)
    assert caught.value.code == "metadata-expired"


def test_time_of_the_factory_model_is_a_floor_as_well(server: TufServer, tmp_path: Path) -> None:
    repository = server.repository
    clock = SetClock(datetime(1970, 1, 1, tzinfo=timezone.utc))
    with pytest.raises(Untrusted) as caught:
        trust(tmp_path, server, clock=clock, built=repository.now + timedelta(days=31)).refresh()
    assert caught.value.code == "metadata-expired"
    trust(tmp_path, server, clock=clock, built=repository.now).refresh()


def test_clock_ten_years_ahead_does_no_harm_once_it_is_right(server: TufServer, tmp_path: Path) -> None:
    repository = server.repository
    sign_at(repository, repository.now)
    clock = SetClock(repository.now)
    trust(tmp_path, server, clock=clock).refresh()
    trusted = on_disk(tmp_path)
    clock.now += timedelta(days=3650)
    with pytest.raises(Untrusted) as caught:
        trust(tmp_path, server, clock=clock).refresh()
    assert caught.value.code == "metadata-expired"
    assert on_disk(tmp_path) == trusted
    clock.now = repository.now
    trust(tmp_path, server, clock=clock).refresh()


def test_stolen_online_key_cannot_set_the_clock_past_its_own_life(server: TufServer, tmp_path: Path) -> None:
    repository = server.repository
    sign_at(repository, repository.now + timedelta(days=3650))
    trust(tmp_path, server).refresh()
    assert trust(tmp_path, server).now() < repository.now + timedelta(days=1)
    repository.timestamp.expires = repository.now + timedelta(days=7300)
    sign_at(repository, repository.now + timedelta(days=3650))
    trust(tmp_path, server).refresh()
    with pytest.raises(Untrusted):
        trust(tmp_path, server).refresh()
    repository.rotate("timestamp")
    repository.publish("root")
    sign_at(repository, repository.now)
    with pytest.raises(Untrusted):  # this look still counts with what the old key said
        trust(tmp_path, server).refresh()
    trust(tmp_path, server).refresh()


def test_metadata_is_synced_before_it_is_named(
    server: TufServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What this relies on inside tuf: every file goes through our durable write, root.json is a file, not a link."""
    written: list[str] = []
    real = durable.write_durably

    def noted(path: Path, content: bytes, mode: int = 0o644) -> None:
        written.append(str(path.relative_to(tmp_path)))
        real(path, content, mode)

    monkeypatch.setattr("edge_inspect.update.trust.write_durably", noted)
    server.repository.publish("root")
    trust(tmp_path, server).target(TARGET)
    assert set(written) == set(on_disk(tmp_path))
    assert not (tmp_path / "root.json").is_symlink()
    assert Metadata[Root].from_file(str(tmp_path / "root.json")).signed.version == 2
    written.clear()
    trust(tmp_path, server).target(TARGET)
    assert written == []


@pytest.mark.parametrize(
    "name", ["timestamp.json", "snapshot.json", "root_history/1.root.json", "targets.json", "clock-floor"]
)
def test_metadata_that_rotted_on_disk_is_fetched_anew(name: str, server: TufServer, tmp_path: Path) -> None:
    sign_at(server.repository, server.repository.now)
    trust(tmp_path, server).target(TARGET)
    trusted = on_disk(tmp_path)
    (tmp_path / name).write_bytes(b"\0" * 100)
    trust(tmp_path, server).target(TARGET)
    assert on_disk(tmp_path) == trusted
