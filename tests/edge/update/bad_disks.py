"""C14, C15, C17, C18: what lies on the box's own disk, and who else writes there, for the table of bad artefacts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_inspect.update.stages import Stage
from edge_inspect.update.store import STATE_NAME
from tests.edge.update.bad_case import Started, Told
from tests.edge.update.box import Box, Kill
from tests.edge.update.victim import Victim
from tests.sim.tuf_repository import PRODUCT

# --- what a start finds ---------------------------------------------------------------------------------------------


def killed() -> None:
    raise Kill


def kept(box: Box, *names: str) -> None:
    """These came one after the other, and all was well."""
    for sequence, name in enumerate(names, 1):
        box.release(name, sequence)
        box.run()
    box.end()


def rot(folder: Path) -> None:
    """One bit of the model, years later."""
    path = folder / "model.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.chmod(0o644)
    path.write_bytes(content)


def crash_loop(box: Box) -> None:
    box.release("b")
    box.faults.by_stage[Stage.TRIAL] = [killed] * 3
    box.run()
    box.end()


def rotten_active(box: Box) -> None:
    kept(box, "b", "c")
    rot(box.folder_of(box.digests["c"]))


def active_gone(box: Box) -> None:
    kept(box, "b", "c")
    shutil.rmtree(box.folder_of(box.digests["c"]))


def other_manifest(box: Box) -> None:
    """Right in itself, and not the one that was signed."""
    kept(box, "b", "c")
    shutil.rmtree(box.folder_of(box.digests["c"]))
    shutil.copytree(box.folder_of(box.digests["b"]), box.folder_of(box.digests["c"]))


def link_in_place(box: Box) -> None:
    kept(box, "b", "c")
    path = box.folder_of(box.digests["c"]) / "model.onnx"
    elsewhere = box.root / "elsewhere.onnx"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def both_gone(box: Box) -> None:
    rotten_active(box)
    shutil.rmtree(box.folder_of(box.digests["b"]))


def both_rotten(box: Box) -> None:
    rotten_active(box)
    rot(box.folder_of(box.digests["b"]))


def all_rotten(box: Box) -> None:
    both_gone(box)
    rot(box.factory)


def no_factory(box: Box) -> None:
    both_gone(box)
    shutil.rmtree(box.factory)


def revoked_meanwhile(box: Box) -> None:
    """The rollout that says so was read, and the power went before anything was done about it."""
    kept(box, "b", "c")
    path = box.state_dir / STATE_NAME
    said = json.loads(path.read_text())
    said["revoked"] = [box.digests["c"]]
    path.write_text(json.dumps(said))


def nonsense_state(box: Box) -> None:
    kept(box, "b", "c")
    (box.state_dir / STATE_NAME).write_bytes(b"\xff\x00 not what was written")


def forged_history(box: Box) -> None:
    kept(box, "b", "c")
    path = box.state_dir / "history.jsonl"
    path.write_text(path.read_text().replace('"anna"', '"otto"', 1))


STARTED = (
    Started("C14", "it ends the process, again and again, once it judges: three starts", "unconfirmed-starts", "trial",
            "factory", crash_loop),
    Started("C15", "the active model rotten, the one before deleted", "package-missing", "start", "factory", both_gone),
    Started("C15", "the active model and the one before rotten", "digest-mismatch", "start", "factory", both_rotten),
    Started("C15", "no model verifies, the factory's neither", "no-model", "start", "", all_rotten),
    Started("C15", "no model is left, the factory's neither", "no-model", "start", "", no_factory),
    Started("C18", "a bit of the active model has rotted", "digest-mismatch", "start", "b", rotten_active),
    Started("C18", "the active model was deleted", "package-missing", "start", "b", active_gone),
    Started("C18", "another package lies in the active one's place", "package-other", "start", "b", other_manifest),
    Started("C18", "a link lies in the active model's place", "file-not-regular", "start", "b", link_in_place),
    Started("C18", "the state of updates is nonsense", "model-state-lost", "start", "factory", nonsense_state),
    Started("C18", "the history was changed by somebody", "model-history", "start", "c", forged_history),
    Started("C20", "revoked while the power was off", "revoked", "start", "b", revoked_meanwhile),
)  # fmt: skip


# --- what the one who fetches may write -----------------------------------------------------------------------------


def offer(spoil: Callable[[dict[str, Any], Path], Any]) -> Callable[[Victim], None]:
    """A good release, fetched elsewhere and spoiled before the daemon can see it."""

    def bend(victim: Victim) -> None:
        digest = victim.release().model.digest.removeprefix("sha256:")
        elsewhere = victim.folder / "made" / f"elsewhere-{digest[:8]}"
        victim.settings = replace(victim.settings, models_dir=elsewhere)
        victim.look()
        name = f"{PRODUCT}-stable.json"
        said = json.loads((elsewhere / "offers" / name).read_bytes())
        package = victim.models_dir / "packages" / digest
        shutil.copytree(elsewhere / "packages" / digest, package)
        spoil(said, package)
        written = elsewhere / "offers" / "spoiled.json"
        written.write_text(json.dumps(said))
        written.rename(victim.models_dir / "offers" / name)

    return bend


def linked(package: Path) -> None:
    """The right bytes, but the daemon would read them anew from a place that others write."""
    elsewhere = package.parents[3] / "made" / f"linked-{package.name[:8]}"
    (package / "model.onnx").rename(elsewhere)
    (package / "model.onnx").symlink_to(elsewhere)


def larger(package: Path) -> None:
    path = package / "model.onnx"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes() + b"\0")


def other_rollout(said: dict[str, Any]) -> None:
    said["content"] = said["content"].replace("A. Tester", "B. Tester")


TOLD = (
    Told("C18", "a bit of the package changes after it was verified", "digest-mismatch",
            offer(lambda said, package: rot(package))),
    Told("C18", "a byte more after it was verified", "digest-mismatch", offer(lambda said, package: larger(package))),
    Told("C20", "a link in the package, to the same bytes", "file-not-regular",
            offer(lambda said, package: linked(package))),
    Told("C19", "a rollout that nobody signed", "target-digest", offer(lambda said, package: other_rollout(said))),
    Told("C19", "an offer without its metadata", "offer-broken",
            offer(lambda said, package: said["metadata"].pop("timestamp.json"))),
    Told("C19", "an offer with somebody else's metadata", "metadata-broken",
            offer(lambda said, package: said["metadata"].update({"timestamp.json": "{}"}))),
    Told("C19", "an offer that is none", "offer-broken", offer(lambda said, package: said.pop("content"))),
    Told("C19", "an offer of another format", "offer-broken", offer(lambda said, package: said.update(format=2))),
    Told("C19", "a word that nobody signed: this model must not run", "offer-empty",
            offer(lambda said, package: said.update(package=None, refusal=["onnx-operator", "a lie"])),
            "verify", ("fetch", "verify", "revert", "idle")),
    Told("C20", "an offer of a package elsewhere", "offer-broken",
            offer(lambda said, package: said.update(package="../../../etc"))),
    Told("C20", "a package that is not there", "file-missing", offer(lambda said, package: shutil.rmtree(package))),
)  # fmt: skip
