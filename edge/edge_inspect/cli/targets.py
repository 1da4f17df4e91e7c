"""What a command writes is never what it reads: checked before anything is opened for writing.

Links count as what they lead to, and hard links as the same file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from edge_inspect.errors import Usage


def source_path(source: str) -> Path | None:
    """The file or folder that a source's text names; None for cameras, the simulator and what is not there."""
    text = source.strip()
    if text.startswith("gst:"):
        location = re.search(r'location=(?:"([^"]+)"|(\S+))', text)
        text = (location[1] or location[2]) if location else ""
    try:
        path = Path(text[7:] if text[:7].lower() == "file://" else text).expanduser()
        return path if text and path.exists() else None
    except (OSError, ValueError, RuntimeError):
        return None


def check_target(option: str, target: Path, inputs: Iterable[tuple[str, Path | None]]) -> None:
    """For a file that will be written. `inputs`: what each is called, and where it lies.

    Raises Usage: it is one of the inputs, or a folder, or its folder is missing.
    """
    try:
        for name, path in inputs:
            if path is not None and _same(target, path):
                raise Usage(f"{option} {target}: is the {name}")
            if path is not None and path.is_dir() and target.exists() and _within(path, target):
                raise Usage(f"{option} {target}: is in the {name}")
        if target.is_dir():
            raise Usage(f"{option} {target}: is a folder; allowed: a file's name")
        if not target.parent.is_dir():
            raise Usage(f"{option} {target}: there is no folder {target.parent}")
    except OSError as err:
        raise Usage(f"{option} {target}: cannot be written: {err.strerror}") from err


def check_folder(option: str, folder: Path, names: Iterable[str], inputs: Iterable[tuple[str, Path | None]]) -> None:
    """For a folder into which `names` will be written, files and folders. Raises Usage when one of them is, or holds,
    an input, or when the folder itself is one."""
    try:
        places = [folder, *(folder / name for name in names)]
        for what, path in inputs:
            if path is None:
                continue
            for place in places:
                if _same(place, path) or (place != folder and place.is_dir() and _within(place, path)):
                    raise Usage(f"{option} {folder}: {place} is the {what}, or holds it; choose another folder")
    except OSError as err:
        raise Usage(f"{option} {folder}: cannot be written: {err.strerror}") from err


def is_missing(path: Path) -> bool:
    """Nothing is there; False also where this user may not look."""
    try:
        return not path.exists()
    except OSError:
        return False


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _within(folder: Path, path: Path) -> bool:
    return folder.resolve() in path.resolve().parents
