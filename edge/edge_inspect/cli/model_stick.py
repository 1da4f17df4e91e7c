"""What is wrong with a stick, in words of the stick and of this box: paths instead of urls, and what would help.

except (Untrusted, SourceGone) as err:
    raise in_words(folder, settings, root_file, err) from err
"""

from __future__ import annotations

import re
from pathlib import Path

from tuf.api.metadata import Metadata, TargetFile, Targets
from tuf.api.serialization import DeserializationError

from edge_inspect.errors import SourceGone, Untrusted
from edge_inspect.update.fetch import FetchSettings
from edge_inspect.update.shelf import Shelf
from edge_wire.release import channel_target

PRODUCT_ROLE = "product-"
"""The product's role in the repository's metadata begins so."""
_OLDER = re.compile(r"New (\w+) version (\d+) must be >= (\d+)")
"""As python-tuf says it."""


def in_words(
    folder: Path, settings: FetchSettings, root_file: Path, err: Untrusted | SourceGone
) -> Untrusted | SourceGone:
    """The same code. root_file: the root.json that this box was given."""
    said = str(err).removesuffix(f" [{err.code}]").replace(folder.resolve().as_uri(), str(folder))
    if err.code == "target-unknown":
        said = _not_signed(folder, settings) or said
    elif err.code == "file-missing":
        said = _other_channels(folder, settings) or said
    elif err.code == "metadata-unsigned":
        said = f"{said}; is it another repository than the one whose root.json this box has, {root_file}?"
    elif err.code == "metadata-rollback" and (older := _OLDER.search(said)):
        role, there, here = older.groups()
        said = f"{folder}: is older than what this box has seen: {role} no. {there}, here no. {here}; export it anew"
    return Untrusted(err.code, said) if isinstance(err, Untrusted) else SourceGone(err.code, said)


def _not_signed(folder: Path, settings: FetchSettings) -> str:
    """Which products and channels there are instead, by the metadata that was just verified."""
    top = _signed(Shelf(settings.models_dir).trust / "targets.json")
    roles = (top.delegations.roles or {}) if top and top.delegations else {}
    products = [name.removeprefix(PRODUCT_ROLE) for name in roles if name.startswith(PRODUCT_ROLE)]
    channels = list(_channels(settings))
    if settings.product not in products:
        what, there = f"product {settings.product} is not in it", products
    elif settings.channel not in channels:
        what, there = f"product {settings.product} has no channel {settings.channel} in it", channels
    else:
        return ""
    return f"{folder}: {what}; it has: {', '.join(sorted(there)) or 'none'}"


def _other_channels(folder: Path, settings: FetchSettings) -> str:
    """What was exported, where that is not what this box follows. Empty: another file is missing."""
    there = [channel for channel, info in _channels(settings).items() if _lies_there(folder, info)]
    if not there or settings.channel in there:
        return ""
    only = f"only channel {', '.join(sorted(there))}"
    return f"{folder}: has {only} of product {settings.product}, this box follows {settings.channel}; export that, too"


def _channels(settings: FetchSettings) -> dict[str, TargetFile]:
    """Every channel of the product that is signed, with what is signed of its file."""
    own = _signed(Shelf(settings.models_dir).trust / f"{PRODUCT_ROLE}{settings.product}.json")
    begin, end = channel_target(settings.product, "\n").split("\n")
    targets = own.targets if own else {}
    return {
        name[len(begin) : -len(end)]: info
        for name, info in targets.items()
        if name.startswith(begin) and name.endswith(end)
    }


def _lies_there(folder: Path, info: TargetFile) -> bool:
    plain = folder / "targets" / info.path
    return any(plain.with_name(f"{digest}.{plain.name}").is_file() for digest in info.hashes.values())


def _signed(path: Path) -> Targets | None:
    """Verified when it was written; None: it is not there."""
    try:
        return Metadata[Targets].from_bytes(path.read_bytes()).signed
    except (OSError, DeserializationError):
        return None
