"""One trigger, one answer, in time: whatever comes in whatever order, and from however many threads."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge_inspect.line.desk import Desk
from edge_inspect.line.protocol import Answer, Trigger
from tests.edge.line.desks import DEADLINE, DELAY, MS, WINDOW, Clock, Output, desk_with


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
