"""Where the journal of what was told may lie: in memory, where that outlives this process, else in `state_dir`.

1. $RUNTIME_DIRECTORY, which systemd gives to the service alone; else $XDG_RUNTIME_DIR, else /dev/shm. The last two are
   shared: there the name carries a digest of `state_dir`, a file that is not ours alone is not touched, and one with
   nothing left in it goes at a good end.
2. `state_dir` comes last: there a disk that stalls can hold up who tells the line.
3. The first place that can be had is taken; but one that still holds entries of an earlier life comes before all
   others, for the environment of two lives may differ.
4. In a container, memory may go with the process: only $RUNTIME_DIRECTORY and `state_dir` count there.

    open_journal(told_paths(os.environ, state_dir), device="edge-1")
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from edge_inspect.delivery.told import FILE_NAME, NoJournal, ToldJournal, holds_entries

SHARED_NAME = "edge-inspect-told-{}"
SHARED_MEMORY = Path("/dev/shm")
FIRST_PID_NAMESPACE = 0xEFFFFFFC
"""The inode of /proc/self/ns/pid outside of containers: PROC_PID_INIT_INO in the kernel's proc_ns.h."""


def told_paths(environ: Mapping[str, str], state_dir: Path, *, memory_outlives: bool | None = None) -> list[Path]:
    """The files to try, the best first. memory_outlives: what lies in memory stays when this process is killed."""
    paths = [Path(first) / FILE_NAME for first in [environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]] if first]
    if _outside_of_containers() if memory_outlives is None else memory_outlives:
        name = SHARED_NAME.format(hashlib.sha256(os.fsencode(state_dir.resolve())).hexdigest()[:16])
        of_login = environ.get("XDG_RUNTIME_DIR")
        paths += [folder / name for folder in (*([Path(of_login)] if of_login else []), SHARED_MEMORY)]
    return [*paths, state_dir / FILE_NAME]


def open_journal(paths: Iterable[Path], device: str) -> ToldJournal:
    """At the first place that can be had. Raises NoJournal."""
    refused = []
    for path in sorted(paths, key=lambda path: not holds_entries(path)):
        try:
            return ToldJournal(path, device=device, stays=path.name == FILE_NAME)
        except NoJournal as err:
            refused.append(str(err))
    raise NoJournal("; ".join(refused))


def _outside_of_containers() -> bool:
    try:
        return Path("/proc/self/ns/pid").stat().st_ino == FIRST_PID_NAMESPACE
    except OSError:
        return False
