"""Work on a daemon's files as the user they belong to, so that the daemon can go on with them.

What root writes there, the daemon could not open any more: a lock, a folder, and it would fail at each look for ever.

    with as_owner_of(box.models_dir, box.state_dir, asks="edge-inspect model import"):
        ...         # root: as the owner; the owner: as it is; anybody else: refused
"""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Iterator
from pathlib import Path

from edge_inspect.errors import Refusal


@contextlib.contextmanager
def as_owner_of(*folders: Path, asks: str) -> Iterator[str]:
    """The owner of the first folder that is there; its name. Raises Refusal.

    Where none is there yet root works as the owner of the nearest folder above. The whole process changes its effective
    user meanwhile, all threads of it.
    """
    folder, found = _owned(folders)
    me, name = os.geteuid(), _name(found.st_uid if found else os.geteuid())
    if found is None or found.st_uid == me:
        yield name
        return
    if me != 0:
        raise Refusal(
            f"{folder}: belongs to {name}, and what {_name(me)} wrote there it could not use; "
            f"ask as that user: sudo -u {name} {asks} ..."
        )
    group, groups = os.getegid(), os.getgroups()
    try:
        _become(found.st_uid, found.st_gid)
        yield name
    except PermissionError as err:
        raise Refusal(f"{err.filename or folder}: {name}, whose files these are, is not permitted: {err}") from err
    finally:
        os.seteuid(me)
        os.setegid(group)
        os.setgroups(groups)


def _owned(folders: tuple[Path, ...]) -> tuple[Path, os.stat_result | None]:
    for folder in folders:
        with contextlib.suppress(OSError):
            return folder, folder.stat()
    if os.geteuid() == 0:
        for above in folders[0].absolute().parents:
            with contextlib.suppress(OSError):
                return above, above.stat()
    return folders[0], None


def _become(user: int, group: int) -> None:
    try:
        os.initgroups(pwd.getpwuid(user).pw_name, group)
    except KeyError:
        os.setgroups([group])
    os.setegid(group)
    os.seteuid(user)


def _name(user: int) -> str:
    """As sudo -u takes it."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"'#{user}'"
