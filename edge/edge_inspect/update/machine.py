"""The update machine: saves the stage, then acts; what comes of it decides the next stage.

1. `advance` and `after_restart` are pure: a state and what happened in, the next state out. All bookkeeping is there.
2. Nothing is acted on before its stage is on disk. Where the disk does not take it, nothing moves towards a candidate;
   only the way home is gone without.
3. A floor never goes down, a refused digest stays refused, and a candidate that ends this process three times without
   a verdict is refused, whatever its stage. So is one that was kept and then cannot be started three times (`gave_up`).

    machine = Machine(store, {Stage.IDLE: look, Stage.FETCH: fetch, ...})
    while not stop.is_set():
        machine.step()
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from edge_inspect.errors import BadModel, Ending, InspectError, StorageFailing, code_of
from edge_inspect.update.revoked import with_revoked
from edge_inspect.update.stages import AFTER_POWER_CUT, MOST_SAVES, MOST_STARTS, NEXT, TRYING, Outcome, Stage
from edge_inspect.update.state import (
    MOST_KNOWN,
    MOST_LIMITS,
    MOST_REFUSED,
    Candidate,
    Floor,
    LastRefusal,
    Limits,
    Reason,
    RefusedDigest,
    Shadowed,
    State,
    channel_of,
)
from edge_wire.release import Rollout

_ASKING = {Stage.IDLE, Stage.FETCH}
"""Looking now and then whether there is something is no change that anybody needs to hear of."""
UNCONFIRMED = "unconfirmed-starts"
_PACKAGE = re.compile(r"\S*/packages/([0-9a-f]{12})[0-9a-f]{52}")
"""A folder's whole name would leave no room in the line for what is wrong."""


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a stage's work. `code` and `why` wherever it is not DONE or NOTHING."""

    outcome: Outcome
    code: str = ""
    why: str = ""
    by: str = ""
    """The person who wanted it."""
    candidate: Candidate | None = None
    seen: Rollout | None = None
    """The rollout that was found, whether it is taken or not."""
    shadowed: Shadowed | None = None


Act = Callable[[State], Result]


class Saves(Protocol):
    """Where the state lies."""

    @property
    def state(self) -> State: ...

    def save(self, state: State) -> None:
        """On disk when it returns. Raises StorageFailing; `state` is then the new one all the same."""


class Machine:
    """See the module. One thread's."""

    def __init__(self, store: Saves, acts: Mapping[Stage, Act], *, now: Callable[[], datetime]) -> None:
        self._store = store
        self._acts = acts
        self._now = now

    def step(self) -> Result:
        """Act on the stage that is saved, then save the next one.

        Raises what is a bug, Ending, and StorageFailing where nothing can be done but wait.
        """
        before = self._store.state
        try:
            result = self._acts[before.stage](before)
        except Ending:
            raise
        except InspectError as err:
            result = result_of(err)
        after = advance(before, result, self._now())
        if after == before:
            return result
        try:
            self._store.save(after)
        except StorageFailing as err:
            return self._could_not_save(before, after, result, err)
        return result

    def _could_not_save(self, before: State, after: State, result: Result, err: StorageFailing) -> Result:
        if after.stage in (Stage.REVERT, Stage.IDLE):  # home is safe; it is written as soon as the disk takes it
            return result
        if after.stage is Stage.KEEP:  # the trial goes on until it can be confirmed
            self._store_in_memory(before)
            raise err
        put_off = result_of(err)
        self._store_in_memory(advance(before, put_off, self._now()))
        return put_off

    def _store_in_memory(self, state: State) -> None:
        try:
            self._store.save(state)
        except StorageFailing:
            return


def result_of(err: InspectError) -> Result:
    """A candidate is refused for what is wrong with it, put off for what is wrong with the world or its metadata."""
    outcome = Outcome.REFUSED if isinstance(err, BadModel) else Outcome.LATER
    return Result(outcome, code_of(err), one_line(str(err)))


def advance(state: State, result: Result, now: datetime) -> State:
    """The state after a stage's work. Pure."""
    if state.stage is not Stage.IDLE and state.saves >= MOST_SAVES:
        result = Result(Outcome.NOTHING if state.stage is Stage.REVERT else Outcome.REFUSED, "no-end", "too many steps")
    stage = NEXT[state.stage][result.outcome]
    changed: dict[str, Any] = {"stage": stage}
    if not {stage, state.stage} <= _ASKING and stage is not state.stage:
        changed["since"] = now
    candidate = result.candidate or state.candidate
    if candidate is not None and result.shadowed is not None:
        candidate = candidate.model_copy(update={"shadowed": result.shadowed})
    changed["candidate"] = candidate
    changed |= _what_judges(state, stage, result.outcome, candidate)
    changed |= _remembered(state, stage, result, now)
    changed |= _floors(state, result, candidate)
    if state.stage is Stage.TRIAL and stage is Stage.KEEP and candidate is not None:  # somebody asked for it again
        changed["refused"] = tuple(found for found in state.refused if found.digest != candidate.model.digest)
    if stage is Stage.PROBE and candidate is not None and candidate.model not in state.known:
        changed["known"] = (*state.known, candidate.model)[-MOST_KNOWN:]
    if stage is Stage.PROBE and candidate is not None and candidate.asked_by == "rollout":
        changed["limits"] = _with_limits(state, candidate)
    if stage is Stage.VERIFY and state.stage is Stage.FETCH:
        changed["starts"] = 1
    if stage is Stage.IDLE:
        changed |= {"candidate": None, "starts": 0, "saves": 0, "reason": None}
    elif stage is not state.stage or state.stage is Stage.REVERT:
        changed["saves"] = state.saves + 1
    return state.model_copy(update=changed)


def _what_judges(state: State, stage: Stage, outcome: Outcome, candidate: Candidate | None) -> dict[str, Any]:
    """`active` and `previous` after this step."""
    if stage is Stage.TRIAL and state.stage is Stage.SHADOW:
        assert candidate is not None
        tried = candidate.model_copy(update={"before": (state.active, state.previous)})
        return {"active": candidate.model.digest, "previous": state.active, "candidate": tried, "starts": 1,
                "reason": None}  # fmt: skip
    if stage is Stage.REVERT:
        if candidate is not None and candidate.before and state.active == candidate.model.digest:
            active, previous = candidate.before
            return {"active": active, "previous": previous}
        if state.stage is Stage.IDLE or (state.stage is Stage.REVERT and outcome is Outcome.REFUSED):
            # what is to judge must not, or cannot: one further back
            return {"active": state.previous, "previous": None}
    return {}


def _remembered(state: State, stage: Stage, result: Result, now: datetime) -> dict[str, Any]:
    """Refusals, and why another model is to judge: what comes of it later on the way home is not the reason."""
    if result.outcome in (Outcome.DONE, Outcome.NOTHING) or not result.code:
        return {}
    judged = result.candidate or state.candidate
    digest = judged.model.digest if judged else state.active if state.stage is Stage.IDLE else None
    changed: dict[str, Any] = {}
    if stage is Stage.REVERT and (state.stage is not stage or state.reason is None):
        changed["reason"] = Reason(code=result.code, why=one_line(result.why), by=one_line(result.by))
    if state.stage is Stage.REVERT:  # what cannot be gone back to is not what is refused
        return changed
    changed["last_refusal"] = LastRefusal(code=result.code, at=now, digest=digest, why=one_line(result.why))
    forgets = result.outcome is Outcome.WITHDRAWN and not result.by
    if digest and result.outcome is not Outcome.LATER and not forgets and not _rotten(state, result):
        changed["refused"] = _with_refused(state, digest, result.code, now)
    return changed


def _with_limits(state: State, candidate: Candidate) -> dict[str, Limits]:
    """The newest ones; for when a person takes it again."""
    digest = candidate.model.digest
    others = {known: limits for known, limits in state.limits.items() if known != digest}
    others[digest] = Limits(shadow=candidate.shadow, trial=candidate.trial)
    return dict(list(others.items())[-MOST_LIMITS:])


def _floors(state: State, result: Result, candidate: Candidate | None) -> dict[str, Any]:
    floors, revoked = dict(state.floors), {}
    if (seen := result.seen) is not None:
        at = channel_of(seen)
        old = floors.get(at)
        if old is None or seen.sequence > old.sequence:
            floors[at] = Floor(
                sequence=seen.sequence, digest=seen.model.digest, settled=result.outcome is Outcome.REFUSED
            )
        revoked = with_revoked(state, seen)
    over = result.outcome is Outcome.REFUSED or (result.outcome is Outcome.WITHDRAWN and result.by)
    if candidate is not None and (over or (state.stage is Stage.TRIAL and result.outcome is Outcome.DONE)):
        floors = {at: _settled(floor, candidate.model.digest) for at, floor in floors.items()}
    if state.stage is Stage.IDLE and result.outcome is not Outcome.NOTHING and (result.by or result.candidate):
        floors = {at: floor.model_copy(update={"settled": True}) for at, floor in floors.items()}  # a person has chosen
    if _rotten(state, result):  # it may come again
        floors = {at: _unsettled(floor, state.active) for at, floor in floors.items()}
    return {"floors": floors, **revoked}


def _rotten(state: State, result: Result) -> bool:
    """The model that judges does not verify any more: no fault of the model."""
    return state.stage is Stage.IDLE and result.outcome is Outcome.REFUSED and result.code != "revoked"


def _unsettled(floor: Floor, digest: str | None) -> Floor:
    return floor.model_copy(update={"settled": False}) if floor.digest == digest else floor


def _settled(floor: Floor, digest: str) -> Floor:
    return floor.model_copy(update={"settled": True}) if floor.digest == digest else floor


def after_restart(state: State, now: datetime) -> State:
    """The state a daemon that starts goes on with; to be saved before anything of it is used. Pure."""
    stage = AFTER_POWER_CUT[state.stage]
    if stage is Stage.IDLE:
        return state if state.stage is stage else advance(state, Result(Outcome.NOTHING), now)
    if stage not in TRYING:
        return state
    if state.starts >= MOST_STARTS:
        code = UNCONFIRMED if state.stage is Stage.TRIAL else "interrupted"
        why = f"this process ended {state.starts} times in stage {state.stage.value} without a verdict"
        return advance(state, Result(Outcome.REFUSED, code, why), now)
    changed: dict[str, Any] = {"stage": stage, "starts": state.starts + 1, "saves": state.saves + 1}
    if stage is not state.stage:
        changed["since"] = now
    return state.model_copy(update=changed)


def ended_well(state: State) -> State:
    """This process ends because it was told to: that start is nothing to be counted."""
    return state.model_copy(update={"starts": max(0, state.starts - 1)}) if state.stage in TRYING else state


def lost_its_model(state: State, code: str, why: str, now: datetime) -> State:
    """What is to judge does not verify at a start: one further back. Pure.

    In a trial that is the way home. The rollout that brought it may be taken again: rot is no fault of the model.
    """
    reason = Reason(code=code, why=one_line(why))
    last = LastRefusal(code=code, at=now, digest=state.active, why=one_line(why))
    if state.stage is Stage.TRIAL:
        return advance(state, Result(Outcome.LATER, code, why), now)
    floors = {at: _unsettled(floor, state.active) for at, floor in state.floors.items()}
    changed = {"active": state.previous, "previous": None, "reason": reason, "last_refusal": last, "floors": floors}
    return state.model_copy(update=changed)


def gave_up(state: State, why: str, now: datetime) -> State:
    """What is to judge was what ended this process, start after start: one further back, and it stays refused. Pure."""
    digest = state.active
    assert digest is not None
    assert state.stage is not Stage.TRIAL
    lost = lost_its_model(state, UNCONFIRMED, why, now)
    floors = {at: _settled(floor, digest) for at, floor in lost.floors.items()}
    return lost.model_copy(update={"floors": floors, "refused": _with_refused(state, digest, UNCONFIRMED, now)})


def _with_refused(state: State, digest: str, code: str, now: datetime) -> tuple[RefusedDigest, ...]:
    others = [found for found in state.refused if found.digest != digest]
    return (*others, RefusedDigest(digest=digest, code=code, at=now))[-MOST_REFUSED:]


def one_line(text: str) -> str:
    """As state and history hold it, whatever it says."""
    clean = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    clean = _PACKAGE.sub(r"\1", clean)
    return clean if len(clean) <= 200 else clean[:197] + "..."
