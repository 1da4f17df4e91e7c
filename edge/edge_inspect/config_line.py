"""`[[line]]`: how one camera's triggers come in and its verdicts go out.

1. A line belongs to one camera, and a camera to one line at most.
2. One adapter brings the triggers; every adapter that is there is told the answers.
3. Nothing here can make OK the resting state of an output: only OK is driven, and only while somebody judges.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field

from edge_inspect.config_table import BrokerUrl, Name, Table

ANY_HOST = {"0.0.0.0", "::"}
Port = Annotated[int, Field(ge=1, le=65535)]
Offset = Annotated[int, Field(ge=0, le=4096)]


def _topic(text: str) -> str:
    if not 1 <= len(text) <= 200 or re.search(r"[+#$\s\x00]", text):
        raise ValueError("allowed: an MQTT topic of 1-200 letters, without + # $ and spaces")
    return text


Topic = Annotated[str, AfterValidator(_topic)]
TriggerName = Literal["modbus-server", "modbus-client", "gpio", "mqtt", "socket"]


class ModbusServerConfig(Table):
    """`[line.modbus_server]`: the PLC is Modbus TCP client and reads and writes our registers (docs/line.md)."""

    host: Annotated[str, Field(min_length=1, max_length=253)] = "127.0.0.1"
    """Address to listen on: this box's address in the PLC's network."""
    port: Port = 1502
    """Port to listen on; below 1024 needs the right to."""
    unit_id: Annotated[int, Field(ge=0, le=255)] = 1
    """Modbus unit that answers."""
    base: Annotated[int, Field(ge=0, le=60_000)] = 0
    """Address of the first register and bit (docs/line-modbus.md)."""
    ring: Annotated[int, Field(ge=1, le=16)] = 16
    """Results kept for a PLC that fires before it has read."""
    low_word_first: bool = False
    """32-bit values: the low word lies first."""
    heartbeat_ms: Annotated[int, Field(ge=20, le=10_000)] = 200
    """The heartbeat register counts up this often."""


class ModbusClientConfig(Table):
    """`[line.modbus_client]`: the PLC is Modbus TCP server; we read and write its registers (docs/line.md)."""

    host: Annotated[str, Field(min_length=1, max_length=253)]
    """The PLC's address."""
    port: Port = 502
    """The PLC's port."""
    unit_id: Annotated[int, Field(ge=0, le=255)] = 1
    """Modbus unit to ask."""
    inputs_at: Offset = 0
    """First of the PLC's holding registers that we read: trigger and sequence number."""
    outputs_at: Offset = 100
    """First of the PLC's holding registers that we write: status, result, heartbeat."""
    ring: Annotated[int, Field(ge=0, le=16)] = 0
    """Length of the PLC's trigger and result rings, for a PLC that fires before it has read (docs/line-modbus.md).
    0: the plain handshake, one trigger and one result at a time."""
    low_word_first: bool = False
    """32-bit values: the low word lies first."""
    poll_ms: Annotated[float, Field(ge=1, le=1000)] = 2.0
    """How often to look for a trigger."""
    timeout_ms: Annotated[int, Field(ge=20, le=4_000)] = 500
    """An answer of the PLC that takes longer is a lost connection."""
    heartbeat_ms: Annotated[int, Field(ge=20, le=10_000)] = 200
    """The heartbeat register is written this often."""

    def blocks(self) -> tuple[range, range]:
        """The PLC's registers that we read, and those that we write (docs/line-modbus.md)."""
        return (
            range(self.inputs_at, self.inputs_at + 8 + 4 * self.ring),
            range(self.outputs_at, self.outputs_at + 10 + 6 * self.ring),
        )

    def unit(self) -> tuple[str, int, int]:
        """Which PLC."""
        return self.host, self.port, self.unit_id


class GpioConfig(Table):
    """`[line.gpio]`: wires. Needs the extra `line`. Line numbers are offsets on the chip."""

    chip: Path = Path("/dev/gpiochip0")
    """GPIO device."""
    trigger_line: Annotated[int | None, Field(ge=0, le=1023)] = None
    """Input: a part is in front of the camera."""
    edge: Literal["rising", "falling"] = "rising"
    """Which edge of it is the trigger, after `active_low`."""
    bias: Literal["as-is", "pull-up", "pull-down", "disabled"] = "as-is"
    """The chip's own pull resistors at the inputs."""
    encoder_line: Annotated[int | None, Field(ge=0, le=1023)] = None
    """Input: one pulse for each count of the belt's encoder."""
    debounce_us: Annotated[int, Field(ge=0, le=1_000_000)] = 1000
    """Edges closer together are one."""
    ok_line: Annotated[int | None, Field(ge=0, le=1023)] = None
    """Output: the part is OK."""
    ng_line: Annotated[int | None, Field(ge=0, le=1023)] = None
    """Output: the part is NG or UNKNOWN."""
    ready_line: Annotated[int | None, Field(ge=0, le=1023)] = None
    """Output: a trigger would be judged."""
    busy_line: Annotated[int | None, Field(ge=0, le=1023)] = None
    """Output: a part is being judged."""
    heartbeat_line: Annotated[int | None, Field(ge=0, le=1023)] = None
    """Output: changes every `heartbeat_ms` while the daemon lives and judges."""
    heartbeat_ms: Annotated[int, Field(ge=20, le=10_000)] = 250
    """Half a period of it."""
    reject_line: Annotated[int | None, Field(ge=0, le=1023)] = None
    """Output: the reject gate; needs `[line.reject]`."""
    confirm_line: Annotated[int | None, Field(ge=0, le=1023)] = None
    """Input: a part fell into the reject bin; needs `[line.reject]`."""
    output: Literal["pulse", "latch"] = "pulse"
    """`pulse`: OK and NG for `pulse_ms`. `latch`: until the next trigger."""
    pulse_ms: Annotated[float, Field(ge=1, le=10_000)] = 50.0
    """Length of OK and NG pulses."""
    active_low: bool = False
    """All lines of this table mean "on" when they are low."""

    def wires(self) -> dict[str, int | None]:
        """What `line.gpio.Wires` is made of."""
        return {name.removesuffix("_line"): value for name, value in self if name.endswith("_line")}


class LineMqttConfig(Table):
    """`[line.mqtt]`: triggers and answers as JSON over MQTT; for lines that can wait for a network."""

    url: BrokerUrl | None = None
    """The line's broker; without: the one of `[mqtt]`, with its certificates and password."""
    trigger_topic: Topic | None = None
    """Where triggers come from; without: `inspect/v1/<site>/<line>/<device>/line/<name>/trigger`."""
    answer_topic: Topic | None = None
    """Where answers go; without: `.../answer` beside it."""
    qos: Literal[0, 1] = 1
    """Of the answers. Triggers are taken as they are sent."""


class SocketConfig(Table):
    """`[line.socket]`: triggers and answers as lines of JSON over a Unix socket of this box."""

    path: Path | None = None
    """Without: `line-<name>.sock` in the state folder."""


class RejectConfig(Table):
    """`[line.reject]`: the reject gate stands downstream; when does a part reach it? Exactly one of `travel_ms` and
    `travel_counts`."""

    travel_ms: Annotated[float | None, Field(ge=1, le=600_000)] = None
    """From the trigger to the gate, for a belt of constant speed."""
    travel_counts: Annotated[int | None, Field(ge=1, le=1_000_000_000)] = None
    """The same in encoder counts, for a belt that may stop."""
    pulse_ms: Annotated[float, Field(ge=1, le=60_000)] = 100.0
    """How long the gate is driven for a part."""
    confirm_ms: Annotated[float | None, Field(ge=1, le=60_000)] = None
    """A sensor in the reject bin must see the part within this after the gate was driven, else alarm `reject-missed`.
    Without: there is no such sensor."""
    alarm_s: Annotated[float, Field(ge=1, le=86_400)] = 300.0
    """How long the alarm stands after the last missed part."""


class LineConfig(Table):
    """`[[line]]`: once for each camera that answers a line. Handshake, wiring and timing: docs/line.md. The deadline
    stands in the recipe."""

    name: Name = "line"
    """Its name in logs, vitals and thread names; unique in this file."""
    camera: Name | None = None
    """Which camera judges; may be left out where there is only one."""
    trigger: TriggerName | None = None
    """Which adapter brings the triggers; may be left out where only one can. With a recipe of mode `barrier` or `frame`
    the camera finds the parts and nobody does."""
    queue: Annotated[int, Field(ge=0, le=64)] = 0
    """Triggers that may wait while a part is being judged; one more is UNKNOWN `overrun`. Only with a recipe of mode
    `trigger`."""
    margin_ms: Annotated[float, Field(ge=0, le=1000)] = 5.0
    """So long before its deadline a part without a verdict is answered UNKNOWN, so that the answer is there in time.
    Only with a recipe of mode `trigger`."""
    fail_safe: Literal["release", "reject"] = "release"
    """What outputs show while nobody judges. `release`: every output is off. `reject`: OK is off and the reject output
    is on, so that everything is thrown out. OK is never on."""
    modbus_server: ModbusServerConfig | None = None
    modbus_client: ModbusClientConfig | None = None
    gpio: GpioConfig | None = None
    mqtt: LineMqttConfig | None = None
    socket: SocketConfig | None = None
    reject: RejectConfig | None = None

    def sources(self) -> tuple[TriggerName, ...]:
        """The adapters of this line that can bring triggers."""
        able: dict[TriggerName, bool] = {
            "modbus-server": self.modbus_server is not None,
            "modbus-client": self.modbus_client is not None,
            "gpio": self.gpio is not None and self.gpio.trigger_line is not None,
            "mqtt": self.mqtt is not None,
            "socket": self.socket is not None,
        }
        return tuple(name for name, is_able in able.items() if is_able)

    @property
    def source(self) -> TriggerName | None:
        """The adapter that brings the triggers."""
        able = self.sources()
        return self.trigger or (able[0] if len(able) == 1 else None)

    def tables(self) -> tuple[str, ...]:
        """The keys of the adapters that are there."""
        return tuple(key for key in ADAPTERS if getattr(self, key) is not None)


ADAPTERS = tuple(name.replace("-", "_") for name in get_args(TriggerName))


def line_mistakes(lines: Sequence[LineConfig], cameras: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """(key, found, allowed) of what the lines' keys say together. `cameras`: names of all that there are."""
    names: set[str] = set()
    taken: set[str] = set()
    for index, line in enumerate(lines):
        at = f"line[{index}]"
        if line.name in names:
            yield f"{at}.name", f'"{line.name}" a second time', "a name of its own for each line"
        names.add(line.name)
        camera = line.camera or (cameras[0] if len(cameras) == 1 else "")
        if not camera:
            yield f"{at}.camera", "nothing, with several cameras", f"one of {', '.join(cameras)}"
        elif camera not in cameras:
            yield f"{at}.camera", f'"{camera}"', f"one of {', '.join(cameras)}"
        elif camera in taken:
            yield f"{at}.camera", f'"{camera}" a second time', "one line for each camera"
        taken.add(camera)
        yield from _adapter_mistakes(at, line)
        for other in lines[:index]:
            yield from _shared_places(at, line, other)


def _adapter_mistakes(at: str, line: LineConfig) -> Iterator[tuple[str, str, str]]:
    able = line.sources()
    if not line.tables():
        yield at, "no adapter", f"at least one of {', '.join(f'[line.{key}]' for key in ADAPTERS)}"
    if line.trigger is not None and line.trigger not in able:
        key = line.trigger.replace("-", "_")
        needs = f"[line.{key}] beside it" + (" with trigger_line" if key == "gpio" else "")
        yield f"{at}.trigger", f'"{line.trigger}"', needs
    if line.modbus_client is not None:
        yield from _block_mistakes(f"{at}.modbus_client", line.modbus_client)
    gpio, reject = line.gpio, line.reject
    if reject is not None and (reject.travel_ms is None) == (reject.travel_counts is None):
        yield f"{at}.reject", "both or none of travel_ms and travel_counts", "exactly one of them"
    if line.fail_safe == "reject" and (gpio is None or gpio.reject_line is None):  # it would throw nothing out
        yield f"{at}.fail_safe", '"reject" without a reject output', "[line.gpio] with reject_line beside it"
    counts = reject is not None and reject.travel_counts is not None
    if reject is not None and not counts and gpio is not None and gpio.encoder_line is not None:
        yield (
            f"{at}.gpio.encoder_line",
            "it with travel_ms, which needs no encoder",
            "travel_counts, or no encoder_line",
        )
    if counts and line.source == "gpio" and gpio is not None and gpio.encoder_line is None:
        yield f"{at}.reject.travel_counts", "it without an encoder", "[line.gpio] with encoder_line, or travel_ms"
    if gpio is not None and reject is None:
        for name in ("reject_line", "confirm_line", "encoder_line"):
            if getattr(gpio, name) is not None:
                yield f"{at}.gpio.{name}", "it without [line.reject]", "both, or neither"
    if gpio is not None:
        used = [value for name, value in gpio if name.endswith("_line") and value is not None]
        twice = sorted({number for number in used if used.count(number) > 1})
        if twice:
            yield f"{at}.gpio", f"line {twice[0]} for two things", "a line of its own for each wire"
        if not used:
            yield f"{at}.gpio", "no wire", "at least one key that ends in _line"


def _block_mistakes(at: str, client: ModbusClientConfig) -> Iterator[tuple[str, str, str]]:
    """What the PLC writes and what we write must not lie in one place."""
    inputs, outputs = client.blocks()
    if _overlap(inputs, outputs):
        found = f"{client.outputs_at}, within {len(outputs)} of the {len(inputs)} registers from inputs_at = "
        yield f"{at}.outputs_at", f"{found}{client.inputs_at}", f"e.g. {inputs.stop} or more"


def _shared_places(at: str, line: LineConfig, other: LineConfig) -> Iterator[tuple[str, str, str]]:
    """Two lines that would get into each other's way: the same port, wire, register or file."""
    taken = f'which line "{other.name}" has'
    server, its = line.modbus_server, other.modbus_server
    if server and its and server.port == its.port and (server.host == its.host or ANY_HOST & {server.host, its.host}):
        yield f"{at}.modbus_server.port", f"{server.port}, {taken}", "a port of its own for each line"
    client, theirs = line.modbus_client, other.modbus_client
    if client and theirs and client.unit() == theirs.unit():
        (inputs, outputs), (their_inputs, their_outputs) = client.blocks(), theirs.blocks()
        pairs = ((outputs, their_outputs), (outputs, their_inputs), (inputs, their_outputs))
        if any(_overlap(one, another) for one, another in pairs):
            yield f"{at}.modbus_client.outputs_at", f"registers {taken} in the same PLC", "registers of its own"
    if line.gpio and other.gpio and line.gpio.chip == other.gpio.chip:
        numbers = [number for number in line.gpio.wires().values() if number is not None]
        shared = sorted(set(numbers) & set(other.gpio.wires().values()))
        if shared:
            yield f"{at}.gpio", f"line {shared[0]} of {line.gpio.chip}, {taken}", "a line of its own for each wire"
    if line.socket and other.socket and line.socket.path and line.socket.path == other.socket.path:
        yield f"{at}.socket.path", f'"{line.socket.path}", {taken}', "a path of its own for each line"


def _overlap(one: range, other: range) -> bool:
    return one.start < other.stop and other.start < one.stop
