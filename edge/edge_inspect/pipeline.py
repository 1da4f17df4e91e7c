"""The way of a frame, in order, in one thread, for every camera of this daemon.

1. A part gets exactly one verdict, and it is told before anything that can wait; noted first, for a kill loses nothing.
2. What could not be seen is UNKNOWN: a broken frame, a gap, a dead picture, numbers that are not finite.
3. Nothing of a frame's or a tensor's size is allocated here: slot -> engine input is the only copy of pixels.
4. Cameras take turns, one frame each, so that none starves another.
5. What the line was told is what is reported and counted: a verdict that came too late for it is UNKNOWN.
6. Models are exchanged between two frames, by this thread, and that is all it does for it: no part waits, none is lost.

    pipeline = Pipeline(tell=console.tell, report=writer.put)
    pipeline.add(lane)
    pipeline.run(stop)                  # the inspect thread
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import structlog

from edge_inspect.capture.protocol import Pixels, Stamp
from edge_inspect.capture.ring import Gap, Slot
from edge_inspect.collector import Collector
from edge_inspect.counts import LaneCounts
from edge_inspect.inference.decode import Detections
from edge_inspect.known_answers import KnownAnswers
from edge_inspect.lane import Beside, FittedModel, Judged, Lane, Seen, Stages, Watcher, judged_as_told
from edge_inspect.line.protocol import Answer
from edge_inspect.verdict.judge import Kind, Verdict
from edge_inspect.verdict.parts import Look

__all__ = ["Beside", "Judged", "Lane", "Pipeline", "Seen", "Stages", "Watcher"]

log = structlog.get_logger()

NOT_READY = "not-ready"
DEAD_SAID_EVERY_NS = 10_000_000_000


class _Exchange:
    def __init__(self, models: Sequence[tuple[Lane, FittedModel]], then: Callable[[], None]) -> None:
        self.models = models
        self.then = then
        self.done = threading.Event()


class Pipeline:
    """Takes frames from the lanes' rings in turn and sees each of them through to its verdict."""

    def __init__(
        self,
        *,
        tell: Callable[[Lane, Judged], None],
        note: Callable[[Lane, Judged], None] = lambda lane, judged: None,
        report: Callable[[Lane, Judged, Pixels | None], None],
        keep: Callable[[Lane, Judged, Pixels], None] = lambda lane, judged, pixels: None,
        watchers: tuple[Watcher, ...] = (),
        ready: threading.Condition,
        frames_wanted: int | None = None,
    ) -> None:
        self.beat_ns: int | None = time.monotonic_ns()
        self.frames = 0
        self.beside: Beside | None = None
        """Hears of every part that was looked at, after it was told."""
        self._exchange: _Exchange | None = None
        self._ended = False
        self._decided: dict[int, tuple[Verdict, Judged]] = {}
        self._lanes: list[Lane] = []
        self._tell = tell
        self._note = note
        self._report = report
        self._keep = keep
        self._watchers = watchers
        self._ready = ready
        self._frames_wanted = frames_wanted
        self._times = (0, 0, 0)
        self._aside_ns = self._running_ns = 0
        self._taken_ns = self._first_ns = self._last_ns = 0
        self.known_answers = KnownAnswers()
        self._collector = Collector()

    @property
    def inspecting_s(self) -> float:
        """From taking the first frame until the newest was done with."""
        return (self._last_ns - self._first_ns) / 1e9

    def add(self, lane: Lane) -> None:
        """A camera's size is known: its frames are inspected from now on. Called by that camera's grab thread."""
        if lane.line is not None:
            self._collector.settle()  # now: nothing may stand still for it between a trigger and its answer
        with self._ready:
            self._lanes.append(lane)
            self._ready.notify_all()

    def wake(self) -> None:
        """There is news that no ring knows of: parts that were answered without a picture. Any thread."""
        with self._ready:
            self._ready.notify_all()

    @property
    def line_waits(self) -> bool:
        """A part is between its trigger and its answer."""
        return any(lane.line is not None and lane.line.busy for lane in tuple(self._lanes))

    def exchange(self, models: Sequence[tuple[Lane, FittedModel]], then: Callable[[], None] = lambda: None) -> bool:
        """From the next frame on, each of these lanes is judged by its new model; parts that are begun by their old.

        Called by one thread at a time, not the inspect thread; returns when it has happened (`then` was called with
        it, in the inspect thread), or False when the pipeline ended instead.
        """
        wanted = _Exchange(models, then)
        with self._ready:
            self._exchange = wanted
            self._ready.notify_all()
        while not wanted.done.wait(0.2):
            if self._ended:
                return wanted.done.is_set()
        return True

    def run(self, stop: threading.Event, all_ended: Callable[[], bool] = lambda: False) -> None:
        """Inspect until `stop`, until the wanted number of frames, or until every source ended and is drained.

        However it ends: the lines are told that nobody judges any more.
        """
        try:
            self._run(stop, all_ended)
        finally:
            self._ended = True
            for lane in self._lanes:
                if lane.line is not None:
                    lane.line.hold(NOT_READY)
            self._collector.give_back()
        for lane in self._lanes:
            while self._report_unseen(lane):
                self.beat_ns = time.monotonic_ns()

    def _run(self, stop: threading.Event, all_ended: Callable[[], bool]) -> None:
        while not stop.is_set():
            self.beat_ns = time.monotonic_ns()
            self._exchange_models()
            self.known_answers.look(self._lanes, self.line_waits)
            ended = all_ended()
            busy = False
            for lane in tuple(self._lanes):
                if self._frames_wanted is not None and self.frames >= self._frames_wanted:
                    return
                busy |= self._take_turn(lane)
            if busy and self._work_may_come():
                self._collector.worked()
            if not self.line_waits:
                self._collector.when_idle()
            if not busy:
                if ended and not self.line_waits:
                    return
                with self._ready:
                    self._ready.wait_for(self._has_news, timeout=0.2)

    def _exchange_models(self) -> None:
        wanted = self._exchange
        if wanted is not None:
            self._exchange = None
            for lane, model in wanted.models:
                lane.model = model
            wanted.then()
            wanted.done.set()

    def _has_news(self) -> bool:
        return self._exchange is not None or any(
            lane.ring.has_news() or (lane.line is not None and lane.line.has_news()) for lane in self._lanes
        )

    def _work_may_come(self) -> bool:
        """The next frame may have to be inspected; not so where only triggered parts are, and nobody waits for one."""
        return self.line_waits or any(lane.recipe.part.mode != "trigger" for lane in self._lanes)

    def _take_turn(self, lane: Lane) -> bool:
        """One frame, or the gaps, of one camera; False when it had nothing."""
        with lane.ring.take(timeout_s=0) as slot:
            if slot is None:
                gap = lane.ring.next_gap()
                if gap is not None:
                    self._blind(lane, gap)
                return self._report_unseen(lane) or gap is not None
            while (gap := lane.ring.next_gap(before_ns=slot.stamp.captured_ns)) is not None:
                self._blind(lane, gap)
            self.frames += 1
            self._taken_ns = time.monotonic_ns()
            self._first_ns = self._first_ns or self._taken_ns
            self.inspect(lane, slot)
            self._last_ns = time.monotonic_ns()
            return True

    def inspect(self, lane: Lane, slot: Slot) -> None:
        """The way of a frame."""
        stamp, pixels = slot.stamp, slot.pixels
        start = time.perf_counter_ns()
        lane.counts.frames += 1
        if stamp.missed:
            self._blind(lane, Gap(stamp.captured_ns, "frames-lost", stamp.missed))
        self._aside_ns = self._running_ns = 0
        self._decided.clear()
        dead = "" if stamp.broken else lane.check.check(pixels)
        newly_dead = bool(dead) and dead != lane.dead_picture
        unusable = stamp.broken or dead
        if unusable:
            lane.counts.broken[unusable] += 1
            lane.finder.blind(unusable, stamp.captured_ns)
            self._tell_unjudged(lane, stamp, dead=pixels if newly_dead else None)
            self._note_dead(lane, dead)
            for watcher in self._watchers:
                watcher.frame(lane, slot, [], None)
            return
        looks = list(lane.finder.see(pixels, stamp.captured_ns))
        if looks:
            lane.counts.capture.add(max(0, self._taken_ns - stamp.captured_ns))
        found, by = None, None
        for look in looks:  # right after an exchange, some of them may be of parts that another model began
            model = lane.model_of(look.part)
            if found is None or model is not by:
                found, by = self._look(lane, model, pixels), model
            self._judge(lane, model, slot, look, found)
        self._tell_unjudged(lane, stamp)
        if found is not None:
            lane.counts.own.add(time.perf_counter_ns() - start - self._running_ns - self._aside_ns)
        self._note_dead(lane, dead)
        if (beside := self.beside) is not None and looks:  # another thread takes it away
            beside.seen(lane, slot, looks, self._decided)
        for watcher in self._watchers:
            watcher.frame(lane, slot, looks, found)

    @staticmethod
    def _note_dead(lane: Lane, dead: str) -> None:
        """A line in the log when a camera's picture dies or comes back; after the telling, for a log may be slow.

        At most one in DEAD_SAID_EVERY_NS: where a lamp flashes with the trigger, every other picture is black.
        """
        lane.dead_picture = dead
        if dead != lane.dead_said and time.monotonic_ns() - lane.dead_said_ns >= DEAD_SAID_EVERY_NS:
            log.warning("picture.dead" if dead else "picture.alive_again", camera=lane.name, why=dead or lane.dead_said)
            lane.dead_said, lane.dead_said_ns = dead, time.monotonic_ns()

    def _look(self, lane: Lane, model: FittedModel, pixels: Pixels) -> Detections:
        """One picture through the network; leaves the three stage times in `self._times`."""
        found, self._times = model.find(pixels)
        letterbox_ns, inference_ns, decode_ns = self._times
        self._running_ns += inference_ns
        counts = lane.counts
        counts.inferences += 1
        counts.letterbox.add(letterbox_ns)
        counts.inference.add(inference_ns)
        counts.decode.add(decode_ns)
        return found

    def _judge(self, lane: Lane, model: FittedModel, slot: Slot, look: Look, found: Detections) -> None:
        start = time.perf_counter_ns()
        verdict = model.look(look, found)
        lane.looked(look, model)
        judged_ns = time.perf_counter_ns() - start
        lane.counts.judging.add(judged_ns)
        letterbox_ns, inference_ns, decode_ns = self._times
        if verdict is not None:
            waited_ns = max(0, self._taken_ns - slot.stamp.captured_ns)
            stages = Stages(waited_ns, letterbox_ns, inference_ns, decode_ns, judged_ns)
            seen = Seen(look.box, stages, slot.pixels)
            judged = self._tell_verdict(lane, model, slot.stamp, look.part, verdict, seen)
            self._decided[look.part] = verdict, judged

    def _blind(self, lane: Lane, gap: Gap) -> None:
        if gap.reason == "camera-lost":
            lane.check.start_again()
        lane.finder.blind(gap.reason, gap.at_ns, gap.frames)
        utc_ns = time.time_ns() - (time.monotonic_ns() - gap.at_ns)
        self._tell_unjudged(lane, Stamp(captured_ns=gap.at_ns, utc_ns=utc_ns))

    def _report_unseen(self, lane: Lane) -> bool:
        """Parts that the line has been told of without a picture, or otherwise than we said; False: there was none."""
        if lane.line is None or not lane.line.has_news():
            return False
        self._tell_unjudged(lane, Stamp(captured_ns=time.monotonic_ns(), utc_ns=time.time_ns()))
        for answer in lane.line.withdrawn():
            self._correct(lane, answer)
        return True

    def _correct(self, lane: Lane, answer: Answer) -> None:
        """A part that was OK, until an adapter could put it out only as UNKNOWN: it is reported after all."""
        verdict = Verdict(Kind(answer.kind), answer.reason, ())
        utc_ns = time.time_ns() - (time.monotonic_ns() - answer.answered_ns)
        stamp = Stamp(captured_ns=answer.answered_ns, utc_ns=utc_ns)
        judged = judged_as_told(answer.part, verdict, stamp, None, answer, lane.model.ref)
        self._tell(lane, judged)
        self._report(lane, judged, None)
        lane.counts.withdrawn += 1
        lane.counts.ok -= 1
        lane.counts.unknown[answer.reason] += 1

    def _tell_unjudged(self, lane: Lane, stamp: Stamp, dead: Pixels | None = None) -> None:
        """`dead`: the first picture of a camera that shows nothing. No verdict rests on it; it is kept as evidence."""
        for part, reason in lane.finder.unjudged():
            model, verdict = lane.give_up(part, reason)
            self._tell_verdict(lane, model, stamp, part, verdict, None, dead)
            if (beside := self.beside) is not None:
                beside.gave_up(lane, part)

    def _tell_verdict(
        self,
        lane: Lane,
        model: FittedModel,
        stamp: Stamp,
        part: int,
        verdict: Verdict,
        seen: Seen | None,
        dead: Pixels | None = None,
    ) -> Judged:
        told = None
        if lane.line is not None:  # first of all
            told = lane.line.answer(part, verdict.kind.value, verdict.reason, stamp.captured_ns)
        judged = judged_as_told(part, verdict, stamp, seen, told, model.ref)
        pixels = seen.pixels if seen else None
        if told is None:  # else its line has noted it
            self._note(lane, judged)
        self._tell(lane, judged)
        if judged.must_be_reported:
            self._report(lane, judged, pixels)
        shown = pixels if pixels is not None else dead
        if shown is not None:
            self._keep(lane, judged, shown)
        self._count(lane.counts, judged)
        model.counts.judged(judged.verdict)
        watching = time.perf_counter_ns()
        for watcher in self._watchers:
            watcher.judged(lane, judged, pixels)
        self._collector.between_parts(lambda: self.line_waits)
        self._aside_ns += time.perf_counter_ns() - watching
        return judged

    @staticmethod
    def _count(counts: LaneCounts, judged: Judged) -> None:
        counts.parts += 1
        if judged.verdict.kind is Kind.OK:
            counts.ok += 1
        elif judged.verdict.kind is Kind.NG:
            counts.ng += 1
        else:
            counts.unknown[judged.verdict.reason] += 1
        if judged.stages is not None:
            counts.latency.add(judged.verdict_ns - judged.captured_ns)
