"""What was fetched and may be taken: one file for each channel, written by whoever fetches, read by the updater.

    offers/<product>-<channel>.json    the rollout as it was signed, the metadata that vouches for it, when it came

1. An offer is written when its package lies whole in `packages/`, or needs none (`package` is None: the rollout only
   says what must not run any more), or when the package is one that must not run (`refusal`).
2. It is a claim like any other: `offline.check_offline` verifies it from its own metadata before anything is done.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from edge_inspect.errors import Untrusted
from edge_inspect.update.durable import make_folder, translated, write_durably
from edge_inspect.update.released import rollout_of
from edge_inspect.update.shelf import Shelf
from edge_wire.release import Rollout, channel_target

MOST_BYTES = 64 << 20
_CODE = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


@dataclass(frozen=True, slots=True)
class Offer:
    rollout: Rollout
    content: bytes
    """The rollout, byte for byte as it was signed."""
    package: Path | None
    offered_at: datetime
    metadata: Mapping[str, str]
    """TUF metadata by file name."""
    refusal: tuple[str, str] | None = None
    """Code and reason for which what is signed was not put together: a manifest or a model that breaks its contract."""


def write_offer(shelf: Shelf, offer: Offer) -> None:
    """Raises StorageFailing."""
    rollout = offer.rollout
    said = {
        "format": 1,
        "rollout": rollout.model_dump(mode="json"),
        "content": offer.content.decode(),
        "target": channel_target(rollout.product, rollout.channel),
        "package": offer.package.name if offer.package else None,
        "offered_utc": offer.offered_at.astimezone(timezone.utc).isoformat(),
        "metadata": dict(offer.metadata),
        "refusal": offer.refusal,
    }
    make_folder(shelf.offers)
    write_durably(_file(shelf, rollout.product, rollout.channel), json.dumps(said, indent=1).encode())


def read_offer(models_dir: Path, product: str, channel: str) -> Offer | None:
    """None: there is none. Raises StorageFailing, Untrusted (`offer-broken`, `rollout-...`)."""
    shelf = Shelf(models_dir)
    path = _file(shelf, product, channel)
    if not path.exists():
        return None
    with translated(path), path.open("rb") as stream:
        raw = stream.read(MOST_BYTES + 1)
    try:
        said = json.loads(raw)
        content, metadata = said["content"].encode(), dict(said["metadata"])
        offered_at = datetime.fromisoformat(said["offered_utc"])
        package = shelf.package(said["package"]) if said["package"] else None
        if not all(isinstance(text, str) for text in metadata.values()):
            raise ValueError("metadata is not text")
        refusal = _refusal_of(said.get("refusal"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, Untrusted) as err:
        raise Untrusted("offer-broken", f"{path}: cannot be read: {err}") from err
    return Offer(rollout_of(content, product, channel), content, package, offered_at, metadata, refusal)


def _refusal_of(said: object) -> tuple[str, str] | None:
    if said is None:
        return None
    code, why = said if isinstance(said, list) else ("", "")
    if not _CODE.fullmatch(code):
        raise ValueError("a refusal without a code")
    return code, str(why)


def offer_file(models_dir: Path, product: str, channel: str) -> Path:
    """Where it lies, if there is one."""
    return _file(Shelf(models_dir), product, channel)


def _file(shelf: Shelf, product: str, channel: str) -> Path:
    return shelf.offers / f"{product}-{channel}.json"
