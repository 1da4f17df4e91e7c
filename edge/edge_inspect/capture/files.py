"""Whether a file can be read at all, said in one clear line before any library looks at it."""

from __future__ import annotations

from pathlib import Path

from edge_inspect.errors import BadSource


def check_readable(path: Path) -> None:
    """Raise BadSource, one clear line, unless `path` is a regular file that we may read and that holds something."""
    try:
        if path.is_dir():
            raise BadSource(f"{path}: is a folder, not a recording")
        if not path.is_file():
            missing = "is not a regular file" if path.exists() else "no such file"
            raise BadSource(f"{path}: {'broken link' if path.is_symlink() and not path.exists() else missing}")
        with path.open("rb") as file:
            if not file.read(1):
                raise BadSource(f"{path}: the file is empty")
    except PermissionError as err:
        raise BadSource(f"{path}: no permission to read it") from err
    except (OSError, ValueError) as err:
        raise BadSource(f"{path}: cannot be read: {err}") from err
