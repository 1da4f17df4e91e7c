"""A device's side of an update in a test: short waits, a folder of its own, a repository on this machine."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_inspect.update.fetch import FetchSettings, fetch_once
from edge_inspect.update.offers import Offer
from edge_inspect.update.transport import FetchLimits, Source
from edge_inspect.update.trust import ROOT_FILE, Trust
from tests.sim.tuf_repository import PRODUCT, TufRepository, TufServer

QUICK = FetchLimits(
    deadline_s=40, metadata_s=10, connect_s=5, stall_s=1.0, tries=3, first_wait_s=0.01, longest_wait_s=0.05,
    min_free_bytes=0,
)  # fmt: skip


def settings_for(models_dir: Path, repository: TufRepository, url: str, **changes: Any) -> FetchSettings:
    settings = FetchSettings(
        models_dir=models_dir, product=PRODUCT, channel="stable", site="plant1", line="press-4", device="edge-0017",
        url=url, root=repository.first_root, limits=QUICK,
    )  # fmt: skip
    return replace(settings, **changes)


def fetch(settings: FetchSettings) -> Offer | None:
    return fetch_once(settings, threading.Event())


def source(**changes: Any) -> Source:
    return Source(ca=None, limits=replace(QUICK, **changes), stop=threading.Event())


def trust(folder: Path, server: TufServer, **changes: Any) -> Trust:
    given: dict[str, Any] = {"root": server.repository.first_root, "source": source(), **changes}
    return Trust(folder, metadata_url=f"{server.url}/metadata", targets_url=f"{server.url}/targets", **given)


def start_from(folder: Path, root: bytes) -> None:
    """As a person puts the first root.json there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ROOT_FILE).write_bytes(root)


def on_disk(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` by its name there."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
