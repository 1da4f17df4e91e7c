"""What `replay --out` writes, and what it may remove: files of an earlier replay, and no others.

A folder with both parts.jsonl and report.jsonl is of an earlier replay: they are the first that one writes.
"""

from __future__ import annotations

import re
from pathlib import Path

from edge_inspect.errors import StorageFailing, Usage

LISTS = ("parts.jsonl", "report.jsonl")
WRITTEN = (*LISTS, "index.html", "summary.json", "parts")
_PICTURE = re.compile(r"camera-\d{6,}\.jpg")


def take_over(folder: Path) -> None:
    """Make the folder, or clear it of what an earlier replay left: no picture of then is taken for one of now.

    Raises Usage when it holds one of our names that is not of a replay, StorageFailing when it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = [name for name in WRITTEN if (folder / name).exists()]
        if not there:
            return
        if not all((folder / name).is_file() for name in LISTS):
            raise Usage(f"--out {folder}: holds `{there[0]}`, not of an earlier replay; choose another folder")
        for name in ("index.html", "summary.json"):
            (folder / name).unlink(missing_ok=True)
        for path in (folder / "parts").glob("*.jpg"):
            if _PICTURE.fullmatch(path.name):
                path.unlink(missing_ok=True)
    except OSError as err:
        raise StorageFailing(f"{folder}: cannot be written: {err.strerror or err}") from err
