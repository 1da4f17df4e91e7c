"""One trigger, one answer, in time, whoever stands still."""

from __future__ import annotations

import threading

import pytest

from edge_inspect.line.desk import Desk
from edge_inspect.line.protocol import Answer, Trigger
from tests.edge.line.desks import (
    DEADLINE,
    DELAY,
    MARGIN,
    MS,
    WINDOW,
    Clock,
    Output,
    clock,
    desk_with,
    fire,
    kinds,
    output,
)

__all__ = ["clock", "output"]


def test_a_verdict_in_time_is_told(clock: Clock, output: Output) -> None:
    desk = desk_with(clock, output)
    fire(desk, clock, 7)
    assert desk.due(clock.now_ns + DELAY - 1) is None
    clock.now_ns += 12 * MS
    part = desk.due(clock.now_ns)
    assert part == 0
    told = desk.answer(part, "NG", "defect")
    assert output.told == [told] and kinds(output) == [(7, "NG", "defect")]
    assert desk.unseen() == [] and not desk.busy and desk.ready


def test_a_part_without_a_verdict_is_unknown_before_its_deadline(clock: Clock, output: Output) -> None:
    desk = desk_with(clock, output)
    trigger = fire(desk, clock, 1)
    assert desk.step() <= (DEADLINE - MARGIN) / 1e9
    clock.now_ns += DEADLINE - MARGIN
    desk.step()
    assert kinds(output) == [(1, "UNKNOWN", "deadline")]
    assert output.told[0].answered_ns < trigger.at_ns + DEADLINE
    assert desk.unseen() == [(0, "deadline")] and desk.unseen() == []
    assert desk.answer(0, "UNKNOWN", "deadline") == output.told[0]
    assert (desk.counts.missed_deadlines, desk.counts.late_verdicts) == (1, 0)


@pytest.mark.parametrize("kind", ["OK", "NG"])
def test_a_late_verdict_is_never_told(clock: Clock, output: Output, kind: str) -> None:
    """The deadline thread stands still: the inspect thread itself is too late and says so."""
    desk = desk_with(clock, output)
    fire(desk, clock, 1)
    part = desk.due(clock.now_ns + DELAY)
    assert part is not None
    clock.now_ns += DEADLINE
    told = desk.answer(part, kind, "whatever")  # type: ignore[arg-type]
    assert kinds(output) == [(1, "UNKNOWN", "deadline")] == [(told.sequence, told.kind, told.reason)]
    assert desk.counts.late_verdicts == desk.counts.missed_deadlines == 1


def test_a_verdict_after_the_deadline_threads_word_changes_nothing(clock: Clock, output: Output) -> None:
    desk = desk_with(clock, output)
    fire(desk, clock, 1)
    part = desk.due(clock.now_ns + DELAY)
    assert part is not None
    clock.now_ns += DEADLINE
    desk.step()
    assert desk.unseen() == [], "the inspect thread has it in hand and reports it with its picture"
    assert desk.answer(part, "OK", "no-defect").reason == "deadline"
    assert len(output.told) == 1 and desk.counts.late_verdicts == 1


def test_a_trigger_during_a_judgement_is_an_overrun(clock: Clock, output: Output) -> None:
    desk = desk_with(clock, output)
    for sequence in (1, 2):
        fire(desk, clock, sequence)
    assert kinds(output) == [(2, "UNKNOWN", "overrun")] and desk.counts.overruns == 1
    assert desk.unseen() == [(1, "overrun")]


def test_as_many_triggers_wait_as_the_queue_says(clock: Clock, output: Output) -> None:
    desk = desk_with(clock, output, queue=2)
    for sequence in (1, 2, 3, 4):
        fire(desk, clock, sequence)
    assert kinds(output) == [(4, "UNKNOWN", "overrun")]


def test_a_judgement_that_lasts_beyond_its_deadline_still_occupies_us(clock: Clock, output: Output) -> None:
    desk = desk_with(clock, output)
    fire(desk, clock, 1)
    desk.due(clock.now_ns + DELAY)
    clock.now_ns += DEADLINE
    desk.step()
    assert desk.busy and not desk.ready, "who trusts Ready is not told overrun"
    fire(desk, clock, 2)
    assert kinds(output)[1] == (2, "UNKNOWN", "overrun")
    desk.answer(0, "OK", "no-defect")
    assert not desk.busy and desk.ready


@pytest.mark.parametrize("why", ["not-ready", "camera-lost"])
def test_what_cannot_be_judged_is_answered_at_once(clock: Clock, output: Output, why: str) -> None:
    trouble = [why]
    desk = desk_with(clock, output, trouble=trouble)
    fire(desk, clock, 1)
    assert kinds(output) == [(1, "UNKNOWN", why)] and not desk.ready
    trouble[0] = ""
    fire(desk, clock, 2)
    assert len(output.told) == 1 and desk.busy


@pytest.mark.parametrize("looking", [False, True])
def test_the_end_answers_open_parts_and_those_that_come(clock: Clock, output: Output, looking: bool) -> None:
    desk = desk_with(clock, output)
    fire(desk, clock, 1)
    part = desk.due(clock.now_ns + DELAY) if looking else None
    desk.hold("not-ready")
    fire(desk, clock, 2)
    assert kinds(output) == [(1, "UNKNOWN", "not-ready"), (2, "UNKNOWN", "not-ready")] and not desk.ready
    if part is not None:
        assert desk.answer(part, "OK", "no-defect").reason == "not-ready"
    assert len(output.told) == 2


@pytest.mark.parametrize("reason", ["frozen", "black", "corrupt", "overrun", "frames-lost"])
def test_the_picture_of_a_part_that_could_not_be_seen(clock: Clock, output: Output, reason: str) -> None:
    desk = desk_with(clock, output)
    fire(desk, clock, 1)
    desk.blind(reason, clock.now_ns + DELAY - 1)
    assert output.told == [], "that frame was not its own"
    clock.now_ns += DELAY
    desk.blind(reason, clock.now_ns)
    assert kinds(output) == [(1, "UNKNOWN", reason)]
    assert desk.due(clock.now_ns + 1) is None, "the next frame is not the first any more"


def test_a_lost_camera_answers_who_waits_for_a_later_frame(clock: Clock, output: Output) -> None:
    desk = desk_with(clock, output)
    fire(desk, clock, 1)
    desk.blind("camera-lost", clock.now_ns)
    assert kinds(output) == [(1, "UNKNOWN", "camera-lost")]


def test_a_loss_that_is_over_does_not_touch_a_later_trigger(clock: Clock, output: Output) -> None:
    desk = desk_with(clock, output)
    lost_ns = clock.now_ns
    clock.now_ns += MS
    fire(desk, clock, 1)
    desk.blind("camera-lost", lost_ns)
    assert output.told == []


def test_a_frame_belongs_to_the_newer_of_two_triggers(clock: Clock, output: Output) -> None:
    desk = desk_with(clock, output, queue=1)
    fire(desk, clock, 1)
    clock.now_ns += MS
    fire(desk, clock, 2)
    assert desk.due(clock.now_ns + DELAY) == 1
    assert kinds(output) == [(1, "UNKNOWN", "no-frame")]


def test_a_frame_that_comes_too_late_shows_something_else(clock: Clock, output: Output) -> None:
    desk = desk_with(clock, output)
    fire(desk, clock, 1)
    clock.now_ns += DELAY + WINDOW + 1
    assert desk.due(clock.now_ns) is None
    assert kinds(output) == [(1, "UNKNOWN", "no-frame")]


def test_a_trigger_that_reaches_us_after_its_frame_has_none(clock: Clock, output: Output) -> None:
    desk = desk_with(clock, output)
    desk.due(clock.now_ns)
    fire(desk, clock, 1, ago_ns=DELAY)
    assert kinds(output) == [(1, "UNKNOWN", "no-frame")]


def test_a_time_stamp_in_the_future_spoils_no_trigger(clock: Clock, output: Output) -> None:
    desk = desk_with(clock, output)
    desk.due(clock.now_ns + 3_600_000 * MS)
    fire(desk, clock, 1)
    assert output.told == []


def test_an_ok_that_an_adapter_could_not_tell_in_time_is_unknown_everywhere(clock: Clock, output: Output) -> None:
    desk = desk_with(clock, output)
    news: list[bool] = []
    desk._news = lambda: news.append(desk.has_news())
    noted: list[Answer] = []
    desk.note = noted.append
    fire(desk, clock, 1)
    part = desk.due(clock.now_ns + DELAY)
    assert part is not None
    answer = desk.answer(part, "OK", "no-defect")
    late_ns = clock.now_ns + DEADLINE
    withdrawn = desk.withdraw(answer, late_ns)
    assert withdrawn is not None and (withdrawn.kind, withdrawn.reason) == ("UNKNOWN", "deadline")
    assert (withdrawn.part, withdrawn.sequence, withdrawn.answered_ns) == (part, 1, late_ns)
    assert desk.withdraw(answer, late_ns + 1) is None, "another adapter was late, too: it is one part"
    assert (desk.counts.ok, dict(desk.counts.unknown), desk.counts.missed_deadlines) == (0, {"deadline": 1}, 1)
    assert dict(desk.counts.withdrawn) == {"OK": 1}
    assert noted == [answer, withdrawn] and news == [True]
    assert desk.withdrawn() == [withdrawn] and desk.withdrawn() == [] and not desk.has_news()
    fire(desk, clock, 1)
    assert output.told == [answer, withdrawn], "asked again in time, it is told what holds now"


def test_an_ng_that_an_adapter_could_not_tell_in_time_has_its_report_already(clock: Clock, output: Output) -> None:
    desk = desk_with(clock, output)
    fire(desk, clock, 1)
    part = desk.due(clock.now_ns + DELAY)
    assert part is not None
    answer = desk.answer(part, "NG", "defect")
    assert desk.withdraw(answer, clock.now_ns + DEADLINE) is not None
    assert desk.withdrawn() == [] and not desk.has_news()
    assert (desk.counts.ng, desk.counts.unknown_total, dict(desk.counts.withdrawn)) == (0, 1, {"NG": 1})


def test_winding_down_leaves_open_parts_their_verdict_and_judges_no_more(clock: Clock, output: Output) -> None:
    desk = desk_with(clock, output, queue=1)
    fire(desk, clock, 1)
    part = desk.due(clock.now_ns + DELAY)
    assert part is not None
    desk.wind_down()
    assert not desk.ready
    fire(desk, clock, 2)
    desk.answer(part, "OK", "no-defect")
    assert kinds(output) == [(2, "UNKNOWN", "not-ready"), (1, "OK", "no-defect")]


def test_readiness_is_told_by_the_deadline_thread(clock: Clock, output: Output) -> None:
    trouble = ["not-ready"]
    desk = desk_with(clock, output, trouble=trouble)
    desk.step()
    trouble[0] = ""
    desk.step()
    fire(desk, clock, 1)
    desk.step()
    clock.now_ns += DEADLINE
    desk.step()
    desk.wind_down()
    desk.step()
    assert output.states == [(False, False), (True, False), (False, True), (True, False), (False, False)]


def test_the_deadline_thread_works_by_itself_and_ends_unready() -> None:
    output, stop = Output(), threading.Event()
    desk = Desk(20 * MS, [output], margin_ns=5 * MS)
    told = threading.Event()
    output.tell = lambda answer: (output.told.append(answer), told.set())  # type: ignore[method-assign, assignment, func-returns-value]
    thread = threading.Thread(target=desk.run, args=(stop,))
    thread.start()
    try:
        desk.fire(Trigger(1, 0, "test"))
        assert told.wait(30)
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive() and kinds(output) == [(1, "UNKNOWN", "deadline")]
    assert output.states[-1] == (False, False) and desk.beat_ns is None
