"""Stories of updates: what goes wrong where, and the way it then takes. `|` is a process that ended unexpectedly."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import pytest

from edge_inspect.errors import BadModel, NoSpace, SourceGone, StorageFailing, Untrusted
from edge_inspect.update.acts import LIMITS_S
from edge_inspect.update.machine import Result, advance, after_restart, ended_well, result_of
from edge_inspect.update.shadow import ShadowReport
from edge_inspect.update.stages import AFTER_POWER_CUT, MOST_SAVES, NEXT, TRYING, Outcome, Stage
from edge_inspect.update.state import Candidate, State
from tests.edge.update.box import BEGIN, GOOD_SHADOW, GOOD_TRIAL, PARTS, Box, Fault, Kill

S = Stage


def killed() -> None:
    raise Kill


def hangs() -> None:
    """Nobody waits for it: its heart stands still longer than it said it would, and the process is ended."""
    raise Kill


def refused() -> None:
    raise BadModel("made-up", "is bad")


def gone() -> None:
    raise SourceGone("unreachable", "no network")


def full() -> None:
    raise NoSpace("no room")


def failing() -> None:
    raise StorageFailing("input/output error")


def distrusted() -> None:
    raise Untrusted("metadata-expired", "was good until yesterday")


@dataclass(frozen=True)
class Case:
    name: str
    chain: str
    faults: dict[Stage, list[Fault]] = field(default_factory=dict)
    judges: str = "b"
    """The package that answers the line when it is over; "b" is the new one."""
    code: str = ""
    """Of the last refusal."""
    remembered: bool = False
    """The digest is not tried again on its own."""
    shadow: ShadowReport = GOOD_SHADOW
    trial_changes: dict[str, object] = field(default_factory=dict)


GOOD = "fetch verify probe shadow trial keep idle"
OLD = "factory"
CASES = (
    Case("nothing goes wrong", GOOD),
    # killed once, wherever it is: the next start goes on, and the new model judges in the end
    Case("killed in fetch", "fetch | idle", {S.FETCH: [killed]}, judges=OLD),
    Case("killed in verify", "fetch verify | verify probe shadow trial keep idle", {S.VERIFY: [killed]}),
    Case("killed in probe", "fetch verify probe | verify probe shadow trial keep idle", {S.PROBE: [killed]}),
    Case("killed in shadow", "fetch verify probe shadow | verify probe shadow trial keep idle", {S.SHADOW: [killed]}),
    Case("killed in trial", "fetch verify probe shadow trial | trial keep idle", {S.TRIAL: [killed]}),
    Case("killed in keep", "fetch verify probe shadow trial keep | idle", {S.KEEP: [killed]}),
    Case(
        "killed in revert: the start after it is home already", "fetch verify probe shadow trial revert | idle",
        {S.REVERT: [killed]}, judges=OLD, code="trial-known-answer", remembered=True,
        trial_changes={"known_answer_failures": 1},
    ),
    # killed twice: still a matter of power cuts
    Case("killed twice in probe", "fetch verify probe | verify probe | verify probe shadow trial keep idle",
         {S.PROBE: [killed, killed]}),
    Case("killed twice in trial", "fetch verify probe shadow trial | trial | trial keep idle",
         {S.TRIAL: [killed, killed]}),
    # killed for the third time: it is the candidate
    Case("killed three times in verify", "fetch verify | verify | verify | revert idle",
         {S.VERIFY: [killed] * 3}, judges=OLD, code="interrupted", remembered=True),
    Case("killed three times in probe", "fetch verify probe | verify probe | verify probe | revert idle",
         {S.PROBE: [killed] * 3}, judges=OLD, code="interrupted", remembered=True),
    Case("killed three times in shadow",
         "fetch verify probe shadow | verify probe shadow | verify probe shadow | revert idle",
         {S.SHADOW: [killed] * 3}, judges=OLD, code="interrupted", remembered=True),
    Case("killed three times in trial: three unconfirmed starts", "fetch verify probe shadow trial | trial | trial | "
         "revert idle", {S.TRIAL: [killed] * 3}, judges=OLD, code="unconfirmed-starts", remembered=True),
    Case("killed here and there, three times in all",
         "fetch verify | verify probe | verify probe shadow | revert idle",
         {S.VERIFY: [killed], S.PROBE: [killed], S.SHADOW: [killed]}, judges=OLD, code="interrupted", remembered=True),
    # hangs: the watchdog ends the process, and that start counts like any other
    Case("hangs in fetch", "fetch | idle", {S.FETCH: [hangs]}, judges=OLD),
    Case("hangs in verify", "fetch verify | verify probe shadow trial keep idle", {S.VERIFY: [hangs]}),
    Case("hangs in probe", "fetch verify probe | verify probe shadow trial keep idle", {S.PROBE: [hangs]}),
    Case("hangs in shadow", "fetch verify probe shadow | verify probe shadow trial keep idle", {S.SHADOW: [hangs]}),
    Case("hangs in trial, always", "fetch verify probe shadow trial | trial | trial | revert idle",
         {S.TRIAL: [hangs] * 9}, judges=OLD, code="unconfirmed-starts", remembered=True),
    Case("hangs in keep", "fetch verify probe shadow trial keep | idle", {S.KEEP: [hangs]}),
    # refused: the model is at fault, and is not tried again on its own
    Case("refused in verify", "fetch verify revert idle", {S.VERIFY: [refused]}, OLD, "made-up", True),
    Case("refused in probe", "fetch verify probe revert idle", {S.PROBE: [refused]}, OLD, "made-up", True),
    Case("refused in shadow", "fetch verify probe shadow revert idle", {S.SHADOW: [refused]}, OLD, "made-up", True),
    Case("refused in trial", "fetch verify probe shadow trial revert idle", {S.TRIAL: [refused]}, OLD, "made-up", True),
    Case("refused in fetch", "fetch idle", {S.FETCH: [refused]}, judges=OLD, code="made-up"),
    # the world is in the way: put off, tried again later
    Case("no network in fetch", "fetch idle", {S.FETCH: [gone]}, judges=OLD, code="unreachable"),
    Case("no room in fetch", "fetch idle", {S.FETCH: [full]}, judges=OLD, code="no-space"),
    Case("metadata expired in fetch", "fetch idle", {S.FETCH: [distrusted]}, judges=OLD, code="metadata-expired"),
    Case("metadata expired in verify", "fetch verify revert idle", {S.VERIFY: [distrusted]}, OLD, "metadata-expired"),
    Case("the disk fails in verify", "fetch verify revert idle", {S.VERIFY: [failing]}, OLD, "storage-failing"),
    Case("the disk fails in probe", "fetch verify probe revert idle", {S.PROBE: [failing]}, OLD, "storage-failing"),
    Case("the disk fails in shadow", "fetch verify probe shadow revert idle", {S.SHADOW: [failing]}, OLD,
         "storage-failing"),
    Case("the disk fails in trial", "fetch verify probe shadow trial revert idle", {S.TRIAL: [failing]}, OLD,
         "storage-failing"),
    Case("the disk fails in keep: it is kept all the same", "fetch verify probe shadow trial keep idle",
         {S.KEEP: [failing]}, code="storage-failing"),
    Case("the disk fails on the way home, for a while", "fetch verify probe shadow trial revert idle",
         {S.REVERT: [failing, failing]}, OLD, "trial-known-answer", True, trial_changes={"known_answer_failures": 1}),
    # what the line says
    Case("the shadow disagrees", "fetch verify probe shadow revert idle", {}, OLD, "shadow-new-ok", True,
         shadow=replace(GOOD_SHADOW, same=PARTS - 8, new_ok=8)),
    Case("the shadow never sees enough parts: put off", "fetch verify probe shadow revert idle", {}, OLD,
         "shadow-too-few", False, shadow=ShadowReport(parts=3, same=3, active_ok=3, seconds=1e9)),
    Case("the trial answers nonsense", "fetch verify probe shadow trial revert idle", {}, OLD, "trial-non-finite", True,
         trial_changes={"non_finite_in_row": 3}),
    Case("the trial gets a known answer wrong", "fetch verify probe shadow trial revert idle", {}, OLD,
         "trial-known-answer", True, trial_changes={"known_answer_failures": 1}),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_story(case: Case, box: Box) -> None:
    box.release("b")
    box.faults.by_stage = {stage: list(faults) for stage, faults in case.faults.items()}
    box.shadow, box.trial = case.shadow, replace(GOOD_TRIAL, **case.trial_changes)
    box.run()
    assert " ".join(box.chain) == case.chain
    assert box.store is not None and box.live is not None
    state = box.store.state
    assert box.live.judging == box.digests[case.judges]
    assert (state.active or box.digests["factory"]) == box.digests[case.judges]
    assert box.live.beside is None and not box.live.on_trial
    assert (state.last_refusal.code if state.last_refusal else "") == case.code
    assert (state.refusal_of(box.digests["b"]) is not None) == case.remembered
    assert state.floors == {} or state.floors["tiny/stable"].sequence == 1
    assert box.store.history.entries[-1].digest == box.digests["b" if case.judges == "b" else box_last(box)]


def box_last(box: Box) -> str:
    """The last line is about the factory's model, unless it is the refusal of the candidate."""
    assert box.store is not None
    return "b" if box.store.history.entries[-1].event == "refused" else "factory"


def test_every_stage_handles_every_outcome() -> None:
    assert all(set(NEXT[stage]) == set(Outcome) for stage in Stage)
    assert set(AFTER_POWER_CUT) == set(Stage) == set(LIMITS_S)


@pytest.mark.parametrize("first", Stage)
@pytest.mark.parametrize("outcome", Outcome)
def test_every_stage_can_get_home(first: Stage, outcome: Outcome) -> None:
    """Whatever comes of this stage's work: from there on it is a straight way to IDLE, if things go well or not."""
    for then in (Outcome.DONE, Outcome.NOTHING):
        stage, way = NEXT[first][outcome], []
        while stage is not Stage.IDLE:
            assert stage not in way, f"{way} turns round in {stage}"
            way.append(stage)
            stage = NEXT[stage][then]


def test_a_power_cut_never_goes_nearer_to_the_line_than_it_was() -> None:
    order = [S.IDLE, S.FETCH, S.VERIFY, S.PROBE, S.SHADOW, S.TRIAL, S.KEEP]
    for stage in order:
        assert order.index(AFTER_POWER_CUT[stage]) <= order.index(stage)
    assert AFTER_POWER_CUT[S.REVERT] is S.REVERT


def test_no_call_may_hang_for_ever() -> None:
    assert all(0 < limit_s <= 7500 for limit_s in LIMITS_S.values())


@pytest.mark.parametrize("stage", sorted(TRYING, key=lambda stage: stage.value))
def test_a_loop_ends_by_itself(stage: Stage, box: Box) -> None:
    """Whatever brought it there: after so many saves a candidate is refused, and home is IDLE."""
    box.release("b")
    assert box.source.rollout is not None
    box.run()
    assert box.store is not None
    looped = box.store.state.model_copy(
        update={"stage": stage, "saves": MOST_SAVES, "candidate": _candidate(box), "active": None}
    )
    home = advance(looped, Result(Outcome.DONE), BEGIN)
    assert home.stage is S.REVERT and home.refusal_of(box.digests["b"]) is not None
    assert advance(home, Result(Outcome.LATER, "failing"), BEGIN).stage is S.IDLE


def _candidate(box: Box) -> Candidate:
    assert box.source.rollout is not None
    return Candidate.of(box.source.rollout, BEGIN)


def test_starts_without_end_are_bounded_by_what_is_saved(box: Box) -> None:
    """Killed at every start, before anything is done: three of them, then the candidate is gone."""
    box.release("b")
    box.faults.by_stage = {S.TRIAL: [killed] * 99}
    box.run()
    assert box.starts == 4 and box.live is not None and box.live.judging == box.digests["factory"]


def test_a_clean_end_counts_for_nothing(box: Box) -> None:
    state = State(since=BEGIN, stage=S.TRIAL, starts=1)
    for _ in range(50):
        state = after_restart(ended_well(state), BEGIN)
    assert state.stage is S.TRIAL and state.starts == 1


def test_the_heart_says_how_long_a_call_may_take(box: Box) -> None:
    """In each stage's call the heart lies in the future, at most as far as its limit."""
    box.release("b")
    seen: dict[Stage, float] = {}
    updater = box.start()

    def look(stage: Stage) -> Fault:
        def now() -> None:
            assert updater.pulse.beat_ns is not None
            seen[stage] = (updater.pulse.beat_ns - time.monotonic_ns()) / 1e9

        return now

    box.faults.by_stage = {stage: [look(stage)] for stage in Stage}
    for _ in range(7):
        updater.step()
    assert set(seen) == {S.FETCH, S.VERIFY, S.PROBE, S.SHADOW, S.TRIAL, S.KEEP}
    assert all(0 < ahead_s <= LIMITS_S[stage] for stage, ahead_s in seen.items())


def test_a_refusal_says_what_is_wrong_and_not_where_on_this_disk() -> None:
    folder = f"/var/lib/edge-inspect/models/packages/{'0123456789abcdef' * 4}"
    said = result_of(BadModel("golden-of-active", f"{folder}: 1.0.0/golden/plate.png is judged wrongly"))
    assert said.why == "0123456789ab: 1.0.0/golden/plate.png is judged wrongly [golden-of-active]"
