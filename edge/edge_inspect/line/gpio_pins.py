"""Lines of a GPIO chip through gpiod: request, drive, hear edges; here gpiod's errors become ours.

1. All outputs are requested with the level they have to rest at: there is no moment in between.
2. Edges carry the kernel's time stamps (CLOCK_MONOTONIC) and numbers, so that a lost one is noticed.
3. What may be better later (no such chip, a line in use, no permission, unplugged) is GpioGone and worth a new try;
   what never will be (no GPIO chip at all, no such line) is BadConfig. Each is one line that names chip and line.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal

import gpiod
from gpiod import line

from edge_inspect.errors import BadConfig, World

CONSUMER = "edge-inspect"
NOT_SUPPORTED = 524
"""The kernel's own ENOTSUPP, which is not in errno."""

Bias = Literal["as-is", "pull-up", "pull-down", "disabled"]


class GpioGone(World):
    """The chip or a line of it cannot be used right now."""


@dataclass(frozen=True, slots=True)
class Input:
    edge: Literal["rising", "falling"] = "rising"
    """After `active_low`: rising is from off to on."""
    debounce_us: int = 0
    bias: Bias = "as-is"


@dataclass(frozen=True, slots=True)
class Edge:
    offset: int
    at_ns: int
    """CLOCK_MONOTONIC, as stamped by the kernel; after its debouncing."""
    number: int
    """Counts this line's edges since the request, from 1, lost ones too."""


class Pins:
    """Lines requested together; closed by `close`, and by the kernel however the process ends."""

    def __init__(self, request: gpiod.LineRequest, where: str, values: tuple[line.Value, line.Value]) -> None:
        self._request = request
        self._where = where
        self._values = values
        self.fd: int = request.fd

    def set(self, levels: Mapping[int, bool]) -> None:
        """Drive outputs: offset -> on or off. Raises GpioGone."""
        with ours(self._where):
            self._request.set_values({offset: self._values[on] for offset, on in levels.items()})

    def edges(self) -> list[Edge]:
        """What has happened since the last call; waits if nothing has. Raises GpioGone."""
        with ours(self._where):
            events = self._request.read_edge_events()
        return [Edge(event.line_offset, event.timestamp_ns, event.line_seqno) for event in events]

    def close(self) -> None:
        self._request.release()


def request_pins(
    chip: Path, inputs: Mapping[int, Input], outputs: Mapping[int, bool], *, active_low: bool, buffered: int
) -> Pins:
    """Request lines by offset: inputs with how to hear them, outputs with their first level.

    buffered: how many edges the kernel keeps for us. Raises GpioGone, BadConfig.
    """
    values = (line.Value.INACTIVE, line.Value.ACTIVE)
    settings: dict[Iterable[int | str] | int | str, gpiod.LineSettings | None] = {
        offset: gpiod.LineSettings(
            direction=line.Direction.INPUT,
            edge_detection=line.Edge.RISING if wanted.edge == "rising" else line.Edge.FALLING,
            bias=line.Bias[wanted.bias.upper().replace("-", "_")],
            active_low=active_low,
            debounce_period=timedelta(microseconds=wanted.debounce_us),
            event_clock=line.Clock.MONOTONIC,
        )
        for offset, wanted in inputs.items()
    }
    settings |= {
        offset: gpiod.LineSettings(
            direction=line.Direction.OUTPUT, active_low=active_low, output_value=values[level]
        )
        for offset, level in outputs.items()
    }  # fmt: skip
    with ours(str(chip)), contextlib.closing(_opened(chip)) as opened:
        lines = opened.get_info().num_lines
        wanted_lines = [*inputs, *outputs]
        if max(wanted_lines) >= lines:
            raise BadConfig(f"{chip}: found line {max(wanted_lines)}, allowed: 0-{lines - 1}")
        try:
            request = opened.request_lines(settings, consumer=CONSUMER, event_buffer_size=buffered)
        except OSError as err:
            if err.errno == errno.EBUSY:
                raise GpioGone(f"{chip}: {_users(opened, wanted_lines)}") from err
            if err.errno in (errno.EINVAL, errno.ENXIO, errno.EOPNOTSUPP, NOT_SUPPORTED):
                raise BadConfig(
                    f"{chip}: its driver cannot do what is asked of lines {sorted(wanted_lines)} "
                    f"(edges, debounce or bias): {err.strerror}"
                ) from err
            raise
        return Pins(request, str(chip), values)


def _opened(chip: Path) -> gpiod.Chip:
    try:
        return gpiod.Chip(str(chip))
    except FileNotFoundError as err:
        there = ", ".join(sorted(str(path) for path in Path("/dev").glob("gpiochip*"))) or "none"
        raise GpioGone(f"{chip}: no such GPIO chip; there: {there}") from err
    except PermissionError as err:
        raise GpioGone(f"{chip}: no permission; does the user belong to the chip's group?") from err
    except OSError as err:
        if err.errno in (errno.ENOTTY, errno.ENODEV):
            raise BadConfig(f"{chip}: found something else, allowed: a GPIO chip such as /dev/gpiochip0") from err
        raise


def _users(opened: gpiod.Chip, offsets: list[int]) -> str:
    for offset in offsets:
        info = opened.get_line_info(offset)
        if info.used:
            return f"line {offset} is in use by {info.consumer or 'somebody'}"
    return "a line is in use"


@contextlib.contextmanager
def ours(where: str) -> Iterator[None]:
    """OSError becomes GpioGone."""
    try:
        yield
    except OSError as err:
        raise GpioGone(f"{where}: {err.strerror or err}") from err
