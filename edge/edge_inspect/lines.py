"""The lines of this daemon: each built beside its camera's station, run and watched with everything else.

1. A camera whose recipe waits for triggers has a line that brings them, or nothing starts.
2. At the end the lines are told first that nobody is ready, and their outputs go last, when every part is answered.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from urllib.parse import urlsplit

from edge_inspect.config import CameraConfig, Config, broker_of
from edge_inspect.config_line import LineConfig
from edge_inspect.counts import LineCounts
from edge_inspect.delivery.broker import Broker
from edge_inspect.delivery.link import Link
from edge_inspect.errors import BadConfig
from edge_inspect.health.vitals import latency_ms
from edge_inspect.lane import part_times
from edge_inspect.line.open import Around, Line, open_line
from edge_inspect.line.protocol import Adapter, Answer
from edge_inspect.line.reject import RejectCounts
from edge_inspect.pipeline import Pipeline
from edge_inspect.station import Station
from edge_inspect.threads import Running
from edge_inspect.verdict.recipe import Recipe
from edge_wire import messages as wire
from edge_wire.topics import Topics

ALIVE_S = 2.0
"""Outputs' heartbeats stand still when the inspect thread or the deadline thread has not moved for so long."""


class Lines:
    """Built with the appliance; hands each station its line. Raises BadConfig.

    adapters: already built ones by line name, instead of what the configuration says (simulations, tests).
    note: hears camera and answer before a line is told; must not wait.
    """

    def __init__(
        self,
        config: Config,
        topics: Topics,
        stations: Mapping[str, Station],
        pipeline: Pipeline,
        adapters: Mapping[str, Sequence[Adapter]],
        note: Callable[[str, Answer], None] = lambda camera, answer: None,
    ) -> None:
        self._config = config
        self._topics = topics
        self._pipeline = pipeline
        self._lines: dict[str, tuple[Line, Station]] = {}
        for table in config.line:
            station = stations[table.camera or next(iter(stations))]
            line = open_line(
                table, part_times(station.recipe), self._around(table.name, station), adapters.get(table.name)
            )
            line.side.note = partial(note, station.config.name)
            station.line = line.side
            self._lines[table.name] = (line, station)
        for station in stations.values():
            check_has_line(station.config, station.recipe, station.line is not None)

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, name: str) -> Line:
        return self._lines[name][0]

    def threads(self) -> list[Running]:
        """Every thread, in the order in which they are to be stopped: what decides, then what tells the outside."""
        lines = [line for line, _ in self._lines.values()]
        return [running for line in lines for running in line.inner()] + [
            running for line in lines for running in line.outer()
        ]

    def wind_down(self) -> None:
        """The end begins: not ready any more."""
        for line, _ in self._lines.values():
            line.side.wind_down()

    def counts(self) -> dict[str, LineCounts]:
        return {name: line.side.counts for name, (line, _) in self._lines.items()}

    def rejects(self) -> dict[str, RejectCounts]:
        """Of those lines that have a reject gate downstream."""
        return {name: line.tracker.counts for name, (line, _) in self._lines.items() if line.tracker}

    def adapters(self) -> dict[str, dict[str, Mapping[str, int]]]:
        """What each line's adapters have counted, by line and adapter."""
        return {
            name: {adapter.name: adapter.counts() for adapter in line.adapters}
            for name, (line, _) in self._lines.items()
        }

    def alarms(self) -> list[wire.Degraded]:
        return [
            wire.Degraded(code=code, detail=detail[:200])
            for line, _ in self._lines.values()
            for code, detail in line.alarms()
        ]

    def show_alarms(self) -> None:
        """Once a second: adapters that have a place for an alarm show it."""
        for line, _ in self._lines.values():
            line.show_alarm()

    def vitals(self) -> tuple[wire.LineVitals, ...]:
        return tuple(_vitals(line, station) for line, station in self._lines.values())

    def _around(self, name: str, station: Station) -> Around:
        return Around(
            state_dir=self._config.state_dir,
            topics_base=self._topics.base,
            trouble=lambda: station.line_trouble,
            news=self._pipeline.wake,
            alive=lambda: self._is_alive(name),
            link=self._link,
        )

    def _is_alive(self, name: str) -> bool:
        found = self._lines.get(name)
        beats = [self._pipeline.beat_ns, found[0].side.beat_ns if found else None]
        now_ns = time.monotonic_ns()
        return all(beat_ns is not None and now_ns - beat_ns < ALIVE_S * 1e9 for beat_ns in beats)

    def _link(self, line: LineConfig) -> Callable[[], Link]:
        """Connections to the line's broker: the plant's, or another one with the plant's certificates."""
        assert line.mqtt is not None
        mqtt, url = self._config.mqtt, line.mqtt.url
        if mqtt is not None and url is None:
            broker = broker_of(mqtt)
        elif mqtt is not None and url is not None and url.partition(":")[0] == mqtt.url.partition(":")[0]:
            broker = replace(broker_of(mqtt), url=url)
            if urlsplit(url).hostname != urlsplit(mqtt.url).hostname:  # the plant's password is for the plant's broker
                broker = replace(broker, username=None, password_file=None)
        else:
            assert url is not None, "checked with the configuration"
            broker = Broker(url=url)
        return lambda: Link(broker, f"{self._topics.device}-line-{line.name}")


def check_has_line(camera: CameraConfig, recipe: Recipe, has_line: bool) -> None:
    """Raises BadConfig for a recipe that waits for triggers which nobody brings, or on a camera that waits for us."""
    if recipe.part.mode == "trigger" and camera.policy == "every":
        raise BadConfig(
            f"camera `{camera.name}`: key `policy`: found 'every', but the recipe's part.mode is 'trigger', and a line "
            "does not wait; allowed: newest, trigger"
        )
    if recipe.part.mode == "trigger" and not has_line:
        raise BadConfig(
            f"camera `{camera.name}`: recipe {recipe.name}: key `part.mode`: found 'trigger', which needs a [[line]] "
            "in the configuration that brings triggers; allowed without: frame, barrier"
        )


def _vitals(line: Line, station: Station) -> wire.LineVitals:
    counts, reject = line.side.counts, line.tracker.counts if line.tracker else None
    return wire.LineVitals(
        name=line.name,
        camera=station.config.name,
        ready=line.side.ready,
        triggers=counts.triggers,
        ok=counts.ok,
        ng=counts.ng,
        unknown=counts.unknown_total,
        unknown_by_reason=dict(counts.unknown),
        missed_deadlines=counts.missed_deadlines,
        late_verdicts=counts.late_verdicts,
        overruns=counts.overruns,
        repeated=counts.repeated,
        skipped=counts.skipped,
        answer_ms=latency_ms(counts.latency),
        rejected=reject.rejected if reject else 0,
        rejects_missed=reject.missed if reject else 0,
        adapters={adapter.name: dict(adapter.counts()) for adapter in line.adapters},
    )
