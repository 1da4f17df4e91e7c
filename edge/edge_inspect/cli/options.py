"""Options that several commands share, worded once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from edge_inspect.errors import Usage

PROVIDERS = ("auto", "cpu", "cuda", "tensorrt", "openvino")

MqttUrl = Annotated[Optional[str], typer.Option("--mqtt", metavar="URL", help="Broker: mqtt://HOST[:1883] or mqtts://HOST[:8883].")]  # fmt: skip
ProviderName = Annotated[str, typer.Option("--provider", metavar="NAME", help=f"What runs the network: {', '.join(PROVIDERS)}.")]  # fmt: skip
ThreadCount = Annotated[int, typer.Option("--threads", metavar="N", min=0, max=256, help="Threads of the runtime; 0 lets it choose.")]  # fmt: skip
StateDir = Annotated[Optional[Path], typer.Option("--state", metavar="DIR", help="Where the outbox lives. [default: $STATE_DIRECTORY or ~/.local/state/edge-inspect]")]  # fmt: skip
FrameLimit = Annotated[Optional[int], typer.Option("--frames", metavar="N", min=1, help="Stop after N frames.")]  # fmt: skip
RecipeFile = Annotated[Optional[Path], typer.Option("--recipe", metavar="FILE", help="What counts as a defect on this line (TOML). [default: the metal-plate recipe]")]  # fmt: skip
ModelDir = Annotated[Optional[Path], typer.Option("--model", metavar="DIR", help="Model package. [default: the shipped metal-plate model]")]  # fmt: skip
AsJson = Annotated[bool, typer.Option("--json", help="Last line on stdout: one JSON object; everything else goes to stderr.")]  # fmt: skip


def check_provider(name: str) -> str:
    """The provider's name, or Usage naming the allowed ones."""
    if name not in PROVIDERS:
        raise Usage(f"--provider {name}: unknown; allowed: {', '.join(PROVIDERS)}")
    return name
