"""The work of each stage: what a candidate goes through, one after the other.

1. An act works on the state that is on disk and ends in a Result; it can be done again, and after a restart it is.
2. Nothing here touches a frame: what judges is exchanged by `Live`, between two parts.
3. IDLE, SHADOW and TRIAL wait: there a person's request, a newer rollout and the end of the daemon are heard.

    acts = Acts(store, source, probe, live, box=box, looks=looks, pulse=pulse, now=now)
    Machine(store, acts.table(), now=now).step()
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Protocol

import structlog

from edge_inspect.errors import BadModel, Ending, InspectError, World
from edge_inspect.inference.package import ModelPackage
from edge_inspect.update.choose import Names, Version, chosen_by_person, consider
from edge_inspect.update.live import Live
from edge_inspect.update.machine import Act, Result
from edge_inspect.update.pace import STEP_S, Looks, Pulse
from edge_inspect.update.record import PERSON_WENT_BACK
from edge_inspect.update.requests import Answer, Desk, Request
from edge_inspect.update.shadow import shadow_verdict
from edge_inspect.update.stages import Outcome, Stage
from edge_inspect.update.state import Candidate, Shadowed, State, channel_of
from edge_inspect.update.store import Store
from edge_inspect.update.trial import trial_verdict
from edge_wire.release import Rollout

log = structlog.get_logger()

LOOK_S = 1.0
"""Between two looks at a shadow's or a trial's counts."""
REHASH_S = 7 * 86_400.0
LIMITS_S = {
    Stage.IDLE: 300.0,
    Stage.FETCH: 180.0,  # without progress
    Stage.VERIFY: 300.0,
    Stage.PROBE: 3900.0,  # its own deadline is far below
    Stage.SHADOW: 1800.0,  # a runtime may take long to build an engine
    Stage.TRIAL: 1800.0,
    Stage.KEEP: 300.0,
    Stage.REVERT: 1800.0,
}
"""How long a single call of a stage may take before it counts as hanging."""


class Source(Protocol):
    """Where models come from, and who vouches for them."""

    def fetch(self, stop: threading.Event, progress: Callable[[float], None]) -> Rollout | None:
        """Look once. A rollout is returned with its package here; None: nothing new.

        Raises Untrusted, BadModel, SourceGone, StorageFailing.
        """

    def verify(self, candidate: Candidate) -> ModelPackage:
        """Signatures and every byte, from this box's own files. Raises Untrusted, BadModel, StorageFailing."""

    def news(self) -> bool:
        """Whether somebody else (the fetch service, `model import`) has brought something since the last `fetch`."""

    def tidy(self, wanted: set[str]) -> None:
        """Remove packages whose digest is not wanted. Raises StorageFailing."""


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
        self._desk = Desk(store.folder)
        self._asked: tuple[str, Request] | None = None

    def table(self) -> dict[Stage, Act]:
        return {
            Stage.IDLE: self._idle, Stage.FETCH: self._fetch, Stage.VERIFY: self._verify, Stage.PROBE: self._ask_probe,
            Stage.SHADOW: self._shadow, Stage.TRIAL: self._trial, Stage.KEEP: self._keep, Stage.REVERT: self._revert,
        }  # fmt: skip

    def answer(self, ok: bool, code: str, text: str) -> None:
        """To the person who waits, if one does."""
        if self._asked is not None:
            self._desk.answer(self._asked[0], Answer(ok=ok, code=code, text=text[:200]))
            self._asked = None

    # The stages

    def _idle(self, state: State) -> Result:
        if self._live.active() != self._should_be_active(state):
            raise RuntimeError(f"{self._live.active()} judges, the state says {state.active or 'the factory model'}")
        while True:
            if (asked := self._request()) is not None:
                result = self._asked_in_idle(state, *asked)
                if result is not None:
                    return result
            if state.active is not None and state.active in state.revoked:
                return Result(Outcome.REFUSED, "revoked", "its publisher has revoked it")
            if self._clock_s() >= self._next_rehash_s:
                self._next_rehash_s = self._clock_s() + REHASH_S
                self._pulse.allow(LIMITS_S[Stage.VERIFY])
                self._store.package(state.active)  # raises BadModel: one further back
            if self._looks.due() or self._source.news():
                self._looks.looked()
                return Result(Outcome.DONE)
            self._pulse.rest(STEP_S)

    def _fetch(self, state: State) -> Result:
        if state.candidate is not None:  # a person chose one that is here
            return Result(Outcome.DONE)
        return self._look(state)

    def _look(self, state: State) -> Result:
        rollout = self._source.fetch(self._pulse.stop, self._progressed)
        self._pulse.check()
        if rollout is None:
            return Result(Outcome.NOTHING)
        active, last = self._live.active(), self._store.history.last("activated")
        runs = Version(last.name, last.version) if last is not None and last.digest == active else None
        result = consider(state, rollout, self._box, self._now(), active, runs)
        if result.outcome is Outcome.DONE and state.active in rollout.revoked:
            self._looks.at_once()  # what is revoked goes first; then the one that is to come is tried
            return Result(Outcome.NOTHING, seen=rollout)
        return result

    def _verify(self, state: State) -> Result:
        candidate = _candidate(state)
        if candidate.asked_by == "person":
            self._package_of(candidate)
        else:
            self._source.verify(candidate)
        self.answer(True, "", f"{_shown(candidate)} is whole and signed; it now goes through its stages")
        return Result(Outcome.DONE)

    def _ask_probe(self, state: State) -> Result:
        self._probe(self._package_of(_candidate(state)), self._store.package(state.active))
        self._pulse.check()
        return Result(Outcome.DONE)

    def _shadow(self, state: State) -> Result:
        candidate = _candidate(state)
        self._live.start_shadow(self._package_of(candidate), role="candidate")
        while True:
            report = self._live.shadow_report()
            shadowed = Shadowed.of(report)
            verdict = shadow_verdict(report, candidate.shadow)
            self._pulse.progress = min(1.0, report.parts / candidate.shadow.parts)
            if verdict == "pass":
                return Result(Outcome.DONE, shadowed=shadowed)
            if verdict != "go-on":
                outcome = Outcome.LATER if verdict == "shadow-too-few" else Outcome.REFUSED
                return Result(outcome, verdict, _numbers(shadowed), shadowed=shadowed)
            if (withdrawn := self._withdrawn(state, shadowed)) is not None:
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
        while True:
            report = self._live.trial_report()
            verdict = trial_verdict(report, limits, predicted, candidate.shadow)
            self._pulse.progress = min(1.0, report.parts / limits.parts, report.seconds / max(1, limits.least_s))
            if verdict == "keep":
                return Result(Outcome.DONE)
            if verdict != "go-on":
                said = f"{report.parts} parts, {report.ng} NG; beside: {_numbers(Shadowed.of(report.beside))}"
                return Result(Outcome.REFUSED, verdict, said)
            if (withdrawn := self._withdrawn(state, None)) is not None:
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
        self._source.tidy(self._store.wanted())
        return Result(Outcome.DONE)

    def _revert(self, state: State) -> Result:
        self._live.stop_shadow()
        if state.active is not None and state.active in state.revoked:
            return Result(Outcome.REFUSED, "revoked", "its publisher has revoked it")
        if self._live.active() != self._should_be_active(state):
            self._live.swap(self._package_home(state))
        self._live.end_trial()
        self._store.note_active(self._package_home(state))
        self.answer(True, "", f"back: {self._live.active()[:19]} judges now")
        return Result(Outcome.DONE)

    def _package_home(self, state: State) -> ModelPackage:
        try:
            return self._store.package(state.active)
        except BadModel as err:
            if state.active is None:
                raise NoWayHome(str(err)) from err
            raise

    # What stages share

    def _withdrawn(self, state: State, shadowed: Shadowed | None) -> Result | None:
        """Whether a person or a newer rollout wants the candidate to go."""
        candidate = _candidate(state)
        if (asked := self._request()) is not None:
            number, request = asked
            if request.kind == "activate" and request.digest == candidate.model.digest:
                self._asked = None
                self._desk.answer(number, Answer(ok=True, text=f"{_shown(candidate)} is being tried already"))
                return None
            if request.kind == "activate":
                self._asked = None
                text = f"{_shown(candidate)} is being tried; `model rollback` takes it back first"
                self._desk.answer(number, Answer(ok=False, code="busy", text=text))
                return None
            why = request.why or "taken back by hand"
            return Result(Outcome.WITHDRAWN, PERSON_WENT_BACK, why, by=request.by, shadowed=shadowed)
        due = self._looks.due() or self._source.news()
        return self._overtaken(state, candidate, shadowed) if due else None

    def _overtaken(self, state: State, candidate: Candidate, shadowed: Shadowed | None) -> Result | None:
        self._looks.looked()
        self._pulse.allow(LIMITS_S[Stage.FETCH])
        try:
            rollout = self._source.fetch(self._pulse.stop, lambda share: self._pulse.allow(LIMITS_S[Stage.FETCH]))
        except Ending:
            raise
        except InspectError as err:
            log.info("could not look for a newer rollout", why=str(err))
            return None
        self._pulse.check()
        if rollout is None:
            return None
        if candidate.model.digest in rollout.revoked:
            why = "its publisher has revoked it"
            return Result(Outcome.REFUSED, "revoked", why, seen=rollout, shadowed=shadowed)
        newer = channel_of(rollout) == candidate.channel and rollout.sequence > candidate.sequence
        other = rollout.concerns(*self._box) and rollout.model.digest != candidate.model.digest
        if newer and (other or state.active in rollout.revoked):
            self._looks.at_once()
            return Result(Outcome.WITHDRAWN, "overtaken", f"sequence {rollout.sequence} is newer", shadowed=shadowed)
        return None

    def _request(self) -> tuple[str, Request] | None:
        if self._asked is None:
            self._asked = self._desk.next()
        return self._asked

    def _asked_in_idle(self, state: State, number: str, request: Request) -> Result | None:
        refused = None
        if request.kind == "rollback":
            if state.active is not None:
                why = request.why or "taken back by hand"
                return Result(Outcome.WITHDRAWN, PERSON_WENT_BACK, why, by=request.by)
            refused = Answer(ok=False, code="no-previous", text="the factory's model judges; there is none before it")
        else:
            found = chosen_by_person(state, request, self._store.factory_digest, self._now())
            if isinstance(found, Candidate):
                return Result(Outcome.DONE, "activate", request.why, by=request.by, candidate=found)
            refused = found
        self._asked = None
        self._desk.answer(number, refused)
        return None

    def _answer(self, ok: bool, code: str, text: str) -> None:
        """To the person who waits, if one does."""
        if self._asked is not None:
            self._desk.answer(self._asked[0], Answer(ok=ok, code=code, text=text[:200]))
            self._asked = None

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


def _shown(candidate: Candidate | None) -> str | None:
    return f"{candidate.model.name} {candidate.model.version}" if candidate else None


def _numbers(shadowed: Shadowed) -> str:
    return (
        f"{shadowed.parts} parts compared, {shadowed.new_ng} of {shadowed.active_ok} OK became NG, "
        f"{shadowed.new_ok} of {shadowed.active_ng} NG became OK"
    )
