"""Our Modbus server, polled by a real Modbus client over loopback."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest
from pymodbus.exceptions import ModbusException

from edge_inspect.line import modbus_map as at
from edge_inspect.line.modbus_map import Command
from edge_inspect.line.modbus_server import ModbusServer
from tests.edge.line.modbus_ends import WAIT_S, Desk, Master, answer, running, trigger, wait_for


class Served:
    def __init__(self, **options: object) -> None:
        self.desk = Desk()
        self.server = ModbusServer("127.0.0.1", 0, **options)  # type: ignore[arg-type]
        self.desk.outputs.append(self.server)

    def run(self, stop: threading.Event) -> None:
        self.server.run(stop, self.desk.fire)


@pytest.fixture
def served() -> Iterator[Served]:
    one = Served()
    with running(one.run):
        assert one.server.listening.wait(WAIT_S)
        yield one


@pytest.fixture
def plc(served: Served) -> Iterator[Master]:
    with Master(served.server.port) as master:
        yield master


def test_handshake_from_ready_to_ready(served: Served, plc: Master) -> None:
    served.server.status(True, False)
    assert plc.inputs()["Ready"] and not plc.inputs()["ResultValid"]
    plc.fire(41, encoder=777)
    assert [(t.sequence, t.encoder, t.source) for t in served.desk.triggers] == [(41, 777, "modbus-server")]
    served.server.status(False, True)
    assert plc.inputs()["Busy"] and not plc.inputs()["ResultValid"]
    served.server.tell(answer(served.desk.triggers[0], "NG", "defect"))
    shown = plc.inputs()
    assert shown["ResultValid"] and shown["ResultNG"] and not shown["ResultOK"] and not shown["ResultUnknown"]
    result = plc.result(41, entries=0)
    assert result is not None and (result.kind, result.reason) == ("NG", "defect")
    plc.coil("Trigger", False)
    plc.coil("Ack", True)
    assert not plc.inputs()["ResultValid"] and not plc.inputs()["ResultNG"]
    plc.coil("Ack", False)
    served.server.status(True, False)
    assert plc.inputs()["Ready"] and served.desk.sequences() == [41]


def test_trigger_by_coil_echoes_the_sequence_number(served: Served, plc: Master) -> None:
    plc.modbus.write_registers(at.TRIGGER_SEQ, [1, 2], device_id=1)
    plc.coil("Trigger", True)
    assert served.desk.sequences() == [65538]


def test_old_result_is_gone_when_the_trigger_is_confirmed(served: Served, plc: Master) -> None:
    served.server.tell(answer(trigger(9)))
    assert plc.result(9) is not None
    plc.fire(9)
    assert plc.result(9) is None and plc.result(9, entries=0) is None
    assert not plc.inputs()["ResultOK"]


def test_ring_keeps_the_last_results_of_a_plc_that_fires_before_it_reads(served: Served, plc: Master) -> None:
    for sequence in range(100, 140):
        plc.fire(sequence)
        served.server.tell(answer(served.desk.triggers[-1], "OK" if sequence % 2 else "NG", "defect"))
    assert served.desk.sequences() == list(range(100, 140))
    for sequence in range(124, 140):
        result = plc.result(sequence)
        assert result is not None and result.kind == ("OK" if sequence % 2 else "NG")
    assert plc.result(123) is None


def test_late_ok_is_told_as_unknown(served: Served, plc: Master) -> None:
    served.server.tell(answer(trigger(5), "OK", deadline_ns=time.monotonic_ns() - 1))
    result = plc.result(5)
    assert result is not None and (result.kind, result.reason) == ("UNKNOWN", "deadline")


@pytest.mark.parametrize("how", ["result", "ring", "inputs"])
def test_a_verdict_that_nobody_read_in_time_is_read_as_unknown(served: Served, plc: Master, how: str) -> None:
    heard: list[int] = []
    served.server.changed = lambda one, at_ns: heard.append(one.sequence)

    def reads(sequence: int) -> str:
        if how == "inputs":
            shown = plc.inputs()
            return next(kind for kind in ("OK", "NG", "Unknown") if shown[f"Result{kind}"]).upper()
        result = plc.result(sequence, entries=0 if how == "result" else at.MOST_ENTRIES)
        assert result is not None
        return result.kind

    served.server.tell(answer(trigger(5), "OK", deadline_ns=time.monotonic_ns() + 10**12))
    assert reads(5) == "OK"
    one = answer(trigger(6), "OK", deadline_ns=time.monotonic_ns() + 300_000_000)
    served.server.tell(one)
    plc.modbus.read_holding_registers(at.EDGE, count=at.EDGE_HEAD_WORDS, device_id=1)  # the heartbeat, not the result
    while not one.is_late(time.monotonic_ns()):
        time.sleep(0.01)
    assert [reads(6), reads(6)] == ["UNKNOWN", "UNKNOWN"]
    assert heard == [6] and served.server.counts()["late"] == 1
    assert plc.result(5) is not None and plc.result(5).kind == "OK", "another part's result is as it was"  # type: ignore[union-attr]


def test_a_verdict_that_was_read_in_time_stays(served: Served, plc: Master) -> None:
    one = answer(trigger(6), "OK", deadline_ns=time.monotonic_ns() + 2_000_000_000)
    served.server.tell(one)
    first = plc.result(6)
    if one.is_late(time.monotonic_ns()):
        pytest.skip("this machine stood still for two seconds")
    while not one.is_late(time.monotonic_ns()):
        time.sleep(0.01)
    assert first is not None and plc.result(6) == first and first.kind == "OK"
    assert served.server.counts()["late"] == 0


def test_results_that_nobody_reads_take_no_memory(served: Served) -> None:
    for sequence in range(1_000):
        served.server.tell(answer(trigger(sequence)))
    assert len(served.server._unread) <= at.MOST_ENTRIES + 2


def test_ok_is_never_read_with_another_parts_number(served: Served, plc: Master) -> None:
    """Odd parts are OK, even ones NG, written as fast as they can be while the PLC reads as fast as it can."""
    stop = threading.Event()

    def tells(_: threading.Event) -> None:
        sequence = 0
        while not stop.is_set():
            sequence += 1
            served.server.tell(answer(trigger(sequence), "OK" if sequence % 2 else "NG", "x"))

    with running(tells):
        try:
            for _ in range(300):
                words = plc.edge()
                for start in range(at.NEWEST, at.EDGE_WORDS, at.RESULT_WORDS):
                    high, low, bits, _, high_again, low_again = words[start : start + at.RESULT_WORDS]
                    assert (high, low) == (high_again, low_again)
                    if bits:
                        assert bool(bits & at.Result.OK) == bool(low % 2)
        finally:
            stop.set()


def test_heartbeat_counts_only_while_the_application_lives() -> None:
    alive = threading.Event()
    alive.set()
    one = Served(heartbeat_ms=20, alive=alive.is_set)
    with running(one.run):
        assert one.server.listening.wait(WAIT_S)
        one.server.status(True, False)
        with Master(one.server.port) as plc:
            first = plc.edge()[at.HEARTBEAT]
            wait_for(lambda: plc.edge()[at.HEARTBEAT] != first, "the heartbeat counts")
            alive.clear()
            wait_for(lambda: not plc.inputs()["Ready"], "not ready any more")
            stood = plc.edge()[at.HEARTBEAT]
            scans = [plc.edge()[at.HEARTBEAT] for _ in range(100)]
            assert set(scans) == {stood}
            alive.set()
            wait_for(lambda: plc.edge()[at.HEARTBEAT] != stood, "the heartbeat counts again")


def test_after_a_stop_there_is_no_result_and_then_no_server() -> None:
    one = Served()
    stop = threading.Event()
    thread = threading.Thread(target=one.server.run, args=(stop, one.desk.fire))
    thread.start()
    assert one.server.listening.wait(WAIT_S)
    one.server.status(True, False)
    one.server.tell(answer(trigger(3)))
    with Master(one.server.port) as plc:
        assert plc.result(3) is not None
        stop.set()
        last = plc.edge()
        with contextlib.suppress(ModbusException, OSError):
            while True:
                last = plc.edge()
    assert not any(last[at.NEWEST :]), "the last that the PLC could read had a result in it"
    assert not last[at.STATUS] & at.Status.READY
    thread.join(WAIT_S)
    assert not thread.is_alive()
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", one.server.port)):
        pass


def test_two_masters_read_the_same_and_both_are_answered(served: Served, plc: Master) -> None:
    with Master(served.server.port) as second:
        wait_for(lambda: served.server.masters == 2, "both are connected")
        plc.fire(1)
        second.fire(2)
        served.server.tell(answer(served.desk.triggers[0]))
        served.server.tell(answer(served.desk.triggers[1], "NG", "defect"))
        for master in (plc, second):
            one, two = master.result(1), master.result(2)
            assert one is not None and one.kind == "OK"
            assert two is not None and two.kind == "NG"
        assert served.desk.sequences() == [1, 2]


@pytest.mark.parametrize(
    ("address", "values", "code"),
    [
        (at.EDGE, [1], 2),
        (at.EDGE + at.NEWEST, [1] * at.RESULT_WORDS, 2),
        (at.COMMAND_HEAD_WORDS, [1], 2),
        (at.COMMAND_HEAD_WORDS - 1, [0, 0], 2),
        (5000, [1], 2),
        (65535, [1], 2),
        (at.COMMAND, [at.ALL_COMMANDS + 1], 3),
        (at.COMMAND, [0xFFFF, 0, 1], 3),
    ],
)
def test_writes_that_make_no_sense_are_refused_and_change_nothing(
    served: Served, plc: Master, address: int, values: list[int], code: int
) -> None:
    before = plc.edge()[at.VERSION :]
    reply = plc.modbus.write_registers(address, values, device_id=1)
    assert reply.isError() and reply.exception_code == code
    assert plc.edge()[at.VERSION :] == before
    assert plc.modbus.read_holding_registers(0, count=8, device_id=1).registers == [0] * 8
    assert served.desk.triggers == []


def test_half_a_sequence_number_is_refused_while_trigger_is_set(served: Served, plc: Master) -> None:
    plc.fire(0x0001_FFFF)
    for half in (at.TRIGGER_SEQ, at.TRIGGER_SEQ + 1):
        assert plc.modbus.write_register(half, 0, device_id=1).exception_code == 3
    assert served.desk.sequences() == [0x0001_FFFF]


@pytest.mark.parametrize("coil", [len(at.COILS), 15, 16, 4000])
def test_coils_that_are_not_there_are_refused(served: Served, plc: Master, coil: int) -> None:
    assert plc.modbus.write_coil(coil, True, device_id=1).isError()


def test_another_unit_is_refused(served: Served, plc: Master) -> None:
    assert plc.modbus.write_registers(0, [1, 0, 5], device_id=7).isError()
    assert plc.modbus.read_holding_registers(0, count=8, device_id=7).isError()
    assert served.desk.triggers == []


def _frame(pdu: bytes, *, length: int | None = None, protocol: int = 0, unit: int = 1) -> bytes:
    return struct.pack(">HHHB", 1, protocol, len(pdu) + 1 if length is None else length, unit) + pdu


@pytest.mark.parametrize(
    "junk",
    [
        b"GET / HTTP/1.1\r\nHost: plc\r\n\r\n",
        b"\x00" * 300,
        b"\xff" * 5000,
        _frame(b"\x10\x00\x00\x00\x02\x09\x00\x01\x00\x02"),  # byte count of nine for two registers
        _frame(b"\x10\x00\x00\x00\x00\x00"),  # no registers at all
        _frame(b"\x10\x00\x00\xff\xff\xff"),
        _frame(b"\x10"),
        _frame(b"\x03\x00"),
        _frame(b"\x03\x00\x00\xff\xff"),
        _frame(b"\x63\x00\x00\x00\x01"),  # a function that nobody knows
        _frame(b"\x0f\x00\x00\x00\x09\x01\x01"),
        _frame(b"\x05\x00\x00\x12\x34"),  # neither on nor off
        _frame(b"\x03\x00\x00\x00\x01", length=0),
        _frame(b"\x03\x00\x00\x00\x01", protocol=7),
        _frame(b"\x03\x00\x00\x00\x01")[:9],
    ],
)
def test_malformed_requests_fire_nothing_and_others_are_served_on(served: Served, plc: Master, junk: bytes) -> None:
    with socket.create_connection(("127.0.0.1", served.server.port), timeout=WAIT_S) as other:
        other.sendall(junk)
        other.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while other.recv(4096):  # until the server has had enough of it
                pass
    assert served.desk.triggers == []
    plc.fire(6)
    assert served.desk.sequences() == [6]


def test_requests_sent_together_and_in_pieces_are_all_answered(served: Served, plc: Master) -> None:
    fires = [
        _frame(struct.pack(">BHHBHHH", 16, 0, 3, 6, int(Command.TRIGGER), 0, sequence)) for sequence in range(1, 31)
    ]
    stream = b"".join(fires)
    with socket.create_connection(("127.0.0.1", served.server.port), timeout=WAIT_S) as other:
        for start in range(0, len(stream), 50):
            other.sendall(stream[start : start + 50])
        heard = b""
        while len(heard) < 30 * 12:
            heard += other.recv(4096)
    assert served.desk.sequences() == list(range(1, 31))


def test_stranger_is_disconnected_and_the_plc_is_not(served: Served, plc: Master) -> None:
    with socket.create_connection(("127.0.0.1", served.server.port), timeout=WAIT_S) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\nHost: plc\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert stranger.recv(100) == b""
    plc.fire(3)
    assert served.desk.sequences() == [3]


def test_address_that_is_taken_is_tried_until_it_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = ModbusServer("127.0.0.1", port)
        stop = threading.Event()
        thread = threading.Thread(target=server.run, args=(stop,))
        thread.start()
        wait_for(lambda: "Could not start listen" in server.trouble, "why nobody can connect")
        assert not server.listening.is_set()
    try:
        assert server.listening.wait(WAIT_S)
        assert server.trouble == "not connected"
    finally:
        stop.set()
        thread.join(WAIT_S)
    assert not thread.is_alive()


def test_confirmed_rejects_and_encoder_are_passed_on() -> None:
    confirmed: list[int] = []
    encoder: list[int] = []
    server = ModbusServer("127.0.0.1", 0, confirmed=confirmed.append, encoder=encoder.append)
    with running(server.run):
        assert server.listening.wait(WAIT_S)
        with Master(server.port) as plc:
            plc.coil("RejectConfirm", True)
            plc.modbus.write_registers(at.ENCODER, [1, 5], device_id=1)
            plc.modbus.write_register(at.REJECT_COUNT, 4, device_id=1)
    assert confirmed == [1, 4]
    assert encoder[-1] == 65541


def test_base_address_and_word_order_can_be_chosen() -> None:
    one = Served(base=1003, low_word_first=True, unit_id=17)
    with running(one.run):
        assert one.server.listening.wait(WAIT_S)
        with Master(one.server.port) as plc:
            words = [int(Command.TRIGGER), 0x0005, 0x0001]
            assert not plc.modbus.write_registers(1003, words, device_id=17).isError()
            assert one.desk.sequences() == [0x0001_0005]
            one.server.tell(answer(one.desk.triggers[0]))
            bits = plc.modbus.read_discrete_inputs(1003, count=8, device_id=17).bits
            assert bits[at.DISCRETE_INPUTS.index("ResultOK")]
            read = plc.modbus.read_holding_registers(1003 + at.EDGE + at.NEWEST, count=2, device_id=17)
            assert read.registers == [0x0005, 0x0001]
            assert not plc.modbus.write_coil(1003 + 1, True, device_id=17).isError()
            assert not plc.modbus.read_discrete_inputs(1003, count=8, device_id=17).bits[2]
