"""Why nothing comes: one line that a fetcher of its own leaves for the daemon, which tells the plant.

1. A repository that is frozen, gone or lied about is an alarm of the device, whoever fetches.
2. It is a claim and no more: the daemon shows code and words, and does nothing else about it.

    look = told(settings.models_dir, lambda: fetch_once(settings, stop))
    trouble(models_dir)                     # ("metadata-expired", "https://...: snapshot was expired") or None
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from pathlib import Path

from edge_inspect.durable import make_folder, remove_durably, write_durably
from edge_inspect.errors import InspectError, StorageFailing, code_of

NAME = "trouble.json"
MOST_BYTES = 4096
MOST_WORDS = 300
_CODE = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
PASSING = frozenset({"stopped"})


def told(models_dir: Path, look: Callable[[], object]) -> Callable[[], None]:
    """`look`, which leaves behind how it ended. Raises what it raises."""

    def looking() -> None:
        try:
            look()
        except InspectError as err:
            code = code_of(err)
            if code not in PASSING:
                _leave(models_dir, code, str(err).removesuffix(f" [{code}]"))
            raise
        _leave(models_dir, "", "")

    return looking


def trouble(models_dir: Path) -> tuple[str, str] | None:
    """Code and reason of the last look, if it failed."""
    try:
        with (models_dir / NAME).open("rb") as stream:
            said = json.loads(stream.read(MOST_BYTES))
        code, why = said["code"], said["why"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return (code, why) if isinstance(code, str) and _CODE.fullmatch(code) and isinstance(why, str) else None


def _leave(models_dir: Path, code: str, why: str) -> None:
    """A write for each change of what is wrong, and none otherwise. A disk that fails says so elsewhere."""
    last = trouble(models_dir)
    if (last[0] if last else "") == code:
        return
    with contextlib.suppress(StorageFailing):
        if not code:
            remove_durably(models_dir / NAME)
            return
        make_folder(models_dir)
        said = {"code": code, "why": " ".join(why.split())[:MOST_WORDS]}
        write_durably(models_dir / NAME, json.dumps(said).encode())
