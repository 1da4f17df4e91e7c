"""Options that several commands share, worded once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_inspect.errors import Usage

PROVIDERS = ("auto", "cpu", "cuda", "tensorrt", "openvino")

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
        help="Where the outbox lives. (default: $STATE_DIRECTORY or ~/.local/state/edge-inspect)",
    ),
]
FrameLimit = Annotated[int | None, typer.Option("--frames", metavar="N", min=1, help="Stop after N frames.")]
RecipeFile = Annotated[
    Path | None,
    typer.Option(
        "--recipe",
        metavar="FILE",
        help="What counts as a defect on this line (TOML). (default: the metal-plate recipe)",
    ),
]
ModelDir = Annotated[
    Path | None, typer.Option("--model", metavar="DIR", help="Model package. (default: the shipped metal-plate model)")
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Last line on stdout: one JSON object; everything else goes to stderr.")
]


def check_provider(name: str | None) -> str | None:
    """The provider's name, or Usage naming the allowed ones."""
    if name is not None and name not in PROVIDERS:
        raise Usage(f"--provider {name}: unknown; allowed: {', '.join(PROVIDERS)}")
    return name
