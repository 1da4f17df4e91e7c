"""The way of a frame, in order, in one thread, for every camera of this daemon.

1. A part gets exactly one verdict, and it is told before anything that can wait; noted first, for a kill loses nothing.
2. What could not be seen is UNKNOWN: a broken frame, a gap, a dead picture, numbers that are not finite.
3. Nothing of a frame's or a tensor's size is allocated here: slot -> engine input is the only copy of pixels.
4. Cameras take turns, one frame each, so that none starves another.
5. What the line was told is what is reported and counted: a verdict that came too late for it is UNKNOWN.

    pipeline = Pipeline(tell=console.tell, report=writer.put)
    pipeline.add(lane)
    pipeline.run(stop)                  # the inspect thread
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import structlog

from edge_inspect.capture.protocol import Pixels, Stamp
from edge_inspect.capture.ring import Gap, Slot
from edge_inspect.counts import LaneCounts
from edge_inspect.inference.decode import Detections
from edge_inspect.lane import Judged, Lane, Seen, Stages, judged_as_told
from edge_inspect.verdict.judge import Kind, Verdict
from edge_inspect.verdict.parts import Look

__all__ = ["Judged", "Lane", "Pipeline", "Seen", "Stages", "Watcher"]

log = structlog.get_logger()

MODEL_SWAP = "model-swap"
NOT_READY = "not-ready"
KNOWN_ANSWER_EVERY_S = 300.0
COLLECT_ALL_EVERY_S = 300.0
DEAD_SAID_EVERY_NS = 10_000_000_000
WARM_UP_PARTS = 20
IDLE_S = 1.0


class Watcher(Protocol):
    """Sees each frame while its slot is still leased: annotated videos, galleries, scores. Not for the line."""

    def frame(self, lane: Lane, slot: Slot, looks: list[Look], found: Detections | None) -> None: ...

    def judged(self, lane: Lane, judged: Judged, pixels: Pixels | None) -> None: ...


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
        self._lanes: list[Lane] = []
        self._tell = tell
        self._note = note
        self._report = report
        self._keep = keep
        self._watchers = watchers
        self._ready = ready
        self._frames_wanted = frames_wanted
        self._times = (0, 0, 0)
        self._aside_ns = 0
        self._taken_ns = self._first_ns = self._last_ns = 0
        self._known_answer_at = time.monotonic() + KNOWN_ANSWER_EVERY_S
        self._next_question = 0
        self._until_freeze = WARM_UP_PARTS
        self._idle_since = self._collected_at = time.monotonic()

    @property
    def inspecting_s(self) -> float:
        """From taking the first frame until the newest was done with."""
        return (self._last_ns - self._first_ns) / 1e9

    def add(self, lane: Lane) -> None:
        """A camera's size is known: its frames are inspected from now on. Called by that camera's grab thread."""
        if lane.line is not None:
            self._tidy_for_good()  # now: nothing may stand still for it between a trigger and its answer
        with self._ready:
            self._lanes.append(lane)
            self._ready.notify_all()

    def wake(self) -> None:
        """There is news that no ring knows of: parts that were answered without a picture. Any thread."""
        with self._ready:
            self._ready.notify_all()

    @contextmanager
    def swapping(self, lane: Lane) -> Iterator[None]:
        """In the inspect thread, between frames: while the model is exchanged, triggers are UNKNOWN `model-swap`."""
        if lane.line is not None:
            lane.line.hold(MODEL_SWAP)
        try:
            yield
        finally:
            if lane.line is not None:
                lane.line.release()

    def run(self, stop: threading.Event, all_ended: Callable[[], bool] = lambda: False) -> None:
        """Inspect until `stop`, until the wanted number of frames, or until every source ended and is drained.

        However it ends: the lines are told that nobody judges any more.
        """
        try:
            self._run(stop, all_ended)
        finally:
            for lane in self._lanes:
                if lane.line is not None:
                    lane.line.hold(NOT_READY)
            if self._until_freeze < 0:
                gc.unfreeze()
                gc.enable()
        for lane in self._lanes:
            while self._report_unseen(lane):
                self.beat_ns = time.monotonic_ns()

    def _run(self, stop: threading.Event, all_ended: Callable[[], bool]) -> None:
        while not stop.is_set():
            self.beat_ns = time.monotonic_ns()
            self._check_known_answers()
            ended = all_ended()
            busy = False
            for lane in tuple(self._lanes):
                if self._frames_wanted is not None and self.frames >= self._frames_wanted:
                    return
                busy |= self._take_turn(lane)
            if busy and self._work_may_come():
                self._idle_since = time.monotonic()
            self._collect_when_idle()
            if not busy:
                if ended and not self._line_waits():
                    return
                with self._ready:
                    self._ready.wait_for(self._has_news, timeout=0.2)

    def _has_news(self) -> bool:
        return any(lane.ring.has_news() or (lane.line is not None and lane.line.has_news()) for lane in self._lanes)

    def _work_may_come(self) -> bool:
        """The next frame may have to be inspected; not so where only triggered parts are, and nobody waits for one."""
        return self._line_waits() or any(lane.recipe.part.mode != "trigger" for lane in self._lanes)

    def _line_waits(self) -> bool:
        """A part is between its trigger and its answer."""
        return any(lane.line is not None and lane.line.busy for lane in self._lanes)

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
        self._aside_ns = 0
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
        found = self._look(lane, pixels) if looks else None
        if found is not None:
            lane.counts.capture.add(max(0, self._taken_ns - stamp.captured_ns))
        for look in looks:
            assert found is not None
            self._judge(lane, slot, look, found)
        self._tell_unjudged(lane, stamp)
        if found is not None:
            lane.counts.own.add(time.perf_counter_ns() - start - self._times[1] - self._aside_ns)
        self._note_dead(lane, dead)
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

    def _look(self, lane: Lane, pixels: Pixels) -> Detections:
        """One picture through the network; leaves the three stage times in `self._times`."""
        engine = lane.engine
        start = time.perf_counter_ns()
        lane.letterbox(pixels, out=engine.input)
        boxed = time.perf_counter_ns()
        engine.run()
        ran = time.perf_counter_ns()
        found = lane.decoder.decode(engine.output, lane.letterbox, lane.thresholds)
        done = time.perf_counter_ns()
        self._times = (boxed - start, ran - boxed, done - ran)
        counts = lane.counts
        counts.inferences += 1
        counts.letterbox.add(boxed - start)
        counts.inference.add(ran - boxed)
        counts.decode.add(done - ran)
        return found

    def _judge(self, lane: Lane, slot: Slot, look: Look, found: Detections) -> None:
        start = time.perf_counter_ns()
        if found.finite:
            lane.judge.look(look, found.boxes, found.scores, found.classes, found.n)
        else:
            lane.judge.unusable(look, "non-finite")
        verdict = lane.judge.decide(look.part) if look.last else None
        judged_ns = time.perf_counter_ns() - start
        lane.counts.judging.add(judged_ns)
        letterbox_ns, inference_ns, decode_ns = self._times
        if verdict is not None:
            waited_ns = max(0, self._taken_ns - slot.stamp.captured_ns)
            stages = Stages(waited_ns, letterbox_ns, inference_ns, decode_ns, judged_ns)
            self._tell_verdict(lane, slot.stamp, look.part, verdict, Seen(look.box, stages, slot.pixels))

    def _blind(self, lane: Lane, gap: Gap) -> None:
        if gap.reason == "camera-lost":
            lane.check.start_again()
        lane.finder.blind(gap.reason, gap.at_ns, gap.frames)
        utc_ns = time.time_ns() - (time.monotonic_ns() - gap.at_ns)
        self._tell_unjudged(lane, Stamp(captured_ns=gap.at_ns, utc_ns=utc_ns))

    def _report_unseen(self, lane: Lane) -> bool:
        """Parts that the line has been told of without a picture; False when there was none."""
        if lane.line is None or not lane.line.has_news():
            return False
        self._tell_unjudged(lane, Stamp(captured_ns=time.monotonic_ns(), utc_ns=time.time_ns()))
        return True

    def _tell_unjudged(self, lane: Lane, stamp: Stamp, dead: Pixels | None = None) -> None:
        """`dead`: the first picture of a camera that shows nothing. No verdict rests on it; it is kept as evidence."""
        for part, reason in lane.finder.unjudged():
            self._tell_verdict(lane, stamp, part, lane.judge.decide(part, reason), None, dead)

    def _tell_verdict(
        self, lane: Lane, stamp: Stamp, part: int, verdict: Verdict, seen: Seen | None, dead: Pixels | None = None
    ) -> None:
        told = None
        if lane.line is not None:  # first of all
            told = lane.line.answer(part, verdict.kind.value, verdict.reason, stamp.captured_ns)
        judged = judged_as_told(part, verdict, stamp, seen, told)
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
        watching = time.perf_counter_ns()
        for watcher in self._watchers:
            watcher.judged(lane, judged, pixels)
        self._tidy_between_parts()
        self._aside_ns += time.perf_counter_ns() - watching

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

    def _tidy_between_parts(self) -> None:
        """While parts come, collections happen here: after a verdict is told, never between a frame and its verdict."""
        self._until_freeze -= 1
        if self._until_freeze == 0:
            self._tidy_for_good()
        elif self._until_freeze < 0 and gc.get_count()[0] > (100_000 if self._line_waits() else 5_000):
            gc.collect(1)

    def _tidy_for_good(self) -> None:
        """What lives now lives for good: up to 90 ms once, so that later collections need not look at it."""
        self._until_freeze = -1
        gc.collect()
        gc.freeze()
        gc.disable()

    def _collect_when_idle(self) -> None:
        """The oldest generation is collected only while nothing is to be inspected, and seldom."""
        now = time.monotonic()
        if now - self._idle_since <= IDLE_S or self._line_waits():
            return
        if now - self._collected_at > COLLECT_ALL_EVERY_S:
            gc.collect()
            self._collected_at = now
        elif self._until_freeze < 0 and gc.get_count()[0] > 5_000:  # of other threads: adapters, couriers
            gc.collect(1)

    def _check_known_answers(self) -> None:
        """Between frames, each golden picture every few minutes, one at a time so that no frame waits for more.

        A runtime that silently computes nonsense must not go on judging.
        """
        late_s = time.monotonic() - self._known_answer_at
        if late_s < 0 or (self._line_waits() and late_s < KNOWN_ANSWER_EVERY_S):
            return
        engines = list({id(lane.engine): lane.engine for lane in self._lanes}.values())
        questions = [(engine, number) for engine in engines for number in range(engine.known_answers)]
        if questions:
            engine, number = questions[self._next_question % len(questions)]
            engine.known_answer(number)
            self._next_question += 1
        self._known_answer_at = time.monotonic() + KNOWN_ANSWER_EVERY_S / max(1, len(questions))
