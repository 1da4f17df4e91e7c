"""The whole daemon on wires: a played GPIO chip triggers it, and wires, socket and MQTT are told the same."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mosquitto import Listener, Mosquitto
from tests.sim.gpio import GpioChip

pytest.importorskip("gpiod", reason="needs the extra `line`")

TRIGGER, ENCODER, CONFIRM, OK, NG, READY, REJECT, HEARTBEAT = 4, 5, 6, 10, 11, 13, 14, 15
END_S = 90.0
RECIPE = """
name = "spots"
version = "1"
[classes.scratch]
threshold = 0.5
[part]
mode = "trigger"
deadline_ms = {deadline_ms}
window_ms = 20000
"""
CONFIG = """
state_dir = "state"
[[camera]]
name = "left"
source = "sim"
recipe = "spots.toml"
[model]
dir = "{model}"
provider = "cpu"
threads = 1
[[line]]
name = "gate"
trigger = "{source}"
fail_safe = "reject"
[line.gpio]
trigger_line = 4
encoder_line = 5
confirm_line = 6
ok_line = 10
ng_line = 11
ready_line = 13
reject_line = 14
heartbeat_line = 15
pulse_ms = {pulse_ms}
[line.reject]
travel_counts = 100
pulse_ms = 20
confirm_ms = 60000
[line.socket]
path = "line.sock"
[line.mqtt]
url = "{broker}"
trigger_topic = "gate/trigger"
answer_topic = "gate/answer"
"""

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def chip(tmp_path: Path) -> Iterator[GpioChip]:
    with GpioChip(tmp_path) as played:
        yield played


@pytest.fixture
def start(tmp_path: Path, tiny_model: Path, chip: GpioChip, mosquitto: Mosquitto) -> Iterator[Start]:
    """Starts a daemon with all three adapters, and returns when it is ready."""
    running: list[subprocess.Popen[bytes]] = []

    def daemon(*, pulse_ms: float = 20.0, source: str = "gpio", deadline_ms: int = 20_000) -> subprocess.Popen[bytes]:
        config = tmp_path / "edge-inspect.toml"
        settings = {"model": tiny_model, "pulse_ms": pulse_ms, "broker": mosquitto.url, "source": source}
        config.write_text(CONFIG.format(**settings))
        (tmp_path / "spots.toml").write_text(RECIPE.format(deadline_ms=deadline_ms))
        with (tmp_path / "log").open("ab") as log:
            running.append(
                subprocess.Popen(
                    [sys.executable, "-m", "edge_inspect", "run", "--config", str(config)],
                    env=chip.environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                )
            )
        chip.wait_for(lambda: chip.level(READY), "ready")
        return running[-1]

    yield daemon
    for process in running:
        process.kill()
        process.wait(END_S)


def pulses(chip: GpioChip) -> tuple[int, int]:
    return chip.levels(OK).count(True), chip.levels(NG).count(True)


def trigger_until_ok(chip: GpioChip) -> int:
    """One part after another; this machine may lose a frame now and then. How many it took."""
    for number in range(1, 20):
        chip.wait_for(lambda: chip.level(READY), "ready again")
        chip.pulse(TRIGGER)
        chip.wait_for(lambda wanted=number: sum(pulses(chip)) == wanted, "answer")  # type: ignore[misc]
        if chip.levels(OK).count(True):
            return number
    raise AssertionError("no part was OK")


def test_edge_is_answered_once_and_wires_socket_and_mqtt_say_the_same(
    start: Start, chip: GpioChip, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    listener = Listener(mosquitto, "gate/answer")
    try:
        daemon = start()
        with socket.socket(socket.AF_UNIX) as program:
            program.settimeout(END_S)
            until = time.monotonic() + END_S
            while program.connect_ex(str(tmp_path / "line.sock")) != 0:
                assert time.monotonic() < until
                time.sleep(0.02)
            lines = program.makefile("rb")
            program.sendall(b'{"listen": true}\n')
            assert json.loads(lines.readline()) == {"listen": True}
            count = trigger_until_ok(chip)
            heard = [json.loads(lines.readline()) for _ in range(count)]
            lines.close()
        published = [json.loads(payload) for payload in listener.wait_for(count)]
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(END_S) == 0
    finally:
        listener.close()
    assert [answer["seq"] for answer in heard] == list(range(1, count + 1))
    assert published == heard
    assert pulses(chip) == (1, count - 1) and heard[-1]["verdict"] == "OK"


def test_end_by_sigterm_drives_ok_off_and_reject_on(start: Start, chip: GpioChip) -> None:
    chip.keeps_levels = True
    daemon = start(pulse_ms=10_000.0)
    chip.wait_for(lambda: not chip.level(REJECT), "judging: nothing is thrown out")
    trigger_until_ok(chip)
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(END_S) == 0
    chip.wait_for(chip.is_free, "released")
    assert {line: chip.level(line) for line in (OK, NG, READY, HEARTBEAT, REJECT)} == {
        OK: False, NG: False, READY: False, HEARTBEAT: False, REJECT: True,
    }  # fmt: skip


def test_sigkill_while_ok_is_on_lets_go_of_it_and_the_next_daemon_starts_at_rest(start: Start, chip: GpioChip) -> None:
    daemon = start(pulse_ms=10_000.0)
    trigger_until_ok(chip)
    daemon.kill()
    chip.wait_for(chip.is_free, "released")
    assert not any(chip.level(line) for line in (OK, READY, HEARTBEAT))
    before = len(chip.shown)
    start()
    first = dict(reversed(chip.shown[before:]))
    assert first[OK] is False and first[READY] is False and first[REJECT] is True


def test_trigger_over_mqtt_is_answered_on_every_way_and_an_edge_is_then_no_trigger(
    start: Start, chip: GpioChip, mosquitto: Mosquitto
) -> None:
    listener = Listener(mosquitto, "gate/answer")
    try:
        start(source="mqtt")
        mosquitto.wait_for_log("gate/trigger (QoS 1)")
        chip.pulse(TRIGGER)
        for count, number in enumerate((7, 8), start=1):
            where = ["-h", "127.0.0.1", "-p", str(mosquitto.port), "-t", "gate/trigger", "-q", "1"]
            subprocess.run(["mosquitto_pub", *where, "-m", str(number)], check=True, timeout=END_S)
            heard = [json.loads(payload) for payload in listener.wait_for(count)]
        assert [answer["seq"] for answer in heard] == [7, 8]
        chip.wait_for(lambda: sum(pulses(chip)) == 2, "two pulses")
    finally:
        listener.close()


def test_part_without_a_verdict_in_time_is_rejected_where_the_encoder_says(start: Start, chip: GpioChip) -> None:
    start(deadline_ms=6)  # less than this camera needs for its next picture
    for number in range(1, 20):
        chip.wait_for(lambda: chip.level(READY), "ready again")
        chip.pulse(TRIGGER)
        chip.wait_for(lambda wanted=number: sum(pulses(chip)) == wanted, "answer")  # type: ignore[misc]
        if chip.levels(NG).count(True):
            break
    chip.wait_for(lambda: not chip.level(REJECT), "judging")
    assert chip.levels(REJECT) == [True, False], "at rest, then judging: it is not there yet"
    chip.edges(ENCODER, [(10 * us, us % 2 == 0) for us in range(2 * 99 + 1)])
    chip.wait_for(lambda: chip.levels(REJECT) == [True, False, True, False], "the gate, for its time")
    chip.pulse(CONFIRM)
