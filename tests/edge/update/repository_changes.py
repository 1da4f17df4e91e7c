"""What a repository may do between two looks of a client, honest or not; each is a function of a TufRepository."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import timedelta

from securesystemslib.formats import encode_canonical
from tuf.api.metadata import MetaFile

from tests.sim.tuf_repository import TufRepository

Change = Callable[[TufRepository], None]


def publish(*roles: str) -> Change:
    return lambda repository: repository.publish(*roles)


def then(*changes: Change) -> Change:
    def do(repository: TufRepository) -> None:
        for change in changes:
            change(repository)

    return do


def expires(role: str, days: float) -> Change:
    def do(repository: TufRepository) -> None:
        repository.signed(role).expires = repository.now + timedelta(days=days)

    return do


def unsigned(role: str) -> Change:
    def do(repository: TufRepository) -> None:
        repository.signers[role] = []
        repository.publish("root", "targets")

    return do


def number_ahead(role: str) -> Change:
    """The file of version 2 says that it is version 3; what lists it says 2."""

    def do(repository: TufRepository) -> None:
        repository.publish("root", "targets")
        repository.signed(role).version = 3
        repository.files[f"metadata/2.{role}.json"] = repository.sign(role)

    return do


def starts_again(role: str) -> Change:
    """Version 1 comes once more."""

    def do(repository: TufRepository) -> None:
        repository.signed(role).version = 0
        repository.publish(role)

    return do


def hashes(repository: TufRepository) -> None:
    repository.metadata_hashes = True
    repository.publish("targets")


def wrong_hash(repository: TufRepository) -> None:
    hashes(repository)
    listed = repository.signed("snapshot").meta["targets.json"]
    listed.hashes["sha256"] = "0" * 64
    repository.publish("snapshot")


def other_timestamp_of_same_version(repository: TufRepository) -> None:
    repository.timestamp.snapshot_meta = MetaFile(100)
    repository.files["metadata/timestamp.json"] = repository.sign("timestamp")


def targets_not_listed(repository: TufRepository) -> None:
    repository.signed("targets").version = 2
    repository.files["metadata/2.targets.json"] = repository.sign("targets")


def snapshot_missing(repository: TufRepository) -> None:
    repository.timestamp.snapshot_meta = MetaFile(2)
    repository.publish("timestamp")


def targets_missing(repository: TufRepository) -> None:
    repository.signed("snapshot").meta["targets.json"] = MetaFile(2)
    repository.publish("snapshot")


def timestamp_missing(repository: TufRepository) -> None:
    del repository.files["metadata/timestamp.json"]


def other_snapshot_is_served(repository: TufRepository) -> None:
    """An old version in place of the listed one, which the client already has."""
    repository.files["metadata/1.snapshot.json"] = repository.sign("snapshot") + b"\n"


def snapshot_as_timestamp(repository: TufRepository) -> None:
    """Signed by the timestamp's key and of the form of a timestamp, but for its type."""
    repository.root.add_key(repository.signers["timestamp"][0].public_key, "snapshot")
    repository.signers["snapshot"] += repository.signers["timestamp"]
    repository.signed("snapshot").meta = {"snapshot.json": MetaFile(1)}
    repository.signed("snapshot").version = 2
    repository.publish("root")
    repository.files["metadata/timestamp.json"] = repository.sign("snapshot")


def delegated(repository: TufRepository) -> None:
    repository.delegate("targets", "delegated", ["d/*"])
    repository.publish("targets", "delegated")


def delegated_is_forgotten(repository: TufRepository) -> None:
    del repository.signed("snapshot").meta["delegated.json"]


def rotated(*roles: str) -> Change:
    def do(repository: TufRepository) -> None:
        for role in roles:
            repository.rotate(role)

    return do


def many(role: str) -> Change:
    return then(*[publish(role)] * 99)


def snapshot_needs(keys: int, signed_by: int, threshold: int) -> Change:
    def do(repository: TufRepository) -> None:
        while len(repository.signers["snapshot"]) < keys:
            repository.add_key("snapshot")
        repository.root.roles["snapshot"].threshold = threshold
        repository.publish("root", "snapshot")
        repository.signers["snapshot"] = repository.signers["snapshot"][:signed_by]
        repository.publish("snapshot")

    return do


def twice_in_root(repository: TufRepository) -> None:
    """A threshold that is met by naming one key, and its signature, again and again."""
    repository.root.roles["snapshot"].threshold = 3
    repository.root.roles["snapshot"].keyids *= 3
    repository.publish("root", "snapshot")
    twice_signed(repository, 3)


def twice_signed(repository: TufRepository, times: int = 2) -> None:
    path = f"metadata/{repository.signed('snapshot').version}.snapshot.json"
    said = json.loads(repository.files[path])
    said["signatures"] *= times
    repository.files[path] = json.dumps(said).encode()


def one_signature_is(text: Callable[[str], str]) -> Change:
    """The timestamp is signed by two of which one suffices; the first signature becomes nonsense."""

    def do(repository: TufRepository) -> None:
        repository.add_key("timestamp")
        repository.publish("root", "timestamp")
        said = json.loads(repository.files["metadata/timestamp.json"])
        said["signatures"][0]["sig"] = text(said["signatures"][0]["sig"])
        repository.files["metadata/timestamp.json"] = json.dumps(said).encode()

    return do


def field_in_key(role: str, **fields: object) -> Change:
    """Fields that the specification does not know, in a key (whose id is that of all its fields), a role, the root."""

    def do(repository: TufRepository) -> None:
        old = repository.rotate(role)
        key = repository.signers[role][0].public_key
        repository.signers[role] += old if role == "root" else []
        repository.root.revoke_key(key.keyid, role)
        key.unrecognized_fields.update(fields)
        key.keyid = hashlib.sha256((encode_canonical(key.to_dict()) or "").encode()).hexdigest()
        repository.root.add_key(key, role)
        repository.root.unrecognized_fields["x-own"] = "value"
        repository.root.roles[role].unrecognized_fields["x-other"] = {"a": [1, None]}
        repository.publish("root", "snapshot")

    return do
