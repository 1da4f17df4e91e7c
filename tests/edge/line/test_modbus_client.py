"""Our Modbus client against the PLC simulator over loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pymodbus.client import ModbusTcpClient

from edge_inspect.line import modbus_map as at
from edge_inspect.line.modbus_client import ModbusClient
from edge_inspect.line.modbus_server import ModbusServer
from edge_inspect.line.modbus_words import read_result
from edge_inspect.line.plc_program import PlcPart, PlcProgram
from edge_inspect.line.plc_sim import PlcAsClient, PlcAsServer
from edge_inspect.line.protocol import Answer, Trigger
from tests.edge.line.modbus_ends import WAIT_S, Desk, answer, running, trigger, wait_for
from tests.sim.chaos import ChaosProxy

PATIENT = {"deadline_ms": 20_000.0, "gate_ms": 20.0, "heartbeat_ms": 20_000.0, "stops_at_gate": True}
"""A PLC for machines that may stand still for seconds."""


def by_number(one: Trigger) -> Answer | None:
    """1 mod 4: OK, 2: NG, 3: UNKNOWN, 0: OK"""
    kind = {0: "OK", 1: "OK", 2: "NG", 3: "UNKNOWN"}[one.sequence % 4]
    return answer(one, kind, "defect")  # type: ignore[arg-type]


class Line:
    """A PLC as server, and our client polling it."""

    def __init__(
        self, entries: int = 16, answers: Callable[[Trigger], Answer | None] = by_number, **program: float
    ) -> None:
        self.gate: list[PlcPart] = []
        self.program = PlcProgram(
            entries=entries, waits_for_room=True, decided=self.gate.append, **{**PATIENT, **program}  # type: ignore[arg-type]
        )  # fmt: skip
        self.writes: list[tuple[int, list[int]]] = []
        self.plc = PlcAsServer(self.program, written=lambda _, first, words: self.writes.append((first, words)))
        self.desk = Desk(answers)
        self.entries = entries
        self.client: ModbusClient

    def run_client(self, stop: threading.Event) -> None:
        assert self.plc.listening.wait(WAIT_S)
        self.client = ModbusClient(
            "127.0.0.1", self.plc.port, ring=self.entries, heartbeat_ms=20, timeout_ms=WAIT_S * 1000
        )
        self.desk.outputs.append(self.client)
        self.client.status(True, False)
        self.client.run(stop, self.desk.fire)

    def up(self) -> None:
        wait_for(lambda: self.program.alive and hasattr(self, "client") and self.client.connected.is_set(), "alive")


@pytest.mark.parametrize("entries", [0, 1, 16])
def test_each_part_gets_its_own_answer_and_only_ok_passes(entries: int) -> None:
    line = Line(entries)
    with running(line.plc.run, line.run_client):
        line.up()
        for _ in range(40):
            line.program.arrives()
        wait_for(lambda: len(line.gate) == 40, "40 parts at the gate")
    assert line.desk.sequences() == list(range(1, 41))
    assert [part.kind for part in line.gate] == ["OK", "NG", "UNKNOWN", "OK"] * 10
    assert [part.passed for part in line.gate] == [True, False, False, True] * 10
    assert line.program.counts.mismatched == line.program.counts.missed_deadlines == 0


def test_each_result_is_one_write_with_its_number_at_both_ends() -> None:
    line = Line()
    with running(line.plc.run, line.run_client):
        line.up()
        for _ in range(20):
            line.program.arrives()
        wait_for(lambda: len(line.gate) == 20, "20 parts at the gate")
    told: dict[int, int] = {}
    for first, words in line.writes:
        if first < at.RESULT_RING or not any(words):
            continue
        assert len(words) % at.RESULT_WORDS == 0 and (first - at.RESULT_RING) % at.RESULT_WORDS == 0
        for start in range(0, len(words), at.RESULT_WORDS):
            entry = words[start : start + at.RESULT_WORDS]
            assert entry[:2] == entry[4:]
            told[at.join(entry[0], entry[1], False)] = told.get(at.join(entry[0], entry[1], False), 0) + 1
    assert told == dict.fromkeys(range(1, 21), 1)


def test_answer_does_not_wait_for_the_next_poll() -> None:
    line = Line(answers=lambda one: None)
    with running(line.plc.run):
        assert line.plc.listening.wait(WAIT_S)
        line.client = ModbusClient("127.0.0.1", line.plc.port, ring=16, poll_ms=1e7, heartbeat_ms=1e7)
        with running(lambda stop: line.client.run(stop, line.desk.fire)) as stop:
            wait_for(line.client.connected.is_set, "connected")
            line.client.tell(answer(trigger(7)))
            wait_for(lambda: read_result(line.plc.edge, 7, 16), "the answer, with no poll for hours")
            stop.set()
            line.client.tell(answer(trigger(8)))  # wakes the thread so that it sees `stop`


def test_answer_that_could_not_be_written_in_time_is_unknown() -> None:
    line = Line(answers=lambda one: answer(one, "OK", deadline_ns=time.monotonic_ns() - 1))
    with running(line.plc.run, line.run_client):
        line.up()
        line.program.arrives()
        part = wait_for(lambda: line.gate, "the part at the gate")[0]
    assert (part.kind, part.reason, part.passed) == ("UNKNOWN", "deadline", False)
    assert line.client.late == 1


def test_plc_that_goes_and_comes_is_found_again_and_nothing_old_is_written() -> None:
    line = Line(answers=lambda one: None)
    with running(line.run_client):
        with running(line.plc.run):
            line.up()
            line.program.arrives()
            wait_for(lambda: line.desk.triggers, "the trigger")
            port = line.plc.port
        wait_for(lambda: not line.client.connected.is_set(), "the client sees that the PLC has gone")
        line.client.tell(answer(line.desk.triggers[0]))
        again = PlcAsServer(PlcProgram(**PATIENT, first_sequence=2), port=port)  # type: ignore[arg-type]
        again.command[: at.COMMAND_HEAD_WORDS] = line.plc.command[: at.COMMAND_HEAD_WORDS]
        with running(again.run):
            wait_for(lambda: again.program.alive and line.client.connected.is_set(), "connected again, by itself")
            again.program.arrives()
            wait_for(lambda: len(line.desk.triggers) == 2, "the next trigger")
            assert read_result(again.edge, 1, 16) is None
    assert line.client.connections == 2
    assert line.client.counts()["untold"] == 1


def test_stop_leaves_no_result_in_the_plc() -> None:
    line = Line(gate_ms=1e9)
    with running(line.plc.run):
        with running(line.run_client):
            line.up()
            for _ in range(12):
                line.program.arrives()
            wait_for(lambda: line.program.counts.answers == 12, "12 answers")
        assert not any(line.plc.edge[at.NEWEST :])
        assert not line.plc.edge[at.STATUS] & at.Status.READY


def test_plc_refuses_writes_to_its_own_block_and_beyond() -> None:
    line = Line()
    with running(line.plc.run):
        assert line.plc.listening.wait(WAIT_S)
        with ModbusTcpClient("127.0.0.1", port=line.plc.port, timeout=WAIT_S) as foreign:
            for address in (0, at.COMMAND_WORDS, at.EDGE + at.EDGE_WORDS, 9999):
                assert foreign.write_registers(address, [1], device_id=1).isError()
            assert foreign.read_holding_registers(0, count=8, device_id=1).registers == [0] * 8


def test_plc_that_refuses_our_registers_is_reported_and_tried_again() -> None:
    line = Line()
    with running(line.plc.run):
        assert line.plc.listening.wait(WAIT_S)
        client = ModbusClient("127.0.0.1", line.plc.port, outputs_at=5000)
        with running(client.run):
            wait_for(lambda: "refuses with exception code 2" in client.trouble, "the reason is told")
            assert not client.connected.is_set()


def test_plc_as_client_and_our_server_play_the_same_game() -> None:
    gate: list[PlcPart] = []
    program = PlcProgram(**PATIENT, fires_per_scan=1, waits_for_room=True, decided=gate.append)  # type: ignore[arg-type]
    desk = Desk(by_number)
    server = ModbusServer("127.0.0.1", 0, heartbeat_ms=20)
    desk.outputs.append(server)
    server.status(True, False)
    with running(lambda stop: server.run(stop, desk.fire)):
        assert server.listening.wait(WAIT_S)
        plc = PlcAsClient(program, port=server.port, timeout_s=WAIT_S)
        with running(plc.run):
            wait_for(lambda: program.alive, "alive")
            for _ in range(40):
                program.arrives()
            wait_for(lambda: len(gate) == 40, "40 parts at the gate")
    assert desk.sequences() == list(range(1, 41))
    assert [part.passed for part in gate] == [True, False, False, True] * 10


EDGE_PROCESS = """
import sys, threading, time
from edge_inspect.line.modbus_client import ModbusClient
from edge_inspect.line.modbus_server import ModbusServer
from edge_inspect.line.protocol import Answer
side, port = sys.argv[1], int(sys.argv[2])
if side == "server":
    edge = ModbusServer("127.0.0.1", port, heartbeat_ms=20)
else:
    edge = ModbusClient("127.0.0.1", port, ring=16, heartbeat_ms=20)
edge.status(True, False)
edge.run(threading.Event(), lambda t: edge.tell(Answer(t.sequence, "OK", "no-defect", 1, t, t.at_ns, t.at_ns + 10**12)))
"""


@pytest.mark.parametrize("side", ["client", "server"])
def test_sigkill_of_our_process_leaves_the_plc_rejecting(side: str) -> None:
    """The registers still say OK for parts that were answered; parts that come later are rejected all the same."""
    gate: list[PlcPart] = []
    options = {**PATIENT, "heartbeat_ms": 1000.0, "deadline_ms": 500.0}
    program = PlcProgram(**options, fires_per_scan=1, decided=gate.append)  # type: ignore[arg-type]
    edge = Path(sys.modules["edge_inspect.line.modbus_client"].__file__ or "").parents[2]
    environ = {**os.environ, "PYTHONPATH": str(edge)}

    def start(port: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", EDGE_PROCESS, side, str(port)], stdout=subprocess.DEVNULL, env=environ
        )

    if side == "client":
        server = PlcAsServer(program)
        with running(server.run):
            assert server.listening.wait(WAIT_S)
            process = start(server.port)
            _kill_and_watch(process, program, gate)
    else:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        process = start(port)
        with running(PlcAsClient(program, port=port).run):
            _kill_and_watch(process, program, gate)


def _kill_and_watch(process: subprocess.Popen[bytes], program: PlcProgram, gate: list[PlcPart]) -> None:
    try:
        wait_for(lambda: program.alive, "our process is alive")

        def passes() -> bool:
            program.arrives()
            count = len(gate)
            wait_for(lambda: len(gate) > count, "a decision")
            return gate[-1].passed is True

        wait_for(passes, "a part passes while we live")
        process.send_signal(signal.SIGKILL)
        process.wait(WAIT_S)
        wait_for(lambda: program.idle, "parts from before are through")
        before = len(gate)
        for _ in range(20):
            program.arrives()
        wait_for(lambda: len(gate) == before + 20, "20 parts at the gate")
        assert [part.passed for part in gate[before:]] == [False] * 20
        wait_for(lambda: not program.alive, "the heartbeat is missed")
    finally:
        process.kill()
        process.wait(WAIT_S)


def test_plc_that_takes_connections_and_says_nothing_is_tried_again_and_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        mute.settimeout(WAIT_S)
        client = ModbusClient("127.0.0.1", mute.getsockname()[1], timeout_ms=50)
        with running(client.run):
            callers = [mute.accept()[0] for _ in range(3)]
            assert not client.connected.is_set()
            assert client.trouble
            for caller in callers:
                caller.close()


def changes_of(client: ModbusClient) -> list[tuple[int, str]]:
    """What `changed` hears from now on: number and what was to be told."""
    heard: list[tuple[int, str]] = []
    client.changed = lambda one, at_ns: heard.append((one.sequence, one.kind))
    return heard


class FarLine:
    """Our client and a PLC with a bad network between them; triggers are not fired, answers come from the test."""

    def __init__(self, entries: int = 16, timeout_ms: float = WAIT_S * 1000, poll_ms: float = 2.0) -> None:
        self.poll_ms = poll_ms
        self.writes: list[tuple[int, str]] = []
        self.entries = entries
        self.plc = PlcAsServer(PlcProgram(**PATIENT, entries=entries), written=self._written)  # type: ignore[arg-type]
        self.timeout_ms = timeout_ms

    def _written(self, at_ns: int, first: int, words: list[int]) -> None:
        for number in range(1, 10):
            result = read_result(self.plc.edge, number, self.entries)
            if result and (number, result.kind) not in self.writes:
                self.writes.append((number, result.kind))

    @contextmanager
    def up(self) -> Iterator[tuple[ModbusClient, ChaosProxy]]:
        with running(self.plc.run):
            assert self.plc.listening.wait(WAIT_S)
            with ChaosProxy(self.plc.port) as net:
                client = ModbusClient(
                    "127.0.0.1", net.port, ring=self.entries, timeout_ms=self.timeout_ms, heartbeat_ms=1e7,
                    poll_ms=self.poll_ms,
                )  # fmt: skip
                with running(client.run) as stop:
                    wait_for(client.connected.is_set, "connected")
                    yield client, net
                    stop.set()
                    client.tell(answer(trigger(99)))  # wakes the thread so that it sees `stop`

    def result(self, sequence: int) -> tuple[str, str] | None:
        found = read_result(self.plc.edge, sequence, self.entries)
        return (found.kind, found.reason) if found else None


def within_ms(ms: float) -> int:
    return time.monotonic_ns() + int(ms * 1e6)


@pytest.mark.parametrize("entries", [0, 16])
def test_an_ok_that_lay_in_the_plc_too_late_is_written_over_and_told(entries: int) -> None:
    """The network becomes slow with this very answer: nobody could know before."""
    line = FarLine(entries, poll_ms=1e7)
    with line.up() as (client, net):
        heard = changes_of(client)
        wait_for(lambda: len(client._took_ns) >= 4, "the first poll and the first heartbeat are through")
        net.stall_one_way("down")
        one = answer(trigger(1), deadline_ns=within_ms(3_000))
        client._took_ns.clear()  # this machine may have been slow until now
        client.tell(one)
        wait_for(lambda: line.result(1) == ("OK", "no-defect"), "it lies in the PLC, and nobody has said so")
        wait_for(lambda: one.is_late(time.monotonic_ns()), "its time is over")
        net.flow()
        wait_for(lambda: line.result(1) == ("UNKNOWN", "deadline"), "it is UNKNOWN in the PLC")
    assert heard == [(1, "OK")]
    assert line.writes[:2] == [(1, "OK"), (1, "UNKNOWN")]
    assert client.counts()["late"] == 1


def test_no_ok_is_written_where_every_request_takes_longer_than_is_left() -> None:
    """250 ms each way, a deadline of 100 ms: an OK would lie in the PLC for half a second before it is taken back."""
    line = FarLine()
    with line.up() as (client, net):
        heard = changes_of(client)
        net.delay_s = 0.25
        wait_for(lambda: min(client._took_ns) > 400_000_000, "requests take long")
        for number in (1, 2, 3):
            client.tell(answer(trigger(number), deadline_ns=within_ms(100)))
            wait_for(lambda number=number: line.result(number), "an answer")  # type: ignore[misc]
        client.tell(answer(trigger(4), deadline_ns=within_ms(3_600_000)))
        wait_for(lambda: line.result(4), "one with time enough")
    assert line.writes == [(1, "UNKNOWN"), (2, "UNKNOWN"), (3, "UNKNOWN"), (4, "OK")]
    assert heard == [(1, "OK"), (2, "OK"), (3, "OK")]
    assert client.counts()["late"] == 3


def test_an_ok_that_got_lost_with_the_connection_is_told_where_the_line_waits_for_it() -> None:
    line = FarLine(timeout_ms=300)
    with line.up() as (client, net):
        heard = changes_of(client)
        ours = Trigger(1, time.monotonic_ns(), client.name)
        others = trigger(2)
        net.stall()
        for one in (ours, others):
            client.tell(answer(one))
        wait_for(lambda: not client.connected.is_set(), "the connection is given up")
        wait_for(lambda: client.counts()["untold"] == 2, "they are counted")
        client.tell(answer(Trigger(3, time.monotonic_ns(), client.name)))
        net.flow()
        wait_for(client.connected.is_set, "connected again")
    assert heard == [(1, "OK"), (3, "OK")]


def test_of_two_parts_in_one_place_only_one_is_told_and_the_other_is_not_counted_as_ok() -> None:
    """The PLC has given up on part 1 and given its place in the ring to part 17; both are answered at once."""
    line = FarLine()
    with line.up() as (client, _):
        heard = changes_of(client)
        with client._wake:  # the two in one go
            for number in (1, 17):
                client.tell(answer(Trigger(number, time.monotonic_ns(), client.name)))
        wait_for(lambda: line.result(17) == ("OK", "no-defect"), "the newer one is told")
        assert heard == [(1, "OK")] and client.counts()["untold"] == 1
