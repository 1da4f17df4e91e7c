"""Keys of the top roles as upstream's conformance suite (theupdateframework/tuf-conformance) turns them: own words.

Rotations, thresholds and kinds of keys, through the command line.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pytest
from securesystemslib.signer import CryptoSigner

from tests.edge.update.cli_client import Client
from tests.sim.tuf_repository import TufRepository, TufServer

KEYS = tuple(CryptoSigner.generate_ed25519() for _ in range(10))


class Signed(NamedTuple):
    """Numbers of keys: who may sign, how many must, who did."""

    keys: str
    threshold: int
    by: str


ROOTS: dict[str, tuple[bool, list[Signed]]] = {
    "one key for another": (True, [Signed("1", 1, "1"), Signed("2", 1, "21"), Signed("2", 1, "2")]),
    "signatures of strangers": (True, [Signed("1", 1, "314"), Signed("2", 1, "3214"), Signed("2", 1, "324")]),
    "3 of 5 in turn": (
        True,
        [Signed("01234", 3, "024"), Signed("01234", 3, "041"), Signed("01234", 3, "013"), Signed("01234", 3, "013")],
    ),
    "1 of 5 anew": (True, [Signed("01234", 3, "024"), Signed("01345", 3, "041")]),
    "1 of 5 anew in two steps": (
        True, [Signed("01234", 3, "024"), Signed("01345", 3, "0245"), Signed("01345", 3, "045")],
    ),
    "5 of 5 anew in two steps": (
        True, [Signed("01234", 3, "024"), Signed("56789", 3, "024567"), Signed("56789", 3, "567")],
    ),
    "from 1 to 2 of 3": (True, [Signed("123", 1, "1"), Signed("123", 2, "12")]),
    "from 2 to 1 of 3": (True, [Signed("123", 2, "12"), Signed("123", 1, "12"), Signed("123", 1, "1")]),
    "from 1 to 2 of 2": (True, [Signed("1", 1, "1"), Signed("12", 2, "12")]),
    "not by the old key": (False, [Signed("1", 1, "1"), Signed("2", 1, "234")]),
    "not by the new key": (False, [Signed("1", 1, "1"), Signed("2", 1, "134")]),
    "2 of 3 new": (False, [Signed("01234", 3, "024"), Signed("01345", 3, "024")]),
    "2 of 3 old": (False, [Signed("01234", 3, "024"), Signed("01345", 3, "045")]),
    "new threshold not met": (False, [Signed("123", 1, "1"), Signed("123", 2, "2")]),
    "old threshold not met": (False, [Signed("123", 2, "12"), Signed("123", 1, "1")]),
}  # fmt: skip
ROLES = {
    "another key": (True, Signed("2", 1, "2")),
    "signatures of strangers": (True, Signed("1", 1, "314")),
    "not by the key": (False, Signed("2", 1, "134")),
    "2 of 3, and a stranger": (False, Signed("01345", 3, "024")),
    "2 of 3": (False, Signed("01345", 3, "04")),
    **{f"3 of 5: {by}": (True, Signed("01234", 3, by)) for by in ("024", "041", "013", "123", "234")},
}


def turn(repository: TufRepository, role: str, signed: Signed) -> None:
    for key in list(repository.root.roles[role].keyids):
        repository.root.revoke_key(key, role)
    for number in signed.keys:
        repository.root.add_key(KEYS[int(number)].public_key, role)
    repository.root.roles[role].threshold = signed.threshold
    repository.signers[role] = [KEYS[int(number)] for number in signed.by]


@pytest.mark.parametrize("name", ROOTS)
def test_root_is_followed_as_far_as_both_its_keys_and_those_before_signed(name: str, tmp_path: Path) -> None:
    valid, versions = ROOTS[name]
    repository = TufRepository(products=())
    repository.root.version = 0
    for signed in versions:
        turn(repository, "root", signed)
        repository.publish("root")
    repository.publish("targets")
    with TufServer(repository) as server:
        client = Client(server, tmp_path)
        assert client.refresh() == (0 if valid else 1)
    newest = len(versions) if valid else len(versions) - 1
    assert (client.metadata / "root.json").read_bytes() == repository.files[f"metadata/{newest}.root.json"]


@pytest.mark.parametrize("name", ROLES)
def test_role_counts_if_enough_of_its_own_keys_signed(name: str, tmp_path: Path) -> None:
    valid, signed = ROLES[name]
    repository = TufRepository(products=())
    repository.publish("targets", bump=False)
    with TufServer(repository) as server:
        client = Client(server, tmp_path)
        for role in ("timestamp", "snapshot", "targets"):
            turn(repository, role, signed)
            repository.publish("root", "targets")
            assert client.refresh() == (0 if valid else 1)
            if valid:
                version = "" if role == "timestamp" else f"{repository.signed(role).version}."
                served = repository.files[f"metadata/{version}{role}.json"]
                assert (client.metadata / f"{role}.json").read_bytes() == served


@pytest.mark.parametrize(
    "signer",
    [
        CryptoSigner.generate_rsa(),
        CryptoSigner.generate_rsa(scheme="rsa-pkcs1v15-sha256"),
        CryptoSigner.generate_ecdsa(),
        CryptoSigner.generate_ed25519(),
    ],
    ids=lambda signer: signer.public_key.scheme,
)
def test_kind_of_key_signs_a_root_and_a_stale_signature_of_it_does_not(signer: CryptoSigner, tmp_path: Path) -> None:
    repository = TufRepository(products=())
    repository.publish("targets", bump=False)
    repository.root.add_key(signer.public_key, "root")
    repository.root.roles["root"].threshold = 2
    repository.signers["root"].append(signer)
    with TufServer(repository) as server:
        client = Client(server, tmp_path)
        repository.publish("root")
        assert client.refresh() == 0
        assert client.trusted().startswith("root 2 ")
        second = json.loads(repository.files["metadata/2.root.json"])
        stale = {said["keyid"]: said["sig"] for said in second["signatures"]}
        repository.publish("root")
        root = json.loads(repository.files["metadata/3.root.json"])
        for said in root["signatures"]:
            if said["keyid"] == signer.public_key.keyid:
                said["sig"] = stale[said["keyid"]]
        repository.files["metadata/3.root.json"] = json.dumps(root).encode()
        assert client.refresh() == 1
        assert client.trusted().startswith("root 2 ")


def test_root_with_a_key_of_a_kind_that_nobody_knows_is_refused_as_a_whole(tmp_path: Path) -> None:
    """So a kind of key comes into use only when every device can check it; what was trusted stays."""
    repository = TufRepository(products=())
    repository.publish("targets", bump=False)
    with TufServer(repository) as server:
        client = Client(server, tmp_path)
        assert client.refresh() == 0
        trusted = client.trusted()
        repository.add_key("timestamp")
        strange = repository.signers["timestamp"].pop().public_key
        strange.keytype, strange.scheme = "lattice", "lattice-1"
        repository.publish("root", "timestamp")
        assert (client.refresh(), client.trusted()) == (1, trusted)
