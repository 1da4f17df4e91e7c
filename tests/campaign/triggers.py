"""100,000 triggers from the PLC simulator, three times as many as inference can hold, while everything goes wrong.

    python -m tests.campaign.triggers --triggers 100000 --unplugs 30 --hangs 30 --swaps 30
    python -m tests.campaign.triggers --triggers 400 --unplugs 1 --hangs 1 --swaps 1          # the short form

A whole appliance (camera thread, ring, network, desk, Modbus client; `--deliver`: outbox too) answers over real Modbus
TCP on loopback. The network is the tiny one, made to take `--inference-ms`; what it holds is measured first, one part
after the other, and `--times` as many parts come then.

The oracle is this program's: what was written into the PLC's registers is noted as it arrives, on another file system
(/dev/shm), and what each part was is known from the seed; nothing is taken from the daemon's own counts but to be
compared. A campaign fails if a trigger has no answer or more than one, if an OK or NG that reached the registers after
its deadline was left standing there or is counted as told (or the PLC let such a part pass), if a part whose picture
could not be judged (dark, white, broken, poisoned numbers, camera unplugged or hanging) was OK, or if a bad part was
OK. Nobody can know how long before it was seen a trigger was raised, so the deadline counts from then; and an OK that
arrived in time but was confirmed too late is taken back although the PLC may have used it (`passed_then_taken_back`).
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_inspect.capture.ring import Slot
from edge_inspect.cli.log import configure_log
from edge_inspect.config import Config, config_from_options
from edge_inspect.config_line import LineConfig, ModbusClientConfig
from edge_inspect.daemon import Appliance
from edge_inspect.inference.decode import Detections
from edge_inspect.inference.engine import Engine
from edge_inspect.inference.package import ModelPackage
from edge_inspect.line import modbus_map as at
from edge_inspect.line.modbus_client import ModbusClient
from edge_inspect.line.plc_program import PlcPart, PlcProgram
from edge_inspect.line.plc_sim import PlcAsServer
from edge_inspect.line.protocol import Trigger
from edge_inspect.pipeline import Judged, Lane
from edge_inspect.verdict.parts import Look
from tests.campaign.flash_camera import BAD, FlashCamera
from tests.sim.tiny_model import write_tiny_package

NETWORK_MS = 10.0
"""What the PLC adds to the recipe's deadline for scan, poll and network."""
MEASURED = 60
"""Parts that are fired one by one to find out what inference holds."""
WAIT_S = 120.0
UNPLUGGED_S, HANGS_S = 0.4, 0.8
RECIPE = """
name = "campaign"
version = "1"
[classes.scratch]
threshold = 0.5
[part]
mode = "trigger"
deadline_ms = {deadline_ms}
"""
KINDS = {int(at.Result.OK): "OK", int(at.Result.NG): "NG", int(at.Result.UNKNOWN): "UNKNOWN"}


class Oracle:
    """What lies in the PLC, result by result, as lines of `sequence ns kind reason` in a file of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("w")

    def written(self, at_ns: int, first: int, words: list[int]) -> None:
        for start in range(max(0, at.RESULT_RING - first), len(words), at.RESULT_WORDS):
            high, low, bits, code, *end = words[start : start + at.RESULT_WORDS]
            if bits & at.Result.VALID and end == [high, low]:
                kind = KINDS.get(bits & ~at.Result.VALID, f"bits {bits}")
                self._file.write(f"{at.join(high, low, False)} {at_ns} {kind} {at.reason_of(code)}\n")

    def read(self) -> list[tuple[int, int, str, str]]:
        self._file.close()
        lines = (line.split(" ") for line in self.path.read_text().splitlines())
        return [(int(sequence), int(at_ns), kind, reason) for sequence, at_ns, kind, reason in lines]


class Swapper:
    """Exchanges the network by its twin when asked to, in a thread of its own; a watcher of what judging costs."""

    def __init__(self, twins: Sequence[ModelPackage]) -> None:
        self.appliance: Appliance
        self.wanted = threading.Semaphore(0)
        self.over = False
        self.swaps = 0
        self.cost_ns: list[int] = []
        self._twins = itertools.cycle(twins)

    def run(self) -> None:
        """Until `close`."""
        while self.wanted.acquire() and not self.over:
            self.appliance.models.swap(next(self._twins))
            self.swaps += 1

    def frame(self, lane: Lane, slot: Slot, looks: list[Look], found: Detections | None) -> None:
        """Verdicts are enough."""

    def judged(self, lane: Lane, judged: Judged, pixels: object) -> None:
        if judged.stages is not None:
            stages = judged.stages
            self.cost_ns.append(stages.letterbox_ns + stages.inference_ns + stages.decode_ns + stages.judge_ns)

    def close(self) -> None:
        self.over = True
        self.wanted.release()


class FlashingClient(ModbusClient):
    """The product's client; the camera hangs on the same wire."""

    camera: FlashCamera

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seen_ns: dict[int, int] = {}
        """When each trigger was seen here: from then on the deadline counts."""

    def run(self, stop: threading.Event, fire: Callable[[Trigger], None] | None = None) -> None:
        def both(trigger: Trigger) -> None:
            assert fire is not None
            self.seen_ns[trigger.sequence] = trigger.at_ns
            fire(trigger)
            self.camera.expose(trigger.sequence)

        super().run(stop, both)


@dataclass
class Campaign:
    options: argparse.Namespace
    folder: Path
    decided: list[PlcPart] = field(default_factory=list)
    capacity_per_s: float = 0.0
    offered_per_s: float = 0.0

    def run(self) -> dict[str, Any]:
        options = self.options
        shares = {BAD: 0.2, "dark": 0.02, "white": 0.02, "broken": 0.02, "poison": 0.02}
        self.camera = FlashCamera(options.seed, shares)
        self.oracle = Oracle(self.folder / "answers")
        self.program = PlcProgram(
            deadline_ms=options.deadline_ms + NETWORK_MS, gate_ms=options.deadline_ms + NETWORK_MS + 50,
            heartbeat_ms=5000, waits_for_room=True, decided=self.decided.append,
        )  # fmt: skip
        plc = PlcAsServer(self.program, written=self.oracle.written)
        stop_plc, stop = threading.Event(), threading.Event()
        thread = threading.Thread(target=plc.run, args=(stop_plc,), name="plc")
        thread.start()
        try:
            assert plc.listening.wait(WAIT_S)
            self._around(plc.port, stop)
        finally:
            stop_plc.set()
            thread.join()
        return self._verdict()

    def _around(self, port: int, stop: threading.Event) -> None:
        """The appliance in this thread, the line in another."""
        table = ModbusClientConfig(host="127.0.0.1", port=port, ring=16, poll_ms=2.0)
        client = FlashingClient(**table.model_dump())
        client.camera = self.camera
        self.client = client
        first, second = (write_tiny_package(self.folder / name, name=name, poison=True) for name in ("tiny", "twin"))
        self.swapper = Swapper([ModelPackage.load(second), ModelPackage.load(first)])
        config = self._config(table, first)
        appliance = Appliance(
            config, cameras={config.camera[0].name: self.camera}, adapters={"line": (client,)},
            watchers=(self.swapper,), deliver=self.options.deliver,
        )  # fmt: skip
        self.swapper.appliance = appliance
        errors: list[BaseException] = []

        def line() -> None:
            try:
                self._play()
            except BaseException as err:  # noqa: BLE001 - raised below
                errors.append(err)
            finally:
                stop.set()

        threads = [
            threading.Thread(target=line, name="line"),
            threading.Thread(target=self.swapper.run, name="swapper"),
        ]
        for thread in threads:
            thread.start()
        try:
            appliance.run(stop)
        finally:
            self.swapper.close()
            for thread in threads:
                thread.join()
        if errors:
            raise errors[0]
        counts = appliance.lines["line"].side.counts
        self.of_the_daemon = {
            "triggers": counts.triggers, "ok": counts.ok, "ng": counts.ng, **counts.unknown,
            "withdrawn": counts.withdrawn.total(), **client.counts(),
        }  # fmt: skip

    def _config(self, table: ModbusClientConfig, model: Path) -> Config:
        recipe = self.folder / "recipe.toml"
        recipe.write_text(RECIPE.format(deadline_ms=self.options.deadline_ms))
        config = config_from_options(
            None, camera="sim", state=self.folder / "state", provider="cpu", threads=1, recipe=recipe, model=str(model)
        )
        camera = config.camera[0].model_copy(update={"model": None})
        of_the_box = config.model.model_copy(update={"dir": str(model)})
        line = LineConfig(modbus_client=table)
        return config.model_copy(update={"line": (line,), "model": of_the_box, "camera": (camera,)})

    # --- the line's side ------------------------------------------------------------------------------------------

    def _play(self) -> None:
        self._wait_for(lambda: self.program.ready, "the appliance is ready")
        for _ in range(MEASURED):
            answers = len(self.decided)
            self.program.arrives()
            self._wait_for(lambda answers=answers: len(self.decided) > answers, "a part at the gate")  # type: ignore[misc]
        costs = sorted(self.swapper.cost_ns)
        assert costs, "nothing was judged"
        self.capacity_per_s = 1e9 / costs[len(costs) // 2]
        period_s = 1 / (self.options.times * self.capacity_per_s)
        faults = self._faults()
        began = next_s = time.monotonic()
        for number in range(self.options.triggers):
            if fault := faults.get(number):
                self._inject(fault)
            self.program.arrives()
            next_s += period_s
            time.sleep(max(0.0, next_s - time.monotonic()))
            if number % 5000 == 4999:
                print(f"{number + 1} parts, {self.program.counts}", file=sys.stderr, flush=True)
        self._wait_for(lambda: self.program.idle, "every part is through")
        self.offered_per_s = self.options.triggers / (time.monotonic() - began)
        self._wait_for(lambda: self.swapper.swaps >= self.options.swaps, "every swap that was asked for is done")
        self._wait_for(lambda: self.camera.losses >= min(1, self.options.unplugs), "an unplug has struck")
        self._wait_for(lambda: self.camera.hangs >= min(1, self.options.hangs), "a hang has struck")

    def _faults(self) -> dict[int, str]:
        """Which fault comes with which part; the first tenth is left in peace."""
        options = self.options
        names = ["unplug"] * options.unplugs + ["hang"] * options.hangs + ["swap"] * options.swaps
        free = range(options.triggers // 10, options.triggers)
        where = random.Random(options.seed).sample(free, len(names))
        return dict(zip(where, names, strict=True))

    def _inject(self, fault: str) -> None:
        if fault == "unplug":
            self.camera.unplug(UNPLUGGED_S)
        elif fault == "hang":
            self.camera.hang(HANGS_S)
        else:
            self.swapper.wanted.release()

    def _wait_for(self, what: Callable[[], bool], why: str) -> None:
        until = time.monotonic() + WAIT_S
        while not what():
            assert time.monotonic() < until, f"waited in vain: {why}"
            time.sleep(0.002)

    # --- the end --------------------------------------------------------------------------------------------------

    @property
    def _plc_deadline_ns(self) -> int:
        return int((self.options.deadline_ms + NETWORK_MS) * 1e6)

    def _until_ns(self, sequence: int) -> int:
        """The recipe's deadline of a part: it counts from when the trigger was seen, which the PLC cannot know."""
        return self.client.seen_ns[sequence] + int(self.options.deadline_ms * 1e6)

    def _verdict(self) -> dict[str, Any]:
        written = self.oracle.read()
        parts = {part.sequence: part for part in self.decided}
        # What was found to be late when it was written is written over: the last word is the answer.
        answers = list({answer[0]: answer for answer in written}.values())
        taken_back = _taken_back(written)
        times = Counter(sequence for sequence, *_ in written)
        times.subtract(taken_back)
        late = [a for a in written if a[0] in parts and a[1] >= self._until_ns(a[0])]
        late_ok = [a[0] for a in late if a[2] == "OK" and a[1] - parts[a[0]].fired_ns > self._plc_deadline_ns]
        ok = [sequence for sequence, _, kind, _ in answers if kind == "OK"]
        ever_ok = {sequence for sequence, _, kind, _ in written if kind == "OK"}
        passed = {part.sequence for part in self.decided if part.passed}
        failed = {
            "unanswered": sum(sequence not in times for sequence in parts),
            "answered_twice": sum(count > 1 for count in times.values()),
            "answers_to_nobody": sum(sequence not in parts for sequence in times),
            "late_and_left_standing": sum(kind != "UNKNOWN" and seq not in taken_back for seq, _, kind, _ in late),
            "late_and_not_counted": max(0, len(taken_back) - self.of_the_daemon["withdrawn"]),
            "counted_as_ok_and_told_otherwise": abs(self.of_the_daemon["ok"] - len(ok)),
            "passed_after_the_deadline": len(passed.intersection(late_ok)),
            "unjudgeable_ok": sum(
                self.camera.delivered.get(sequence, "no picture") not in ("good", BAD) for sequence in ever_ok
            ),
            "escapes": sum(self.camera.scene(sequence) == BAD for sequence in ever_ok),
            "kinds_of_faults_that_never_struck": sum(
                asked > 0 and not struck
                for asked, struck in (
                    (self.options.unplugs, self.camera.losses),
                    (self.options.hangs, self.camera.hangs),
                    (self.options.swaps, self.swapper.swaps),
                )
            ),
            "passed_without_ok": len(passed - ever_ok),
        }
        reasons = Counter(reason for _, _, kind, reason in answers if kind == "UNKNOWN")
        scenes = Counter(self.camera.scene(sequence) for sequence in parts)
        total = len(parts)
        return {
            "n": total, "answers": len(answers), "ok": len(ok), "ng": sum(a[2] == "NG" for a in answers),
            "unknown": dict(reasons), "parts": dict(scenes),
            "overkill": sum(a[2] == "NG" and self.camera.scene(a[0]) != BAD for a in answers),
            "capacity_per_s": round(self.capacity_per_s, 1), "offered_per_s": round(self.offered_per_s, 1),
            "unplugs": self.camera.losses, "hangs": self.camera.hangs, "swaps": self.swapper.swaps,
            "late_answers": len(late), "taken_back": len(taken_back),
            "passed_then_taken_back": len(passed & taken_back),
            "answer_ms": {**self.program.latency.summary(50, 99, 99.9), "max": self.program.latency.max_ms},
            "of_the_daemon": self.of_the_daemon, "failed": failed, "failures": sum(failed.values()),
            "bound": 3 / total,
        }  # fmt: skip


def _taken_back(written: Sequence[tuple[int, int, str, str]]) -> set[int]:
    """Numbers whose OK or NG was followed by UNKNOWN `deadline`."""
    before: dict[int, str] = {}
    found = set()
    for sequence, _, kind, reason in written:
        if before.get(sequence) in ("OK", "NG") and (kind, reason) == ("UNKNOWN", "deadline"):
            found.add(sequence)
        before[sequence] = kind
    return found


def slowed(inference_ms: float) -> None:
    """Every network of this process takes so much longer, without using the processor."""
    init = Engine.__init__

    def slow_init(self: Engine, *arguments: Any, **options: Any) -> None:
        init(self, *arguments, **options)
        run = self.run

        def slow() -> None:
            run()
            time.sleep(inference_ms / 1000)

        self.run = slow

    Engine.__init__ = slow_init  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--triggers", type=int, default=100_000)
    parser.add_argument("--times", type=float, default=3.0, help="how many times what inference holds")
    parser.add_argument("--inference-ms", type=float, default=10.0)
    parser.add_argument("--deadline-ms", type=float, default=100.0)
    parser.add_argument("--unplugs", type=int, default=30)
    parser.add_argument("--hangs", type=int, default=30)
    parser.add_argument("--swaps", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--deliver", action="store_true", help="with outbox: every UNKNOWN and NG is written to disk")
    options = parser.parse_args()
    configure_log("error", "text")
    slowed(options.inference_ms)
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="triggers-", dir=shm if shm.is_dir() else None) as folder:
        result = Campaign(options, Path(folder)).run()
    print(json.dumps(result))
    sys.exit(1 if result["failures"] else 0)


if __name__ == "__main__":
    main()
