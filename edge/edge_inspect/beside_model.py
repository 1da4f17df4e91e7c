"""A model made ready to judge beside another one: fitted to each camera, with engines and counts of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from edge_inspect.inference.engine import Engine
from edge_inspect.inference.package import ModelPackage
from edge_inspect.lane import FittedModel, Lane
from edge_inspect.reporting import Identity
from edge_inspect.update.compare import Role, Tally


class Fits(Protocol):
    """A camera's side of it: what is `Station`'s."""

    @property
    def lane(self) -> Lane | None: ...

    @property
    def identity(self) -> Identity | None: ...

    def fit_beside(self, package: ModelPackage, engines: dict[str, Engine]) -> FittedModel | None:
        """On one thread; `engines`: by file, those that are there and one that is added."""


class ModelBeside:
    """One model in the shadow: built, run and closed by the thread `shadow`."""

    def __init__(self, package: ModelPackage, role: Role) -> None:
        self.package = package
        self.engines: dict[str, Engine] = {}
        self.fitted: dict[str, FittedModel] = {}
        """By camera; replaced, never changed: the inspect thread reads it."""
        self.tally = Tally(role)
        self.refused: set[str] = set()
        """Cameras that came later and that it cannot be fitted to."""
        self.joined: set[str] = set()
        """Cameras of which it has seen a frame; the inspect thread's."""

    def fit(self, stations: Sequence[Fits]) -> int:
        """Fit it to cameras whose pictures are known by now. Returns the bytes of their largest frame."""
        lanes = [(station, station.lane) for station in stations]
        found = dict(self.fitted)
        for station, lane in lanes:
            if lane is not None and lane.name not in found:
                fitted = station.fit_beside(self.package, self.engines)
                if fitted is not None:
                    found[lane.name] = fitted
        self.fitted = found
        return max((lane.ring.slots[0].pixels.nbytes for _, lane in lanes if lane is not None), default=0)

    def unfitted(self, stations: Sequence[Fits]) -> set[str]:
        """Cameras whose pictures are known by now, and that it was not fitted to yet."""
        known = {station.lane.name for station in stations if station.lane is not None}
        return known - set(self.fitted) - self.refused

    def close(self) -> None:
        self.fitted = {}
        for engine in self.engines.values():
            engine.close()
        self.engines.clear()
