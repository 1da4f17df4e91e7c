"""The line as wires: gpiod's real C code against a played chip, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sim.gpio import GpioChip

pytest.importorskip("gpiod", reason="needs the extra `line`")

TRIGGER, ENCODER, CONFIRM, OK, NG, BUSY, READY, REJECT, HEARTBEAT = 4, 5, 6, 10, 11, 12, 13, 14, 15
INPUTS = {"trigger": TRIGGER, "encoder": ENCODER, "confirm": CONFIRM}
OUTPUTS = {"ok": OK, "ng": NG, "busy": BUSY, "ready": READY, "reject": REJECT}
WIRES = INPUTS | OUTPUTS
LONG_MS = 600_000.0
"""A pulse that outlasts what a test looks at, on any machine."""
WAIT_S = 60.0
WORKER = Path(__file__).parents[2] / "sim" / "gpio_worker.py"


class Worker:
    """The other process; what it said, in order."""

    def __init__(self, chip: GpioChip, **settings: Any) -> None:
        self._said: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._asked = 0
        settings = {"wires": WIRES, **settings}
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER), json.dumps(settings)],
            env=chip.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self._thread = threading.Thread(target=self._read, name="worker-output")
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                with self._changed:
                    self._said.append(json.loads(line))
                    self._changed.notify_all()

    def said(self, key: str) -> list[Any]:
        with self._changed:
            return [event[key] for event in self._said if key in event]

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, WAIT_S), self._said[-20:]

    def wait_for_triggers(self, count: int) -> list[int]:
        self.wait_for(lambda: len(self.said("trigger")) >= count)
        return self.said("trigger")

    def do(self, **command: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def ask(self) -> dict[str, Any]:
        self._asked += 1
        self.do(ask=self._asked)
        self.wait_for(lambda: self._asked in self.said("asked"))
        with self._changed:
            return next(event for event in self._said if event.get("asked") == self._asked)

    def wait_for_trouble(self, words: str) -> dict[str, Any]:
        until = time.monotonic() + WAIT_S
        while words not in (state := self.ask())["trouble"] or bool(words) != bool(state["trouble"]):
            assert time.monotonic() < until, state
            time.sleep(0.02)
        return state

    def end(self) -> None:
        """Orderly, as by SIGTERM to the daemon."""
        assert self.process.stdin is not None and self.process.stdout is not None
        if not self.process.stdin.closed:
            self.process.stdin.close()
        self.process.wait(WAIT_S)
        self._thread.join(WAIT_S)
        self.process.stdout.close()

    def kill(self) -> None:
        self.process.kill()
        self.end()


@pytest.fixture
def chip(tmp_path: Path) -> Iterator[GpioChip]:
    with GpioChip(tmp_path) as played:
        yield played


@pytest.fixture
def work(chip: GpioChip) -> Iterator[Callable[..., Worker]]:
    made: list[Worker] = []

    def start(*, opens: bool = True, **settings: Any) -> Worker:
        made.append(Worker(chip, **settings))
        if opens:
            made[-1].wait_for_trouble("")
        return made[-1]

    yield start
    for worker in made:
        worker.kill()


Work = Callable[..., Worker]


def test_every_edge_is_one_trigger_with_the_kernels_time(chip: GpioChip, work: Work) -> None:
    worker = work()
    at_ns = time.monotonic_ns()
    for number in range(5):
        chip.pulse(TRIGGER, at_ns=at_ns + number * 2_000_000_000)
    assert worker.wait_for_triggers(5) == [1, 2, 3, 4, 5]
    debounce_ns = 1_000_000
    assert worker.said("at_ns") == [at_ns + number * 2_000_000_000 + debounce_ns for number in range(5)]


def test_bouncing_contact_is_one_trigger(chip: GpioChip, work: Work) -> None:
    worker = work(debounce_us=1000)
    at_ns = time.monotonic_ns()
    bounce = [(0, True), (200, False), (350, True), (900, False), (950, True)]
    chip.edges(TRIGGER, [*bounce, (500_000, False), (500_100, True), (500_200, False)], at_ns=at_ns)
    spike = [(900_000, True), (900_400, False)]
    chip.edges(TRIGGER, spike, at_ns=at_ns)
    chip.pulse(TRIGGER, at_ns=at_ns + 10**9)
    assert worker.wait_for_triggers(2) == [1, 2]
    assert worker.said("at_ns") == [at_ns + 1_950_000, at_ns + 1_001_000_000]


def test_without_debounce_every_bounce_counts(chip: GpioChip, work: Work) -> None:
    worker = work(debounce_us=0)
    chip.edges(TRIGGER, [(0, True), (200, False), (350, True), (900, False), (950, True)])
    assert worker.wait_for_triggers(3) == [1, 2, 3]


@pytest.mark.parametrize(("edge", "active_low", "level"), [
    ("rising", False, True), ("falling", False, False), ("rising", True, False), ("falling", True, True),
])  # fmt: skip
def test_edge_means_what_the_polarity_says(
    chip: GpioChip, work: Work, edge: str, active_low: bool, level: bool
) -> None:
    chip.pulled[TRIGGER] = not level
    worker = work(edge=edge, active_low=active_low, debounce_us=0)
    at_ns = time.monotonic_ns()
    chip.edges(TRIGGER, [(0, level), (500_000, not level)], at_ns=at_ns)
    chip.edges(TRIGGER, [(900_000, level)], at_ns=at_ns)
    assert worker.wait_for_triggers(2) == [1, 2]
    assert worker.said("at_ns") == [at_ns, at_ns + 900_000_000]


def test_lost_edges_use_up_their_numbers_and_are_counted(chip: GpioChip, work: Work) -> None:
    worker = work()
    chip.pulse(TRIGGER)
    worker.wait_for_triggers(1)
    chip.lose_events(TRIGGER, 3)
    chip.pulse(TRIGGER)
    assert worker.wait_for_triggers(2) == [1, 5]
    assert worker.ask()["edges_lost"] == 3


def test_encoder_is_counted_and_stands_in_the_trigger(chip: GpioChip, work: Work) -> None:
    worker = work()
    for _ in range(100):
        chip.edges(ENCODER, [(0, True), (10, False)])
    worker.wait_for(lambda: 100 in worker.said("counts"))
    chip.lose_events(ENCODER, 50)
    chip.edges(ENCODER, [(0, True), (10, False)])
    worker.wait_for(lambda: 151 in worker.said("counts"))
    chip.pulse(TRIGGER)
    worker.wait_for_triggers(1)
    assert worker.said("encoder") == [151]


def test_confirm_wire_is_heard_and_is_no_trigger(chip: GpioChip, work: Work) -> None:
    worker = work()
    chip.pulse(CONFIRM)
    worker.wait_for(lambda: bool(worker.said("confirmed")))
    assert worker.said("confirmed") == [1] and not worker.said("trigger")


@pytest.mark.parametrize(("kind", "on", "off"), [("OK", OK, NG), ("NG", NG, OK), ("UNKNOWN", NG, OK)])
def test_answer_is_a_pulse_on_its_own_wire_and_on_no_other(
    chip: GpioChip, work: Work, kind: str, on: int, off: int
) -> None:
    worker = work(pulse_ms=20)
    worker.do(tell=kind, seq=1)
    chip.wait_for(lambda: chip.levels(on) == [False, True, False], "pulse")
    assert chip.levels(off) == [False]


def test_ok_that_is_late_is_never_shown_as_ok(chip: GpioChip, work: Work) -> None:
    worker = work(pulse_ms=20)
    worker.do(tell="OK", seq=1, in_ms=-1)
    chip.wait_for(lambda: chip.levels(NG) == [False, True, False], "pulse")
    assert chip.levels(OK) == [False]


def test_latched_answer_stays_until_the_next_trigger(chip: GpioChip, work: Work) -> None:
    worker = work(output="latch", pulse_ms=1)
    worker.do(tell="OK", seq=1)
    chip.wait_for(lambda: chip.level(OK), "latched")
    chip.pulse(TRIGGER)
    chip.wait_for(lambda: not chip.level(OK), "cleared by the trigger")
    worker.do(tell="NG", seq=2)
    chip.wait_for(lambda: chip.level(NG), "latched")
    assert chip.levels(OK) == [False, True, False]


def test_equal_answers_in_a_row_are_edges_of_their_own(chip: GpioChip, work: Work) -> None:
    worker = work(pulse_ms=20)
    for number in range(5):
        worker.do(tell="OK", seq=number)
    chip.wait_for(lambda: chip.levels(OK) == [False, *[True, False] * 5], "five pulses")


def test_status_and_reject_wires_follow(chip: GpioChip, work: Work) -> None:
    worker = work()
    worker.do(status=[True, False])
    chip.wait_for(lambda: chip.level(READY) and not chip.level(BUSY), "ready")
    worker.do(status=[True, True])
    chip.wait_for(lambda: chip.level(BUSY), "busy")
    worker.do(reject=20)
    chip.wait_for(lambda: chip.levels(REJECT) == [False, True, False], "gate")


def test_heartbeat_beats_and_stops_with_the_application(chip: GpioChip, work: Work) -> None:
    worker = work(wires={"ok": OK, "heartbeat": HEARTBEAT}, heartbeat_ms=20)
    chip.wait_for(lambda: len(chip.levels(HEARTBEAT)) > 5, "beats")
    worker.do(alive=False)
    worker.ask()
    counts = []
    for pulses in (1, 2):  # while one pulse passes, whatever the thread had begun before is over
        worker.do(tell="OK", seq=pulses)
        chip.wait_for(lambda wanted=pulses: chip.levels(OK) == [False, *[True, False] * wanted], "pulse")  # type: ignore[misc]
        counts.append(len(chip.levels(HEARTBEAT)))
    assert counts[0] == counts[1] and not chip.level(HEARTBEAT)


def test_active_low_wires_rest_high(chip: GpioChip, work: Work) -> None:
    chip.pulled = [True] * chip.lines
    worker = work(active_low=True, pulse_ms=20)
    worker.do(tell="OK", seq=1)
    chip.wait_for(lambda: chip.levels(OK) == [True, False, True], "pulse")


@pytest.mark.parametrize("rejects", [False, True])
def test_clean_stop_drives_the_fail_safe_levels(chip: GpioChip, work: Work, rejects: bool) -> None:
    worker = work(pulse_ms=LONG_MS, rejects_at_rest=rejects)
    worker.do(status=[True, True])
    worker.do(tell="OK", seq=1)
    chip.wait_for(lambda: chip.level(OK) and chip.level(READY) and not chip.level(REJECT), "judging")
    chip.keeps_levels = True
    worker.end()
    assert worker.process.returncode == 0 and worker.said("ended") == [True]
    chip.wait_for(chip.is_free, "released")
    assert {line: chip.level(line) for line in OUTPUTS.values()} == dict.fromkeys(OUTPUTS.values(), False) | {
        REJECT: rejects
    }


@pytest.mark.parametrize("active_low", [False, True])
def test_kill_lets_go_of_the_wires_and_the_pull_resistors_decide(chip: GpioChip, work: Work, active_low: bool) -> None:
    chip.pulled = [active_low] * chip.lines
    worker = work(pulse_ms=LONG_MS, active_low=active_low)
    worker.do(tell="OK", seq=1)
    chip.wait_for(lambda: chip.level(OK) is not active_low, "OK")
    worker.kill()
    chip.wait_for(chip.is_free, "released")
    assert chip.level(OK) is active_low, "off"


def test_chip_that_keeps_levels_is_driven_to_rest_by_the_next_start(chip: GpioChip, work: Work) -> None:
    chip.keeps_levels = True
    worker = work(pulse_ms=LONG_MS)
    worker.do(tell="OK", seq=1)
    chip.wait_for(lambda: chip.level(OK), "OK")
    worker.kill()
    chip.wait_for(chip.is_free, "released")
    assert chip.level(OK), "such a driver leaves it as it was: docs/line-gpio.md says what to do"
    work()
    assert not chip.level(OK)


def test_command_after_a_kill_drives_kept_levels_to_rest(chip: GpioChip, work: Work, tmp_path: Path) -> None:
    config = tmp_path / "edge-inspect.toml"
    config.write_text(
        '[[camera]]\nname = "left"\nsource = "sim"\n[[line]]\nfail_safe = "reject"\n[line.reject]\ntravel_ms = 500\n'
        f"[line.gpio]\ntrigger_line = {TRIGGER}\nok_line = {OK}\nng_line = {NG}\nreject_line = {REJECT}\n"
    )
    chip.keeps_levels = True
    worker = work(pulse_ms=LONG_MS)
    worker.do(status=[True, False])
    worker.do(tell="OK", seq=1)
    chip.wait_for(lambda: chip.level(OK), "OK")
    worker.kill()
    chip.wait_for(chip.is_free, "released")
    command = [sys.executable, "-m", "edge_inspect", "line", "rest", "--config", str(config), "--json"]
    printed = subprocess.run(
        command, env=chip.environment(), capture_output=True, text=True, timeout=WAIT_S, check=True
    )
    assert json.loads(printed.stdout) == {"ok": True, "lines": ["line"]}
    assert not chip.level(OK) and not chip.level(NG) and chip.level(REJECT)


def test_missing_chip_is_one_line_and_is_found_when_it_comes(chip: GpioChip, work: Work) -> None:
    chip.unplug()
    worker = work(opens=False)
    state = worker.wait_for_trouble("no such GPIO chip")
    assert "\n" not in state["trouble"] and "/dev/gpiochip0" in state["trouble"] and state["lost"] == 0
    chip.plug()
    worker.wait_for_trouble("")
    chip.pulse(TRIGGER)
    assert worker.wait_for_triggers(1) == [1]


def test_line_in_use_is_one_line_that_says_by_whom(chip: GpioChip, work: Work) -> None:
    chip.held.add(NG)
    worker = work(opens=False)
    assert worker.wait_for_trouble("in use")["trouble"] == f"/dev/gpiochip0: line {NG} is in use by spi0 CS0"
    chip.held.clear()
    worker.wait_for_trouble("")


def test_no_permission_is_one_line(chip: GpioChip, work: Work) -> None:
    chip.denied = True
    worker = work(opens=False)
    worker.wait_for_trouble("no permission")
    chip.denied = False
    worker.wait_for_trouble("")


def test_line_the_chip_does_not_have_ends_it_with_one_line(chip: GpioChip, work: Work) -> None:
    worker = work(opens=False, wires={"trigger": TRIGGER, "ok": 99})
    worker.wait_for(lambda: bool(worker.said("error")))
    assert worker.said("error") == ["/dev/gpiochip0: found line 99, allowed: 0-31"]
    assert worker.said("kind") == ["BadConfig"]


def test_unplugged_chip_is_seen_and_used_again_and_old_answers_stay_untold(chip: GpioChip, work: Work) -> None:
    worker = work(pulse_ms=20)
    chip.pulse(TRIGGER)
    worker.wait_for_triggers(1)
    for times in (1, 2, 3):
        chip.unplug()
        assert worker.wait_for_trouble("/dev/gpiochip0")["lost"] == times
        worker.do(tell="OK", seq=1)
        worker.ask()
        chip.plug()
        state = worker.wait_for_trouble("")
        assert state["untold"] == times
        chip.pulse(TRIGGER)
        assert worker.wait_for_triggers(1 + times)[-1] == 1 + times, "numbers go on"
    assert chip.levels(OK) == [False]


def test_second_daemon_on_the_same_wires_waits_and_takes_over(chip: GpioChip, work: Work) -> None:
    first = work()
    second = work(opens=False)
    second.wait_for_trouble("in use by edge-inspect")
    first.kill()
    second.wait_for_trouble("")
    chip.pulse(TRIGGER)
    assert second.wait_for_triggers(1) == [1]


def test_no_file_descriptor_is_left_by_reconnects(chip: GpioChip, work: Work) -> None:
    left = []
    for times in (0, 5):
        worker = work()
        for lost in range(times):
            chip.unplug()
            worker.wait_for_trouble("/dev/gpiochip0")
            chip.plug()
            worker.wait_for_trouble("")
            assert worker.ask()["lost"] == lost + 1
        worker.end()
        left += worker.said("fds")
    assert left[0] == left[1]


def test_many_edges_are_answered_each(chip: GpioChip, work: Work) -> None:
    worker = work(answers=True, pulse_ms=4, debounce_us=0)
    for number in range(200):
        chip.pulse(TRIGGER)
        chip.wait_for(lambda wanted=number + 1: chip.levels(OK).count(True) == wanted, "its pulse")  # type: ignore[misc]
    assert worker.wait_for_triggers(200) == list(range(1, 201))
