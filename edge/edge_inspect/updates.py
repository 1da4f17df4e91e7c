"""Updates of models as a part of the appliance: built with it, started with it, asked by it.

1. Opened before anything that needs a model: it says which package judges at this start, verified byte by byte.
2. `attach` gives it the running models; from then on `run` is the thread `updater`.
3. Without `[update]` there is none of this: the model of `[model] dir` judges, as it is.

    updates = open_updates(config)                      # None without [update]
    model_dir = updates.model_dir if updates else config.model.dir
    updates.attach(live, picture_sizes, frames)
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from edge_inspect.config import Config
from edge_inspect.config_update import UpdateConfig
from edge_inspect.durable import make_folder
from edge_inspect.errors import StorageFailing
from edge_inspect.inference.package import DEFAULT_MODEL, ModelPackage, find_model
from edge_inspect.inference.providers import choose
from edge_inspect.threads import Running
from edge_inspect.update.acts import Probe
from edge_inspect.update.choose import Names
from edge_inspect.update.examine import Probed, Request
from edge_inspect.update.fetch import FetchSettings
from edge_inspect.update.live import Live
from edge_inspect.update.machine import ended_well
from edge_inspect.update.pace import Looks
from edge_inspect.update.poll import HINT_NAME
from edge_inspect.update.probe import ProbeLimits, probe, service_of
from edge_inspect.update.source import Offers
from edge_inspect.update.store import FOLDER, Store
from edge_inspect.update.trouble import trouble
from edge_inspect.update.updater import Updater
from edge_wire import messages as wire
from edge_wire.updates import ModelUpdate

log = structlog.get_logger()

MOST_DETAIL = 200
COMMAND_S = 5.0
"""A command that has the state open is done sooner than this."""


def open_updates(config: Config) -> Updates | None:
    """None without `[update]`. Raises BadModel (`no-model`), BadConfig, InUse, StorageFailing."""
    return Updates(config, config.update) if config.update else None


def open_store(config: Config) -> Store:
    """The state, the history and the lock. Raises InUse, StorageFailing, BadModel for a factory model that is not."""
    factory = find_model(config.model.dir or DEFAULT_MODEL)
    return Store.open(config.state_dir / FOLDER, config.models_dir, factory, wait_s=COMMAND_S)


class Updates:
    """See the module."""

    def __init__(self, config: Config, table: UpdateConfig) -> None:
        device = config.device
        self._box = Names(device.site, device.line, device.device)
        self._table = table
        self._model, self._state_dir = config.model, config.state_dir
        self._settings = FetchSettings.of(
            table, site=device.site, line=device.line, device=device.device, state_dir=config.state_dir
        )
        self._store = open_store(config)
        self._updater: Updater | None = None
        try:
            self.package: ModelPackage = self._store.begin()
        except BaseException:
            self._store.close()
            raise

    @property
    def model_dir(self) -> str:
        """The package that judges at this start."""
        return str(self.package.dir)

    def attach(
        self,
        live: Live,
        picture_sizes: Callable[[], Sequence[tuple[int, int]]],
        frames: Callable[[], int] = lambda: 0,
    ) -> None:
        """picture_sizes: (height, width) of the pictures that the candidate will see, as far as they are known.
        frames: how many the model that judges has seen."""
        self._store.attempts.frames = frames
        asks = self._table.fetch == "daemon" and self._table.url is not None
        self._updater = Updater(
            self._store, Offers(self._settings, asks=asks), self._probe(picture_sizes), live, box=self._box,
            channel=f"{self._table.product}/{self._table.channel}", looks=Looks(float(self._table.poll_s)),
        )  # fmt: skip

    def _probe(self, picture_sizes: Callable[[], Sequence[tuple[int, int]]]) -> Probe:
        model, table = self._model, self._table
        limits, service = ProbeLimits(float(table.probe_s), table.probe_memory_bytes), service_of(self._state_dir)

        def ask(package: ModelPackage, active: ModelPackage) -> Probed:
            request = Request(  # `auto` is answered here: where the probe may live there is no GPU
                package.dir, provider=choose(model.provider), threads=model.threads, precision=model.precision,
                shape=model.shape, sources=tuple(sorted(set(picture_sizes()))),
                latency_factor=table.probe_latency_factor,
            )  # fmt: skip
            assert self._updater is not None
            stop = self._updater.pulse.stop
            probed = probe(package.dir, model=request, golden_of=active.dir, limits=limits, service=service, stop=stop)
            if probed.remark:
                log.info("model.probed", model=package.digest, remark=probed.remark)
            return probed

        return ask

    def threads(self) -> list[Running]:
        return [("updater", self._updater.pulse, self._updater.run)] if self._updater else []

    def hint(self, desired: wire.Desired) -> None:
        """The plant says that there is a rollout; whoever fetches looks sooner, and nothing else follows from it."""
        if (desired.product, desired.channel) != (self._table.product, self._table.channel):
            return
        if self._updater is not None and self._updater.hint(desired.product, desired.channel, desired.sequence):
            _touch(self._store.folder / HINT_NAME)

    def block(self) -> ModelUpdate | None:
        """For the device's state."""
        return self._updater.block() if self._updater else None

    def counts(self) -> dict[str, float | str] | None:
        """Of the shadow or the trial that is under way, for people."""
        return self._updater.counts() if self._updater else None

    def alarms(self) -> list[wire.Degraded]:
        found = self._updater.alarms() if self._updater else []
        if self._table.fetch == "service" and (fetching := trouble(self._settings.models_dir)) is not None:
            found.append(("model-fetch", f"{fetching[0]}: {fetching[1]}"))
        return [wire.Degraded(code=code, detail=_line(detail)) for code, detail in found]

    def building(self, package: ModelPackage) -> contextlib.AbstractContextManager[None]:
        """Around what makes a model ready to judge: what ends the process meanwhile is held against it."""
        return self._store.attempts.building(package.digest)

    def ended_by(self, errors: Sequence[BaseException]) -> None:
        """The daemon ends by what came out of the threads in which the model of `[model] dir` runs."""
        self._store.attempts.ended_by(errors)

    def ended_well(self) -> None:
        """The daemon ends because it was told to: neither a trial nor the model that judges is to blame for that."""
        self._store.attempts.over()
        with contextlib.suppress(StorageFailing):
            state = ended_well(self._store.state)
            if state != self._store.state:
                self._store.save(state)

    def close(self) -> None:
        self._store.close()


def _touch(path: Path) -> None:
    """For edge-inspect-fetch, which looks at its time."""
    with contextlib.suppress(OSError, StorageFailing):
        make_folder(path.parent)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
        os.utime(path)


def _line(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)[:MOST_DETAIL]
