"""The models of one box as commands see them: where they lie, what each of them is to the box, what a person means."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from pydantic import ValidationError

from edge_inspect.cli.options import NOT_PERMITTED, permitted_config, permitted_state
from edge_inspect.config import Config, load_config
from edge_inspect.config_model import default_state_dir
from edge_inspect.errors import BadConfig, BadModel, Refusal
from edge_inspect.inference.package import DEFAULT_MODEL, ModelPackage, find_model, parse_manifest, shipped_models
from edge_inspect.update.history import FILE_NAME as HISTORY_NAME
from edge_inspect.update.history import Checked, read_history
from edge_inspect.update.lock import insist_on_nobody
from edge_inspect.update.offers import MOST_BYTES as MOST_OFFER_BYTES
from edge_inspect.update.revoked import why_revoked
from edge_inspect.update.state import State, channel_of
from edge_inspect.update.state_file import MOST_STATE_BYTES, STATE_NAME, parse_state
from edge_inspect.update.store import FOLDER, PACKAGES, Store
from edge_wire.manifest import MANIFEST_NAME, MOST_MANIFEST_BYTES
from edge_wire.release import Rollout

SERVICE_STATE_DIR = Path("/var/lib/edge-inspect")
SERVICE_CONFIG = Path("/etc/edge-inspect/edge-inspect.toml")
OTHER = "no daemon with `[update]` has run with this state directory; is it another? --state DIR"
_DIGEST = re.compile(r"^(sha256:)?([0-9a-f]{6,64})$")

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        readable=False,
        callback=permitted_config,
        help="The daemon's configuration. (default: /etc/edge-inspect/edge-inspect.toml, if it is there)",
    ),
]
StateDir = Annotated[
    Path | None,
    typer.Option(
        "--state",
        metavar="DIR",
        readable=False,
        callback=permitted_state,
        help="The daemon's state directory: which model judges here, and did. "
        "(default: that of --config, else $STATE_DIRECTORY or ~/.local/state/edge-inspect)",
    ),
]


class Named(NamedTuple):
    """A package by its manifest, not verified by this."""

    digest: str
    name: str
    version: str
    folder: Path

    @property
    def shown(self) -> str:
        return f"{self.name} {self.version}"


@dataclass(frozen=True)
class Place:
    """Where one box keeps its models."""

    state_dir: Path
    models_dir: Path
    factory: Path
    config: Config | None

    @property
    def folder(self) -> Path:
        return self.state_dir / FOLDER

    def look(self) -> tuple[State | None, Checked]:
        """Raises Refusal where a state lies there that cannot be read."""
        state, checked, wrong = self.look_anyway()
        if wrong:
            raise Refusal(f"{wrong}; a daemon that starts puts it aside, and the factory's model judges")
        return state, checked

    def look_anyway(self) -> tuple[State | None, Checked, str]:
        """Also what is wrong with the state, if it is there and cannot be read. Raises Refusal."""
        path, state, wrong = self.folder / STATE_NAME, None, ""
        try:
            with path.open("rb") as stream:
                state = parse_state(stream.read(MOST_STATE_BYTES + 1))
        except (FileNotFoundError, NotADirectoryError):
            pass
        except PermissionError as err:
            raise Refusal(f"{path}: {NOT_PERMITTED}") from err
        except OSError as err:
            wrong = f"{path}: cannot be read: {err.strerror or err}"
        except ValueError as err:
            wrong = f"{path}: cannot be read: {err}"
        return state, read_history(self.folder / HISTORY_NAME, state.history if state else None), wrong

    def insist_on_updates(self) -> None:
        """Raises Refusal where no daemon with `[update]` ever ran."""
        if not _is_folder(self.folder):
            raise Refusal(f"{self.folder}: no such folder: {OTHER}")

    def insist_on_models(self) -> None:
        """Raises Refusal where there is nothing of a box's models at all."""
        if not _is_folder(self.folder) and not _is_folder(self.models_dir):
            raise Refusal(f"{self.state_dir}: has no folder `{FOLDER}` and no models: {OTHER}")

    def says_what_judges(self) -> bool:
        """Whether a daemon with `[update]` ran here, or the configuration has none: its `[model]` is what judges."""
        return _is_folder(self.folder) or (self.config is not None and self.config.update is None)

    def open(self) -> Store:
        """Raises InUse where a daemon runs; Refusal where none with `[update]` ever did, or a state cannot be read."""
        self.insist_on_updates()
        insist_on_nobody(self.folder)
        self.look()  # nobody but a daemon puts one aside
        return Store.open(self.folder, self.models_dir, self.factory)

    def packages(self) -> Iterator[Path]:
        root = self.models_dir / PACKAGES
        if _is_folder(root):
            yield from sorted(folder for folder in root.iterdir() if re.fullmatch(r"[0-9a-f]{64}", folder.name))


def place(state: Path | None, config: Path | None) -> Place:
    """From what was named; else the service's, where there is one; else the user's own. Raises BadConfig, BadModel."""
    if config is None and state is None and SERVICE_CONFIG.is_file():
        config = permitted_config(SERVICE_CONFIG)
    read = load_config(config) if config is not None else None
    if state is not None and not _is_folder(state):
        raise Refusal(f"{state}: no such folder; which state directory is the daemon's? --state DIR")
    if read is not None:
        state_dir = state or read.state_dir
        models_dir = (read.update.models_dir if read.update else None) or state_dir / "models"
        return Place(state_dir, models_dir, find_model(read.model.dir or DEFAULT_MODEL), read)
    state_dir = state or default_state_dir()
    if state is None and not _is_folder(state_dir / FOLDER) and _is_folder(SERVICE_STATE_DIR / FOLDER):
        state_dir = SERVICE_STATE_DIR
    return Place(state_dir, state_dir / "models", find_model(DEFAULT_MODEL), None)


def _is_folder(path: Path) -> bool:
    """Raises Refusal where we may not look."""
    try:
        return path.is_dir()
    except PermissionError as err:
        raise Refusal(f"{path}: {NOT_PERMITTED}") from err


def configured(box: Place) -> Config:
    """Raises BadConfig without a configuration that has `[update]`."""
    if box.config is None:
        raise BadConfig("no configuration: give --config FILE; `[update]` in it says whose signatures count")
    if box.config.update is None:
        raise BadConfig("the configuration has no table `[update]`, which says whose signatures count")
    return box.config


def digest_of_factory(box: Place) -> str:
    return ModelPackage.load(box.factory).digest


def offers(box: Place) -> list[tuple[str | None, Rollout]]:
    """What was fetched or imported: digest of the package that came with it, and the rollout. A claim, for people."""
    found = []
    for file in sorted((box.models_dir / "offers").glob("*.json")):
        try:
            with file.open("rb") as stream:
                said = json.loads(stream.read(MOST_OFFER_BYTES))
            rollout = Rollout.model_validate_json(said["content"])
            package = f"sha256:{said['package']}" if said["package"] else None
        except (OSError, ValueError, KeyError, TypeError, ValidationError):
            continue  # the daemon says what is wrong with it
        found.append((package, rollout))
    return found


def waiting(box: Place, state: State | None) -> set[str]:
    """Digests that are offered and not yet kept, refused or overruled."""
    found = set()
    for package, rollout in offers(box):
        floor = state.floors.get(channel_of(rollout)) if state else None
        over = floor is not None and (rollout.sequence < floor.sequence or floor.settled)
        if package is not None and not over:
            found.add(package)
    return found


def roles(state: State | None, factory: str, digest: str, offered: set[str]) -> list[str]:
    """What a package is to this box: active, factory, previous, candidate, refused: CODE, revoked; offered; unused."""
    found = []
    if digest == ((state.active if state else None) or factory):
        found.append("active")
    if digest == factory:
        found.append("factory")
    if state is not None:
        if state.active is not None and digest == (state.previous or factory):
            found.append("previous")
        if state.candidate is not None and digest == state.candidate.model.digest:
            found.append(f"candidate ({state.stage.value})")
        if (refusal := state.refusal_of(digest)) is not None:
            found.append(f"refused: {refusal.code}")
        if digest in state.revoked:
            found.append("revoked")
    return found or (["offered"] if digest in offered else ["unused"])


def here(box: Place) -> list[Named]:
    """The packages of this box, the factory's last, by their manifests."""
    found = {named.digest: named for folder in [*box.packages(), box.factory] if (named := _named(folder)) is not None}
    return list(found.values())


def _named(folder: Path) -> Named | None:
    path = folder / MANIFEST_NAME
    try:
        with path.open("rb") as stream:
            raw = stream.read(MOST_MANIFEST_BYTES + 1)
        manifest = parse_manifest(raw, path)
    except (OSError, BadModel):
        return None
    return Named("sha256:" + hashlib.sha256(raw).hexdigest(), manifest.name, manifest.version, folder)


def digest_meant(box: Place, state: State | None, words: list[str]) -> str:
    """DIGEST (the first six digits do) or NAME VERSION, of a package that can be activated.

    Raises Refusal: none, more than one, or why this one cannot.
    """
    said, factory, there = " ".join(words), digest_of_factory(box), here(box)
    gone = [Named(known.digest, known.name, known.version, box.models_dir) for known in (state.known if state else ())]
    found = {named.digest: named for named in [*gone, *there] if _is_meant(named, words)}
    if len(found) > 1:  # what is here wins over what was
        here_only = {named.digest: named for named in there if named.digest in found}
        found = here_only or found
    if len(found) != 1:
        can = [named.shown + (" (factory)" if named.digest == factory else "") for named in there]
        what = "no package of this box" if not found else f"{len(found)} packages of this box"
        names = ", ".join(sorted(set(can))) or "none"
        raise Refusal(f"{said}: is {what}; allowed: a digest of `model list`, or NAME VERSION of: {names}")
    (meant,) = found.values()
    if why := _cannot_be_activated(box, state, meant, factory, {named.digest for named in there}):
        raise Refusal(f"{meant.shown} ({meant.digest[7:19]}): {why}")
    return meant.digest


def _cannot_be_activated(box: Place, state: State | None, meant: Named, factory: str, there: set[str]) -> str:
    """Empty: it can, or a daemon says why not."""
    digest = meant.digest
    if digest == factory:
        if state is None or state.active is None:
            return "judges already [already-active]"
        return "is the factory's package; `model rollback` goes back to it, one model at a time"
    if state is not None and digest in state.revoked:
        why = why_revoked(state, digest).removeprefix(f"{meant.name} {meant.version} ")
        return why + ("" if digest in there else "; not here any more")
    if digest not in there:
        return "is not here any more; `model import`, or a new rollout, brings it again"
    if state is not None and (digest == state.active or any(known.digest == digest for known in state.known)):
        return ""
    if digest in waiting(box, state):
        return "is offered and was not tried yet; a daemon with `[update]` takes it through its stages by itself"
    return "was never verified on this box; `model import` brings it with its signatures [never-verified]"


def _is_meant(named: Named, words: list[str]) -> bool:
    if len(words) == 1 and (match := _DIGEST.match(words[0])):
        return named.digest.removeprefix("sha256:").startswith(match[2])
    name, version = [*words, ""][:2]
    return len(words) <= 2 and named.name == name and version in ("", named.version)


def folder_that_judges(box: Place) -> Path:
    """As its state has it, or the factory's. Raises Refusal for a state that cannot be read."""
    state, _ = box.look()
    active = state.active if state else None
    return box.models_dir / PACKAGES / active.removeprefix("sha256:") if active else box.factory


def folder_meant(box: Place, words: list[str]) -> Path:
    """A folder, a digest (its first six digits do), NAME, NAME VERSION or NAME/VERSION of this box or shipped.

    No words: the one that judges here. Raises BadModel, also for a NAME of more than one; Refusal.
    """
    if not words:
        return folder_that_judges(box)
    said = " ".join(words)
    if len(words) == 1 and Path(said).is_dir():
        return Path(said)
    shipped = [named for folder in shipped_models() if (named := _named(folder)) is not None]
    there = {named.digest: named for named in [*shipped, *here(box)]}
    found = [named for named in there.values() if _is_meant(named, words)]
    if any(said == f"{named.name}/{named.version}" for named in shipped):
        return find_model(said)
    if len(found) == 1:  # a NAME of several is nobody's in particular: what is shipped may be long replaced here
        return found[0].folder
    names = ", ".join(f"{named.shown} ({named.digest[7:19]})" for named in (found or there.values()))
    what = f"is {len(found)} models here" if found else "no such folder, and no model of this box"
    raise BadModel("package-missing", f"{said}: {what}; there are: {names}")
