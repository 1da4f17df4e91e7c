"""C2, C3, C5, C6, C16, C20: signed by the right key, and not for us or not true, for the table of bad artefacts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from edge_wire.release import channel_target, file_target
from tests.edge.update.bad_case import Bend, Fetched
from tests.edge.update.victim import Victim
from tests.sim.tuf_repository import PRODUCT, ROLE

ONNX = "*.model.onnx"


def old_rollout(victim: Victim) -> None:
    """Signed by everybody, with a number that was used long ago."""
    victim.repository.release(victim.package(), 3)


def reused_sequence(victim: Victim) -> None:
    victim.repository.release(victim.package(), victim.newest)


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


# fmt: off
ROLLOUTS = (
    Fetched("C2", "a rollout of 70 kB", "rollout-too-large", large_rollout),
    Fetched("C3", "an old rollout, signed anew", "rollout-older", old_rollout, blobs=True),
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
    Fetched("C6", "released in a future that the repository cannot know", "rollout-in-future",
            rollout_says(released_at="2099-01-01T00:00:00Z"), blobs=True),
    Fetched("C16", "same version, a file signed anew with other bytes", "target-not-manifest",
            other_file_signed, blobs=True),
    Fetched("C16", "another model under a sequence that was used", "rollout-changed", reused_sequence, blobs=True),
    Fetched("C16", "a file of the package is not signed any more", "target-unknown", file_not_signed, blobs=True),
    Fetched("C20", "a digest that is a path", "rollout-digest", odd_digest, blobs=True),
    Fetched("C20", "a stick whose model is a link to a device, a folder, itself", "unreadable",
            stick_of_links, blobs=True),
)
# fmt: on
