"""The thread `updater`: takes a model through its stages, and takes it back.

1. Whatever goes wrong here, the model that judges goes on judging; the way home is the only thing that is insisted on:
   where it fails again and again the process ends, and the next start begins with the right model.
2. The stage that is on disk is the one that is worked on (`machine`, `acts`).
3. The heart (`pulse`) says how long a call may take; one that takes longer ends the process, and that start is
   counted.
4. One line in the log for each change of stage, for each change of what is wrong, and when it is over.

    box = Names("plant1", "press-4", "edge-0017")
    updater = Updater(store, source, probe, live, box=box, channel="metal-plate/stable")
    updater.run(stop)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime

import structlog

from edge_inspect.errors import BadModel, Ending, StorageFailing
from edge_inspect.update.acts import LIMITS_S, LOOK_S, Acts, Probe
from edge_inspect.update.choose import Names
from edge_inspect.update.clock import utc_now
from edge_inspect.update.live import Live
from edge_inspect.update.machine import Machine, Result
from edge_inspect.update.pace import Looks, Pulse
from edge_inspect.update.stages import Outcome, Stage
from edge_inspect.update.state import Candidate, State
from edge_inspect.update.store import Store
from edge_inspect.update.wishes import Source
from edge_wire.updates import ModelUpdate, RefusedModel

log = structlog.get_logger()

WAIT_FOR_DISK_S = 5.0
MOST_TRIES_HOME = 5
PROGRESS_EVERY_S = 5.0
"""So often, at most, the progress that others are shown changes."""


class Updater:
    """See the module. `run` is the thread; `hint`, `block` and `alarms` are for others."""

    def __init__(
        self,
        store: Store,
        source: Source,
        probe: Probe,
        live: Live,
        *,
        box: Names,
        channel: str,
        looks: Looks | None = None,
        look_s: float = LOOK_S,
        wait_for_disk_s: float = WAIT_FOR_DISK_S,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._store = store
        self._live = live
        self._channel = channel
        self._looks = looks or Looks(600.0)
        self._wait_for_disk_s = wait_for_disk_s
        self.pulse = Pulse()
        """The thread's heart."""
        self._acts = Acts(
            store, source, probe, live, box=box, looks=self._looks, pulse=self.pulse, now=now, look_s=look_s
        )
        self._machine = Machine(store, self._acts.table(), now=now)
        self._shown: tuple[Stage, float | None, float] = (Stage.IDLE, None, 0.0)
        self._tries_home = 0
        self._trouble: tuple[str, str] | None = None

    # Called from other threads

    def hint(self, product: str, channel: str, sequence: int) -> bool:
        """The plant says that there is a rollout: look soon, if it is news to us. Whether it is."""
        floor = self._store.state.floors.get(f"{product}/{channel}")
        is_news = floor is None or floor.sequence < sequence
        if is_news:
            self._looks.hint()
        return is_news

    def block(self) -> ModelUpdate:
        """For the device's state."""
        state, last = self._store.state, self._store.state.last_refusal
        floor = state.floors.get(self._channel)
        progress = self._progress(state.stage)
        # asking whether there is something new is no stage that anybody needs to hear of
        asking = state.stage is Stage.FETCH and not progress
        return ModelUpdate(
            stage="idle" if asking else state.stage.value,
            since=state.since,
            active=self._live.active(),
            previous=state.previous,
            candidate=state.candidate.model if state.candidate else None,
            progress=None if progress is None else round(progress, 2),
            refused=RefusedModel(digest=last.digest, code=last.code, at=last.at) if last and last.digest else None,
            sequence=floor.sequence if floor else 0,
        )

    def _progress(self, stage: Stage) -> float | None:
        """What was shown last, unless that is long ago or the stage is another."""
        shown_stage, shown, at_s = self._shown
        if stage is not shown_stage or time.monotonic() - at_s >= PROGRESS_EVERY_S:
            shown = self.pulse.progress
            self._shown = (stage, shown, time.monotonic())
        return shown

    def counts(self) -> dict[str, float | str] | None:
        """Of the shadow or the trial that is under way, with its progress as of now."""
        counts, progress = self.pulse.counts, self.pulse.progress
        if counts is None or progress is None or counts["stage"] != self._store.state.stage.value:
            return None
        return {**counts, "progress": round(progress, 3)}

    def alarms(self) -> list[tuple[str, str]]:
        """(code, detail) of what works worse than it should."""
        found = [("model-update", self._trouble[1])] if self._trouble else []
        if self._store.quarantined:
            found.append(("model-state-lost", self._store.quarantined))
        if (gone := self._store.gone) is not None:
            found.append(("model-revoked", gone[1]) if gone[0] == "revoked" else ("model-given-up", gone[1]))
        if self._store.history.broken:
            found.append(("model-history", self._store.history.broken[0]))
        if self._store.factory_wrong:
            found.append(("model-factory", self._store.factory_wrong))
        if self._store.failing:
            found.append(("model-storage", self._store.failing))
        return found

    # The thread

    def run(self, stop: threading.Event) -> None:
        """Until `stop`. Raises what is a bug, and BadModel where there is no way home: a restart finds one."""
        self.pulse.stop = stop
        try:
            while not stop.is_set():
                self.step()
        except Ending:
            return
        finally:
            self.pulse.beat_ns = None

    def step(self) -> Result:
        """One stage's work, and what follows from it. Raises Ending."""
        before = self._store.state
        self._store.attempts.look()
        self.pulse.progress = None
        self.pulse.allow(LIMITS_S[before.stage])
        try:
            result = self._machine.step()
        except StorageFailing as err:
            self._say(before.stage, "storage-failing", str(err))
            self.pulse.rest(self._wait_for_disk_s)
            return Result(Outcome.LATER, "storage-failing", str(err))
        self.pulse.progress = None
        after = self._store.state
        if after.stage is not before.stage and Stage.FETCH not in (before.stage, after.stage):
            _tell(before, after, result)
        self._follow_up(before, result)
        return result

    def _follow_up(self, before: State, result: Result) -> None:
        if result.outcome in (Outcome.LATER, Outcome.REFUSED):
            self._acts.answer(False, result.code, result.why)
            self._say(before.stage, result.code, result.why)
        elif before.stage not in (Stage.IDLE, Stage.REVERT) and not (before.stage is Stage.FETCH and result.why):
            self._say_over()
        if before.stage is Stage.IDLE and result.outcome is Outcome.LATER:  # not even that it looks can be saved
            self.pulse.rest(self._wait_for_disk_s)
        if before.stage is Stage.REVERT:
            self._went_home(result)
        elif before.stage is not Stage.IDLE and (result.outcome is Outcome.REFUSED or result.by):
            self._store.note_refused(result.candidate or before.candidate)
        if result.outcome is Outcome.LATER and before.stage not in (Stage.IDLE, Stage.FETCH, Stage.REVERT):
            self._looks.put_off()
        elif result.outcome is not Outcome.LATER and before.stage in (Stage.VERIFY, Stage.TRIAL):
            self._looks.settled()

    def _went_home(self, result: Result) -> None:
        if self._store.state.stage is not Stage.REVERT:
            self._tries_home = 0
            return
        self._tries_home += 1
        if self._tries_home >= MOST_TRIES_HOME:
            raise BadModel("no-way-home", f"cannot go back while running: {result.why}")
        self.pulse.rest(self._wait_for_disk_s)

    def _say(self, stage: Stage, code: str, why: str) -> None:
        """One line for each change of what is wrong."""
        if self._trouble is None or self._trouble[0] != code:
            log.warning("update.trouble", code=code, stage=stage.value, why=why)
        self._trouble = (code, why)

    def _say_over(self) -> None:
        if self._trouble is not None:
            log.info("update.trouble_over", code=self._trouble[0])
        self._trouble = None


def _tell(before: State, after: State, result: Result) -> None:
    candidate: Candidate | None = after.candidate or before.candidate
    shown = f"{candidate.model.name} {candidate.model.version}" if candidate else None
    log.info("update.stage", now=after.stage.value, after=before.stage.value, model=shown, code=result.code or None)
