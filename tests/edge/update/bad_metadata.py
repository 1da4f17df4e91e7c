"""C3, C4, C6, C19: metadata old, unsigned or signed by others, and wrong clocks, for the table of bad artefacts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone

from tuf.api.metadata import MetaFile

from edge_wire.release import SIGNED_AT
from tests.edge.update.bad_case import Bend, Fetched
from tests.edge.update.victim import Victim
from tests.sim.tuf_repository import ROLE, TufRepository

TIMESTAMP = "metadata/timestamp.json"


def old_timestamp(victim: Victim) -> None:
    repository = victim.repository
    repository.timestamp.version -= 1
    repository.files[TIMESTAMP] = repository.sign("timestamp")


def old_snapshot(victim: Victim) -> None:
    victim.repository.timestamp.snapshot_meta = MetaFile(1)
    victim.repository.publish("timestamp")


def old_product(victim: Victim) -> None:
    repository = victim.repository
    repository.publish("snapshot")
    repository.signed("snapshot").meta[f"{ROLE}.json"] = MetaFile(1)
    repository.publish("snapshot")


def mixed(victim: Victim) -> None:
    """The timestamp of today with the snapshot of yesterday, under today's number."""
    repository = victim.repository
    repository.publish("snapshot")
    version, files = repository.signed("snapshot").version, repository.files
    files[f"metadata/{version}.snapshot.json"] = files[f"metadata/{version - 1}.snapshot.json"]


def swapped(victim: Victim) -> None:
    """Other bytes than the timestamp's own digest of the snapshot."""
    repository = victim.repository
    snapshot = repository.signed("snapshot")
    snapshot.version += 1
    content = repository.sign("snapshot")
    repository.timestamp.snapshot_meta = MetaFile.from_data(snapshot.version, content, ["sha256"])
    repository.publish("timestamp")
    repository.files[f"metadata/{snapshot.version}.snapshot.json"] = content.replace(b'"sig":"', b'"sig":"00', 1)[:-2]


def forgotten(victim: Victim) -> None:
    del victim.repository.signed("snapshot").meta[f"{ROLE}.json"]
    victim.repository.publish("snapshot")


def frozen(victim: Victim) -> None:
    """The same answers for ever: after a month nobody is fooled any more."""
    later = victim.repository.now + timedelta(days=31)
    victim.settings = replace(victim.settings, clock=lambda: later)


def fast_forwarded(victim: Victim) -> None:
    """Who had the online keys for a day used up all numbers; now the true repository speaks again."""
    repository, files = victim.repository, dict(victim.repository.files)
    repository.timestamp.version = 99_999
    repository.publish("timestamp")
    victim.look()
    repository.files = files


def unsigned(role: str) -> Bend:
    def bend(victim: Victim) -> None:
        victim.repository.signers[role] = []
        victim.repository.publish(role)

    return bend


def wrong_key(role: str) -> Bend:
    def bend(victim: Victim) -> None:
        victim.repository.signers[role] = TufRepository().signers["timestamp"]
        victim.repository.publish(role)

    return bend


def foreign_signature(victim: Victim) -> None:
    """The right key id over somebody else's signature."""
    victim.repository.publish("timestamp")
    said = json.loads(victim.repository.files[TIMESTAMP])
    said["signatures"][0]["sig"] = json.loads(TufRepository().files[TIMESTAMP])["signatures"][0]["sig"]
    victim.repository.files[TIMESTAMP] = json.dumps(said).encode()


def threshold_not_met(victim: Victim) -> None:
    repository = victim.repository
    repository.add_key("timestamp")
    repository.root.roles["timestamp"].threshold = 2
    repository.publish("root")
    repository.signers["timestamp"] = repository.signers["timestamp"][:1]
    repository.publish("timestamp")


def one_key_twice(victim: Victim) -> None:
    threshold_not_met(victim)
    said = json.loads(victim.repository.files[TIMESTAMP])
    said["signatures"] *= 2
    victim.repository.files[TIMESTAMP] = json.dumps(said).encode()


def expired(*roles: str) -> Bend:
    def bend(victim: Victim) -> Iterator[None]:
        repository = victim.repository
        whole = repository.root.expires
        for role in roles:
            repository.signed(role).expires = repository.now - timedelta(days=1)
            repository.publish(role)
            yield
            if role != roles[-1]:
                repository.signed(role).expires = whole
                repository.publish(role)

    return bend


def root_by_new_keys_only(victim: Victim) -> None:
    victim.repository.rotate("root")
    victim.repository.publish("root")


def root_that_skips(victim: Victim) -> None:
    repository = victim.repository
    repository.root.version += 1
    repository.publish("root")
    version = repository.root.version
    repository.files[f"metadata/{version - 1}.root.json"] = repository.files[f"metadata/{version}.root.json"]


def another_root(victim: Victim) -> None:
    """Somebody else's whole repository, right in itself."""
    stranger = TufRepository()
    stranger.release(victim.package(), 1000)
    for role in ("timestamp", "snapshot", "targets", ROLE):
        stranger.signed(role).version += 100
    stranger.publish("targets", ROLE)
    stranger.files = {name: content for name, content in stranger.files.items() if "root" not in name}
    victim.repository = victim.server.repository = stranger


def lost_root(victim: Victim) -> None:
    (victim.models_dir / "trust" / "root.json").unlink()
    victim.settings = replace(victim.settings, root=None)


def broken_root(victim: Victim) -> None:
    victim.settings = replace(victim.settings, root=b"{}")


def online_keys(victim: Victim) -> None:
    """Who has the publishing server signs a model of his own with all that is there: snapshot and timestamp."""
    repository = victim.repository
    repository.signers[ROLE] = repository.signers["snapshot"]
    victim.release()


def online_keys_make_a_root(victim: Victim) -> None:
    repository = victim.repository
    repository.root.roles[ROLE] = repository.root.roles["snapshot"]
    del repository.root.roles[ROLE]
    repository.root.roles["targets"].keyids = repository.root.roles["snapshot"].keyids
    repository.signers["root"] = repository.signers["snapshot"]
    repository.publish("root")


def login_page(content: bytes) -> Bend:
    def bend(victim: Victim) -> None:
        victim.repository.files[TIMESTAMP] = content

    return bend


def at(moment: datetime) -> Callable[[Victim], None]:
    def bend(victim: Victim) -> None:
        victim.settings = replace(victim.settings, clock=lambda: moment)

    return bend


def expired_and_1970(victim: Victim) -> None:
    """Metadata of last year, and a clock without a battery: what has been seen has passed all the same."""
    repository = victim.repository
    repository.timestamp.unrecognized_fields[SIGNED_AT] = f"{repository.now:%Y-%m-%dT%H:%M:%SZ}"
    repository.publish("timestamp")
    victim.look()
    repository.timestamp.expires = repository.now - timedelta(days=1)
    repository.publish("timestamp")
    at(datetime(1970, 1, 1, tzinfo=timezone.utc))(victim)


def jumps_back(victim: Victim) -> None:
    """Right in the first look, two years back in the second."""
    expired_and_1970(victim)
    at(victim.repository.now - timedelta(days=730))(victim)


# fmt: off
METADATA = (
    Fetched("C3", "an old timestamp again", "metadata-rollback", old_timestamp),
    Fetched("C3", "an old snapshot again", "metadata-rollback", old_snapshot),
    Fetched("C3", "the product's old targets again", "metadata-rollback", old_product),
    Fetched("C3", "frozen: the same answers for a month", "metadata-expired", frozen),
    Fetched("C3", "mixed: today's timestamp, yesterday's snapshot", "metadata-rollback", mixed),
    Fetched("C3", "other bytes than the snapshot's digest", "metadata-digest", swapped),
    Fetched("C3", "the product's targets left out of the snapshot", "metadata-broken", forgotten),
    Fetched("C3", "fast-forwarded, then the true repository again", "metadata-rollback", fast_forwarded),
    *(Fetched("C4", f"no signature: {role}", "metadata-unsigned", unsigned(role))
      for role in ("root", "timestamp", "snapshot", "targets", ROLE)),
    *(Fetched("C4", f"somebody else's key: {role}", "metadata-unsigned", wrong_key(role))
      for role in ("root", "timestamp", "snapshot", "targets", ROLE)),
    Fetched("C4", "the right key id over a stranger's signature", "metadata-unsigned", foreign_signature),
    Fetched("C4", "one signature where two are needed", "metadata-unsigned", threshold_not_met),
    Fetched("C4", "two are needed, one key signs twice", "metadata-broken", one_key_twice),
    Fetched("C4", "expired, each role for itself", "metadata-expired",
            expired("root", "timestamp", "snapshot", "targets", ROLE)),
    Fetched("C4", "a root that only its own new keys sign", "metadata-unsigned", root_by_new_keys_only),
    Fetched("C4", "a root under another number than its own", "metadata-rollback", root_that_skips),
    Fetched("C4", "somebody else's repository, right in itself", "metadata-unsigned", another_root),
    Fetched("C4", "the root is lost on this box", "root-missing", lost_root),
    Fetched("C4", "the root on this box is no root", "root-broken", broken_root),
    Fetched("C4", "a login page in place of metadata", "metadata-broken", login_page(b"<html>please log in</html>")),
    Fetched("C4", "metadata nested 16,000 deep", "metadata-broken", login_page(b"[" * 16_000)),
    Fetched("C6", "expired metadata, and it is 1970", "metadata-expired", expired_and_1970),
    Fetched("C6", "the clock is ten years ahead", "metadata-expired", at(datetime(2036, 11, 22, tzinfo=timezone.utc))),
    Fetched("C6", "expired metadata, and the clock jumps back", "metadata-expired", jumps_back),
    Fetched("C19", "the online keys sign a model", "metadata-unsigned", online_keys),
    Fetched("C19", "the online keys make a root of their own", "metadata-unsigned", online_keys_make_a_root),
)
# fmt: on
