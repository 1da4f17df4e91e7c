"""Parts that the camera finds by itself are told in their order, and a late verdict is none."""

from __future__ import annotations

import threading

import pytest

from edge_inspect.line.outlet import Outlet
from tests.edge.line.desks import MS, Clock, Output, clock, output

__all__ = ["clock", "output"]


def test_a_verdict_is_told_under_the_parts_number(clock: Clock, output: Output) -> None:
    told = Outlet([output], clock_ns=clock).answer(2**32 + 7, "NG", "defect", clock.now_ns - 5 * MS)
    assert output.told == [told] and (told.sequence, told.part, told.kind) == (7, 2**32 + 7, "NG")


@pytest.mark.parametrize(("age_ms", "kind"), [(79, "OK"), (80, "UNKNOWN"), (5_000, "UNKNOWN")])
def test_a_verdict_after_its_deadline_is_unknown(clock: Clock, output: Output, age_ms: int, kind: str) -> None:
    outlet = Outlet([output], deadline_ns=80 * MS, clock_ns=clock)
    told = outlet.answer(0, "OK", "no-defect", clock.now_ns - age_ms * MS)
    assert told.kind == kind and outlet.counts.missed_deadlines == (kind == "UNKNOWN")


def test_without_a_deadline_nothing_is_late(clock: Clock, output: Output) -> None:
    assert Outlet([output], clock_ns=clock).answer(0, "OK", "no-defect", 0).kind == "OK"


def test_winding_down_tells_what_is_still_judged_and_the_end_is_not_ready(clock: Clock, output: Output) -> None:
    outlet = Outlet([output], clock_ns=clock)
    assert outlet.answer(0, "OK", "no-defect", clock.now_ns).kind == "OK" and outlet.ready
    outlet.wind_down()
    assert outlet.answer(1, "OK", "no-defect", clock.now_ns).kind == "OK" and not outlet.ready
    outlet.hold("not-ready")
    assert outlet.answer(2, "OK", "no-defect", clock.now_ns).reason == "not-ready" and not outlet.ready


def test_readiness_is_told_and_ends(output: Output) -> None:
    trouble, ready, stop = ["camera-lost"], threading.Event(), threading.Event()
    outlet = Outlet([output], trouble=lambda: trouble[0])
    note = output.status

    def status(is_ready: bool, busy: bool) -> None:
        note(is_ready, busy)
        if is_ready:
            ready.set()
        else:
            trouble[0] = ""

    output.status = status  # type: ignore[method-assign]
    thread = threading.Thread(target=outlet.run, args=(stop,))
    thread.start()
    try:
        assert ready.wait(30)
    finally:
        stop.set()
        thread.join(30)
    assert output.states == [(False, False), (True, False), (False, False)] and not thread.is_alive()
