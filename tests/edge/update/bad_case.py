"""One row of the table of bad artefacts, and what a bend may do: see `test_bad_artefacts`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.edge.update.box import Box
from tests.edge.update.victim import Victim

Bend = Callable[[Victim], Iterator[None] | None]
"""Changes repository, network, clock or disk; a generator bends in several ways, and each must come to the same."""


@dataclass(frozen=True)
class Fetched:
    """Refused while it is fetched: nothing of it is offered, nothing is put together, nothing is parsed."""

    fault: str
    story: str
    code: str
    bend: Bend
    parts: bool = False
    """What has come may stay in `staging`: the next look goes on with it."""
    blobs: bool = False
    """Files that are what is signed may stay in `blobs`, under their digest."""
    stage = "fetch"


Made = Callable[[Victim], Path | Iterator[Path]]
"""A package, or several that must all come to the same; they are released one by one."""


@dataclass(frozen=True)
class Tried:
    """Signed by everybody who must, and refused by the daemon, which remembers it. Up to `verify` nothing runs it."""

    fault: str
    story: str
    code: str
    stage: str
    make: Made


@dataclass(frozen=True)
class Told:
    """The daemon is told lies by whoever can write its folder of models; nothing comes of it."""

    fault: str
    story: str
    code: str
    bend: Callable[[Victim], None]
    stage: str = "fetch"
    stages: tuple[str, ...] = ("fetch", "idle")


@dataclass(frozen=True)
class Started:
    """What a start of the daemon finds: `bend` does it to a box of its own and says which package judges then."""

    fault: str
    story: str
    code: str
    stage: str
    judges: str
    bend: Callable[[Box], None]


Case = Fetched | Tried | Told | Started
