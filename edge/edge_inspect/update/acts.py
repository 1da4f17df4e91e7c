"""The work of each stage: what a candidate goes through, one after the other.

1. An act works on the state that is on disk and ends in a Result; it can be done again, and after a restart it is.
2. Nothing here touches a frame: what judges is exchanged by `Live`, between two parts.
3. IDLE, SHADOW and TRIAL wait: there a person's request, a newer rollout and the end of the daemon are heard
   (`wishes`). FETCH breaks off for a person, too; what has come so far stays. PROBE hears nobody until it is over.
4. What has become of the factory's package on the disk is an alarm; another model's rot is a reason to go back.

    acts = Acts(store, source, probe, live, box=box, looks=looks, pulse=pulse, now=now)
    Machine(store, acts.table(), now=now).step()
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

import structlog

from edge_inspect.errors import BadModel, SourceGone, StorageFailing, World, code_of
from edge_inspect.inference.package import ModelPackage
from edge_inspect.update.choose import Names, Version, chosen_by_person, consider, limits_of
from edge_inspect.update.live import Live
from edge_inspect.update.machine import Act, Result
from edge_inspect.update.pace import STEP_S, Interrupt, Looks, Pulse
from edge_inspect.update.progress import numbers, shadow_counts, share_of_shadow, share_of_trial, trial_counts
from edge_inspect.update.record import PERSON_WENT_BACK
from edge_inspect.update.requests import Desk, Request
from edge_inspect.update.revoked import why_revoked
from edge_inspect.update.shadow import shadow_verdict
from edge_inspect.update.stages import Outcome, Stage
from edge_inspect.update.state import Candidate, Shadowed, State
from edge_inspect.update.store import Store
from edge_inspect.update.trial import TrialReport, TrialVerdict, trial_verdict
from edge_inspect.update.wishes import PATIENCE_S, Source, Wishes, shown
from edge_wire.release import Rollout

log = structlog.get_logger()

LOOK_S = 1.0
"""Between two looks at a shadow's or a trial's counts."""
REHASH_S = 7 * 86_400.0
REREAD_S = 3600.0
LIMITS_S = {
    Stage.IDLE: 300.0,
    Stage.FETCH: PATIENCE_S,
    Stage.VERIFY: 300.0,
    Stage.PROBE: 7500.0,  # its own deadlines are below: of the service, and of a child where that has no word to say
    Stage.SHADOW: 1800.0,  # a runtime may take long to build an engine
    Stage.TRIAL: 1800.0,
    Stage.KEEP: 300.0,
    Stage.REVERT: 1800.0,
}
"""How long a single call of a stage may take before it counts as hanging."""


Probe = Callable[[ModelPackage, ModelPackage], object]
"""The candidate and the package that judges: raises BadModel with a code."""


class Acts:
    """See the module; one thread's."""

    def __init__(
        self,
        store: Store,
        source: Source,
        probe: Probe,
        live: Live,
        *,
        box: Names,
        looks: Looks,
        pulse: Pulse,
        now: Callable[[], datetime],
        look_s: float = LOOK_S,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._source = source
        self._probe = probe
        self._live = live
        self._box = box
        self._looks = looks
        self._pulse = pulse
        self._now = now
        self._look_s = look_s
        self._clock_s = clock_s
        self._next_rehash_s = clock_s() + REHASH_S
        self._untidy = True
        """Something may lie here that nobody needs: left by another process, or by a disk that did not let it go."""
        self._wishes = Wishes(Desk(store.folder), source, looks, pulse, box)

    def table(self) -> dict[Stage, Act]:
        return {
            Stage.IDLE: self._idle, Stage.FETCH: self._fetch, Stage.VERIFY: self._verify, Stage.PROBE: self._ask_probe,
            Stage.SHADOW: self._shadow, Stage.TRIAL: self._trial, Stage.KEEP: self._keep, Stage.REVERT: self._revert,
        }  # fmt: skip

    def answer(self, ok: bool, code: str, text: str) -> None:
        """To the person who waits, if one does."""
        self._wishes.answer(ok, code, text)

    # The stages

    def _idle(self, state: State) -> Result:
        if self._live.active() != self._should_be_active(state):
            raise RuntimeError(f"{self._live.active()} judges, the state says {state.active or 'the factory model'}")
        while True:
            if (request := self._wishes.request()) is not None:
                result = self._asked_in_idle(state, request)
                if result is not None:
                    return result
            if state.active is not None and state.active in state.revoked:
                return Result(Outcome.REFUSED, "revoked", why_revoked(state, state.active))
            self._store.attempts.look()
            if self._clock_s() >= self._next_rehash_s:
                self._next_rehash_s = self._clock_s() + REHASH_S
                self._rehash(state)
            if self._looks.due() or self._source.news():
                self._looks.looked()
                if self._store.factory_wrong:
                    self._wrong_with_factory()  # is it back?
                return Result(Outcome.DONE)
            self._pulse.rest(STEP_S)

    def _rehash(self, state: State) -> None:
        """Raises BadModel: what judges is not what it was, so one further back. Of the factory's it is an alarm."""
        self._wrong_with_factory()
        if state.active is not None:
            self._pulse.allow(LIMITS_S[Stage.VERIFY])
            try:
                self._store.package(state.active)
            except StorageFailing:  # it judges from memory; what the disk holds is asked again soon
                self._next_rehash_s = self._clock_s() + REREAD_S
                raise

    def _fetch(self, state: State) -> Result:
        if state.candidate is not None:  # a person chose one that is here
            return Result(Outcome.DONE)
        person = Interrupt(self._pulse.stop, lambda: self._wishes.request() is not None)
        try:
            rollout = self._source.fetch(person, self._progressed)
        except SourceGone:
            self._pulse.check()
            if not person.is_set():
                raise
            self._looks.at_once()  # what has come lies in staging
            return Result(Outcome.NOTHING, why="broken off: somebody asks for something else")
        self._pulse.check()
        return self._consider(state, rollout)

    def _consider(self, state: State, rollout: Rollout | None) -> Result:
        if rollout is None:
            self._tidy_if_it_goes()
            return Result(Outcome.NOTHING)
        active, last = self._live.active(), self._store.history.last("activated")
        runs = Version(last.name, last.version) if last is not None and last.digest == active else None
        result = consider(state, rollout, self._box, self._now(), active, runs)
        if result.outcome is Outcome.DONE and state.active in rollout.revoked:
            self._looks.at_once()  # what is revoked goes first; then the one that is to come is tried
            return Result(Outcome.NOTHING, seen=rollout)
        if result.outcome is Outcome.NOTHING:
            self._tidy_if_it_goes()
        return result

    def _tidy_if_it_goes(self) -> None:
        """No alarm for what merely takes room: it is tried again, at the latest when the next model is kept."""
        try:
            self._tidy()
        except StorageFailing as err:
            log.warning("what nobody needs could not be removed", why=str(err))

    def _verify(self, state: State) -> Result:
        candidate = _candidate(state)
        if candidate.asked_by == "person":
            self._package_of(candidate)
        else:
            self._source.verify(candidate)
        limits = f"; {limits_of(state, candidate)}" if candidate.asked_by == "person" else ""
        self.answer(True, "", f"{shown(candidate)} is whole and signed; it now goes through its stages{limits}")
        return Result(Outcome.DONE)

    def _ask_probe(self, state: State) -> Result:
        candidate = _candidate(state)
        try:
            active = self._store.package(state.active)
        except (BadModel, StorageFailing) as err:  # not the candidate's fault; and without a way home nothing is tried
            self._next_rehash_s = self._clock_s()
            return Result(Outcome.LATER, code_of(err), f"the model that judges: {err}")
        self._probe(self._package_of(candidate), active)
        self._pulse.check()
        return self._wishes.withdrawn(state, candidate) or Result(Outcome.DONE)

    def _shadow(self, state: State) -> Result:
        candidate = _candidate(state)
        self._live.start_shadow(self._package_of(candidate), role="candidate")
        limits = candidate.shadow

        def decided() -> bool:
            return shadow_verdict(self._live.shadow_report(), limits) != "go-on"

        while True:
            report = self._live.shadow_report()
            verdict = shadow_verdict(report, limits)
            shadowed = Shadowed.of(report, limits if verdict == "pass" else None)
            self._pulse.progress = share_of_shadow(report, limits)
            self._pulse.counts = shadow_counts(report, limits)
            if verdict == "pass":
                return Result(Outcome.DONE, shadowed=shadowed)
            if verdict != "go-on":
                outcome = Outcome.LATER if verdict == "shadow-too-few" else Outcome.REFUSED
                return Result(outcome, verdict, numbers(shadowed), shadowed=shadowed)
            if (withdrawn := self._wishes.withdrawn(state, candidate, shadowed, decided)) is not None:
                return withdrawn
            self._pulse.rest(self._look_s)

    def _trial(self, state: State) -> Result:
        candidate = _candidate(state)
        package = self._package_of(candidate)
        if self._live.active() == package.digest:
            self._live.begin_trial()  # this start has begun with it
        else:
            self._live.swap(package, trial=True)
        self._store.note_active(package)
        self._begin_beside(candidate)
        predicted = candidate.shadowed.report() if candidate.shadowed else None
        limits = candidate.trial

        def judge(report: TrialReport) -> TrialVerdict:
            return trial_verdict(report, limits, predicted, candidate.shadow)

        def decided() -> bool:
            return judge(self._live.trial_report()) != "go-on"

        while True:
            report = self._live.trial_report()
            verdict = judge(report)
            self._pulse.progress = share_of_trial(report, limits)
            self._pulse.counts = trial_counts(report, limits)
            if verdict == "keep":
                return Result(Outcome.DONE)
            if verdict != "go-on":
                said = f"{report.parts} parts, {report.ng} NG; beside: {numbers(Shadowed.of(report.beside))}"
                return Result(Outcome.REFUSED, verdict, said)
            if (withdrawn := self._wishes.withdrawn(state, candidate, None, decided)) is not None:
                return withdrawn
            self._pulse.rest(self._look_s)

    def _begin_beside(self, candidate: Candidate) -> None:
        """The model before judges beside it; without one the trial goes on by what it sees itself."""
        assert candidate.before is not None
        try:
            self._live.start_shadow(self._store.package(candidate.before[0]), role="predecessor")
        except (BadModel, World) as err:
            log.warning("the model before cannot judge beside the candidate", why=str(err))

    def _keep(self, state: State) -> Result:
        self._live.stop_shadow()
        self._live.end_trial()
        if state.candidate is not None and state.candidate.model.digest == state.active:
            self._store.note_kept(self._store.package(state.active))
        self._untidy = True
        self._tidy()
        return Result(Outcome.DONE)

    def _tidy(self) -> None:
        """What nobody needs goes, if any is left. Raises StorageFailing; then it is asked for again after a look."""
        if self._untidy:
            self._source.tidy(self._store.wanted())
            self._untidy = False

    def _revert(self, state: State) -> Result:
        self._live.stop_shadow()
        if state.active is not None and state.active in state.revoked:
            return Result(Outcome.REFUSED, "revoked", why_revoked(state, state.active))
        home = None
        if self._live.active() != self._should_be_active(state):
            home = self._package_home(state)
            self._live.swap(home)
        self._live.end_trial()
        self._note_home(state, home)
        self.answer(True, "", f"back: {self._live.active()[:19]} judges now")
        return Result(Outcome.DONE)

    def _package_home(self, state: State) -> ModelPackage:
        try:
            return self._store.package(state.active)
        except BadModel as err:
            if state.active is None:
                raise NoWayHome(str(err)) from err
            raise

    def _note_home(self, state: State, home: ModelPackage | None) -> None:
        """Into the history. What judges already is not read again for that, unless it has to be."""
        if home is None and self._store.is_noted(self._live.active()):
            return
        try:
            self._store.note_active(home or self._store.package(state.active))
        except (BadModel, StorageFailing) as err:
            log.warning("what judges is not in the history, as its package cannot be read", why=str(err))

    # What stages share

    def _asked_in_idle(self, state: State, request: Request) -> Result | None:
        if request.kind == "activate":
            found = chosen_by_person(state, request, self._store.factory_digest, self._now())
            if isinstance(found, Candidate):
                return Result(Outcome.DONE, "activate", request.why, by=request.by, candidate=found)
            self.answer(found.ok, found.code, found.text)
            return None
        if state.active is None:
            self.answer(False, "no-previous", "the factory's model judges; there is none before it")
            return None
        if state.previous is None and (wrong := self._wrong_with_factory()):
            self.answer(False, *wrong)
            return None
        return Result(Outcome.WITHDRAWN, PERSON_WENT_BACK, request.why or "taken back by hand", by=request.by)

    def _wrong_with_factory(self) -> tuple[str, str] | None:
        """Code and words; the alarm is set by this, and cleared."""
        self._pulse.allow(LIMITS_S[Stage.VERIFY])
        try:
            self._store.package(None)
        except (BadModel, StorageFailing) as err:
            return code_of(err), f"the factory's model cannot be gone back to: {err}"
        return None

    def _package_of(self, candidate: Candidate) -> ModelPackage:
        return self._store.package(candidate.model.digest)

    def _should_be_active(self, state: State) -> str:
        return state.active or self._store.factory_digest

    def _progressed(self, share: float) -> None:
        self._pulse.progress = min(1.0, share)
        self._pulse.allow(LIMITS_S[Stage.FETCH])


class NoWayHome(RuntimeError):
    """Not even the factory's model verifies while another one is to go: the process ends, a start says `no-model`."""


def _candidate(state: State) -> Candidate:
    assert state.candidate is not None, state.stage
    return state.candidate
