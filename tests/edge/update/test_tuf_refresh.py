"""Refreshes of upstream's conformance suite (theupdateframework/tuf-conformance) in our own words, through the CLI.

Each is a change of the repository, before the first refresh or behind it; then the exit code, the versions that are
trusted on disk and the last file that was asked for must be what the specification's workflow says.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pytest
from tuf.api.metadata import Metadata

from tests.edge.update import repository_changes as changes
from tests.edge.update.cli_client import Client, set_clock
from tests.edge.update.repository_changes import Change, expires, publish, starts_again, then
from tests.sim.tuf_repository import TufServer

ALL_AT_1 = "root 1 timestamp 1 snapshot 1 targets 1"


class Case(NamedTuple):
    name: str
    before: Change | None
    """None: the scenario begins with the first refresh."""
    change: Change
    code: int
    trusted: str
    last: str = ""


nothing = publish()
CASES = (
    *(
        Case(f"unsigned {role}", None, changes.unsigned(role), 1, trusted)
        for role, trusted in (
            ("root", "root 1"),
            ("timestamp", "root 2"),
            ("snapshot", "root 2 timestamp 2"),
            ("targets", "root 2 timestamp 2 snapshot 2"),
        )
    ),
    *(
        Case(f"number ahead {role}", None, changes.number_ahead(role), 1, trusted)
        for role, trusted in (
            ("root", "root 1"),
            ("snapshot", "root 2 timestamp 2"),
            ("targets", "root 2 timestamp 2 snapshot 2"),
        )
    ),
    Case("snapshot as timestamp", None, changes.snapshot_as_timestamp, 1, "root 2", "timestamp"),
    Case("key named thrice", None, changes.twice_in_root, 1, "root 1", "2.root"),
    Case("signature twice", None, changes.twice_signed, 1, "root 1 timestamp 1", "1.snapshot"),
    Case("hashes", None, changes.hashes, 0, "root 1 timestamp 2 snapshot 2 targets 2"),
    Case("wrong hash", changes.hashes, changes.wrong_hash, 1, "root 1 timestamp 4 snapshot 4 targets 2", "3.targets"),
    Case("same version", nothing, changes.other_timestamp_of_same_version, 0, ALL_AT_1, "timestamp"),
    Case("targets not listed", nothing, changes.targets_not_listed, 0, ALL_AT_1, "timestamp"),
    Case("other old snapshot", nothing, changes.other_snapshot_is_served, 0, ALL_AT_1, "timestamp"),
    Case("no snapshot", nothing, changes.snapshot_missing, 1, "root 1 timestamp 2 snapshot 1 targets 1", "2.snapshot"),
    Case("no targets", nothing, changes.targets_missing, 1, "root 1 timestamp 2 snapshot 2 targets 1", "2.targets"),
    Case("no timestamp", nothing, changes.timestamp_missing, 1, ALL_AT_1, "timestamp"),
    Case("fields", nothing, changes.field_in_key("root", more={"a": 1}), 0, "root 2 timestamp 2 snapshot 2 targets 1"),
    Case(
        "hash algorithms of a key", None, changes.field_in_key("snapshot", keyid_hash_algorithms="md5"), 0,
        "root 2 timestamp 2 snapshot 2 targets 1",
    ),
    Case(
        "expired root", publish("root"), then(expires("root", -1), publish("root", "targets")), 1,
        "root 3 timestamp 1 snapshot 1 targets 1",
    ),
    Case("expired timestamp", nothing, then(expires("timestamp", -5), publish("timestamp")), 1, ALL_AT_1, "timestamp"),
    Case(
        "expired snapshot", nothing, then(expires("snapshot", -5), publish("snapshot")), 1,
        "root 1 timestamp 2 snapshot 1 targets 1", "2.snapshot",
    ),
    Case(
        "expired targets", nothing, then(expires("targets", -5), publish("targets")), 1,
        "root 1 timestamp 2 snapshot 2 targets 1", "2.targets",
    ),
    Case(
        "expired targets that nothing lists", nothing, then(expires("targets", -5), publish("snapshot")), 0,
        "root 1 timestamp 2 snapshot 2 targets 1", "2.snapshot",
    ),
    Case(
        "timestamp rolled back", publish("timestamp"), starts_again("timestamp"), 1,
        "root 1 timestamp 2 snapshot 1 targets 1", "timestamp",
    ),
    *(
        Case(
            f"{role} rolled back{said}", begin, starts_again(role), 1,
            f"root 1 timestamp {newest} snapshot 2 targets 2", last,
        )
        for role, newest, last in (("snapshot", 2, "timestamp"), ("targets", 3, "3.snapshot"))
        for said, begin in (("", publish("targets")), (" with hashes", changes.hashes))
    ),
    Case(
        "role forgotten", changes.delegated, then(changes.delegated_is_forgotten, publish("snapshot")), 1,
        "root 1 timestamp 3 snapshot 2 targets 2", "3.snapshot",
    ),
    Case(
        "targets heal", then(changes.delegated, changes.many("targets")),
        then(changes.rotated("snapshot"), changes.delegated_is_forgotten, publish("root"), starts_again("targets")), 0,
        "root 2 timestamp 102 snapshot 102 targets 1",
    ),
    Case(
        "snapshot heals", changes.many("snapshot"),
        then(changes.rotated("snapshot", "timestamp"), publish("root"), starts_again("snapshot")), 0,
        "root 2 timestamp 101 snapshot 1 targets 1",
    ),
    Case(
        "timestamp heals", changes.many("timestamp"),
        then(changes.rotated("timestamp"), publish("root"), starts_again("timestamp")), 0,
        "root 2 timestamp 1 snapshot 1 targets 1",
    ),
    Case("2 signatures of 3", None, changes.snapshot_needs(3, 2, 3), 1, "root 2 timestamp 3", "3.snapshot"),
    Case("5 keys for 6", None, changes.snapshot_needs(5, 5, 6), 1, "root 2 timestamp 3", "3.snapshot"),
    Case(
        "one signature is wrong", None, changes.one_signature_is(lambda sig: sig[:-4] + "0000"), 0,
        "root 2 timestamp 2 snapshot 1 targets 1",
    ),
    Case(
        "one signature is empty", None, changes.one_signature_is(lambda _: ""), 0,
        "root 2 timestamp 2 snapshot 1 targets 1",
    ),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_refresh_trusts_what_the_workflow_says_and_no_more(case: Case, server: TufServer, tmp_path: Path) -> None:
    client = Client(server, tmp_path)
    if case.before is not None:
        case.before(server.repository)
        assert client.refresh() == 0
        client.asked()
    case.change(server.repository)
    assert (client.refresh(), client.trusted()) == (case.code, case.trusted)
    asked = client.asked()
    assert asked[-1] == f"metadata/{case.last}.json" or not case.last, asked


def test_metadata_stays_byte_for_byte_as_it_came(server: TufServer, tmp_path: Path) -> None:
    server.repository.files["metadata/timestamp.json"] += b" "
    client = Client(server, tmp_path)
    assert client.refresh() == 0
    for served in ("1.root", "timestamp", "1.snapshot", "1.targets"):
        stored = client.metadata / f"{served.removeprefix('1.')}.json"
        assert stored.read_bytes() == server.repository.files[f"metadata/{served}.json"]


def test_download_that_finds_nothing_has_refreshed(server: TufServer, tmp_path: Path) -> None:
    client = Client(server, tmp_path)
    assert client.download("no such artefact") == 1
    wanted = ["2.root", "timestamp", "1.snapshot", "1.targets"]
    assert client.asked() == [f"metadata/{name}.json" for name in wanted]
    assert client.trusted() == ALL_AT_1


@pytest.mark.parametrize("fault", ["no version", "foreign signature", "not json"])
def test_wrong_first_root_fails_before_anything_is_asked_for(fault: str, server: TufServer, tmp_path: Path) -> None:
    root = json.loads(server.repository.first_root)
    if fault == "no version":
        del root["signed"]["version"]
    else:
        root["signatures"][0]["sig"] = "ab" * 64
    content = b"<html>" if fault == "not json" else json.dumps(root).encode()
    client = Client(server, tmp_path, root=content)
    assert client.refresh() == 1
    assert client.asked() == []


@pytest.mark.parametrize(
    ("role", "then_days", "code", "trusted"),
    [
        ("root", None, 1, "root 2 timestamp 1 snapshot 1 targets 1"),
        ("root", 21, 0, "root 3 timestamp 2 snapshot 2 targets 2"),
        ("timestamp", None, 1, "root 1 timestamp 2 snapshot 1 targets 1"),
        ("timestamp", 21, 0, "root 1 timestamp 3 snapshot 2 targets 2"),
    ],
)  # fmt: skip
def test_metadata_that_expired_on_disk_is_replaced_if_there_is_newer(
    role: str, then_days: int | None, code: int, trusted: str,
    server: TufServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Good for 7 days as it is fetched; looked at again after 18 days."""
    repository, client = server.repository, Client(server, tmp_path)
    then(expires(role, 7), publish(role))(repository)
    assert client.refresh() == 0
    if then_days is not None:
        then(expires(role, then_days), publish(*({role, "targets"} - {"timestamp"})))(repository)
    set_clock(monkeypatch, 18)
    assert (client.refresh(), client.trusted()) == (code, trusted)


def test_metadata_is_read_as_metadata_by_others(server: TufServer, tmp_path: Path) -> None:
    client = Client(server, tmp_path)
    assert client.refresh() == 0
    for path in client.metadata.glob("*.json"):
        assert Metadata.from_file(str(path)).signed.type == path.stem
