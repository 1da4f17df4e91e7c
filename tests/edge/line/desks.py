"""A desk on a clock that stands still, and an output that remembers what it was told. Fixtures: import them."""

from __future__ import annotations

import threading

import pytest

from edge_inspect.line.desk import Desk
from edge_inspect.line.protocol import Answer, Trigger

MS = 1_000_000
DEADLINE, MARGIN, DELAY, WINDOW = 50 * MS, 3 * MS, 10 * MS, 30 * MS


class Clock:
    """Stands still unless told; `stalls` are taken one by one after each look at it."""

    def __init__(self) -> None:
        self.now_ns = 1_000 * MS
        self.stalls: list[int] = []

    def __call__(self) -> int:
        now_ns = self.now_ns
        if self.stalls:
            self.now_ns += self.stalls.pop()
        return now_ns


class Output:
    """Remembers what it was told; a stall happens before it is through."""

    name = "output"
    beat_ns = None

    def __init__(self) -> None:
        self.told: list[Answer] = []
        self.states: list[tuple[bool, bool]] = []

    def tell(self, answer: Answer) -> None:
        self.told.append(answer)

    def status(self, ready: bool, busy: bool) -> None:
        self.states.append((ready, busy))

    def run(self, stop: threading.Event) -> None:
        stop.wait()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def output() -> Output:
    return Output()


def desk_with(clock: Clock, output: Output, *, queue: int = 0, trouble: list[str] | None = None) -> Desk:
    reasons = trouble if trouble is not None else [""]
    return Desk(
        DEADLINE, [output], margin_ns=MARGIN, delay_ns=DELAY, window_ns=WINDOW, queue=queue,
        trouble=lambda: reasons[0], clock_ns=clock,
    )  # fmt: skip


def fire(desk: Desk, clock: Clock, sequence: int, ago_ns: int = 0) -> Trigger:
    trigger = Trigger(sequence, clock.now_ns - ago_ns, "test")
    desk.fire(trigger)
    return trigger


def kinds(output: Output) -> list[tuple[int, str, str]]:
    return [(answer.sequence, answer.kind, answer.reason) for answer in output.told]
