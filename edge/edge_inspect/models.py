"""The models of a running appliance: which one judges, which one judges beside it, and how one takes the other's place.

1. What is built is built here, in the thread that asks; the inspect thread only exchanges references between frames.
2. All cameras that use `[model] dir` change together, at one frame boundary. A camera with a `model` of its own is left
   alone, and so is a camera's engine that somebody else still needs.
3. A camera that comes up meanwhile is fitted before or after, never in between: both need `Engines.lock`.
4. Engines that are no longer needed are freed here, too, once no part is judged by them any more.

    models = LiveModels(stations, pipeline, engines, shadow, config.model.dir)
    models.swap(ModelPackage.load(folder), trial=True)
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import structlog

from edge_inspect.beside import Shadow
from edge_inspect.errors import BadModel, Ending, ProviderMissing
from edge_inspect.inference.package import DEFAULT_MODEL, ModelPackage, find_model
from edge_inspect.lane import FittedModel, Lane, ModelCounts
from edge_inspect.pipeline import Pipeline
from edge_inspect.station import Engines, Station
from edge_inspect.update.live import Role
from edge_inspect.update.shadow import ShadowReport
from edge_inspect.update.trial import TrialReport

log = structlog.get_logger()

LAST_LOOKS_S = 5.0
"""How long a swap waits for the last looks of parts that were begun; what takes longer is freed with the next call."""


class LiveModels:
    """`update.live.Live` for the daemon: one call at a time, none of them from the inspect thread.

    stations: all cameras. model_dir: `[model] dir` at the start. changed: hears of each camera that has another
    model from now on, in the inspect thread.
    """

    def __init__(
        self,
        stations: Sequence[Station],
        pipeline: Pipeline,
        engines: Engines,
        shadow: Shadow,
        model_dir: str | None = None,
        *,
        changed: Callable[[Station], None] = lambda station: None,
    ) -> None:
        self._stations = [station for station in stations if station.follows]
        self._all = list(stations)
        self._pipeline = pipeline
        self._engines = engines
        self._shadow = shadow
        first = next((station.package for station in self._stations), None)
        self._package = first or ModelPackage.load(find_model(model_dir or DEFAULT_MODEL))
        self._changed = changed
        self._trial_since_s: float | None = None
        self._before: list[ModelCounts] = []

    def active(self) -> str:
        return self._package.digest

    def picture_sizes(self) -> list[tuple[int, int]]:
        """(height, width) of the pictures that the active model judges, as far as they are known."""
        return [(lane.letterbox.src_h, lane.letterbox.src_w) for lane in self._lanes()]

    def frames(self) -> int:
        """How many it has seen since it judges."""
        return sum(lane.model.counts.frames for lane in self._lanes())

    # --- shadow ----------------------------------------------------------------------------------------------------

    def start_shadow(self, package: ModelPackage, *, role: Role) -> None:
        self.stop_shadow()
        for station in self._stations:
            station.check(package)
        self._shadow.start(package, role)
        self._pipeline.beside = self._shadow
        log.info("model.shadow_begins", model=_named(package), role=role)

    def shadow_report(self) -> ShadowReport:
        self._free()
        self._shadow.check()
        return self._shadow.report()

    def stop_shadow(self) -> None:
        self._pipeline.beside = None
        self._shadow.stop()

    # --- swap ------------------------------------------------------------------------------------------------------

    def swap(self, package: ModelPackage, *, trial: bool = False) -> None:
        self.stop_shadow()  # first: its engine's memory may be needed
        began_s = time.monotonic()
        with self._engines.lock:
            try:
                fitted = [(station, self._fit(station, package)) for station in self._stations]
            except BaseException:
                self._free()  # what was built for nothing
                raise
            before = [lane.model.counts for lane in self._lanes()]
            for station, model in fitted:
                station.on_trial = trial
                if model is not None:
                    model.on_trial = trial
            self._exchange(package, fitted)
            self._package = package
        self._before = before
        self._trial_since_s = time.monotonic() if trial else None
        log.info("model.swapped", model=_named(package), trial=trial, took_s=round(time.monotonic() - began_s, 3))
        self._free_when_left()

    def _fit(self, station: Station, package: ModelPackage) -> FittedModel | None:
        try:
            return station.fit(package)
        except ProviderMissing as err:  # it was there for the model that judges: the runtime has no room for another
            raise BadModel("provider-missing", str(err)) from err

    def _exchange(self, package: ModelPackage, fitted: Sequence[tuple[Station, FittedModel | None]]) -> None:
        """At one frame boundary, for all of them."""

        def adopt() -> None:
            for station, model in fitted:
                station.adopt(package, model)
                if model is not None:
                    self._changed(station)

        pairs = [(station.lane, model) for station, model in fitted if station.lane is not None and model is not None]
        if not self._pipeline.exchange(pairs, adopt):
            raise Ending("the daemon ends: the model was not swapped")

    def _lanes(self) -> list[Lane]:
        return [station.lane for station in self._stations if station.lane is not None]

    def _free(self) -> bool:
        """Close engines that nobody needs; False when some are left that the last looks of a part still need."""
        with self._engines.lock:
            lanes = [station.lane for station in self._all if station.lane is not None]
            self._engines.free(lambda engine: any(lane.uses(engine) for lane in lanes))
            return all(engine is lane.engine for lane in lanes for engine in lane.engines())

    def _free_when_left(self) -> None:
        until_s = time.monotonic() + LAST_LOOKS_S
        while not self._free() and time.monotonic() < until_s:
            time.sleep(0.02)

    # --- trial -----------------------------------------------------------------------------------------------------

    def begin_trial(self) -> None:
        with self._engines.lock:
            for station in self._stations:
                station.on_trial = True
            for lane in self._lanes():
                lane.model.on_trial = True
        self._trial_since_s = time.monotonic()
        self._before = []

    def trial_report(self) -> TrialReport:
        self._free()
        if self._trial_since_s is None:
            return TrialReport()
        judges_beside = self._pipeline.beside is not None and not self._shadow.hangs
        counts = [lane.model.counts for lane in self._lanes()]
        unknown = _sum(each.unknown for each in counts)
        return TrialReport(
            seconds=round(time.monotonic() - self._trial_since_s, 3),
            frames=sum(each.frames for each in counts),
            parts=sum(each.parts for each in counts),
            ng=sum(each.ng for each in counts),
            unknown_by_reason=dict(unknown),
            non_finite=sum(each.non_finite for each in counts),
            non_finite_in_row=max((each.non_finite_in_row for each in counts), default=0),
            missed_deadlines=unknown["deadline"],
            known_answer_failures=sum(each.known_answer_failures for each in counts),
            before_parts=sum(each.parts for each in self._before),
            before_unknown=dict(_sum(each.unknown for each in self._before)),
            beside=self._shadow.report() if judges_beside else ShadowReport(),
        )

    def end_trial(self) -> None:
        with self._engines.lock:
            for station in self._stations:
                station.on_trial = False
            for lane in self._lanes():
                lane.model.on_trial = False
        self._trial_since_s = None
        self._before = []


def _sum(counters: Iterable[Counter[str]]) -> Counter[str]:
    """Each is copied at once: the inspect thread goes on counting."""
    total: Counter[str] = Counter()
    for counter in counters:
        total.update(counter.copy())
    return total


def _named(package: ModelPackage) -> str:
    return f"{package.manifest.name} {package.manifest.version} {package.digest.removeprefix('sha256:')[:12]}"
