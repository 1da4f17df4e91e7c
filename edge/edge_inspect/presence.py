"""What the appliance says of itself: its state at the broker, its vitals, and what whoever looks in may see.

1. Reads counters and states only; waits for nobody.
2. The state is published when it has changed, vitals every few seconds (`health.vitals.EVERY_S`).

    presence = Presence(topics, stations, lines, updates, computing, alarms=alarms, hearts=hearts)
    presence.outbox, presence.writer = outbox, writer       # what is built later
    presence.beat()                                         # the thread `vitals`, once a second
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata

from edge_inspect.delivery.courier import Courier
from edge_inspect.delivery.evidence import EvidenceStore
from edge_inspect.delivery.outbox import Outbox
from edge_inspect.delivery.writer import OutboxWriter
from edge_inspect.health import vitals
from edge_inspect.health.computing import Computing
from edge_inspect.health.notify import Heart
from edge_inspect.health.observed import LinkPulse, Observed
from edge_inspect.health.saved import EveryFrame
from edge_inspect.lines import Lines
from edge_inspect.printing import Printer
from edge_inspect.station import Station
from edge_inspect.updates import Updates
from edge_wire import messages as wire
from edge_wire.topics import Topics

OUTBOX_LOOK_EVERY_S = 5.0
MOST_ALARMS = 64
"""That a state message has room for."""


class Presence:
    """`beat` is the thread `vitals`, `state` and `observe` are anybody's.

    alarms: of all that works worse than it should, lines and cameras left out. hearts: of the threads that have one.
    """

    def __init__(
        self,
        topics: Topics,
        stations: Mapping[str, Station],
        lines: Lines,
        updates: Updates | None,
        computing: Computing,
        *,
        alarms: Callable[[], list[wire.Degraded]],
        hearts: Callable[[], list[Heart]],
        printers: Sequence[Printer] = (),
    ) -> None:
        self.outbox: Outbox | None = None
        self.writer: OutboxWriter | None = None
        self.courier: Courier | None = None
        self.evidence: EvidenceStore | None = None
        self._topics = topics
        self._stations = stations
        self._lines = lines
        self._updates = updates
        self._computing = computing
        self._alarms = alarms
        self._hearts = hearts
        self._printers = printers
        self._started = time.monotonic()
        self._since = datetime.now(timezone.utc)
        self._every_frame = EveryFrame()
        self._announced: wire.DeviceState | None = None
        self._next_vitals_s = 0.0
        self._outbox_vitals: wire.OutboxVitals | None = None
        self._next_outbox_look_s = 0.0

    def state(self) -> wire.DeviceState:
        """What the plant should know of this device right now; retained at the broker."""
        drifts = {name: station.drift for name, station in self._stations.items()}
        return wire.DeviceState(
            site=self._topics.site,
            line=self._topics.line,
            device=self._topics.device,
            status="online",
            since=self._since,
            epoch=self.outbox.epoch if self.outbox else None,
            versions={"edge-inspect": metadata.version("edge-inspect"), "python": platform.python_version()},
            cameras=tuple(
                wire.CameraState(name=name, status=wire.CameraStatus(s.status), reason=s.trouble)
                for name, s in self._stations.items()
            ),
            degraded=(*self._alarms(), *self._lines.alarms(), *vitals.drifting(drifts))[:MOST_ALARMS],
            update=self._updates.block() if self._updates else None,
        )

    def observe(self) -> Observed:
        """Everything that whoever looks in may see, as of now. Waits for nobody."""
        courier, now_ns = self.courier, time.monotonic_ns()
        return Observed(
            device=f"{self._topics.site}/{self._topics.line}/{self._topics.device}",
            version=metadata.version("edge-inspect"),
            python=platform.python_version(),
            uptime_s=time.monotonic() - self._started,
            cameras=[station.pulse() for station in self._stations.values()],
            lines=self._lines.counts(),
            rejects=self._lines.rejects(),
            adapters=self._lines.adapters(),
            outbox=self._outbox_vitals,
            evidence=self.evidence.vitals() if self.evidence else None,
            link=LinkPulse(courier.connected, str(courier.failure or ""), courier.vitals()) if courier else None,
            update=self._updates.block() if self._updates else None,
            update_counts=self._updates.counts() if self._updates else None,
            alarms=self.state().degraded,
            threads={heart.name: heart.age_s(now_ns) for heart in self._hearts()},
            log_lines_lost=sum(printer.lost for printer in self._printers),
            every_frame_bytes={
                name: size for name in self._stations if (size := self._every_frame.of(name)) is not None
            },
            rss_bytes=vitals.rss_bytes(),
            temperature_c=vitals.temperature_c(),
        )

    def beat(self) -> None:
        """The vitals thread, once a second: look into the outbox; with a broker, publish."""
        if self.writer is not None and time.monotonic() >= self._next_outbox_look_s:
            self._next_outbox_look_s = time.monotonic() + OUTBOX_LOOK_EVERY_S
            self._outbox_vitals = self.writer.vitals()
        if self.evidence is not None:
            for name, station in self._stations.items():
                self._every_frame.look(name, station.pulse().counts.frames, self.evidence.frame_jpeg_bytes(name))
        self._lines.show_alarms()
        self._computing.look([station.pulse() for station in self._stations.values()])
        if self.courier is not None:
            self._publish()

    def _publish(self) -> None:
        """State if it has changed, and vitals."""
        assert self.courier is not None and self.writer is not None
        state = self.state()
        if state != self._announced:
            self.courier.announce(state)
            self._announced = state
        if time.monotonic() >= self._next_vitals_s:
            self._next_vitals_s = time.monotonic() + vitals.EVERY_S
            pulses = [station.pulse() for station in self._stations.values()]
            link, evidence = self.courier.vitals(), self.evidence.vitals() if self.evidence else None
            outbox, lines = self.writer.vitals(), self._lines.vitals()
            self.courier.publish_vitals(
                vitals.vitals(self._topics, self._started, pulses, outbox, link, evidence, lines)
            )
