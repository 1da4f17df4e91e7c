"""Whether a rollout is for this box; requests and their answers; when the next look is due."""

from __future__ import annotations

import itertools
import os
import random
import time
from pathlib import Path

import pytest

from edge_inspect.errors import Untrusted
from edge_inspect.update.choose import Names, consider
from edge_inspect.update.pace import HINTED_S, MOST_PAUSE_S, SOONER_S, Looks
from edge_inspect.update.requests import LATE_S, REQUESTS, Answer, Desk, Request, ask, wait_for, who_asks
from edge_inspect.update.stages import Outcome
from edge_inspect.update.state import Floor, State
from edge_wire.release import Audience, ReleasedModel, Rollout
from tests.edge.update.box import BEGIN, NAMES

DIGESTS = ["sha256:" + f"{n:02x}" * 32 for n in range(4)]


def rollout(digest: int = 1, sequence: int = 5, **changes: object) -> Rollout:
    model = ReleasedModel(name="tiny", version="1.1.0", digest=DIGESTS[digest])
    said = Rollout(
        product="tiny", channel="stable", sequence=sequence, model=model, released_by="anna", released_at=BEGIN
    )
    return said.model_copy(update=changes)


def state(*, sequence: int = 4, digest: int = 0, settled: bool = True, active: int | None = 0) -> State:
    floor = Floor(sequence=sequence, digest=DIGESTS[digest], settled=settled)
    return State(since=BEGIN, floors={"tiny/stable": floor}, active=None if active is None else DIGESTS[active])


def test_a_newer_one_is_taken_with_what_it_says() -> None:
    result = consider(state(), rollout(reason="finds dents"), NAMES, BEGIN)
    assert result.outcome is Outcome.DONE and result.candidate is not None
    assert (result.candidate.who, result.candidate.reason, result.candidate.sequence) == ("anna", "finds dents", 5)


@pytest.mark.parametrize(
    ("before", "said"),
    [
        (state(), rollout(digest=0)),
        (state(active=None), rollout(digest=2)),
        (state(sequence=5, digest=1), rollout()),
        (state(), rollout(audience=Audience(lines=("press-5",)))),
    ],
    ids=["judges already", "is the factory's", "came to its end", "for another line"],
)
def test_what_is_not_for_this_box_now_is_left_alone(before: State, said: Rollout) -> None:
    assert consider(before, said, NAMES, BEGIN, active=DIGESTS[2]).outcome is Outcome.NOTHING


def test_one_that_was_put_off_is_taken_up_again() -> None:
    assert consider(state(sequence=5, digest=1, settled=False), rollout(), NAMES, BEGIN).outcome is Outcome.DONE


@pytest.mark.parametrize(
    ("said", "code"), [(rollout(sequence=3), "rollout-older"), (rollout(sequence=4), "rollout-reused")]
)
def test_replays_are_not_believed(said: Rollout, code: str) -> None:
    with pytest.raises(Untrusted) as raised:
        consider(state(), said, NAMES, BEGIN)
    assert raised.value.code == code


def test_a_revoked_one_is_refused_whoever_said_so_before() -> None:
    revoked = state().model_copy(update={"revoked": (DIGESTS[1],)})
    for before, said in ((state(), rollout(revoked=(DIGESTS[1],))), (revoked, rollout(action="rollback"))):
        assert consider(before, said, NAMES, BEGIN).code == "revoked"


def test_names_are_compared_whole() -> None:
    said = rollout(audience=Audience(sites=("plant-1",), lines=("press-*",), devices=("edge-001?",)))
    assert consider(state(), said, NAMES, BEGIN).outcome is Outcome.DONE
    assert consider(state(), said, Names("plant-12", "press-4", "edge-0017"), BEGIN).outcome is Outcome.NOTHING


def test_a_request_is_taken_once_and_answered(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    number = ask(tmp_path, Request(kind="rollback", by="anna"))
    taken = desk.next()
    assert taken is not None and taken[1].by == "anna" and desk.next() is None
    desk.answer(taken[0], Answer(ok=True, text="done"))
    assert wait_for(tmp_path, number, 5.0) == Answer(ok=True, text="done")
    assert not list(tmp_path.glob("*/*.json"))


def test_garbage_and_what_waited_too_long_are_answered_too(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    late = ask(tmp_path, Request(kind="rollback", by="anna"))
    path = tmp_path / REQUESTS / f"{late}.json"
    os.utime(path, (time.time() - 2 * LATE_S,) * 2)
    (tmp_path / REQUESTS / "0.json").write_text("go back")
    assert desk.next() is None
    answers = [wait_for(tmp_path, number, 5.0) for number in ("0", late)]
    assert [answer.code for answer in answers if answer] == ["bad-request", "too-late"]


def test_a_request_to_activate_nothing_is_none(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    (tmp_path / REQUESTS / "0.json").write_text('{"kind": "activate", "by": "anna"}')
    assert desk.next() is None
    answer = wait_for(tmp_path, "0", 5.0)
    assert answer is not None and answer.code == "bad-request"


@pytest.mark.parametrize("name", ["anna\n", "an\x1bna", "\udcff\udcfe", " ", "x" * 500, "Anna-Łucja"])
def test_whoever_asks_has_a_name_that_fits_into_a_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", name)
    said = Request(kind="rollback", by=who_asks())
    assert said.by and said.model_dump_json().encode()


def test_an_answer_that_does_not_come_takes_the_request_back(tmp_path: Path) -> None:
    number = ask(tmp_path, Request(kind="rollback", by="anna"))
    assert wait_for(tmp_path, number, 0.0) is None
    assert Desk(tmp_path).next() is None


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_looks_come_with_jitter_and_sooner_after_a_hint() -> None:
    clock = Clock()
    looks = Looks(600.0, clock_s=clock, rng=random.Random(1))
    clock.now_s += 60.0
    assert looks.due()  # the first one soon, so that a box that was off is up to date
    looks.looked()
    clock.now_s += 539.0
    assert not looks.due()
    clock.now_s += 122.0
    assert looks.due()
    looks.looked()
    looks.hint()
    assert not looks.due()
    clock.now_s += SOONER_S
    assert looks.due()


def test_a_stream_of_hints_gives_a_look_a_minute() -> None:
    clock = Clock()
    looks = Looks(86_400.0, clock_s=clock, rng=random.Random(1), first_s=86_400.0)
    looked_s = []
    for _ in range(2400):  # ten minutes
        looks.hint()
        if looks.due():
            looks.looked()
            looked_s.append(clock.now_s)
        clock.now_s += 0.25
    assert 9 <= len(looked_s) <= 11
    assert all(after - before >= HINTED_S for before, after in itertools.pairwise(looked_s))


def test_a_hint_after_a_candidate_came_to_its_end_is_heard_soon() -> None:
    clock = Clock()
    looks = Looks(86_400.0, clock_s=clock, rng=random.Random(1), first_s=86_400.0)
    for _ in range(2):
        looks.hint()
        looks.due()
        clock.now_s += SOONER_S
        assert looks.due()
        looks.looked()
        looks.settled()


def test_a_candidate_that_is_put_off_again_and_again_comes_later_and_later() -> None:
    clock = Clock()
    looks = Looks(600.0, clock_s=clock, rng=random.Random(1))
    pauses = []
    for _ in range(12):
        looks.put_off()
        began_s = clock.now_s
        while not looks.due():
            clock.now_s += 60.0
        pauses.append(clock.now_s - began_s)
    assert pauses[0] < 1500 and max(pauses) <= 1.1 * MOST_PAUSE_S + 60
    assert pauses[-1] >= 0.9 * MOST_PAUSE_S
    looks.settled()
    looks.looked()
    clock.now_s += 661.0
    assert looks.due()
