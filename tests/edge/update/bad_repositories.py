"""C1 to C6, C16, C17, C19, C20: bytes, metadata, clocks and disks that lie, for the table of bad artefacts."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

from tuf.api.metadata import MetaFile

from edge_inspect.update.shelf import Shelf
from edge_wire.release import channel_target, file_target
from tests.edge.update.bad_case import Bend, Fetched
from tests.edge.update.victim import Victim
from tests.sim.tuf_repository import PRODUCT, ROLE, Fault, TufRepository

ONNX, MANIFEST, GOLDEN, ROLLOUT = "*.model.onnx", "*.manifest.json", "*.spot.png", "*.stable.json"
TIMESTAMP = "metadata/timestamp.json"


# --- C1, C2: bytes on their way -------------------------------------------------------------------------------------


def over_the_wire(pattern: str, *faults: Fault) -> Bend:
    """A good release, served badly: each fault for itself."""

    def bend(victim: Victim) -> Iterator[None]:
        victim.release()
        victim.limit(tries=2)
        for fault in faults:
            victim.server.faults = {pattern: replace(fault)}
            yield

    return bend


def _length(victim: Victim, pattern: str) -> int:
    from fnmatch import fnmatchcase

    return max(len(content) for path, content in victim.repository.files.items() if fnmatchcase(path, pattern))


def truncated_everywhere(victim: Victim) -> Iterator[None]:
    victim.release()
    length = _length(victim, ONNX)
    for hundredth in range(0, 100, 9):
        victim.server.faults = {ONNX: Fault(less=length - length * hundredth // 100)}
        yield


def cut_off_everywhere(victim: Victim) -> Iterator[None]:
    """The connection breaks at the same place, always, and the server does not know Range."""
    victim.release()
    victim.limit(tries=1)
    length = _length(victim, ONNX)
    for hundredth in range(1, 100, 14):
        victim.server.faults = {ONNX: Fault(cut_after=length * hundredth // 100, ignore_range=True)}
        shutil.rmtree(victim.models_dir / "staging", ignore_errors=True)
        yield


def flipped_bits(pattern: str, count: int) -> Bend:
    def bend(victim: Victim) -> Iterator[None]:
        victim.release()
        bits = 8 * _length(victim, pattern)
        for number in range(count):
            victim.server.faults = {pattern: Fault(flip_bit=number * (bits // count + 1) % bits)}
            yield

    return bend


def flipped_golden(victim: Victim) -> Iterator[None]:
    folder = victim.package()
    picture, manifest = folder / "golden" / "spot.png", folder / "manifest.json"
    content = picture.read_bytes() + b"one that was never here"
    picture.write_bytes(content)
    said = json.loads(manifest.read_text())
    said["golden"][0] |= {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest.write_text(json.dumps(said))
    victim.release(folder)
    for bit in range(0, 8 * len(content), 8 * len(content) // 10):
        victim.server.faults = {GOLDEN: Fault(flip_bit=bit)}
        yield


def flipped_signature(victim: Victim) -> Iterator[None]:
    victim.repository.publish("timestamp")
    content = victim.repository.files[TIMESTAMP]
    at = content.index(b'"sig":"') + 7
    for place in range(at, at + 128, 9):
        digit = b"0" if content[place : place + 1] != b"0" else b"1"
        victim.repository.files[TIMESTAMP] = content[:place] + digit + content[place + 1 :]
        yield


def bomb(victim: Victim) -> None:
    """A kilobyte that would become a gigabyte, if somebody unpacked it."""
    victim.release()
    victim.server.faults = {ONNX: Fault(gzip=True, other=bytes(1 << 20))}


SLOW = Fault(bytes_per_s=1000)


def dripping(pattern: str, fault: Fault, **limits: Any) -> Bend:
    def bend(victim: Victim) -> None:
        victim.release()
        victim.limit(**limits)
        victim.server.faults = {pattern: replace(fault)}

    return bend


def over_the_cap(victim: Victim) -> None:
    victim.release()
    victim.limit(cap_bytes=100_000)


def large_manifest(victim: Victim) -> None:
    folder = victim.package()
    manifest = folder / "manifest.json"
    manifest.write_bytes(manifest.read_bytes() + b" " * (1 << 20))
    victim.release(folder)


# --- C3, C4, C19: metadata ------------------------------------------------------------------------------------------


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


def old_rollout(victim: Victim) -> None:
    """Signed by everybody, with a number that was used long ago."""
    victim.repository.release(victim.package(), 3)


def reused_sequence(victim: Victim) -> None:
    victim.repository.release(victim.package(), victim.newest)


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


def online_keys_name_other_bytes(victim: Victim) -> None:
    """Another file under the name of the one that is signed."""
    victim.release()
    victim.server.faults = {ONNX: Fault(other=b"x" * _length(victim, ONNX))}


def login_page(content: bytes) -> Bend:
    def bend(victim: Victim) -> None:
        victim.repository.files[TIMESTAMP] = content

    return bend


# --- C5, C16, C20: signed by the right key, and not for us ----------------------------------------------------------


def sign_rollout(victim: Victim, **changes: Any) -> None:
    """A release whose rollout says something else."""
    rollout = victim.release()
    said = json.loads(rollout.model_dump_json())
    for name, value in changes.items():
        said[name] = {**said[name], **value} if isinstance(value, dict) else value
    victim.repository.put(ROLE, channel_target(PRODUCT, "stable"), json.dumps(said).encode())
    victim.repository.publish(ROLE)


def rollout_says(**changes: Any) -> Bend:
    return lambda victim: sign_rollout(victim, **changes)


def rollouts_say(*many: dict[str, Any]) -> Bend:
    def bend(victim: Victim) -> Iterator[None]:
        for changes in many:
            sign_rollout(victim, **changes)
            yield

    return bend


def other_products_key(victim: Victim) -> None:
    """Another product line's key signs a rollout under our name; its role is not asked for our paths."""
    repository = victim.repository
    repository.delegate("targets", "product-gears", ["gears/*/*"], terminating=True)
    name = channel_target(PRODUCT, "stable")
    content = next(repository.files[path] for path in repository.files if path.endswith(".stable.json"))
    del repository.signed(ROLE).targets[name]
    repository.put("product-gears", name, content)
    repository.publish("targets", "product-gears", ROLE)


def other_products_rollout(victim: Victim) -> None:
    sign_rollout(victim, product="gears")


def for_others(victim: Victim) -> Iterator[None]:
    for audience in ({"sites": ["plant2"]}, {"lines": ["press-5"]}, {"devices": ["edge-0018", "x*"]}):
        victim.release(audience=audience)
        yield


def other_model_in_its_place(victim: Victim) -> None:
    """The package of one model lies under the name of another one, with the right digest."""
    folder = victim.package()
    digest = victim.release(folder).model.digest
    for file in (path for path in folder.rglob("*") if path.is_file()):
        name = file_target(PRODUCT, "tiny", "99.0.0", str(file.relative_to(folder)))
        victim.repository.put(ROLE, name, file.read_bytes())
    sign_rollout(victim, model={"version": "99.0.0", "digest": digest})


def other_file_signed(victim: Victim) -> None:
    """Same version, other bytes: a file is signed anew under the name that a manifest has."""
    model = victim.release().model
    victim.repository.put(ROLE, file_target(PRODUCT, model.name, model.version, "model.onnx"), b"other")
    victim.repository.publish(ROLE)


def file_not_signed(victim: Victim) -> None:
    model = victim.release().model
    del victim.repository.signed(ROLE).targets[file_target(PRODUCT, model.name, model.version, "model.onnx")]
    victim.repository.publish(ROLE)


def large_rollout(victim: Victim) -> None:
    victim.release(reason="x")
    victim.repository.put(ROLE, channel_target(PRODUCT, "stable"), b" " * 70_000)
    victim.repository.publish(ROLE)


def rollouts_of_nonsense(victim: Victim) -> Iterator[None]:
    for content in (b"{}", b"null", b"[" * 20_000, b"\xff\xfe", b'{"format": 2}', b""):
        victim.repository.put(ROLE, channel_target(PRODUCT, "stable"), content)
        victim.repository.publish(ROLE)
        yield


ODD = (
    "../../escape", "/etc/cron.d/x", "a/../../b", "..", "a\\..\\b", "golden/ü.png", "a\u202egnp.x", "a b", "-rf",
    "n" * 5000, "a/b/c", "CON:", "%2e%2e/x", "x\ny", "", ".hidden", "a\x00b",
)  # fmt: skip


def odd_digest(victim: Victim) -> None:
    """A digest that is a path."""
    model = victim.release().model
    name = file_target(PRODUCT, model.name, model.version, "manifest.json")
    victim.repository.signed(ROLE).targets[name].hashes = {"sha256": "../../../escape"}
    victim.repository.publish(ROLE)


def stick_of_links(victim: Victim) -> Iterator[None]:
    """A USB stick whose model is a link: to a device, to a secret, to itself."""
    victim.release()
    stick = victim.folder / "made" / "stick"
    victim.repository.write_to(stick)
    victim.settings = replace(victim.settings, url=stick.as_uri())
    model = max(stick.rglob(ONNX), key=lambda path: path.stat().st_mtime_ns)
    candidates = list(stick.rglob(ONNX))
    for to in ("/dev/zero", str(stick), model.name):
        for path in candidates:
            path.unlink(missing_ok=True)
            path.symlink_to(to)
        yield


# --- C6, C17: clocks and disks --------------------------------------------------------------------------------------


def at(moment: datetime) -> Callable[[Victim], None]:
    def bend(victim: Victim) -> None:
        victim.settings = replace(victim.settings, clock=lambda: moment)

    return bend


def expired_and_1970(victim: Victim) -> None:
    """Metadata of last year, and a clock without a battery: what has been seen has passed all the same."""
    repository = victim.repository
    repository.timestamp.unrecognized_fields["x-edge-inspect-signed-at"] = f"{repository.now:%Y-%m-%dT%H:%M:%SZ}"
    repository.publish("timestamp")
    victim.look()
    repository.timestamp.expires = repository.now - timedelta(days=1)
    repository.publish("timestamp")
    at(datetime(1970, 1, 1, tzinfo=timezone.utc))(victim)


def jumps_back(victim: Victim) -> None:
    """Right in the first look, two years back in the second."""
    expired_and_1970(victim)
    at(victim.repository.now - timedelta(days=730))(victim)


def no_room(victim: Victim) -> None:
    victim.release()
    victim.limit(min_free_bytes=1 << 60)


def two_at_once(victim: Victim) -> None:
    victim.release()
    victim.held.enter_context(Shelf(victim.models_dir).hold())


def stopped(victim: Victim) -> None:
    """The daemon is told to end while a model comes."""
    victim.release()
    victim.server.faults = {ONNX: Fault(stall_after=50_000)}
    victim.limit(stall_s=30.0)
    victim.settings = replace(victim.settings, progress=lambda done, total: victim.stop.set() if done > 2000 else None)


# fmt: off
FETCHED = (
    Fetched("C1", "the model ends early, at every place, and the server says so", "target-length",
            truncated_everywhere, blobs=True),
    Fetched("C1", "the connection breaks at the same place, for ever", "cut",
            cut_off_everywhere, parts=True, blobs=True),
    Fetched("C1", "one byte more than signed", "target-length",
            over_the_wire(ONNX, Fault(more=b"x"), Fault(more=b"x", chunked=True)), blobs=True),
    Fetched("C1", "a bit of the model is flipped, in 16 places", "target-digest", flipped_bits(ONNX, 16), blobs=True),
    Fetched("C1", "a bit of the manifest is flipped, in 16 places", "target-digest",
            flipped_bits(MANIFEST, 16), blobs=True),
    Fetched("C1", "a bit of a golden picture is flipped, in 10 places", "target-digest", flipped_golden, blobs=True),
    Fetched("C1", "a bit of the rollout is flipped, in 16 places", "target-digest", flipped_bits(ROLLOUT, 16)),
    Fetched("C1", "a digit of a signature is changed, in 15 places", "metadata-unsigned", flipped_signature),
    Fetched("C2", "a model that never ends", "target-length",
            over_the_wire(ONNX, Fault(endless=True)), parts=True, blobs=True),
    Fetched("C2", "metadata that never ends", "metadata-too-large", over_the_wire(TIMESTAMP, Fault(endless=True))),
    Fetched("C2", "1 kB/s, past the deadline", "deadline",
            dripping(ONNX, SLOW, deadline_s=0.6), parts=True, blobs=True),
    Fetched("C2", "metadata at 1 kB/s, past its deadline", "deadline", dripping("metadata/*", SLOW, metadata_s=0.3)),
    Fetched("C2", "an answer whose head never ends", "deadline",
            dripping(TIMESTAMP, Fault(drip_head=True), metadata_s=0.4)),
    Fetched("C2", "half-open: nothing comes any more", "stalled",
            dripping(TIMESTAMP, Fault(stall_after=10), stall_s=0.3)),
    Fetched("C2", "compressed, a bomb", "encoded", bomb, blobs=True),
    Fetched("C2", "metadata compressed", "encoded", over_the_wire(TIMESTAMP, Fault(gzip=True))),
    Fetched("C2", "a package larger than this box takes", "package-too-large", over_the_cap, blobs=True),
    Fetched("C2", "a manifest of a megabyte", "manifest-too-large", large_manifest, blobs=True),
    Fetched("C2", "a rollout of 70 kB", "rollout-too-large", large_rollout),
    Fetched("C3", "an old timestamp again", "metadata-rollback", old_timestamp),
    Fetched("C3", "an old snapshot again", "metadata-rollback", old_snapshot),
    Fetched("C3", "the product's old targets again", "metadata-rollback", old_product),
    Fetched("C3", "an old rollout, signed anew", "rollout-older", old_rollout, blobs=True),
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
    Fetched("C5", "another product's key signs under our name", "target-unknown", other_products_key),
    Fetched("C5", "another product's rollout under our name", "rollout-product", other_products_rollout, blobs=True),
    Fetched("C5", "another channel's rollout under our name", "rollout-channel",
            rollout_says(channel="beta"), blobs=True),
    Fetched("C5", "for another site, line or device", "", for_others, blobs=True),
    Fetched("C5", "another model's package under this one's name", "rollout-model",
            other_model_in_its_place, blobs=True),
    Fetched("C5", "a model that nobody has signed", "target-unknown",
            rollout_says(model={"version": "9.9.9"}), blobs=True),
    Fetched("C5", "a rollout that means other bytes than are signed", "rollout-digest",
            rollout_says(model={"digest": "sha256:" + "0" * 64}), blobs=True),
    Fetched("C5", "rollouts that are none", "rollout-broken", rollouts_of_nonsense, blobs=True),
    Fetched("C5", "rollouts with a key, a number or a name that is none", "rollout-broken",
            rollouts_say({"frobnicate": 1}, {"sequence": 0}, {"model": {"name": ".."}}, {"reason": "\n"}), blobs=True),
    Fetched("C6", "expired metadata, and it is 1970", "metadata-expired", expired_and_1970),
    Fetched("C6", "the clock is ten years ahead", "metadata-expired", at(datetime(2036, 11, 22, tzinfo=timezone.utc))),
    Fetched("C6", "expired metadata, and the clock jumps back", "metadata-expired", jumps_back),
    Fetched("C6", "released in a future that the repository cannot know", "rollout-in-future",
            rollout_says(released_at="2099-01-01T00:00:00Z"), blobs=True),
    Fetched("C16", "same version, a file signed anew with other bytes", "target-not-manifest",
            other_file_signed, blobs=True),
    Fetched("C16", "another model under a sequence that was used", "rollout-changed", reused_sequence, blobs=True),
    Fetched("C16", "a file of the package is not signed any more", "target-unknown", file_not_signed, blobs=True),
    Fetched("C17", "no room", "no-space", no_room),
    Fetched("C17", "two updates at once", "folder-busy", two_at_once),
    Fetched("C17", "the daemon ends while a model comes", "stopped", stopped, parts=True, blobs=True),
    Fetched("C19", "the online keys sign a model", "metadata-unsigned", online_keys),
    Fetched("C19", "the online keys make a root of their own", "metadata-unsigned", online_keys_make_a_root),
    Fetched("C19", "the publishing server serves another file", "target-digest",
            online_keys_name_other_bytes, blobs=True),
    Fetched("C20", "a digest that is a path", "rollout-digest", odd_digest, blobs=True),
    Fetched("C20", "a stick whose model is a link to a device, a folder, itself", "unreadable",
            stick_of_links, blobs=True),
)
# fmt: on
