"""What was fetched and may be taken: one file for each channel, written by whoever fetches, read by the updater.

    offers/<product>-<channel>.json    the rollout as it was signed, and the metadata that vouches for it

1. An offer is written when its package lies whole in `packages/`, or when there is none to be had (`package` is None):
   the rollout only says what must not run any more, or what it names breaks its contract. Why, an offer does not say:
   whoever reads it sees for himself, by what is signed (`offline`).
2. It is a claim like any other: `offline.check_offline` verifies it from its own metadata before anything is done.
3. An offer of another format is not guessed at (`offer-broken`): whoever fetches makes it anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_inspect.durable import make_folder, translated, write_durably
from edge_inspect.errors import Untrusted
from edge_inspect.update.released import rollout_of
from edge_inspect.update.shelf import Shelf
from edge_wire.release import Rollout

FORMAT = 1
"""Raised when a key changes its meaning or a new one is needed."""
MOST_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Offer:
    rollout: Rollout
    content: bytes
    """The rollout, byte for byte as it was signed."""
    package: Path | None
    metadata: Mapping[str, str]
    """TUF metadata by file name."""


def write_offer(shelf: Shelf, offer: Offer) -> None:
    """Raises StorageFailing."""
    said = {
        "format": FORMAT,
        "content": offer.content.decode(),
        "package": offer.package.name if offer.package else None,
        "metadata": dict(offer.metadata),
    }
    make_folder(shelf.offers)
    file = _file(shelf, offer.rollout.product, offer.rollout.channel)
    write_durably(file, json.dumps(said, indent=1).encode())


def read_offer(models_dir: Path, product: str, channel: str) -> Offer | None:
    """None: there is none. Raises StorageFailing, Untrusted (`offer-broken`, `rollout-...`)."""
    shelf = Shelf(models_dir)
    path = _file(shelf, product, channel)
    with translated(path):
        try:
            with path.open("rb") as stream:
                raw = stream.read(MOST_BYTES + 1)
        except FileNotFoundError:
            return None
    try:
        said = json.loads(raw)
        if said["format"] != FORMAT:
            raise ValueError(f"format {str(said['format'])[:20]!r}, allowed: {FORMAT}")
        content, metadata = said["content"].encode(), dict(said["metadata"])
        package = shelf.package(said["package"]) if said["package"] else None
        if not all(isinstance(text, str) for text in metadata.values()):
            raise ValueError("metadata is not text")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, Untrusted) as err:
        raise Untrusted("offer-broken", f"{path}: cannot be read: {err}") from err
    return Offer(rollout_of(content, product, channel), content, package, metadata)


def offer_file(models_dir: Path, product: str, channel: str) -> Path:
    """Where it lies, if there is one."""
    return _file(Shelf(models_dir), product, channel)


def _file(shelf: Shelf, product: str, channel: str) -> Path:
    return shelf.offers / f"{product}-{channel}.json"
