"""Another model that judges the same parts as the one that answers the line, where it does not disturb it.

1. The inspect thread, after it has told a part, copies the frame into a buffer if one stands free, and never waits; if
   none does, the part is left out and counted. Nothing of a frame's size is allocated per frame.
2. The model runs on one thread of low priority, for at most `share` of the time, and not while a trigger waits for
   its answer.
3. It sees all looks of a part or none, through a decoder and a judge of its own, and what it says is told to nobody:
   it is compared, counted, and where the two disagree the frame is kept as evidence.
4. Building a model for it happens in that thread, too; who asked for it waits, the line does not.
5. Nobody needs it for a verdict: when its thread hangs in a runtime, nothing ends and nobody waits for it. That is an
   alarm, a candidate in it is refused (`shadow-hangs`), and no other is tried before the thread has come back.

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

import structlog

from edge_inspect.beside_frames import Decided, Frames, Intake, Shown
from edge_inspect.beside_model import Fits, ModelBeside
from edge_inspect.capture.ring import Slot
from edge_inspect.counts import Durations
from edge_inspect.delivery.evidence_subject import Subject
from edge_inspect.delivery.picture_pool import Pixels
from edge_inspect.errors import BadModel, Ending, InspectError, Refusal, ShadowHangs, StorageFailing
from edge_inspect.inference.package import ModelPackage
from edge_inspect.lane import FittedModel, Judged, Lane
from edge_inspect.reporting import disagreement
from edge_inspect.update.compare import Role, Tally
from edge_inspect.update.shadow import ShadowReport
from edge_inspect.verdict.judge import Verdict
from edge_inspect.verdict.parts import Look
from edge_wire import messages as wire

log = structlog.get_logger()

SHADOW_HANGS = ShadowHangs.code
LOOK_EVERY_S = 0.25
ASK_S = 0.2
PAUSE_S = 0.01
"""How often to look whether the trigger that was waited for has its answer."""
NICE = 10
"""A tenth of a core where the inspection wants all of it. Not the lowest: while this thread holds the interpreter's
lock it must get on, or on a box whose cores are all busy the inspection would wait for it."""
HANGS_S = 60.0
"""A frame takes a second, at the very most; a thread that has not moved for so long hangs in a runtime or a driver."""
BUILD_S = 1200.0
"""How long a runtime may build an engine; less than the updater's own patience (`update.acts.LIMITS_S`)."""


class _Order:
    """What another thread wants of this one; it waits for `done`."""

    def __init__(self, package: ModelPackage | None, role: Role) -> None:
        self.package = package
        self.role = role
        self.done = threading.Event()
        self.error: BaseException | None = None
        self.given_up = False
        """Nobody waits any more: what was built for it is closed."""


class Shadow:
    """`seen` and `gave_up` belong to the inspect thread, `run` to the thread `shadow`, `look_after` to the main thread,
    the rest to any one other.

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
        """When the thread last moved; to come: it builds a model, which may take until then; None when it has ended."""
        self.hangs = False
        """By the main thread, which looks (`look_after`)."""
        self._stations = stations
        self._line_waits = line_waits
        self._keep = keep
        self._share = share
        self._nice = nice
        self._queue: queue.SimpleQueue[Shown | _Order] = queue.SimpleQueue()
        self._frames = Frames()
        self._intake = Intake(self._frames)
        self._beside: ModelBeside | None = None
        self._given_up: deque[ModelBeside] = deque()
        """In which the thread hung; closed by it, should it come back."""
        self._exchange = threading.Lock()
        """Between whoever gives up and a thread that comes back just then."""
        self._last = ShadowReport()
        self._next_s = 0.0
        self._stop = threading.Event()
        self._hurry = threading.Event()
        """Somebody waits for us: frames in hand are let go."""
        self._over = threading.Event()

    # --- whoever wants a shadow ------------------------------------------------------------------------------------

    def start(self, package: ModelPackage, role: Role) -> None:
        """Returns when it judges. Raises, with no shadow then, BadModel, StorageFailing, Ending, ShadowHangs."""
        if self.hangs:
            raise ShadowHangs("another model still hangs beside the one that judges; nothing can be tried meanwhile")
        try:
            self._ask(_Order(package, role))
        except ShadowHangs as err:
            raise BadModel(SHADOW_HANGS, f"{package.dir}: the runtime does not come back from building it") from err

    def stop(self) -> None:
        """Returns when its engine is freed; where the thread hangs in it, at once: it is freed if that ever returns."""
        if self._beside is None:
            return
        try:
            self._ask(_Order(None, "candidate"))
        except ShadowHangs:
            with self._exchange:
                beside, self._beside = self._beside, None
            if beside is not None:
                self._last = self._report(beside)
                self._given_up.append(beside)

    def check(self) -> None:
        """Raises BadModel `shadow-hangs` when the model beside does not answer any more."""
        beside = self._beside
        if self.hangs and beside is not None:
            raise BadModel(SHADOW_HANGS, f"{beside.package.dir}: a run of it has not ended for {HANGS_S:g} s")

    def report(self) -> ShadowReport:
        """Of the shadow that is, or of the last one."""
        beside = self._beside
        return self._report(beside) if beside else self._last

    def _report(self, beside: ModelBeside) -> ShadowReport:
        answers = Durations()
        for station in self._stations:
            if station.lane is not None:
                answers.include(station.lane.model.counts.inference)
        return beside.tally.report(answers)

    def _ask(self, order: _Order) -> None:
        """Raises ShadowHangs: the thread does not come to it, and if it ever does, it does nothing."""
        self._hurry.set()
        self._queue.put(order)
        while not order.done.wait(ASK_S):
            with self._exchange:
                if order.done.is_set():
                    break
                order.given_up = self.hangs or self._over.is_set() or self._stop.is_set()
            if order.given_up and self.hangs:
                raise ShadowHangs("the model beside hangs")
            if order.given_up:
                raise Ending("the daemon ends: no model judges beside any more")
        if order.error is not None:
            raise order.error

    # --- the main thread -------------------------------------------------------------------------------------------

    def look_after(self, now_ns: int, awake_since_ns: int = 0) -> None:
        """Whether the thread moves: told once when it does not, and once when it does again.

        It is no heart of the line: what hangs here ends no process.
        """
        beat_ns, beside = self.beat_ns, self._beside
        hangs = beat_ns is not None and now_ns - max(beat_ns, awake_since_ns) > HANGS_S * 1e9
        if hangs and not self.hangs:
            log.error("shadow.hangs", model=beside.package.digest if beside else None)
        elif self.hangs and not hangs:
            log.info("shadow.moves_again")
        self.hangs = hangs

    def alarms(self) -> list[wire.Degraded]:
        if not self.hangs:
            return []
        return [wire.Degraded(code=SHADOW_HANGS, detail="the model beside the one that judges does not answer")]

    # --- the inspect thread ----------------------------------------------------------------------------------------

    def seen(self, lane: Lane, slot: Slot, looks: Sequence[Look], decided: Mapping[int, Decided]) -> None:
        beside = self._beside
        shown = self._intake.copy(beside, lane, slot, looks, decided) if beside is not None else None
        if shown is not None:
            self._queue.put(shown)

    def gave_up(self, lane: Lane, part: int) -> None:
        self._intake.forget(lane, part)

    # --- the thread `shadow` ---------------------------------------------------------------------------------------

    def run(self, stop: threading.Event) -> None:
        """Judge beside until `stop`."""
        self._stop = stop
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._nice)
        next_look_s = 0.0
        try:
            while not stop.is_set():
                self.beat_ns = time.monotonic_ns()
                job = self._next_job()
                if isinstance(job, _Order):
                    self._follow(job)
                elif job is not None:
                    self._judge(job, stop)
                self._close_given_up()
                if time.monotonic() >= next_look_s:  # by the clock: on a busy line there is always a job
                    self._fit_new_cameras()
                    next_look_s = time.monotonic() + LOOK_EVERY_S
        finally:
            self._over.set()
            self.beat_ns = None
            self._end()
            self._close_given_up()

    def _next_job(self) -> Shown | _Order | None:
        try:
            return self._queue.get(timeout=LOOK_EVERY_S)
        except queue.Empty:
            return None

    def _follow(self, order: _Order) -> None:
        """Another model, or none."""
        self._builds()
        self._hurry.clear()
        try:
            self._end()
            if order.package is not None and not order.given_up:
                self._begin(order, order.package)
        except (BadModel, StorageFailing) as err:
            order.error = err
        except Refusal as err:  # the runtime was there for the model that judges: it has no room for another
            order.error = BadModel("provider-missing", str(err))
        finally:
            order.done.set()

    def _begin(self, order: _Order, package: ModelPackage) -> None:
        beside = ModelBeside(package, order.role)
        try:
            self._frames.make_room(beside.fit(self._stations))
        except InspectError:
            beside.close()
            raise
        beside.tally = Tally(order.role)
        with self._exchange:
            if not order.given_up:
                self._beside = beside
                order.done.set()
                return
        beside.close()
        self._frames.make_room(0)

    def _builds(self) -> None:
        self.beat_ns = time.monotonic_ns() + int(BUILD_S * 1e9)

    def _end(self) -> None:
        with self._exchange:
            beside, self._beside = self._beside, None
        if beside is not None:
            self._last = self._report(beside)
            beside.close()
        self._frames.make_room(0)

    def _close_given_up(self) -> None:
        while self._given_up:
            self._given_up.popleft().close()

    def _fit_new_cameras(self) -> None:
        """Whose pictures were not known when the shadow began."""
        beside = self._beside
        if beside is None or not (new := beside.unfitted(self._stations)):
            return
        self._builds()
        try:
            self._frames.make_room(beside.fit(self._stations))
        except InspectError as err:
            beside.refused.update(new)
            log.warning("model.not_beside", cameras=sorted(new), why=str(err))

    def _judge(self, shown: Shown, stop: threading.Event) -> None:
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
            self._frames.give_back(shown)

    def _wait_for_turn(self, stop: threading.Event) -> bool:
        """Until our share allows, and no trigger waits. False when there is something better to do."""
        while not stop.is_set() and not self._hurry.is_set():
            self.beat_ns = time.monotonic_ns()
            rest_s = self._next_s - time.monotonic()
            if rest_s <= 0 and not self._line_waits():
                return True
            self._hurry.wait(min(LOOK_EVERY_S, max(PAUSE_S, rest_s)))
        return False

    def _look(self, beside: ModelBeside, lane: Lane, shown: Shown) -> None:
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
