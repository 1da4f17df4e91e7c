"""A belt that never ends, in front of an appliance that runs in a thread of its own.

Every fifth part is bad, so that what was told can be compared with what was drawn.

    line, notes = build({"left": Belt()})
    with running(line):
        until(lambda: len(notes.judged_parts) > 10)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edge_inspect.capture.protocol import Camera, Format, Pixels, Read, Stamp
from edge_inspect.daemon import Appliance
from edge_inspect.inference.package import ModelPackage
from edge_inspect.update.shadow import ShadowReport
from tests.line.drawn import HEIGHT, SPOT, WIDTH, Notes
from tests.sim.tiny_model import draw_defect

PATIENCE_S = 60.0
BAD_EVERY = 5


class Belt(Camera):
    """Every fifth picture is bad, for ever; `blue` while that is set. Waits for the line, so that no frame is lost."""

    label = "belt"
    live = False

    def __init__(self) -> None:
        self.shown = 0
        self.scene = ""
        self.ended = threading.Event()

    def open(self) -> Format:
        return Format(WIDTH, HEIGHT, 25.0, "BGR")

    def read_into(self, pixels: Pixels, stamp: Stamp) -> Read:
        if self.ended.is_set():
            return Read.END
        time.sleep(0.002)
        pixels[:] = 128
        if self.scene == "blue":
            draw_defect(pixels, SPOT, 2)
        elif self.shown % BAD_EVERY == 0:
            draw_defect(pixels, SPOT, 0)
        stamp.index, stamp.captured_ns, stamp.utc_ns = self.shown, time.monotonic_ns(), time.time_ns()
        self.shown += 1
        return Read.FRAME

    def close(self) -> None:
        """Nothing is held."""


@contextmanager
def running(appliance: Appliance) -> Iterator[None]:
    """It inspects in a thread of its own; what ended it is raised here."""
    stop, errors = threading.Event(), []

    def body() -> None:
        try:
            appliance.run(stop)
        except BaseException as err:  # noqa: BLE001 - raised below
            errors.append(err)

    thread = threading.Thread(target=body, name="appliance")
    thread.start()
    try:
        until(lambda: bool(errors) or appliance.pipeline.frames > 30)
        yield
    finally:
        stop.set()
        thread.join()
    if errors:
        raise errors[0]


def until(happened: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    end_s = time.monotonic() + patience_s
    while not happened():
        assert time.monotonic() < end_s, "waited in vain"
        time.sleep(0.005)


def as_drawn(notes: Notes) -> bool:
    """No part is missing, and each is what the belt showed."""
    kinds = [judged.verdict.kind.value for judged in notes.judged_parts]
    return kinds == ["OK" if number % BAD_EVERY else "NG" for number in range(len(kinds))]


def shadowed(line: Appliance, package: ModelPackage, parts: int) -> ShadowReport:
    line.models.start_shadow(package, role="candidate")
    until(lambda: line.models.shadow_report().parts >= parts)
    line.models.stop_shadow()
    return line.models.shadow_report()
