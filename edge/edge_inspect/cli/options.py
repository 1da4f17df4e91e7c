"""Options that several commands share, worded once."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Annotated

import typer

from edge_inspect.errors import BadConfig, Refusal, Usage

NOT_PERMITTED = "not permitted; ask as the daemon's user: sudo -u edge-inspect edge-inspect ..."
PROVIDERS = ("auto", "cpu", "cuda", "tensorrt", "openvino")


def permitted_state(folder: Path | None) -> Path | None:
    """A state folder that we may look into, or none at all. Raises Refusal."""
    if folder is None:
        return None
    mode = _mode(folder, Refusal)
    if mode is not None and not stat.S_ISDIR(mode):
        raise Refusal(f"{folder}: is a file, allowed: a folder")
    if mode is not None and not os.access(folder, os.R_OK | os.X_OK):
        raise Refusal(f"{folder}: {NOT_PERMITTED}")
    return folder


def permitted_config(file: Path | None) -> Path | None:
    """A configuration or recipe that we may read, as far as it is there. Raises BadConfig."""
    if file is not None and _mode(file, BadConfig) is not None and not os.access(file, os.R_OK):
        raise BadConfig(f"{file}: {NOT_PERMITTED}")
    return file


def permitted_model(folder: Path | None) -> Path | None:
    """A model's folder that we may read, as far as it is there. Raises Refusal."""
    if folder is not None and _mode(folder, Refusal) is not None and not os.access(folder, os.R_OK):
        raise Refusal(f"{folder}: {NOT_PERMITTED}")
    return folder


def _mode(path: Path, error: type[Refusal]) -> int | None:
    """None: it is not there, and whoever wants it says so."""
    try:
        return path.stat().st_mode
    except PermissionError as err:
        raise error(f"{path}: {NOT_PERMITTED}") from err
    except (OSError, ValueError) as err:
        if isinstance(err, OSError) and err.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise error(f"{path}: cannot be read: {err.strerror}") from err
        return None


MqttUrl = Annotated[
    str | None, typer.Option("--mqtt", metavar="URL", help="Broker: mqtt://HOST[:1883] or mqtts://HOST[:8883].")
]
ProviderName = Annotated[
    str | None, typer.Option("--provider", metavar="NAME", help=f"What runs the network: {', '.join(PROVIDERS)}.")
]
ThreadCount = Annotated[
    int | None, typer.Option("--threads", metavar="N", min=0, max=256, help="Threads of the runtime; 0 lets it choose.")
]
StateDir = Annotated[
    Path | None,
    typer.Option(
        "--state",
        metavar="DIR",
        readable=False,
        callback=permitted_state,
        help="Where the outbox lives. (default: $STATE_DIRECTORY or ~/.local/state/edge-inspect)",
    ),
]
FrameLimit = Annotated[int | None, typer.Option("--frames", metavar="N", min=1, help="Stop after N frames.")]
RecipeFile = Annotated[
    Path | None,
    typer.Option(
        "--recipe",
        metavar="FILE",
        readable=False,
        callback=permitted_config,
        help="What counts as a defect on this line (TOML). (default: the metal-plate recipe)",
    ),
]
ModelDir = Annotated[
    Path | None,
    typer.Option(
        "--model",
        metavar="DIR",
        readable=False,
        callback=permitted_model,
        help="Model package. (default: the shipped metal-plate model)",
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Last line on stdout: one JSON object; everything else goes to stderr.")
]


def check_provider(name: str | None) -> str | None:
    """The provider's name, or Usage naming the allowed ones."""
    if name is not None and name not in PROVIDERS:
        raise Usage(f"--provider {name}: unknown; allowed: {', '.join(PROVIDERS)}")
    return name
