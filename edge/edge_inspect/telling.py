"""Notes what must be reported before anybody is told: the cameras' side of the journal `delivery.told`.

1. A line's answer is noted by its desk or outlet, in the thread that answers; where a camera has no line, by the
   inspect thread. What is noted is what is told.
2. A camera is introduced when the daemon is built and again when its pictures are known; what it tells before that is
   noted with digests of nothing but zeros.
3. Without a journal (its file cannot be had: one line in the log) everything goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

from edge_inspect.delivery.told import FILE_NAME, NoJournal, ToldJournal
from edge_inspect.delivery.told_places import open_journal
from edge_inspect.lane import Judged, Lane
from edge_inspect.line.outlet import SOURCE
from edge_inspect.line.protocol import Answer
from edge_inspect.reporting import Identity, outline
from edge_inspect.station import Station
from edge_wire import messages as wire
from edge_wire.topics import Topics

log = structlog.get_logger()

NOT_KNOWN = "sha256:" + 64 * "0"
"""The digest of a camera's pictures and of the model variant for them, before there were any."""


class Telling:
    """Built with the appliance; `open` once it keeps reports.

    told_paths: where the journal may lie, the best place first; without, in `state_dir`.
    """

    def __init__(self, topics: Topics, told_paths: Sequence[Path] = ()) -> None:
        self.journal: ToldJournal | None = None
        self._topics = topics
        self._told_paths = told_paths

    def open(self, state_dir: Path, stations: Mapping[str, Station]) -> ToldJournal | None:
        """Begin to note; what an earlier life has left is the outbox's to put."""
        try:
            self.journal = open_journal(self._told_paths or [state_dir / FILE_NAME], self._topics.device)
        except NoJournal as err:
            log.warning("told.not_there", why=str(err), means="what is told just before a kill may go unreported")
            return None
        for station in stations.values():
            self._introduce(station, self._first_identity(station))
        return self.journal

    def camera_known(self, station: Station) -> None:
        """Its identity is whole now."""
        if station.identity is not None:
            self._introduce(station, station.identity)

    def answer(self, camera: str, answer: Answer) -> None:
        """A line is about to be told."""
        if self.journal is not None:
            sequence = None if answer.trigger.source == SOURCE else answer.sequence
            self.journal.note(camera, answer.part, answer.kind, answer.reason, answer.answered_ns, sequence)

    def judged(self, lane: Lane, judged: Judged) -> None:
        """Whoever hears the verdicts of a camera without a line is about to be told."""
        if self.journal is not None:
            verdict = judged.verdict
            self.journal.note(
                lane.name, judged.part, verdict.kind.value, verdict.reason, judged.verdict_ns, judged.sequence
            )

    def close(self) -> None:
        if self.journal is not None:
            self.journal.close()

    def _introduce(self, station: Station, who: Identity) -> None:
        if self.journal is not None:
            self.journal.introduce(outline(station.config.name, station.recipe.part.mode, who))

    def _first_identity(self, station: Station) -> Identity:
        manifest, recipe = station.package.manifest, station.recipe
        return Identity(
            topics=self._topics,
            camera_digest=NOT_KNOWN,
            recipe=wire.RecipeRef(name=recipe.name, version=recipe.version, digest=recipe.digest),
            model=wire.ModelRef(
                name=manifest.name, version=manifest.version, digest=station.package.digest, variant_digest=NOT_KNOWN
            ),
        )
