"""Another model that judges the same parts as the one that answers the line, where it does not disturb it.

1. The inspect thread, after it has told a part, copies the frame into a buffer if one stands free, and never waits; if
   none does, the part is left out and counted. Nothing of a frame's size is allocated per frame.
2. The model runs on one thread of low priority, for at most `share` of the time, and not while a trigger waits for
   its answer.
3. It sees all looks of a part or none, through a decoder and a judge of its own, and what it says is told to nobody:
   it is compared, counted, and where the two disagree the frame is kept as evidence.
4. Building a model for it happens in that thread, too; who asked for it waits, the line does not.

    shadow = Shadow(stations, line_waits, share=0.3)
    shadow.start(package, "candidate")          # any thread but inspect; BadModel
    pipeline.beside = shadow
    shadow.report()
    shadow.run(stop)                            # the thread `shadow`

Whole frames are copied, not the network's input: the other model may want another input shape, and a frame on which
two models disagree is kept as the camera gave it.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from edge_inspect.capture.ring import Slot
from edge_inspect.counts import Durations
from edge_inspect.delivery.evidence_subject import Subject
from edge_inspect.delivery.picture_pool import Pixels, shaped
from edge_inspect.errors import BadModel, Ending, Refusal
from edge_inspect.inference.engine import Engine
from edge_inspect.inference.package import ModelPackage
from edge_inspect.lane import FittedModel, Judged, Lane
from edge_inspect.reporting import Identity, disagreement
from edge_inspect.update.compare import Role, Tally
from edge_inspect.update.shadow import ShadowReport
from edge_inspect.verdict.judge import Verdict
from edge_inspect.verdict.parts import Look

log = structlog.get_logger()

BUFFERS = 4
LOOK_EVERY_S = 0.25
PAUSE_S = 0.01
"""How often to look whether the trigger that was waited for has its answer."""
NICE = 10
"""A tenth of a core where the inspection wants all of it. Not the lowest: while this thread holds the interpreter's
lock it must get on, or on a box whose cores are all busy the inspection would wait for it."""
Decided = tuple[Verdict, Judged]


class Fits(Protocol):
    """A camera's side of it: what is `Station`'s."""

    @property
    def lane(self) -> Lane | None: ...

    @property
    def identity(self) -> Identity | None: ...

    def fit_beside(self, package: ModelPackage, engines: dict[str, Engine]) -> FittedModel | None:
        """On one thread; `engines`: by file, those that are there and one that is added."""


class _Shown:
    """A frame that was handed over; reused."""

    __slots__ = ("buffer", "decided", "lane", "looks", "size")

    def __init__(self) -> None:
        self.buffer: NDArray[np.uint8] = np.zeros(0, np.uint8)
        self.lane: Lane | None = None
        self.looks: tuple[Look, ...] = ()
        self.decided: dict[int, Decided] = {}
        self.size = (0, 0)

    @property
    def pixels(self) -> Pixels:
        height, width = self.size
        return shaped(self.buffer, (0, 0, width, height))


class _Order:
    """What another thread wants of this one; it waits for `done`."""

    def __init__(self, package: ModelPackage | None, role: Role) -> None:
        self.package = package
        self.role = role
        self.done = threading.Event()
        self.error: BaseException | None = None


class _Beside:
    """One model in the shadow: fitted to each camera, and what is counted."""

    def __init__(self, package: ModelPackage, role: Role) -> None:
        self.package = package
        self.engines: dict[str, Engine] = {}
        self.fitted: dict[str, FittedModel] = {}
        """By camera; replaced, never changed: the inspect thread reads it."""
        self.tally = Tally(role)
        self.refused: set[str] = set()
        """Cameras that came later and that it cannot be fitted to."""
        self.joined: set[str] = set()
        """Cameras of which it has seen a frame; the inspect thread's."""

    def fit(self, stations: Sequence[Fits]) -> int:
        """Fit it to cameras whose pictures are known by now. Returns the bytes of their largest frame."""
        lanes = [(station, station.lane) for station in stations]
        found = dict(self.fitted)
        for station, lane in lanes:
            if lane is not None and lane.name not in found:
                fitted = station.fit_beside(self.package, self.engines)
                if fitted is not None:
                    found[lane.name] = fitted
        self.fitted = found
        return max((lane.ring.slots[0].pixels.nbytes for _, lane in lanes if lane is not None), default=0)

    def close(self) -> None:
        self.fitted = {}
        for engine in self.engines.values():
            engine.close()
        self.engines.clear()


class Shadow:
    """`seen` and `gave_up` belong to the inspect thread, `run` to the thread `shadow`, the rest to any one other.

    keep: takes a frame on which the two disagree; False when it could not.
    """

    def __init__(
        self,
        stations: Sequence[Fits],
        *,
        line_waits: Callable[[], bool],
        keep: Callable[[Subject, Pixels], bool] = lambda subject, pixels: False,
        share: float = 0.3,
        nice: int = NICE,
    ) -> None:
        self.beat_ns: int | None = None
        """When the thread last moved; None while it builds a model, which may take minutes, and when it has nothing."""
        self._stations = stations
        self._line_waits = line_waits
        self._keep = keep
        self._share = share
        self._nice = nice
        self._queue: queue.SimpleQueue[_Shown | _Order] = queue.SimpleQueue()
        self._free: deque[_Shown] = deque(_Shown() for _ in range(BUFFERS))
        self._beside: _Beside | None = None
        self._left_out: set[tuple[str, int]] = set()
        """Parts of which a look was missed."""
        self._last = ShadowReport()
        self._next_s = 0.0
        self._size_bytes = 0
        self._hurry = threading.Event()
        """Somebody waits for us: frames in hand are let go."""
        self._over = threading.Event()

    # --- whoever wants a shadow ------------------------------------------------------------------------------------

    def start(self, package: ModelPackage, role: Role) -> None:
        """Returns when it judges. Raises BadModel, Ending; then there is no shadow."""
        self._ask(_Order(package, role))

    def stop(self) -> None:
        """Returns when its engine is freed."""
        if self._beside is not None:
            self._ask(_Order(None, "candidate"))

    def report(self) -> ShadowReport:
        """Of the shadow that is, or of the last one."""
        beside = self._beside
        return self._report(beside) if beside else self._last

    def _report(self, beside: _Beside) -> ShadowReport:
        answers = Durations()
        for station in self._stations:
            if station.lane is not None:
                answers.include(station.lane.model.counts.inference)
        return beside.tally.report(answers)

    def _ask(self, order: _Order) -> None:
        self._hurry.set()
        self._queue.put(order)
        while not order.done.wait(0.2):
            if self._over.is_set() and not order.done.is_set():
                raise Ending("the daemon ends: no model judges beside any more")
        if order.error is not None:
            raise order.error

    # --- the inspect thread ----------------------------------------------------------------------------------------

    def seen(self, lane: Lane, slot: Slot, looks: Sequence[Look], decided: Mapping[int, Decided]) -> None:
        beside = self._beside
        if beside is None or lane.name not in beside.fitted:
            return
        if lane.name not in beside.joined:  # parts that were begun before are not ours
            beside.joined.add(lane.name)
            self._left_out = {key for key in self._left_out if key[0] != lane.name}
            self._left_out.update((lane.name, part) for part in lane.begun)
            return
        wanted = tuple(look for look in looks if self._follows(lane, look))
        if not wanted:
            return
        shown = self._free.popleft() if self._free else None
        if shown is None or shown.buffer.size < slot.pixels.nbytes:
            for look in wanted:
                self._leave_out(beside, lane, look)
            if shown is not None:
                self._free.append(shown)
            return
        shown.lane, shown.looks, shown.size = lane, wanted, slot.pixels.shape[:2]
        np.copyto(shown.pixels, slot.pixels)
        for look in wanted:
            if look.last:
                shown.decided[look.part] = decided[look.part]
        self._queue.put(shown)

    def gave_up(self, lane: Lane, part: int) -> None:
        self._left_out.discard((lane.name, part))

    def _follows(self, lane: Lane, look: Look) -> bool:
        """From its first look on: a part of which a look was missed is not judged beside."""
        key = lane.name, look.part
        if key in self._left_out:
            if look.last:
                self._left_out.discard(key)
            return False
        return True

    def _leave_out(self, beside: _Beside, lane: Lane, look: Look) -> None:
        beside.tally.skipped += 1
        if not look.last:
            self._left_out.add((lane.name, look.part))

    # --- the thread `shadow` ---------------------------------------------------------------------------------------

    def run(self, stop: threading.Event) -> None:
        """Judge beside until `stop`."""
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._nice)
        try:
            while not stop.is_set():
                self.beat_ns = time.monotonic_ns()
                try:
                    job = self._queue.get(timeout=LOOK_EVERY_S)
                except queue.Empty:
                    self._fit_new_cameras()
                    continue
                if isinstance(job, _Order):
                    self._follow(job)
                else:
                    self._judge(job, stop)
        finally:
            self._over.set()
            self.beat_ns = None
            self._end()

    def _follow(self, order: _Order) -> None:
        """Another model, or none."""
        self.beat_ns = None
        self._hurry.clear()
        try:
            self._end()
            if order.package is not None:
                beside = _Beside(order.package, order.role)
                try:
                    self._make_room(beside.fit(self._stations))
                except Refusal:
                    beside.close()
                    raise
                beside.tally = Tally(order.role)
                self._beside = beside
        except BadModel as err:
            order.error = err
        except Refusal as err:  # the runtime was there for the model that judges: it has no room for another
            order.error = BadModel("provider-missing", str(err))
        finally:
            order.done.set()

    def _end(self) -> None:
        beside, self._beside = self._beside, None
        if beside is not None:
            self._last = self._report(beside)
            beside.close()
        self._make_room(0)

    def _fit_new_cameras(self) -> None:
        """Whose pictures were not known when the shadow began."""
        beside = self._beside
        if beside is None:
            return
        new = [s.lane.name for s in self._stations if s.lane is not None and s.lane.name not in beside.fitted]
        if set(new) - beside.refused:
            self.beat_ns = None
            try:
                self._make_room(beside.fit(self._stations))
            except Refusal as err:
                beside.refused.update(new)
                log.warning("model.not_beside", cameras=new, why=str(err))

    def _make_room(self, size_bytes: int) -> None:
        """Buffers for frames so large, or none; one that is in use follows when it comes back."""
        self._size_bytes = size_bytes
        for _ in range(len(self._free)):
            self._give_back(self._free.popleft())

    def _give_back(self, shown: _Shown) -> None:
        shown.lane, shown.looks = None, ()
        shown.decided.clear()
        if shown.buffer.size < self._size_bytes or not self._size_bytes:
            shown.buffer = np.ones(self._size_bytes, np.uint8)  # written to: its pages are there when a frame comes
        self._free.append(shown)

    def _judge(self, shown: _Shown, stop: threading.Event) -> None:
        """One frame: wait for our turn, run, compare."""
        beside = self._beside
        try:
            if beside is not None and shown.lane is not None and self._wait_for_turn(stop):
                began_ns = time.monotonic_ns()
                self._look(beside, shown.lane, shown)
                took_ns = time.monotonic_ns() - began_ns
                beside.tally.busy_ns += took_ns
                self._next_s = time.monotonic() + took_ns / 1e9 * (1 - self._share) / self._share
        finally:
            self._give_back(shown)

    def _wait_for_turn(self, stop: threading.Event) -> bool:
        """Until our share allows, and no trigger waits. False when there is something better to do."""
        while not stop.is_set() and not self._hurry.is_set():
            self.beat_ns = time.monotonic_ns()
            rest_s = self._next_s - time.monotonic()
            if rest_s <= 0 and not self._line_waits():
                return True
            self._hurry.wait(min(LOOK_EVERY_S, max(PAUSE_S, rest_s)))
        return False

    def _look(self, beside: _Beside, lane: Lane, shown: _Shown) -> None:
        model = beside.fitted.get(lane.name)
        if model is None:
            return
        found, times_ns = model.find(shown.pixels)
        beside.tally.runs.add(times_ns[1])
        for look in shown.looks:
            verdict = model.look(look, found)
            if verdict is not None:
                answered, judged = shown.decided[look.part]
                if beside.tally.add(answered, verdict):
                    self._keep_picture(lane, model, judged, answered, verdict, shown.pixels)

    def _keep_picture(
        self, lane: Lane, model: FittedModel, judged: Judged, answered: Verdict, verdict: Verdict, pixels: Pixels
    ) -> None:
        identity = next(station.identity for station in self._stations if station.lane is lane)
        assert identity is not None
        self._keep(disagreement(lane, judged, identity, pixels, answered, (model.ref, verdict)), pixels)
