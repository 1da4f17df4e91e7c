"""The line as wires: an edge is a trigger; OK, NG, Ready, Busy, reject and a heartbeat are outputs.

1. Every edge of the trigger wire is one trigger, numbered by us from 1, with the kernel's time stamp. Edges that the
   kernel had to drop use up their numbers and are counted.
2. One thread owns the wires: it waits for the next edge, answer or pulse end, whichever comes first, and never spins.
3. At the end, and whenever the thread fails, outputs are driven to rest (OK off) before they are let go. A process that
   is killed lets go at once; then pull resistors decide, see docs/line-gpio.md.
4. A chip that is missing, unplugged or in use is tried for ever; `trouble` says why, in one line.

    line = GpioLine(Path("/dev/gpiochip0"), Wires(trigger=17, ok=22, ng=23))
    line.run(stop, desk.fire)
"""

from __future__ import annotations

import contextlib
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import structlog

from edge_inspect.backoff import Backoff
from edge_inspect.line.gpio_pins import Bias, Edge, GpioGone, Input, Pins, request_pins
from edge_inspect.line.gpio_signals import Signals, Wires
from edge_inspect.line.protocol import LATE, MOST_SEQUENCE, Adapter, Answer, Trigger
from edge_inspect.threads import rest
from edge_inspect.waker import Waker

log = structlog.get_logger(__name__)

IDLE_S = 0.25
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 2.0
BUFFERED_EDGES = 256
MOST_UNTOLD = 1024

Fire = Callable[[Trigger], None]


def drive_to_rest(chip: Path, wires: Wires, *, active_low: bool, rejects_at_rest: bool) -> None:
    """For chips that keep their levels when a daemon was killed. Raises GpioGone, BadConfig."""
    rest = wires.outputs(Signals(rejects_at_rest=rejects_at_rest).rest)
    if rest:
        request_pins(chip, {}, rest, active_low=active_low, buffered=0).close()


class GpioLine(Adapter):
    """`run` once.

    edge: which one of the trigger wire, after `active_low`. bias: the chip's own pull resistors at the inputs.
    rejects_at_rest: the reject wire is on while nobody judges. alive: the application's watchdog; the heartbeat stands
    still without it. confirmed, encoder: hear how many edges of the confirm wire came, and the encoder's count.
    """

    name = "gpio"

    def __init__(
        self,
        chip: Path,
        wires: Wires,
        *,
        edge: Literal["rising", "falling"] = "rising",
        debounce_us: int = 1000,
        bias: Bias = "as-is",
        active_low: bool = False,
        output: Literal["pulse", "latch"] = "pulse",
        pulse_ms: float = 50.0,
        heartbeat_ms: float = 250.0,
        rejects_at_rest: bool = False,
        alive: Callable[[], bool] = lambda: True,
        confirmed: Callable[[int], None] = lambda count: None,
        encoder: Callable[[int], None] = lambda counts: None,
    ) -> None:
        self.beat_ns = None
        self.trouble = "not opened yet"
        self.lost = 0
        """How often an opened chip went away."""
        self.edges_lost = 0
        """Trigger edges that the kernel could not keep for us."""
        self.signals = Signals(
            output=output, pulse_ms=pulse_ms, rejects_at_rest=rejects_at_rest, heartbeat_ms=heartbeat_ms
        )
        self._chip, self._wires, self._active_low = chip, wires, active_low
        self._trigger_input = Input(edge, debounce_us, bias)
        self._alive, self._confirmed, self._encoder = alive, confirmed, encoder
        self._told: deque[Answer] = deque(maxlen=MOST_UNTOLD)
        self._rejects: deque[float] = deque(maxlen=MOST_UNTOLD)
        self._status = (False, False)
        self._sequence = 0
        self._counts = 0
        self._numbers: dict[int, int] = {}
        self._shown: dict[int, bool] = {}
        self._waker = Waker()

    # --- told by others, any thread -------------------------------------------------------------------------------

    def tell(self, answer: Answer) -> None:
        self._told.append(answer)
        self._waker.wake()

    def status(self, ready: bool, busy: bool) -> None:
        self._status = (ready, busy)
        self._waker.wake()

    def reject(self, pulse_ms: float) -> None:
        """Drive the reject wire from now on for so long."""
        self._rejects.append(pulse_ms)
        self._waker.wake()

    def counts(self) -> Mapping[str, int]:
        return {
            LATE: self.signals.late, "untold": self.signals.untold, "cut": self.signals.cut, "lost": self.lost,
            "edges-lost": self.edges_lost,
        }  # fmt: skip

    # --- the adapter's thread -------------------------------------------------------------------------------------

    def run(self, stop: threading.Event, fire: Fire | None = None) -> None:
        """Serve until `stop`; without `fire` the trigger wire is not heard.

        Raises BadConfig for a chip or a line that can never work.
        """
        backoff = Backoff(FIRST_WAIT_S, LONGEST_WAIT_S)
        try:
            while not stop.is_set():
                try:
                    with self._opened() as (pins, encoder):
                        backoff.reset()
                        self._serve(pins, encoder, stop, fire)
                except GpioGone as err:
                    self._say_lost(str(err))
                rest(self, backoff.next_s(), stop)
        finally:
            self._waker.close()
            self.trouble, self.beat_ns = "stopped", None

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[Pins, Pins | None]]:
        """The wires, outputs at rest; at rest again when they are let go.

        The encoder has a request of its own: its many edges must not push triggers out of the kernel's buffer.
        """
        wires, rest = self._wires, self._wires.outputs(self.signals.rest)
        inputs = {line: self._trigger_input for line in (wires.trigger,) if line is not None}
        inputs |= {
            line: Input("rising", self._trigger_input.debounce_us, self._trigger_input.bias)
            for line in (wires.confirm,)
            if line is not None
        }
        with contextlib.ExitStack() as stack:
            pins = request_pins(self._chip, inputs, rest, active_low=self._active_low, buffered=BUFFERED_EDGES)
            stack.callback(pins.close)
            stack.callback(self._rest, pins)
            encoder = None
            if wires.encoder is not None:
                counted = {wires.encoder: Input("rising", 0, self._trigger_input.bias)}
                encoder = request_pins(self._chip, counted, {}, active_low=self._active_low, buffered=16)
                stack.callback(encoder.close)
            self._numbers.clear()
            self._shown = dict(rest)
            for answer in self._take_told():
                self.signals.answer(answer)
            self._rejects.clear()
            self.signals.forget()
            self._tell_changes()
            self.trouble = ""
            log.info("line.wires_open", chip=str(self._chip))
            yield pins, encoder

    def _rest(self, pins: Pins) -> None:
        """The fail-safe state, actively driven."""
        with contextlib.suppress(GpioGone):
            pins.set(self._wires.outputs(self.signals.rest))

    def _serve(self, pins: Pins, encoder: Pins | None, stop: threading.Event, fire: Fire | None) -> None:
        """Raises GpioGone."""
        poller = select.poll()
        for fd in (self._waker.fileno(), pins.fd, *((encoder.fd,) if encoder else ())):
            poller.register(fd, select.POLLIN)
        while not stop.is_set():
            now_ns = self.beat_ns = time.monotonic_ns()
            self._show(pins, now_ns)
            wait_ns = min(self.signals.next_ns(now_ns) - now_ns, IDLE_S * 1e9)
            ready = dict(poller.poll(wait_ns / 1e6))
            self._waker.drain()
            if encoder is not None and encoder.fd in ready:
                self._count(encoder.edges())
            if pins.fd in ready:
                for edge in pins.edges():
                    self._hear(edge, fire)

    def _show(self, pins: Pins, now_ns: int) -> None:
        """What was told by others, onto the wires that change by it."""
        self.signals.status(*self._status)
        for answer in self._take_told():
            self.signals.answer(answer)
        while self._rejects:
            self.signals.reject(now_ns, self._rejects.popleft())
        wanted = self._wires.outputs(self.signals.levels(now_ns, alive=self._alive()))
        changes = {line: level for line, level in wanted.items() if self._shown.get(line) != level}
        if changes:
            pins.set(changes)
            self._shown |= changes
        if self.signals.too_late(time.monotonic_ns()):
            self._show(pins, time.monotonic_ns())
        self._tell_changes()

    def _take_told(self) -> Iterator[Answer]:
        while self._told:
            yield self._told.popleft()

    def _tell_changes(self) -> None:
        """What the wires show otherwise than it was told. What they never show is silence to who asked by wire."""
        silent = [answer for answer in self.signals.lost if answer.trigger.source == self.name]
        for answer in (*self.signals.changed, *silent):
            self.changed(answer, time.monotonic_ns())
        self.signals.changed.clear()
        self.signals.lost.clear()

    def _hear(self, edge: Edge, fire: Fire | None) -> None:
        new = edge.number - self._numbers.get(edge.offset, 0)
        self._numbers[edge.offset] = edge.number
        if edge.offset == self._wires.confirm:
            self._confirmed(new)
            return
        if fire is None:
            return
        if new > 1:
            self.edges_lost += new - 1
            log.warning("line.edges_lost", lost=new - 1)
        self._sequence = (self._sequence + new) & MOST_SEQUENCE
        self.signals.trigger(edge.at_ns)
        counts = None if self._wires.encoder is None else self._counts
        fire(Trigger(self._sequence, edge.at_ns, self.name, counts))

    def _count(self, edges: list[Edge]) -> None:
        """The encoder: only the newest number matters; what the kernel had to drop is counted in it."""
        last = edges[-1]
        self._counts += last.number - self._numbers.get(last.offset, 0)
        self._numbers[last.offset] = last.number
        self._encoder(self._counts)

    def _say_lost(self, why: str) -> None:
        """One line when it goes, and one when the reason changes."""
        if not self.trouble:
            self.lost += 1
        if why != self.trouble:
            log.error("line.wires_lost", why=why)
        self.trouble = why
