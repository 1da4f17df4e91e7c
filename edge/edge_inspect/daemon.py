"""The whole appliance on one screen: what it is built of, which threads run, how it ends.

    thread          owns                                        ends the process when it
    grab-<camera>   one camera and the filling of its ring      dies, or a driver call never returns
    inspect         engines, the rings' taking side, verdicts   dies, or a run never returns
    outbox          the writing side of the SQLite outbox       dies, or a write never returns
    courier         the MQTT connection                         dies, or hangs
    evidence        the ring of pictures on disk                dies; a disk that hangs is an alarm only
    shadow          a model that judges beside, told to nobody  dies; one that hangs is an alarm only
    updater         the stages of a model that is to come       dies, or hangs longer than a stage may take
    line-<name>-..  `deadline`: what is not judged in time;     dies, or hangs
                    `reject`: which parts are on their way out;
                    `<adapter>`: one connection to the line
    vitals          nothing; reads counters, publishes them     dies, or hangs
    status          the status socket and the metrics port      dies, or hangs
    (main)          signals, the watchdog, the end
    print-<stream>  lines of the log and of verdicts, so that    hangs or not: lines are dropped, and counted
                    none above waits for who reads them

1. Every thread is one `run(stop)`; one that dies takes the process down, and systemd brings it back.
2. At the end lines hear that nobody is ready, cameras stop, frames in hand get their verdict, lines fall to their
   fail-safe state, reports reach the disk, the broker hears goodbye.
3. The watchdog is fed from the main thread, only while every thread's heart moves (`_hearts` is the list of them); one
   that stands still for its patience (10 to 12 s) ends the process with every thread's stack in the log.

    Appliance(config, watchers=(gallery,)).run(stop)
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog

from edge_inspect.beside import Shadow
from edge_inspect.capture.cut_short import ready_to_cut_short
from edge_inspect.capture.protocol import Camera, Pixels
from edge_inspect.config import Config, broker_of
from edge_inspect.config_update import SHADOW_SHARE
from edge_inspect.delivery.courier import Courier
from edge_inspect.delivery.evidence import FOLDER, EvidenceStore
from edge_inspect.delivery.evidence_subject import Subject
from edge_inspect.delivery.outbox import FILE_NAME, Outbox
from edge_inspect.delivery.writer import OutboxWriter
from edge_inspect.errors import InUse
from edge_inspect.health import vitals
from edge_inspect.health.computing import Computing
from edge_inspect.health.doors import Doors, doors
from edge_inspect.health.notify import Heart, Notifier, Watchdog
from edge_inspect.health.patience import Patience, end_process
from edge_inspect.line.protocol import Adapter
from edge_inspect.lines import Lines
from edge_inspect.models import LiveModels
from edge_inspect.pipeline import Judged, Lane, Pipeline, Watcher
from edge_inspect.presence import Presence
from edge_inspect.printing import Printer
from edge_inspect.reporting import defect_report, evidence_subject
from edge_inspect.station import Engines, Station
from edge_inspect.telling import Telling
from edge_inspect.threads import HasBeat, Thread, join
from edge_inspect.updates import open_updates
from edge_wire import messages as wire
from edge_wire.topics import Topics

log = structlog.get_logger()
Taken = TypeVar("Taken")

CHECK_S = 600.0
"""How long the check of a large outbox on a slow disk may take at the start."""
START_MORE_S = 30.0
LOOK_FOR_OTHER_S = 1.0
END_S = 9.0
"""How long the end may take in all. What the courier cannot deliver meanwhile lies in the outbox."""
KEEP_FOR_DELIVERY_S = 6.0
"""Of it, what frames in hand leave for the outbox and the broker."""
SWITCH_S = 0.001
"""With a line, or with models that are read and checked meanwhile: how long a thread that computes may keep the others
from running; Python's own 0.005 is a lot of a deadline, and an inspection takes the lock several times a frame."""


class Appliance:
    """Built from a configuration; `run` blocks until the end.

    cameras: already built cameras by name, instead of what `source` says (simulations, tests).
    adapters: already built ones by the line's name, instead of what `[[line]]` says (simulations, tests).
    tell: hears each verdict first, in the inspect thread; must not wait.
    deliver: False keeps everything in the process: no outbox, no broker (replays).
    told_paths: where what a kill must not take along may lie, the best place first; without, in `state_dir`.
    first_open_s: give up if a camera cannot be opened for so long at the start; None tries for ever.
    printers: who prints what is logged (the first) and told; the log is given a moment before a hang ends everything.
    """

    def __init__(
        self,
        config: Config,
        *,
        cameras: Mapping[str, Camera] | None = None,
        adapters: Mapping[str, Sequence[Adapter]] | None = None,
        watchers: Sequence[Watcher] = (),
        tell: Callable[[Lane, Judged], None] = lambda lane, judged: None,
        deliver: bool = True,
        frames: int | None = None,
        first_open_s: float | None = None,
        notifier: Notifier | None = None,
        told_paths: Sequence[Path] = (),
        printers: Sequence[Printer] = (),
    ) -> None:
        self.config = config
        self.topics = Topics(config.device.site, config.device.line, config.device.device)
        self._end = threading.Event()
        self._notifier = notifier or Notifier(None)
        self._printers = printers
        self._telling = Telling(self.topics, told_paths)
        ready = threading.Condition()
        self.pipeline = Pipeline(
            tell=tell, note=self._telling.judged, report=self._report, keep=self._keep, watchers=tuple(watchers),
            ready=ready, frames_wanted=frames,
        )  # fmt: skip
        self._engines = Engines(config.model, config.cache_dir)
        self.updates = self._when_free(lambda: open_updates(config)) if deliver else None
        model_dir = self.updates.model_dir if self.updates else config.model.dir
        self.stations = {
            camera.name: Station(
                camera, self.topics, self._engines, model_dir, camera=(cameras or {}).get(camera.name),
                announce=self._add, ready=ready, first_open_s=first_open_s,
            )
            for camera in config.camera
        }  # fmt: skip
        self.shadow = Shadow(
            [station for station in self.stations.values() if station.follows],
            line_waits=lambda: self.pipeline.line_waits, keep=self._keep_disagreement,
            share=config.update.shadow_share if config.update else SHADOW_SHARE,
        )  # fmt: skip
        self.models = LiveModels(
            list(self.stations.values()), self.pipeline, self._engines, self.shadow, model_dir,
            changed=self._telling.camera_known,
        )  # fmt: skip
        if self.updates:
            self.updates.attach(self.models, self.models.picture_sizes, self.models.frames)
            self._engines.building = self.updates.building
        self.lines = Lines(config, self.topics, self.stations, self.pipeline, adapters or {}, self._telling.answer)
        self._computing = Computing(config.state_dir, config.model.provider)
        self.outbox: Outbox | None = None
        self.writer: OutboxWriter | None = None
        self.courier: Courier | None = None
        self.evidence: EvidenceStore | None = None
        self._pulse: vitals.Pulse | None = None
        self._doors: Doors | None = None
        said = self._presence = Presence(
            self.topics, self.stations, self.lines, self.updates, self._computing,
            alarms=self._alarms, hearts=self._hearts, printers=printers,
        )  # fmt: skip
        self.state, self.observe = said.state, said.observe
        if deliver:
            self._build_delivery()

    def run(self, stop: threading.Event) -> None:
        """Inspect until `stop`, until all sources have ended, or until the wanted number of frames.

        Raises what ended a thread: a Refusal, CameraLost at the start, or a bug.
        """
        capture_stop, inspect_stop, keep_stop, send_stop, pulse_stop, picture_stop, shadow_stop = (
            threading.Event() for _ in range(7)
        )
        new_thread = partial(Thread, end=self._end)
        grabs = [new_thread(f"grab-{name}", s.grabber.run, capture_stop) for name, s in self.stations.items()]
        inspect = new_thread("inspect", lambda s: self.pipeline.run(s, self._all_ended), inspect_stop)
        keep = [new_thread("outbox", self.writer.run, keep_stop)] if self.writer else []
        send = [new_thread("courier", self.courier.run, send_stop)] if self.courier else []
        pulse = [new_thread("vitals", self._pulse.run, pulse_stop)] if self._pulse else []
        pulse += [new_thread("status", self._doors.run, pulse_stop)] if self._doors else []
        lines = [new_thread(name, body, threading.Event()) for name, _, body in self.lines.threads()]
        pictures = [new_thread("evidence", self.evidence.run, picture_stop)] if self.evidence else []
        shadow = new_thread("shadow", self.shadow.run, shadow_stop)
        update = (
            [new_thread(name, body, shadow_stop) for name, _, body in self.updates.threads()] if self.updates else []
        )
        threads = [*keep, *send, *pulse, *pictures, *lines, shadow, *update, inspect, *grabs]
        switch_s = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_S if lines or self.updates else switch_s)
        if self._doors:
            self._doors.open()
        for thread in threads:
            thread.start()
        try:
            with ready_to_cut_short():
                self._watch(stop, inspect)
        finally:
            self._notifier.stopping()
            until = time.monotonic() + END_S
            self.lines.wind_down()
            shadow_stop.set()
            join(grabs, until, capture_stop)
            join([inspect], until - KEEP_FOR_DELIVERY_S)  # it ends by itself once every ring is empty
            join([inspect], until, inspect_stop)
            for thread in lines:  # what decides before what tells the outside
                join([thread], until, thread.stop)
            picture_stop.set()
            join(update, until, shadow_stop)
            join(pulse, until, pulse_stop)
            join(keep, until, keep_stop)
            join(send, until, send_stop)
            join(pictures, until, picture_stop)  # reports come before pictures
            join([shadow], 0.0 if self.shadow.hangs else until, shadow_stop)
            if self.updates and not any(t.error or (t.is_alive() and t is not shadow) for t in threads):
                self.updates.ended_well()
            elif self.updates:
                self.updates.ended_by(self._models_ended(thread.error for thread in (inspect, *grabs)))
            self._close(inspect, [*keep, *send, *pulse, *update])
            sys.setswitchinterval(switch_s)
        if (doubt := self.pipeline.known_answers.doubt) is not None:
            self._computing.doubt(doubt.model, doubt.since, doubt.why)
        for thread in threads:
            if thread.error is not None:
                raise thread.error

    def _build_delivery(self) -> None:
        """Outbox, its writer and, if there is a broker, the courier. Raises InUse for a second daemon."""
        config, kept, said = self.config, self.config.outbox, self._presence
        if config.evidence.enabled:
            keys = config.evidence.model_dump(exclude={"enabled"})
            said.evidence = self.evidence = EvidenceStore(config.state_dir / FOLDER, **keys)
        self._notifier.extend(CHECK_S)
        path, retain_s = config.state_dir / FILE_NAME, kept.retain_h * 3600
        said.outbox = self.outbox = self._when_free(
            lambda: Outbox(path, device=self.topics.device, cap_bytes=kept.cap_bytes, retain_s=retain_s)
        )
        self.outbox.told = self._telling.open(config.state_dir, self.stations)
        self._pulse = vitals.Pulse(said.beat)
        self._doors = doors(config, self.observe)
        if config.mqtt is None:
            said.writer = self.writer = OutboxWriter(self.outbox, wake=lambda: None)
            return
        mqtt = config.mqtt
        said.courier = self.courier = Courier(
            self.outbox, broker_of(mqtt), self.topics, state=self.state(), ack=mqtt.ack, resend_s=mqtt.resend_s,
            drain_per_s=mqtt.drain_per_s, max_packet_bytes=mqtt.max_packet_bytes,
            desired=self.updates.hint if self.updates else None,
        )  # fmt: skip
        said.writer = self.writer = OutboxWriter(self.outbox, wake=self.courier.wake)

    def _when_free(self, take: Callable[[], Taken]) -> Taken:
        """What one daemon may have. As a service, wait for another to end: starting again and again would take its
        processor. Raises InUse else.

        Signals end the process here as they would before it began.
        """
        said = ""
        while True:
            try:
                return take()
            except InUse as err:
                if self._notifier.address is None:
                    raise
                if str(err) != said:
                    said = str(err)
                    log.warning("daemon.waits", why=said)
                    self._notifier.status(f"waits: {said}")
                self._notifier.extend(START_MORE_S)
                time.sleep(LOOK_FOR_OTHER_S)

    def _close(self, inspect: Thread, delivering: Sequence[Thread]) -> None:
        """Close what no living thread uses any more; the rest goes with the process."""
        if not any(thread.is_alive() for thread in delivering):
            for end in (self._doors, self.outbox, self._telling, self.updates):
                if end:
                    end.close()
        if not inspect.is_alive():
            self._engines.close()

    def _alarms(self) -> list[wire.Degraded]:
        reporting = (self.writer, self.courier, self.evidence, self.updates, self._doors, self.shadow, self._computing)
        return [alarm for who in reporting if who for alarm in who.alarms()]

    def _models_ended(self, errors: Iterable[BaseException | None]) -> list[BaseException]:
        """As far as the model of `[model] dir` can be what ended this; a camera may have one of its own."""
        doubt, models = self.pipeline.known_answers.doubt, self.models
        ours = doubt.model == models.active() if doubt else all(s.follows for s in self.stations.values())
        return [err for err in errors if err is not None and ours]

    def _all_ended(self) -> bool:
        return all(station.grabber.ended.is_set() for station in self.stations.values())

    def _watch(self, stop: threading.Event, inspect: Thread) -> None:
        """The main thread's work: say READY once, feed the watchdog, notice the end."""
        hearts = self._hearts()
        patience = Patience(hearts, end=partial(end_process, printer=next(iter(self._printers), None)))
        watchdog = Watchdog(hearts, self._notifier, awake_since_ns=patience.awake_since_ns)
        said_ready, next_look = False, 0.0
        while inspect.is_alive() and not stop.is_set() and not self._end.is_set():
            if not said_ready and all(s.grabber.settled.is_set() for s in self.stations.values()):
                self._say_ready()
                said_ready = True
            patience.look()
            self.shadow.look_after(time.monotonic_ns(), patience.awake_since_ns())
            for station in self.stations.values():
                station.grabber.look_after(time.monotonic_ns(), patience.awake_since_ns())
            if time.monotonic() >= next_look:
                watchdog.look()
                if not said_ready:
                    self._notifier.extend(START_MORE_S)  # an engine may take minutes to build, once
                next_look = time.monotonic() + watchdog.period_s
            self._end.wait(0.1)

    def _hearts(self) -> list[Heart]:
        """One for each thread that runs, by its name; a thread without one could hang for ever unnoticed.

        Only two have none here: no line stops for a picture, nor for a model that nobody hears. When `evidence` or
        `shadow` hangs, that is an alarm in the state, and a candidate in the shadow is refused.
        """
        hearts = [Heart.of(f"grab-{name}", s.grabber) for name, s in self.stations.items()]
        hearts.append(Heart.of("inspect", self.pipeline))
        waiting_for_disk = {"outbox": self.writer, "courier": self.courier, "vitals": self._pulse}
        hearts += [
            Heart.waits_for_disk(name, partial(_beat_at_disk, who, self.outbox))
            for name, who in waiting_for_disk.items()
            if who and self.outbox
        ]
        hearts += [Heart.of(name, who) for name, who, _ in self.lines.threads()]
        hearts += [Heart.of("status", self._doors)] if self._doors else []
        hearts += [Heart.of(name, who) for name, who, _ in self.updates.threads()] if self.updates else []
        return hearts

    def _say_ready(self) -> None:
        states = ", ".join(f"{name} {station.grabber.state}" for name, station in self.stations.items())
        self._notifier.ready(f"cameras: {states}")
        log.info("daemon.ready", cameras=states, device=self.topics.base, mqtt=bool(self.courier))

    def _report(self, lane: Lane, judged: Judged, pixels: Pixels | None) -> None:
        """Into the hands of the outbox thread; never waits."""
        if self.writer is None:
            return
        identity = self.stations[lane.name].identity
        assert identity is not None
        self.writer.hand_over(defect_report(lane, judged, identity, pixels))

    def _add(self, lane: Lane) -> None:
        """A camera's size is known."""
        self._telling.camera_known(self.stations[lane.name])
        if self.evidence is not None:
            self.evidence.prepare(lane.letterbox.src_h, lane.letterbox.src_w)
        self.pipeline.add(lane)

    def _keep(self, lane: Lane, judged: Judged, pixels: Pixels) -> None:
        """A copy for the evidence thread, of a part that is not OK or is one of the samples; never waits."""
        evidence = self.evidence
        if evidence is None or not (judged.must_be_reported or evidence.samples(lane.name, judged.part)):
            return
        identity = self.stations[lane.name].identity
        assert identity is not None
        evidence.offer(evidence_subject(lane, judged, identity, pixels), pixels)

    def _keep_disagreement(self, subject: Subject, pixels: Pixels) -> bool:
        """By the thread `shadow`: a frame on which two models disagree."""
        return self.evidence is not None and self.evidence.offer_beside(subject, pixels)


def _beat_at_disk(owner: HasBeat, outbox: Outbox) -> int | None:
    """As far as it waits for a file that is being checked, it will not move before that is over."""
    return None if owner.beat_ns is None else max(owner.beat_ns, outbox.busy_until_ns)
