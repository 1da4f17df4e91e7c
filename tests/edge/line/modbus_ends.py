"""Both ends of the Modbus line in threads of their own, stopped by `with`; and a PLC program's eye on the registers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pymodbus.client import ModbusTcpClient

from edge_inspect.line import modbus_map as at
from edge_inspect.line.modbus_words import Told, read_result
from edge_inspect.line.protocol import Answer, AnswerKind, Trigger

WAIT_S = 60.0
LONG_NS = 3_600_000_000_000


def answer(trigger: Trigger, kind: AnswerKind = "OK", reason: str = "no-defect", *, deadline_ns: int = 0) -> Answer:
    now_ns = time.monotonic_ns()
    return Answer(trigger.sequence, kind, reason, 3, trigger, now_ns, deadline_ns or now_ns + LONG_NS)


def trigger(sequence: int, at_ns: int | None = None) -> Trigger:
    return Trigger(sequence, time.monotonic_ns() if at_ns is None else at_ns, "test")


def wait_for(what: Callable[[], Any], why: str) -> Any:
    """The first true value of `what`, within WAIT_S."""
    until = time.monotonic() + WAIT_S
    while not (value := what()):
        assert time.monotonic() < until, f"waited in vain: {why}"
        time.sleep(0.005)
    return value


class Desk:
    """Keeps the triggers, and answers them at once where `answers` says how."""

    def __init__(self, answers: Callable[[Trigger], Answer | None] = lambda trigger: None) -> None:
        self.triggers: list[Trigger] = []
        self.outputs: list[Any] = []
        self._answers = answers

    def fire(self, trigger: Trigger) -> None:
        self.triggers.append(trigger)
        made = self._answers(trigger)
        for output in self.outputs if made else ():
            output.tell(made)

    def sequences(self) -> list[int]:
        return [trigger.sequence for trigger in self.triggers]


@contextmanager
def running(*bodies: Callable[[threading.Event], None]) -> Iterator[threading.Event]:
    """Each body in a thread until the end of the block; what one raises is raised there."""
    stop = threading.Event()
    errors: list[BaseException] = []

    def body(run: Callable[[threading.Event], None]) -> None:
        try:
            run(stop)
        except BaseException as err:  # noqa: BLE001 - raised below
            errors.append(err)

    threads = [threading.Thread(target=body, args=(run,), name=f"end-{run}") for run in bodies]
    for thread in threads:
        thread.start()
    try:
        yield stop
    finally:
        stop.set()
        for thread in threads:
            thread.join(WAIT_S)
            assert not thread.is_alive()
    if errors:
        raise errors[0]


class Master:
    """A PLC that polls us, by hand."""

    def __init__(self, port: int) -> None:
        self.modbus = ModbusTcpClient("127.0.0.1", port=port, timeout=WAIT_S, retries=0)
        assert self.modbus.connect()

    def __enter__(self) -> Master:
        return self

    def __exit__(self, *_: object) -> None:
        self.modbus.close()

    def fire(self, sequence: int, encoder: int = 0) -> None:
        words = [at.Command.TRIGGER, *at.split(sequence, False), *at.split(encoder, False)]
        assert not self.modbus.write_registers(0, [int(word) for word in words], device_id=1).isError()

    def edge(self) -> list[int]:
        return list(self.modbus.read_input_registers(at.EDGE, count=at.EDGE_WORDS, device_id=1).registers)

    def inputs(self) -> dict[str, bool]:
        bits = self.modbus.read_discrete_inputs(0, count=len(at.DISCRETE_INPUTS), device_id=1).bits
        return dict(zip(at.DISCRETE_INPUTS, bits, strict=False))

    def coil(self, name: str, on: bool) -> None:
        assert not self.modbus.write_coil(at.COILS.index(name), on, device_id=1).isError()

    def result(self, sequence: int, entries: int = at.MOST_ENTRIES) -> Told | None:
        return read_result(self.edge(), sequence, entries)


def wire(sequence: int, *words: int) -> Sequence[int]:
    return [*at.split(sequence, False), *words]
