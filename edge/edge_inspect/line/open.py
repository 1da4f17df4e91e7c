"""From `[[line]]` to what runs: a desk (or an outlet), its adapters, its reject tracker, and their threads.

1. An adapter's library is imported only where its table stands in the configuration; a missing one is one line that
   names the extra `line`.
2. One adapter is handed `fire`; triggers of the others are not taken.
3. Everything is told through `outputs`, in this order: the adapters, then the reject tracker.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from edge_inspect.config_line import LineConfig
from edge_inspect.errors import BadConfig
from edge_inspect.line.desk import Desk
from edge_inspect.line.gpio_signals import Wires
from edge_inspect.line.outlet import Outlet
from edge_inspect.line.protocol import Adapter, Answer, Changed, Hears
from edge_inspect.line.reject import RejectGate, RejectTracker
from edge_inspect.line.socket import SocketLine
from edge_inspect.threads import Running

MS = 1_000_000
NEEDS = {"modbus_server": "pymodbus", "modbus_client": "pymodbus", "gpio": "gpiod"}
"""What an adapter needs beyond the base install."""
WITH_TRIGGERS = ("trigger", "queue", "margin_ms")
"""Keys of `[[line]]` that mean nothing where the camera finds the parts."""


@dataclass(frozen=True, slots=True)
class Around:
    """What a line needs to know of the appliance around it."""

    state_dir: Path
    topics_base: str
    """`inspect/v1/<site>/<line>/<device>`: what the line's own topics begin with."""
    trouble: Callable[[], str]
    """Why its camera cannot judge right now, or ""."""
    news: Callable[[], None]
    """Wakes the inspect thread."""
    alive: Callable[[], bool]
    """The application's watchdog: outputs' heartbeats stand still without it."""
    link: Callable[[LineConfig], Callable[[], Any]]
    """Makes a maker of connections to the line's MQTT broker."""


class PartTimes(NamedTuple):
    """What the recipe says of a part's times; `deadline_ms` is None where nobody waits."""

    triggered: bool
    deadline_ms: float | None
    delay_ms: float
    window_ms: float


class Line:
    """One line, built; `inner` and `outer` are the threads that have to run for it."""

    def __init__(
        self, config: LineConfig, side: Desk | Outlet, adapters: Sequence[Adapter], tracker: RejectTracker | None
    ) -> None:
        self.name = config.name
        self.side = side
        self.adapters = tuple(adapters)
        self.tracker = tracker
        self._source = config.source

    @property
    def desk(self) -> Desk | None:
        """None where the camera finds the parts."""
        return self.side if isinstance(self.side, Desk) else None

    def inner(self) -> list[Running]:
        """What decides; to be stopped before `outer`."""
        found: list[Running] = [(f"line-{self.name}-deadline", self.side, self.side.run)]
        if self.tracker is not None:
            found.append((f"line-{self.name}-reject", self.tracker, self.tracker.run))
        return found

    def outer(self) -> list[Running]:
        """What tells the outside."""
        return [(f"line-{self.name}-{adapter.name}", adapter, self._body(adapter)) for adapter in self.adapters]

    def alarms(self) -> list[tuple[str, str]]:
        """(code, detail) of what somebody has to look after."""
        found = [("line-down", f"{self.name}: {a.name}: {why}") for a in self.adapters if (why := a.trouble)]
        if self.tracker is not None and self.tracker.alarm:
            found.append((self.tracker.alarm, f"{self.name}: {self.tracker.counts.missed} missed"))
        return found

    def show_alarm(self) -> None:
        """Pass the alarm on to adapters that have a place for it."""
        on = self.tracker is not None and bool(self.tracker.alarm)
        for adapter in self.adapters:
            adapter.alarm(on)

    def _body(self, adapter: Adapter) -> Callable[[threading.Event], None]:
        desk = self.desk
        takes = desk is not None and (self._source is None or adapter.name == self._source)
        return lambda stop: adapter.run(stop, desk.fire if takes and desk is not None else None)


def open_line(config: LineConfig, times: PartTimes, around: Around, adapters: Sequence[Adapter] | None = None) -> Line:
    """Build a line. `adapters`: already built ones instead of what the configuration says. Raises BadConfig."""
    check_fit(config, times, built=adapters is not None)
    heard = _Heard()
    built = list(adapters) if adapters is not None else _adapters(config, around, heard)
    tracker = _tracker(config, built)
    heard.tracker = tracker
    outputs: list[Hears] = [*built, *([tracker] if tracker is not None else [])]
    side: Desk | Outlet
    if times.triggered:
        assert times.deadline_ms is not None
        side = Desk(
            _ns(times.deadline_ms), outputs, margin_ns=_ns(config.margin_ms), delay_ns=_ns(times.delay_ms),
            window_ns=_ns(times.window_ms), queue=config.queue, trouble=around.trouble, news=around.news,
        )  # fmt: skip
    else:
        deadline_ns = None if times.deadline_ms is None else _ns(times.deadline_ms)
        for adapter in built:
            if isinstance(adapter, SocketLine):
                adapter.no_triggers = "this line's camera finds the parts itself"
        side = Outlet(outputs, deadline_ns=deadline_ns, trouble=around.trouble, news=around.news)
    for adapter in built:
        adapter.changed = _correction(side, tracker)
    return Line(config, side, built, tracker)


def _correction(side: Desk | Outlet, tracker: RejectTracker | None) -> Changed:
    """What follows when an adapter has put out something else than it was told: the part goes, and is counted so."""

    def changed(answer: Answer, at_ns: int) -> None:
        withdrawn = side.withdraw(answer, at_ns)
        if withdrawn is not None and tracker is not None:
            tracker.tell(withdrawn)

    return changed


class _Heard:
    """What adapters hear of encoder and reject bin, passed on to the tracker once there is one."""

    def __init__(self) -> None:
        self.tracker: RejectTracker | None = None

    def encoder(self, counts: int) -> None:
        if self.tracker is not None:
            self.tracker.encoder(counts)

    def confirmed(self, count: int) -> None:
        if self.tracker is not None:
            self.tracker.confirmed(count)


def check_fit(config: LineConfig, times: PartTimes, *, built: bool = False) -> None:
    """What the line's table and the recipe of its camera say together. Raises BadConfig.

    built: its adapters come from elsewhere, so that the table need not name any.
    """
    at = f"line `{config.name}`"
    if times.triggered and config.source is None and not built:
        able = ", ".join(f'"{name}"' for name in config.sources()) or "none of its adapters can"
        raise BadConfig(f"{at}: key `trigger`: missing, the recipe's part.mode is 'trigger'; allowed: {able}")
    if not times.triggered:
        useless = [key for key in WITH_TRIGGERS if key in config.model_fields_set]
        if useless:
            why = "it means nothing where the recipe's part.mode is not 'trigger'"
            raise BadConfig(f"{at}: key `{useless[0]}`: found {getattr(config, useless[0])}, but {why}")
    if times.deadline_ms is None:
        return
    if times.triggered and config.margin_ms >= times.deadline_ms:
        allowed = f"allowed: less than the recipe's deadline_ms = {times.deadline_ms:g}"
        raise BadConfig(f"{at}: key `margin_ms`: found {config.margin_ms:g}, {allowed}")
    reject = config.reject
    if reject is not None and reject.travel_ms is not None and reject.travel_ms < times.deadline_ms:
        allowed = (
            f"allowed: at least the recipe's deadline_ms = {times.deadline_ms:g}, or parts pass the gate undecided"
        )
        raise BadConfig(f"{at}: key `reject.travel_ms`: found {reject.travel_ms:g}, {allowed}")


def check_adapters(config: LineConfig) -> None:
    """What the adapters need of this box: libraries, a socket's folder. Opens no device. Raises BadConfig."""
    for key in config.tables():
        if key in NEEDS and find_spec(NEEDS[key]) is None:
            raise _library_missing(config, key)
    path = config.socket.path if config.socket else None
    if path is not None and not path.parent.is_dir():
        raise BadConfig(
            f'line `{config.name}`: key `socket.path`: found "{path}", allowed: a path in a folder that is there, '
            f"unlike {path.parent}"
        )


def _library_missing(config: LineConfig, key: str) -> BadConfig:
    return BadConfig(
        f"line `{config.name}`: [line.{key}] needs {NEEDS[key]}, which is not installed: "
        "pip install 'edge-inspect[line]'"
    )


def _tracker(config: LineConfig, adapters: Sequence[Adapter]) -> RejectTracker | None:
    reject = config.reject
    if reject is None:
        return None
    return RejectTracker(
        [adapter for adapter in adapters if isinstance(adapter, RejectGate)],
        travel_ns=None if reject.travel_ms is None else _ns(reject.travel_ms),
        travel_counts=reject.travel_counts,
        pulse_ms=reject.pulse_ms,
        confirm_ns=None if reject.confirm_ms is None else _ns(reject.confirm_ms),
        alarm_ns=_ns(reject.alarm_s * 1000),
    )


def _adapters(config: LineConfig, around: Around, heard: _Heard) -> list[Adapter]:
    return [_built(key, config, around, heard) for key in config.tables()]


def _built(key: str, config: LineConfig, around: Around, heard: _Heard) -> Adapter:
    try:
        adapter: Adapter = _BUILDERS[key](config, around, heard)
    except ModuleNotFoundError as err:
        if err.name is None or err.name.partition(".")[0] != NEEDS.get(key):
            raise
        raise _library_missing(config, key) from err
    return adapter


def _modbus_server(config: LineConfig, around: Around, heard: _Heard) -> Adapter:
    table = config.modbus_server
    assert table is not None
    built: Adapter = import_module("edge_inspect.line.modbus_server").ModbusServer(
        **table.model_dump(), alive=around.alive, confirmed=heard.confirmed, encoder=heard.encoder
    )
    return built


def _modbus_client(config: LineConfig, around: Around, heard: _Heard) -> Adapter:
    table = config.modbus_client
    assert table is not None
    built: Adapter = import_module("edge_inspect.line.modbus_client").ModbusClient(
        **table.model_dump(), alive=around.alive, confirmed=heard.confirmed, encoder=heard.encoder
    )
    return built


def _gpio(config: LineConfig, around: Around, heard: _Heard) -> Adapter:
    table = config.gpio
    assert table is not None
    gpio = import_module("edge_inspect.line.gpio")
    rest = {name: value for name, value in table if not name.endswith("_line") and name != "chip"}
    built: Adapter = gpio.GpioLine(
        table.chip, Wires(**table.wires()), **rest, rejects_at_rest=config.fail_safe == "reject",
        alive=around.alive, confirmed=heard.confirmed, encoder=heard.encoder,
    )  # fmt: skip
    return built


def _mqtt(config: LineConfig, around: Around, heard: _Heard) -> Adapter:
    from edge_inspect.line.mqtt import MqttLine

    table = config.mqtt
    assert table is not None
    own = f"{around.topics_base}/line/{config.name}"
    return MqttLine(
        around.link(config),
        trigger_topic=table.trigger_topic or f"{own}/trigger",
        answer_topic=table.answer_topic or f"{own}/answer",
        qos=table.qos,
    )


def _socket(config: LineConfig, around: Around, heard: _Heard) -> Adapter:
    table = config.socket
    assert table is not None
    if table.path is not None:
        return SocketLine(table.path)
    try:
        around.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as err:
        raise BadConfig(f"line `{config.name}`: {around.state_dir}: cannot be made: {err.strerror}") from err
    return SocketLine(around.state_dir / f"line-{config.name}.sock")


_BUILDERS: Mapping[str, Callable[[LineConfig, Around, _Heard], Adapter]] = {
    "modbus_server": _modbus_server,
    "modbus_client": _modbus_client,
    "gpio": _gpio,
    "mqtt": _mqtt,
    "socket": _socket,
}


def _ns(milliseconds: float) -> int:
    return round(milliseconds * MS)
