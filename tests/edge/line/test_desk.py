"""One trigger, one answer, in time: whatever comes in whatever order, and whoever stands still."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge_inspect.line.desk import Desk
from edge_inspect.line.protocol import Answer, Trigger

MS = 1_000_000
DEADLINE, MARGIN, DELAY, WINDOW = 50 * MS, 3 * MS, 10 * MS, 30 * MS


class Clock:
    """Stands still unless told; `stalls` are taken one by one after each look at it."""

    def __init__(self) -> None:
        self.now_ns = 1_000 * MS
        self.stalls: list[int] = []

    def __call__(self) -> int:
        now_ns = self.now_ns
        if self.stalls:
            self.now_ns += self.stalls.pop()
        return now_ns


class Output:
    """Remembers what it was told; a stall happens before it is through."""

    name = "output"
    beat_ns = None

    def __init__(self) -> None:
        self.told: list[Answer] = []
        self.states: list[tuple[bool, bool]] = []

    def tell(self, answer: Answer) -> None:
        self.told.append(answer)

    def status(self, ready: bool, busy: bool) -> None:
        self.states.append((ready, busy))

    def run(self, stop: threading.Event) -> None:
        stop.wait()


def desk_with(clock: Clock, output: Output, *, queue: int = 0, trouble: list[str] | None = None) -> Desk:
    reasons = trouble if trouble is not None else [""]
    return Desk(
        DEADLINE, [output], margin_ns=MARGIN, delay_ns=DELAY, window_ns=WINDOW, queue=queue,
        trouble=lambda: reasons[0], clock_ns=clock,
    )  # fmt: skip


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def output() -> Output:
    return Output()


def fire(desk: Desk, clock: Clock, sequence: int, ago_ns: int = 0) -> Trigger:
    trigger = Trigger(sequence, clock.now_ns - ago_ns, "test")
    desk.fire(trigger)
    return trigger


def kinds(output: Output) -> list[tuple[int, str, str]]:
    return [(answer.sequence, answer.kind, answer.reason) for answer in output.told]


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


def test_a_repeated_number_is_no_second_part_and_gets_the_same_answer(clock: Clock, output: Output) -> None:
    desk = desk_with(clock, output)
    fire(desk, clock, 1)
    fire(desk, clock, 1)
    part = desk.due(clock.now_ns + DELAY)
    assert part is not None and output.told == []
    answer = desk.answer(part, "OK", "no-defect")
    fire(desk, clock, 1)
    assert output.told == [answer, answer] and desk.counts.repeated == 2
    assert desk.unseen() == [] and desk.counts.ok == 1


@pytest.mark.parametrize("later_ns", [DEADLINE, 3_600_000 * MS])
def test_an_ok_is_not_repeated_after_its_deadline(clock: Clock, output: Output, later_ns: int) -> None:
    """A counter that stands still must not pass one part after the other."""
    desk = desk_with(clock, output)
    fire(desk, clock, 0)
    part = desk.due(clock.now_ns + DELAY)
    assert part is not None
    desk.answer(part, "OK", "no-defect")
    clock.now_ns += later_ns
    fire(desk, clock, 0)
    assert kinds(output)[1:] == [(0, "UNKNOWN", "repeated")]


@pytest.mark.parametrize("kind", ["OK", "NG", "UNKNOWN"])
def test_each_part_on_a_counter_that_stands_still_is_one_of_its_own(clock: Clock, output: Output, kind: str) -> None:
    """Five of them: one judged, four that nobody can vouch for, each reported and each for the reject gate."""
    desk = desk_with(clock, output)
    fire(desk, clock, 7)
    part = desk.due(clock.now_ns + DELAY)
    assert part is not None
    desk.answer(part, kind, "whatever")  # type: ignore[arg-type]
    for _ in range(4):
        clock.now_ns += 2 * DEADLINE
        fire(desk, clock, 7)
    assert kinds(output) == [(7, kind, "whatever")] + 4 * [(7, "UNKNOWN", "repeated")]
    assert [answer.part for answer in output.told] == [0, 1, 2, 3, 4]
    assert not any(answer.is_late(answer.answered_ns) for answer in output.told)
    assert desk.unseen() == [(part, "repeated") for part in (1, 2, 3, 4)]
    assert desk.counts.repeated == desk.counts.unknown["repeated"] == 4


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


def test_an_outside_that_began_anew_is_judged(clock: Clock, output: Output) -> None:
    desk = desk_with(clock, output)
    for sequence in (1, 2, 3):
        fire(desk, clock, sequence)
        part = desk.due(clock.now_ns + DELAY)
        assert part is not None
        desk.answer(part, "OK", "no-defect")
        clock.now_ns += DELAY + MS
    clock.now_ns += 6_000 * MS
    fire(desk, clock, 1)
    assert len(output.told) == 3 and desk.busy


def test_skipped_numbers_are_counted_and_answered(clock: Clock, output: Output) -> None:
    desk = desk_with(clock, output, queue=9)
    for sequence in (2**32 - 2, 2**32 - 1, 0, 1, 5, 2):
        fire(desk, clock, sequence)
    assert desk.counts.skipped == 3 + 1
    clock.now_ns += DEADLINE
    desk.step()
    assert sorted(answer.sequence for answer in output.told) == sorted((2**32 - 2, 2**32 - 1, 0, 1, 5, 2))


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


class AnyOrder(RuleBasedStateMachine):
    """Triggers, frames, verdicts, gaps, the end, the deadline thread in any order, on a clock that jumps anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.clock, self.output, self.trouble = Clock(), Output(), [""]
        self.next_sequence = 0
        self.fired: list[Trigger] = []
        self.in_hand: list[int] = []
        self.handed: list[int] = []
        self.captured: dict[int, int] = {}
        self.dark: list[int] = []
        self.said: dict[int, str] = {}
        self.withdrawn: set[int] = set()

    @initialize(queue=st.integers(0, 3))
    def open(self, queue: int) -> None:
        self.desk = desk_with(self.clock, self.output, queue=queue, trouble=self.trouble)

    @rule(
        how=st.sampled_from(["next", "next", "next", "same", "skip", "back"]),
        ago_ms=st.sampled_from([0, 0, 0, 5, 60]),
        stalls=st.lists(st.sampled_from([0, MS, 60 * MS]), max_size=3),
    )
    def trigger(self, how: str, ago_ms: int, stalls: list[int]) -> None:
        step = {"next": 1, "same": 0, "skip": 4, "back": -2}[how]
        self.next_sequence = (self.next_sequence + step) % 2**32
        trigger = Trigger(self.next_sequence, self.clock.now_ns - ago_ms * MS, "test")
        self.fired.append(trigger)
        self.clock.stalls = stalls
        self.desk.fire(trigger)
        self.clock.stalls = []

    @rule(ms=st.integers(0, 80))
    def time_passes(self, ms: int) -> None:
        self.clock.now_ns += ms * MS

    @rule()
    def deadline_thread_looks(self) -> None:
        assert self.desk.step() >= 0

    @precondition(lambda self: not self.in_hand)
    @rule(ago_ms=st.sampled_from([0, 0, 2, 30]))
    def frame(self, ago_ms: int) -> None:
        captured_ns = max(self.clock.now_ns - ago_ms * MS, max(self.captured.values(), default=0))
        part = self.desk.due(captured_ns)
        if part is not None:
            self.hand_over(part)
            self.captured[part] = captured_ns
            self.in_hand.append(part)

    @precondition(lambda self: self.in_hand)
    @rule(kind=st.sampled_from(["OK", "NG", "UNKNOWN"]), stalls=st.lists(st.sampled_from([0, 70 * MS]), max_size=2))
    def verdict(self, kind: str, stalls: list[int]) -> None:
        part = self.in_hand.pop()
        self.said[part] = kind
        self.clock.stalls = stalls
        told = self.desk.answer(part, kind, kind.lower())  # type: ignore[arg-type]
        self.clock.stalls = []
        assert told == next(answer for answer in self.output.told if answer.part == part)

    @rule(reason=st.sampled_from(["black", "camera-lost"]))
    def nothing_to_see(self, reason: str) -> None:
        self.dark.append(self.clock.now_ns)
        self.desk.blind(reason, self.clock.now_ns)

    @rule(reason=st.sampled_from(["", "camera-lost", "not-ready"]))
    def trouble_changes(self, reason: str) -> None:
        self.trouble[0] = reason

    @precondition(lambda self: len(self.fired) > 9)
    @rule()
    def nobody_judges_any_more(self) -> None:
        self.desk.hold("not-ready")

    @rule(most=st.integers(1, 3))
    def inspect_thread_reports(self, most: int) -> None:
        for part, reason in self.desk.unseen(most):
            self.hand_over(part)
            assert self.desk.answer(part, "UNKNOWN", reason).reason == reason

    @precondition(lambda self: self.output.told)
    @rule(data=st.data())
    def an_adapter_is_late(self, data: st.DataObject) -> None:
        answer = data.draw(st.sampled_from(self.output.told))
        first = answer.kind != "UNKNOWN" and answer.part not in self.withdrawn
        assert (self.desk.withdraw(answer, self.clock.now_ns) is not None) == first
        self.withdrawn |= {answer.part} if first else set()

    def hand_over(self, part: int) -> None:
        assert part not in self.handed
        self.handed.append(part)

    @invariant()
    def nobody_is_passed_who_was_not_seen(self) -> None:
        for answer in self.output.told:
            if answer.kind == "UNKNOWN":
                continue
            assert answer.answered_ns < answer.deadline_ns == answer.trigger.at_ns + DEADLINE
            assert self.said[answer.part] == answer.kind
            due_ns, captured_ns = answer.trigger.at_ns + DELAY, self.captured[answer.part]
            assert due_ns <= captured_ns <= due_ns + WINDOW

    @invariant()
    def no_part_is_told_two_things(self) -> None:
        for part, answers in self.by_part().items():
            first = answers[0]
            assert all(answer == first or part in self.withdrawn for answer in answers), part
            assert {answer.kind for answer in answers} <= {first.kind, "UNKNOWN"}
            assert all(answer.sequence == first.sequence for answer in answers)

    def by_part(self) -> dict[int, list[Answer]]:
        found: dict[int, list[Answer]] = {}
        for answer in self.output.told:
            found.setdefault(answer.part, []).append(answer)
        return found

    def teardown(self) -> None:
        """Whatever came before: once every deadline is over, every part has its one answer and one report."""
        self.trouble[0] = ""
        self.clock.now_ns += DEADLINE
        self.desk.step()
        while self.in_hand:
            part = self.in_hand.pop()
            self.desk.answer(part, "OK", "no-defect")
        while unseen := self.desk.unseen():
            for part, reason in unseen:
                self.hand_over(part)
                self.desk.answer(part, "UNKNOWN", reason)
        counts = self.desk.counts
        answered = self.by_part()
        parts = len(self.fired) - counts.repeated + counts.unknown["repeated"]
        assert counts.triggers == len(self.fired)
        assert sorted(answered) == sorted(self.handed) == list(range(parts))
        assert counts.ok + counts.ng + counts.unknown_total == parts
        assert counts.withdrawn.total() == len(self.withdrawn)
        was_ok = {answer.part for answer in self.output.told if answer.kind == "OK"} & self.withdrawn
        assert sorted(answer.part for answer in self.desk.withdrawn()) == sorted(was_ok)
        assert {trigger.sequence for trigger in self.fired} == {answer.sequence for answer in self.output.told}
        assert not self.desk.busy and not self.desk._told and not self.desk._looking


AnyOrder.TestCase.settings = settings(
    max_examples=200, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestAnyOrder = AnyOrder.TestCase


@pytest.mark.parametrize("queue", [0, 3])
def test_four_threads_at_once_one_answer_each(queue: int) -> None:
    """Two that fire, the deadline thread, and an inspect thread that is sometimes too slow. Real clock, real locks."""
    output, stop, fired_all = Output(), threading.Event(), threading.Event()
    desk = Desk(3 * MS, [output], margin_ns=MS // 2, queue=queue)
    each, reported = 3_000, Counter[int]()

    def inspect() -> None:
        import time

        turn = 0
        while not (fired_all.is_set() and not desk.busy and not desk.has_news()):
            turn += 1
            part = desk.due(time.monotonic_ns())
            if part is not None:
                reported[part] += 1
                if turn % 7 == 0:
                    stop.wait(0.004)
                desk.answer(part, "OK", "no-defect")
            for unseen, reason in desk.unseen():
                reported[unseen] += 1
                desk.answer(unseen, "UNKNOWN", reason)

    def fire_all(source: str) -> None:
        import time

        for sequence in range(each):
            desk.fire(Trigger(sequence, time.monotonic_ns(), source))
            if sequence % 5 == 0:
                time.sleep(0.0003)

    inspecting = threading.Thread(target=inspect)
    deadlines = threading.Thread(target=desk.run, args=(stop,))
    firing = [threading.Thread(target=fire_all, args=(name,)) for name in ("left", "right")]
    threads = [inspecting, deadlines, *firing]
    for thread in threads:
        thread.start()
    for thread in firing:
        thread.join(60)
    fired_all.set()
    inspecting.join(60)
    stop.set()
    deadlines.join(60)
    assert not any(thread.is_alive() for thread in threads)
    told = Counter((answer.trigger.source, answer.sequence) for answer in output.told)
    assert told == Counter({(name, n): 1 for name in ("left", "right") for n in range(each)})
    assert all(a.answered_ns < a.deadline_ns for a in output.told if a.kind != "UNKNOWN")
    assert reported == Counter(range(2 * each)), "each part in the inspect thread's hands once"
