"""`edge-inspect demo --plc`: the simulated line runs by trigger, and a simulated PLC throws out what is not OK.

A light barrier in front of the simulated camera tells the PLC of each plate; the PLC raises a trigger over Modbus TCP,
the daemon judges and answers, the PLC's gate passes the plate or rejects it. The simulator knows each plate's truth,
so what passed and should not have (escapes) and what was rejected for nothing are exact.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.table import Table

from edge_inspect.capture.protocol import Format, Pixels, Read, Stamp
from edge_inspect.capture.sim import SimCamera
from edge_inspect.cli.plc_side import need_pymodbus, plc_numbers, plc_running, plc_table
from edge_inspect.config import Config
from edge_inspect.config_line import LineConfig, ModbusClientConfig
from edge_inspect.errors import Refusal
from edge_inspect.verdict.recipe import find_recipe

RECIPE = "metal-plate-triggered"
LEAST_FPS = 12.0
"""The recipe's window is 100 ms: at fewer frames a second there might be no picture in it."""
PLC_DEADLINE_MS = 240.0
GATE_MS = 600.0
LISTEN_S = 10.0
LAST_PARTS_S = 5.0


class BarrierCamera(SimCamera):
    """Tells `passes` each plate's number when it has reached the middle of the picture.

    The belt starts with the first look at it: opening takes as long as an engine takes to build.
    """

    def __init__(self, passes: Callable[[int], None], **options: Any) -> None:
        super().__init__(**options)
        self._passes = passes
        self._last_part: int | None = options.get("parts")
        self._next = 0
        self._moves = False

    def open(self) -> Format:
        self._moves = False
        return super().open()

    def read_into(self, pixels: Pixels, stamp: Stamp) -> Read:
        if not self._moves:
            self._moves, self._start_ns = True, time.monotonic_ns()
        read = super().read_into(pixels, stamp)
        if read is Read.FRAME:
            while self._next != self._last_part and self.center_frame(self._next) <= stamp.index:
                self._passes(self._next)
                self._next += 1
        return read


class PlcLine:
    """The PLC beside the line: `camera` to look through, `running` around everything, `configure` within it."""

    def __init__(self, **camera: Any) -> None:
        need_pymodbus()
        from edge_inspect.line.plc_program import PlcPart, PlcProgram
        from edge_inspect.line.plc_sim import PlcAsServer

        def decided(part: PlcPart) -> None:
            assert part.tag is not None
            bad = self.camera.is_defective(part.tag)
            self.scores["escapes"] += bool(part.passed) and bad
            self.scores["overkill"] += part.why == "ng" and not bad

        self.scores: Counter[str] = Counter()
        self.ended = False
        """The appliance has come to its end, and its heartbeat with it."""
        self.program = PlcProgram(deadline_ms=PLC_DEADLINE_MS, gate_ms=GATE_MS, decided=decided)
        self.camera = BarrierCamera(self.program.arrives, **camera)
        self._plc = PlcAsServer(self.program)

    @contextmanager
    def running(self) -> Iterator[None]:
        with plc_running(self._plc.run):
            if not self._plc.listening.wait(LISTEN_S):
                raise Refusal("the PLC simulator does not listen")
            yield

    def configure(self, config: Config, recipe: Path | None) -> Config:
        """The configuration with this line, and with a recipe that waits for triggers. Call it while `running`."""
        client = ModbusClientConfig(host="127.0.0.1", port=self._plc.port, ring=16)
        camera = config.camera[0].model_copy(update={"recipe": recipe or find_recipe(RECIPE)})
        return config.model_copy(update={"camera": (camera,), "line": (LineConfig(modbus_client=client),)})

    def wait_for_the_gate(self) -> None:
        """The appliance has ended: until the last plates have passed the gate."""
        self.ended = True
        until = time.monotonic() + LAST_PARTS_S
        while not self.program.idle and time.monotonic() < until:
            time.sleep(0.01)

    def result(self) -> dict[str, Any]:
        """What `--json` adds and corrects: the gate knows each plate, whatever the pictures say."""
        numbers = plc_numbers(self.program)
        names = ("triggers", "answers", "missed_deadlines", "rejected", "passed", "skipped", "answer_ms")
        nobody = {"parts_missed": self.program.counts.skipped, "parts_found_twice": 0}
        return {
            **{name: numbers[name] for name in names}, **nobody,
            "escapes": self.scores["escapes"], "overkill": self.scores["overkill"],
        }  # fmt: skip

    def table(self) -> Table:
        return plc_table(self.program, "edge-inspect demo: simulated line and PLC", ended=self.ended)
