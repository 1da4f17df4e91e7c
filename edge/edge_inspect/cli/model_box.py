"""The models of one box as commands see them: where they lie, what each of them is to the box, what a person means."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from edge_inspect.cli.options import permitted_config
from edge_inspect.config import Config, load_config
from edge_inspect.config_model import default_state_dir
from edge_inspect.errors import BadConfig, BadModel, Refusal
from edge_inspect.inference.package import DEFAULT_MODEL, ModelPackage, find_model
from edge_inspect.update.history import Checked
from edge_inspect.update.state import State
from edge_inspect.update.store import FOLDER, PACKAGES, Store, look

SERVICE_STATE_DIR = Path("/var/lib/edge-inspect")
SERVICE_CONFIG = Path("/etc/edge-inspect/edge-inspect.toml")
LEAST_DIGITS = 6
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
        try:
            (self.folder / "state.json").stat()
        except PermissionError as err:
            raise Refusal(f"{self.folder}: not permitted; ask as the daemon's user: sudo -u edge-inspect ...") from err
        except OSError:
            pass
        return look(self.folder)

    def open(self) -> Store:
        """Raises InUse where a daemon runs, Refusal where none with `[update]` ever did."""
        if not self.folder.is_dir():
            raise Refusal(f"{self.folder}: no such folder; a daemon with `[update]` in its configuration makes it")
        return Store.open(self.folder, self.models_dir, self.factory)

    def packages(self) -> Iterator[Path]:
        root = self.models_dir / PACKAGES
        if root.is_dir():
            yield from sorted(folder for folder in root.iterdir() if re.fullmatch(r"[0-9a-f]{64}", folder.name))


def place(state: Path | None, config: Path | None) -> Place:
    """From what was named; else the service's, where there is one; else the user's own. Raises BadConfig, BadModel."""
    if config is None and state is None and SERVICE_CONFIG.is_file():
        config = permitted_config(SERVICE_CONFIG)
    read = load_config(config) if config is not None else None
    if read is not None:
        state_dir = state or read.state_dir
        models_dir = (read.update.models_dir if read.update else None) or state_dir / "models"
        return Place(state_dir, models_dir, find_model(read.model.dir or DEFAULT_MODEL), read)
    state_dir = state or default_state_dir()
    if state is None and not (state_dir / FOLDER).is_dir() and (SERVICE_STATE_DIR / FOLDER).is_dir():
        state_dir = SERVICE_STATE_DIR
    return Place(state_dir, state_dir / "models", find_model(DEFAULT_MODEL), None)


def configured(box: Place) -> Config:
    """Raises BadConfig without a configuration that has `[update]`."""
    if box.config is None:
        raise BadConfig("no configuration: give --config FILE; `[update]` in it says whose signatures count")
    if box.config.update is None:
        raise BadConfig("the configuration has no table `[update]`, which says whose signatures count")
    return box.config


def digest_of_factory(box: Place) -> str:
    return ModelPackage.load(box.factory).digest


def roles(state: State | None, factory: str, digest: str) -> list[str]:
    """What a package is to this box: active, previous, candidate, factory, refused: CODE, revoked."""
    found = []
    if digest == ((state.active if state else None) or factory):
        found.append("active")
    if digest == factory:
        found.append("factory")
    if state is None:
        return found
    if state.active is not None and digest == (state.previous or factory):
        found.append("previous")
    if state.candidate is not None and digest == state.candidate.model.digest:
        found.append(f"candidate ({state.stage.value})")
    if (refusal := state.refusal_of(digest)) is not None:
        found.append(f"refused: {refusal.code}")
    if digest in state.revoked:
        found.append("revoked")
    return found


def digest_meant(box: Place, state: State | None, words: list[str]) -> str:
    """DIGEST (the first six digits do) or NAME VERSION. Raises Refusal: none, or more than one."""
    known = {folder.name: folder for folder in box.packages()}
    said = " ".join(words)
    factory = digest_of_factory(box)
    if len(words) == 1 and (match := _DIGEST.match(words[0])):
        found = {f"sha256:{name}" for name in known if name.startswith(match[2])}
        found |= {factory} if factory.removeprefix("sha256:").startswith(match[2]) else set()
    else:
        name, version = [*words, ""][:2]
        found = {m.digest for m in (state.known if state else ()) if _is_meant(m.name, m.version, name, version)}
        found = {digest for digest in found if digest.removeprefix("sha256:") in known}
        shipped = ModelPackage.load(box.factory)
        found |= {factory} if _is_meant(shipped.manifest.name, shipped.manifest.version, name, version) else set()
    if len(found) == 1:
        return found.pop()
    there = ", ".join(sorted(f"{m.name} {m.version}" for m in (state.known if state else ()))) or "none"
    what = "no package of this box" if not found else f"{len(found)} packages of this box"
    raise Refusal(f"{said}: is {what}; allowed: a digest of `model list`, or NAME VERSION of: {there}")


def _is_meant(name: str, version: str, wanted: str, wanted_version: str) -> bool:
    return name == wanted and wanted_version in ("", version)


def folder_meant(box: Place | None, model: str) -> Path:
    """A folder, a shipped model's name, or a digest of this box. Raises BadModel."""
    match = _DIGEST.match(model)
    if box is not None and match and not Path(model).is_dir():
        found = [folder for folder in box.packages() if folder.name.startswith(match[2])]
        if len(found) == 1:
            return found[0]
        if len(found) > 1:
            raise BadModel("package-missing", f"{model}: begins {len(found)} digests here; give more digits")
    return find_model(model)
