"""The way of a frame, in order, in one thread, for every camera of this daemon.

1. A part gets exactly one verdict, and the verdict is told before anything that can wait.
2. What could not be seen is UNKNOWN: a broken frame, a gap, a dead picture, numbers that are not finite.
3. Nothing of a frame's or a tensor's size is allocated here: slot -> engine input is the only copy of pixels.
4. Cameras take turns, one frame each, so that none starves another.

    pipeline = Pipeline(tell=line.tell, report=writer.put)
    pipeline.add(lane)
    pipeline.run(stop)                  # the inspect thread
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from edge_inspect.capture.picture_check import PictureCheck
from edge_inspect.capture.protocol import Pixels, Stamp
from edge_inspect.capture.ring import Gap, Ring, Slot
from edge_inspect.counts import LaneCounts
from edge_inspect.inference.decode import Decoder, Detections
from edge_inspect.inference.engine import Engine
from edge_inspect.inference.letterbox import Letterbox
from edge_inspect.verdict.judge import Judge, Kind, Verdict
from edge_inspect.verdict.parts import Look, PartFinder
from edge_inspect.verdict.recipe import Recipe

log = structlog.get_logger()

KNOWN_ANSWER_EVERY_S = 300.0
WARM_UP_PARTS = 20
IDLE_S = 1.0


class Seen(NamedTuple):
    """What a verdict that rests on a picture rests on; `pixels` only as long as the slot is leased."""

    box_px: tuple[int, int, int, int]
    stages: Stages
    pixels: Pixels


class Stages(NamedTuple):
    """Where the time between a frame's capture and its part's verdict went, nanoseconds."""

    capture_ns: int
    """From the camera's time stamp until the inspect thread took the frame: driver, decoding, waiting."""
    letterbox_ns: int
    inference_ns: int
    decode_ns: int
    judge_ns: int


@dataclass(frozen=True, slots=True)
class Judged:
    """One part and its verdict, as told to the line and, if not OK, reported."""

    part: int
    verdict: Verdict
    frame_index: int
    captured_ns: int
    captured_utc_ns: int
    verdict_ns: int
    box_px: tuple[int, int, int, int] | None
    """The part in the frame: x0, y0, x1, y1; None when the part was not seen."""
    stages: Stages | None

    @property
    def must_be_reported(self) -> bool:
        return self.verdict.kind is not Kind.OK

    @property
    def age_ms(self) -> float:
        return (self.verdict_ns - self.captured_ns) / 1e6


@dataclass(slots=True)
class Lane:
    """All that belongs to one camera. Built when its picture size is known; touched by the inspect thread only."""

    name: str
    ring: Ring
    engine: Engine
    letterbox: Letterbox
    decoder: Decoder
    finder: PartFinder
    judge: Judge
    recipe: Recipe
    thresholds: NDArray[np.float32]
    """Least confidence per class, shape (classes,)."""
    counts: LaneCounts
    check: PictureCheck
    """Tells pictures that show nothing: black, white, garbage, and of live cameras frozen ones."""
    dead_picture: str = ""
    """`frozen`, `black` or `white` while the camera shows nothing that could be judged."""


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
        with self._ready:
            self._lanes.append(lane)
            self._ready.notify_all()

    def run(self, stop: threading.Event, all_ended: Callable[[], bool] = lambda: False) -> None:
        """Inspect until `stop`, until the wanted number of frames, or until every source ended and is drained."""
        while not stop.is_set():
            self.beat_ns = time.monotonic_ns()
            self._check_known_answers()
            ended = all_ended()
            busy = False
            for lane in tuple(self._lanes):
                if self._frames_wanted is not None and self.frames >= self._frames_wanted:
                    return
                busy |= self._take_turn(lane)
            if busy:
                self._idle_since = time.monotonic()
            else:
                if ended:
                    return
                self._collect_when_idle()
                with self._ready:
                    self._ready.wait_for(lambda: any(lane.ring.has_news() for lane in self._lanes), timeout=0.2)

    def _take_turn(self, lane: Lane) -> bool:
        """One frame, or the gaps, of one camera; False when it had nothing."""
        with lane.ring.take(timeout_s=0) as slot:
            if slot is None:
                gap = lane.ring.next_gap()
                if gap is not None:
                    self._blind(lane, gap)
                return gap is not None
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
        if dead != lane.dead_picture:
            log.warning(
                "dead picture" if dead else "picture alive again", camera=lane.name, why=dead or lane.dead_picture
            )
            lane.dead_picture = dead
        unusable = stamp.broken or dead
        if unusable:
            lane.counts.broken[unusable] += 1
            lane.finder.blind(unusable, stamp.captured_ns)
            self._tell_unjudged(lane, stamp, dead=pixels if newly_dead else None)
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
        for watcher in self._watchers:
            watcher.frame(lane, slot, looks, found)

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

    def _tell_unjudged(self, lane: Lane, stamp: Stamp, dead: Pixels | None = None) -> None:
        """`dead`: the first picture of a camera that shows nothing. No verdict rests on it; it is kept as evidence."""
        for part, reason in lane.finder.unjudged():
            self._tell_verdict(lane, stamp, part, lane.judge.decide(part, reason), None, dead)

    def _tell_verdict(
        self, lane: Lane, stamp: Stamp, part: int, verdict: Verdict, seen: Seen | None, dead: Pixels | None = None
    ) -> None:
        judged = Judged(
            part=part,
            verdict=verdict,
            frame_index=stamp.index,
            captured_ns=stamp.captured_ns,
            captured_utc_ns=stamp.utc_ns,
            verdict_ns=time.monotonic_ns(),
            box_px=seen.box_px if seen else None,
            stages=seen.stages if seen else None,
        )
        pixels = seen.pixels if seen else None
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
        """Collections happen here and nowhere else: after a verdict is told, never between a frame and its verdict."""
        self._until_freeze -= 1
        if self._until_freeze == 0:
            gc.collect()
            gc.freeze()
            gc.disable()
        elif self._until_freeze < 0 and gc.get_count()[0] > 5_000:
            gc.collect(1)

    def _collect_when_idle(self) -> None:
        """The oldest generation is collected only while no camera has anything, and seldom."""
        now = time.monotonic()
        if now - self._idle_since > IDLE_S and now - self._collected_at > KNOWN_ANSWER_EVERY_S:
            gc.collect()
            self._collected_at = now

    def _check_known_answers(self) -> None:
        """Between frames, each golden picture every few minutes, one at a time so that no frame waits for more.

        A runtime that silently computes nonsense must not go on judging.
        """
        if time.monotonic() < self._known_answer_at:
            return
        engines = list({id(lane.engine): lane.engine for lane in self._lanes}.values())
        questions = [(engine, number) for engine in engines for number in range(engine.known_answers)]
        if questions:
            engine, number = questions[self._next_question % len(questions)]
            engine.known_answer(number)
            self._next_question += 1
        self._known_answer_at = time.monotonic() + KNOWN_ANSWER_EVERY_S / max(1, len(questions))
