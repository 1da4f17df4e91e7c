"""`edge-inspect bench line`: from raising a trigger in a PLC until the answer lies in the PLC's memory.

The PLC simulator runs in a process of its own and is polled over Modbus TCP on loopback; both take times from
CLOCK_MONOTONIC. The simulated camera exposes when the trigger arrives, as one does that hangs on the same light
barrier, so that no waiting for the next frame is in the numbers. Its pictures are drawn beforehand.

Percentiles are of parts that were judged; how many of how many stands beside them, and too few are no measurement.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from edge_inspect.capture.protocol import Camera, Format, Pixels, Read, Stamp
from edge_inspect.capture.ring import Slot
from edge_inspect.capture.sim import SimCamera
from edge_inspect.cli.plc_side import need_pymodbus
from edge_inspect.config import config_from_options
from edge_inspect.config_line import LineConfig, ModbusClientConfig
from edge_inspect.daemon import Appliance
from edge_inspect.errors import Refusal
from edge_inspect.inference.decode import Detections
from edge_inspect.inference.package import ModelPackage
from edge_inspect.line.protocol import Adapter, Answer, Trigger
from edge_inspect.pipeline import Judged, Lane
from edge_inspect.verdict.parts import Look

WARM_UP = 30
"""First parts that do not count: the runtime's and Python's first times."""
START_S = 120.0
PICTURES = 8
WORST = 10
LEAST_JUDGED = 0.9
"""Of the triggers; with fewer, the slow ones are missing from the percentiles."""
RECIPE = """name = "bench-line"
version = "1"
[classes."*"]
threshold = 0.25
[part]
mode = "trigger"
deadline_ms = 2000
window_ms = 2000
"""


class FlashCamera(Camera):
    """Gives one picture for each `expose`, at once; and one now and then without, so that nobody takes it for lost."""

    label = "sim:flash"
    live = True
    may_repeat = True

    def __init__(self, width: int = 640, height: int = 360) -> None:
        sim = SimCamera(seed=5, ng_share=0.5, paced=False, width=width, height=height)
        self._pictures = [np.empty((height, width, 3), np.uint8) for _ in range(PICTURES)]
        for number, pixels in enumerate(self._pictures):
            sim.show(sim.center_frame(number), pixels)
        self._exposed = threading.Semaphore(0)
        self._index = 0

    def expose(self) -> None:
        self._exposed.release()

    def open(self) -> Format:
        height, width = self._pictures[0].shape[:2]
        return Format(width, height, None, "BGR")

    def read_into(self, pixels: Pixels, stamp: Stamp) -> Read:
        self._exposed.acquire(timeout=0.4)
        stamp.captured_ns = time.monotonic_ns()
        pixels[:] = self._pictures[self._index % PICTURES]
        stamp.index, stamp.missed, stamp.broken, stamp.utc_ns = self._index, 0, "", time.time_ns()
        self._index += 1
        return Read.FRAME

    def close(self) -> None:
        """Nothing to let go of."""


class Step(NamedTuple):
    """One part as this side saw it, ns."""

    seen_ns: int
    captured_ns: int
    inference_ns: int
    answered_ns: int


class Notes(Adapter):
    """A watcher of the pipeline and an adapter beside the Modbus client: what became of each trigger here."""

    name = "notes"

    def __init__(self) -> None:
        self._judged: dict[int, tuple[int, int]] = {}
        self._answers: dict[int, Answer] = {}

    def frame(self, lane: Lane, slot: Slot, looks: list[Look], found: Detections | None) -> None:
        """Only verdicts count."""

    def judged(self, lane: Lane, judged: Judged, pixels: Pixels | None) -> None:
        if judged.stages:
            self._judged[judged.part] = (judged.captured_ns, judged.stages.inference_ns)

    def tell(self, answer: Answer) -> None:
        self._answers[answer.sequence] = answer

    def status(self, ready: bool, busy: bool) -> None:
        """The PLC shows it."""

    def run(self, stop: threading.Event, fire: Callable[[Trigger], None] | None = None) -> None:
        stop.wait()

    def step(self, sequence: int) -> Step | None:
        answer = self._answers.get(sequence)
        if answer is None or answer.part not in self._judged:
            return None
        return Step(answer.trigger.at_ns, *self._judged[answer.part], answer.answered_ns)


def bench_line(
    package: ModelPackage, provider: str, threads: int, triggers: int, poll_ms: float, console: Console
) -> dict[str, Any]:
    """Milliseconds from trigger to answer over `triggers` parts, and where they go. Raises Refusal."""
    need_pymodbus()
    camera, notes = FlashCamera(), Notes()
    with tempfile.TemporaryDirectory(prefix="edge-inspect-bench-") as name:
        folder = Path(name)
        (folder / "recipe.toml").write_text(RECIPE)
        port = _free_port()
        client = ModbusClientConfig(host="127.0.0.1", port=port, ring=16, poll_ms=poll_ms)
        config = config_from_options(
            None, camera="sim", state=folder / "state", provider=provider, threads=threads or None,
            recipe=folder / "recipe.toml", model=str(package.dir),
        ).model_copy(update={"line": (LineConfig(modbus_client=client),)})  # fmt: skip
        adapter = _client(client, camera.expose)
        appliance = Appliance(
            config, cameras={config.camera[0].name: camera}, adapters={"line": (adapter, notes)}, watchers=(notes,)
        )
        parts = _play(appliance, port, triggers + WARM_UP, folder)
        counts = appliance.lines["line"].side.counts
        used = next((s.lane.engine.provider for s in appliance.stations.values() if s.lane), provider)
    return _result(parts[WARM_UP:], notes, used, poll_ms, dict(counts.unknown), console)


def _client(config: ModbusClientConfig, expose: Callable[[], None]) -> Any:
    """The product's client; with each trigger that it brings, the camera exposes."""
    from edge_inspect.line.modbus_client import ModbusClient

    class Exposing(ModbusClient):
        def run(self, stop: threading.Event, fire: Callable[[Trigger], None] | None = None) -> None:
            def both(trigger: Trigger) -> None:
                assert fire is not None
                fire(trigger)
                expose()

            super().run(stop, both)

    return Exposing(**config.model_dump())


def _play(appliance: Appliance, port: int, triggers: int, folder: Path) -> list[dict[str, Any]]:
    """Run the appliance until the PLC's process has had its parts; its parts in order."""
    log = folder / "parts.jsonl"
    command = [sys.executable, "-m", "edge_inspect", "sim", "plc", "--listen", f"127.0.0.1:{port}", "--ring", "16"]
    command += ["--parts", str(triggers), "--every-ms", "97", "--deadline-ms", "2000", "--gate-ms", "2100"]
    command += ["--wait-s", str(START_S)]
    stop = threading.Event()
    with subprocess.Popen(
        [*command, "--log", str(log), "--json"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as plc:

        def watch_plc() -> None:
            plc.wait()
            stop.set()

        watch = threading.Thread(target=watch_plc, name="bench-plc")
        timer = threading.Timer(START_S + triggers * 0.2, plc.kill)
        watch.start()
        timer.start()
        try:
            appliance.run(stop)
        finally:
            plc.kill()
            timer.cancel()
            timer.join()
            watch.join()
    if plc.returncode or not log.exists():
        raise Refusal(f"the PLC simulator ended with {plc.returncode} before its {triggers} parts")
    return [json.loads(line) for line in log.read_text().splitlines()]


def _result(
    parts: Sequence[dict[str, Any]], notes: Notes, provider: str, poll_ms: float, unknown: dict[str, int],
    console: Console,
) -> dict[str, Any]:  # fmt: skip
    rows = [(part, step) for part in parts if part["answered_ns"] and (step := notes.step(part["sequence"]))]
    if not rows:
        raise Refusal(f"no trigger was answered by a verdict: {unknown}")
    total = [(part["answered_ns"] - part["fired_ns"]) / 1e6 for part, _ in rows]
    inference = [step.inference_ns / 1e6 for _, step in rows]
    result: dict[str, Any] = {
        "provider": provider, "triggers": len(parts), "judged": len(rows), "unknown": unknown, "poll_ms": poll_ms,
        "trigger_to_written_ms": spread(total),
        "inference_ms": spread(inference),
        "minus_inference_ms": spread([whole - part for whole, part in zip(total, inference, strict=True)]),
        "trigger_to_seen_ms": spread([(step.seen_ns - part["fired_ns"]) / 1e6 for part, step in rows]),
        "seen_to_answer_minus_inference_ms": spread(
            [(step.answered_ns - step.seen_ns - step.inference_ns) / 1e6 for _, step in rows]
        ),
        "answer_to_written_ms": spread([(part["answered_ns"] - step.answered_ns) / 1e6 for part, step in rows]),
        "worst_ms": _worst([_stages(part, step) for part, step in rows]),
    }  # fmt: skip
    whole, own = result["trigger_to_written_ms"], result["minus_inference_ms"]
    console.print(f"trigger -> answer in the PLC: p50 {whole['p50']} ms, p99 {whole['p99']}, p99.9 {whole['p999']}, "
                  f"max {whole['max']} ({len(rows)} of {len(parts)} parts judged, on {provider}); "
                  f"minus inference: {own['p50']}, {own['p99']}, {own['p999']}, {own['max']}")  # fmt: skip
    return result


def check_enough_judged(result: dict[str, Any]) -> None:
    """Raises Refusal where the percentiles speak for too few of the parts."""
    judged, triggers = result["judged"], result["triggers"]
    if judged < LEAST_JUDGED * triggers:
        why = ", ".join(f"{reason} {number}" for reason, number in sorted(result["unknown"].items())) or "no answer"
        raise Refusal(
            f"only {judged} of {triggers} parts were judged ({why}); at least {LEAST_JUDGED:.0%} must be, or the "
            "percentiles leave out the slowest"
        )


def _stages(part: dict[str, Any], step: Step) -> dict[str, float]:
    """Where one part's time went, ms; `camera`: until its picture was taken, `own`: all of ours after it."""
    return {
        "seen": (step.seen_ns - part["fired_ns"]) / 1e6,
        "camera": (step.captured_ns - step.seen_ns) / 1e6,
        "inference": step.inference_ns / 1e6,
        "own": (step.answered_ns - step.captured_ns - step.inference_ns) / 1e6,
        "written": (part["answered_ns"] - step.answered_ns) / 1e6,
    }


def _worst(parts: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """The parts that took longest besides inference, the worst first: one look says which stage the tail comes from."""
    longest = sorted(parts, key=lambda stages: stages["inference"] - sum(stages.values()))[:WORST]
    return [{name: round(ms, 2) for name, ms in stages.items()} for stages in longest]


def spread(times_ms: Sequence[float]) -> dict[str, float]:
    """p50, p99, p99.9 and max of the samples, ms, rounded to the microsecond."""
    ordered = sorted(times_ms)
    picked = {name: ordered[min(len(ordered) - 1, int(len(ordered) * share))]
              for name, share in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999), ("max", 1.0))}  # fmt: skip
    return {name: round(value, 3) for name, value in picked.items()}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
