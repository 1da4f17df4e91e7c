"""C1, C2, C17, C19: bytes lost or changed on their way, and disks without room, for the table of bad artefacts."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from edge_inspect.update.shelf import Shelf
from tests.edge.update.bad_case import Bend, Fetched
from tests.edge.update.victim import Victim
from tests.sim.tuf_repository import Fault

ONNX, MANIFEST, GOLDEN, ROLLOUT = "*.model.onnx", "*.manifest.json", "*.spot.png", "*.stable.json"
TIMESTAMP = "metadata/timestamp.json"


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


def online_keys_name_other_bytes(victim: Victim) -> None:
    """Another file under the name of the one that is signed."""
    victim.release()
    victim.server.faults = {ONNX: Fault(other=b"x" * _length(victim, ONNX))}


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
TRANSFERS = (
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
    Fetched("C17", "no room", "no-space", no_room),
    Fetched("C17", "two updates at once", "folder-busy", two_at_once),
    Fetched("C17", "the daemon ends while a model comes", "stopped", stopped, parts=True, blobs=True),
    Fetched("C19", "the publishing server serves another file", "target-digest",
            online_keys_name_other_bytes, blobs=True),
)
# fmt: on
