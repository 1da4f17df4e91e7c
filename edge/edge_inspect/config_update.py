"""`[update]`: where models come from, and how they are fetched and tried."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from edge_inspect.config_table import Table
from edge_wire.release import ChannelName, ProductName

URL_ALLOWED = "http://HOST[:PORT]/PATH, https://HOST[:PORT]/PATH or file:///PATH"

SHADOW_SHARE = 0.3


def _repository_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        usable = usable or (parts.scheme == "file" and not parts.netloc and len(parts.path) > 1)
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment or "@" in parts.netloc or re.search(r"\s", url):
        raise ValueError(f"allowed: {URL_ALLOWED}, without a user name, query or fragment")
    return url.rstrip("/")


RepositoryUrl = Annotated[str, AfterValidator(_repository_url)]


class UpdateConfig(Table):
    """`[update]`: models from a signed repository, tried beside the old one before they judge, and taken back when they
    are worse (docs/models.md). The model of `[model] dir` stays as the floor; a camera with a `model` of its own
    keeps that. Without this table nothing is ever fetched."""

    product: ProductName
    """Product line; only its key can sign a model for this box."""
    root: Path
    """The `root.json` that this box trusts to begin with; newer ones it follows by their signatures."""
    url: RepositoryUrl | None = None
    """The repository, or a folder (a share); `metadata/` and `targets/` lie below it. Without: models come by
    `model import` only."""
    channel: ChannelName = "stable"
    """Which of the product's channels this box follows."""
    models_dir: Path | None = None
    """Where packages lie. Without: `models` in `state_dir`."""
    fetch: Literal["daemon", "service"] = "daemon"
    """Who fetches. `service`: edge-inspect-fetch.service, which has the network and no devices; the daemon then only
    reads `models_dir`."""
    ca: Path | None = None
    """https: file with the CA that signed the server's certificate. Without: the system's own list."""
    poll_s: Annotated[int, Field(ge=10, le=7 * 86_400)] = 600
    """Pause between looks at the repository, each up to a tenth shorter or longer; a hint by MQTT shortens it."""
    rate_bytes_per_s: Annotated[int | None, Field(ge=1024, le=1 << 40)] = None
    """Most that is downloaded in a second, so that the line's network stays usable. Without: as fast as it comes."""
    deadline_s: Annotated[int, Field(ge=60, le=7 * 86_400)] = 6 * 3600
    """Longest time for one download in all; what is there then is kept, and it goes on at the next look."""
    cap_bytes: Annotated[int, Field(ge=1 << 20, le=1 << 40)] = 1 << 30
    """Largest package that is taken."""
    keep_free_bytes: Annotated[int, Field(ge=0, le=1 << 40)] = 1 << 28
    """Room that a download leaves on the disk, for reports and pictures."""
    shadow_share: Annotated[float, Field(gt=0, le=1)] = SHADOW_SHARE
    """Most of the time that a candidate may compute beside the model that judges."""
    probe_s: Annotated[int, Field(ge=5, le=3600)] = 60
    """Longest time that a candidate may take to load and answer its golden pictures."""
    probe_memory_bytes: Annotated[int, Field(ge=1 << 26, le=1 << 40)] = 4 << 30
    """Address space that it may take while it does."""
    probe_latency_factor: Annotated[float, Field(ge=1, le=100)] = 2.0
    """How many times slower than the model that judges it may be."""
