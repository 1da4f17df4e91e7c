"""What the output wires show, moment by moment; time is an argument."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_inspect.line.gpio_signals import MOST_UNTOLD, Levels, Signals, Wires
from edge_inspect.line.protocol import Answer, AnswerKind, Trigger

MS = 1_000_000
FAR_NS = 10**15


def answer(kind: AnswerKind = "OK", *, deadline_ns: int = FAR_NS, sequence: int = 1) -> Answer:
    return Answer(sequence, kind, "test", 1, Trigger(sequence, 0, "gpio"), 0, deadline_ns)


def shown(signals: Signals, now_ms: float) -> str:
    levels = signals.levels(round(now_ms * MS))
    assert not (levels.ok and levels.ng)
    return "OK" if levels.ok else "NG" if levels.ng else "-"


def test_pulse_has_its_length_and_says_when_it_ends() -> None:
    signals = Signals(pulse_ms=40, heartbeat_ms=1000)
    signals.answer(answer())
    assert [shown(signals, ms) for ms in (100, 139.9, 140, 141)] == ["OK", "OK", "-", "-"]
    signals.answer(answer("NG"))
    assert [shown(signals, ms) for ms in (149, 150)] == ["-", "NG"], "after the gap of a quarter pulse"
    assert signals.next_ns(160 * MS) == 190 * MS
    assert signals.cut == 0


def test_pulse_is_cut_for_the_next_answer_but_stays_an_edge() -> None:
    signals = Signals(pulse_ms=40)
    for _ in range(3):
        signals.answer(answer())
    seen = [shown(signals, ms) for ms in range(80)]
    assert "".join("x" if s == "OK" else "." for s in seen) == 2 * ("x" * 10 + "." * 10) + "x" * 40
    assert signals.cut == 2


def test_answer_that_waited_past_its_deadline_is_shown_as_ng() -> None:
    signals = Signals(pulse_ms=40)
    signals.answer(answer("NG"))
    signals.answer(answer("OK", deadline_ns=20 * MS))
    assert [shown(signals, ms) for ms in (0, 10, 19, 20)] == ["NG", "-", "-", "NG"]


def test_an_ok_whose_wire_went_on_too_late_becomes_ng_at_once() -> None:
    """The process stood still between the last look at the clock and the wire."""
    signals = Signals(pulse_ms=40)
    one = answer("OK", deadline_ns=20 * MS)
    signals.answer(one)
    assert shown(signals, 19) == "OK"
    assert not signals.too_late(19 * MS), "in time"
    assert not signals.too_late(25 * MS), "a pulse that began in time may last beyond the deadline"
    signals = Signals(pulse_ms=40)
    signals.answer(one)
    assert shown(signals, 19) == "OK"
    assert signals.too_late(20 * MS)
    assert shown(signals, 20) == "NG" and signals.changed == [one] and signals.late == 1


def test_who_is_not_told_what_was_said_is_known() -> None:
    signals = Signals(pulse_ms=40)
    late, lost = answer("OK", deadline_ns=0, sequence=1), answer("OK", sequence=2)
    signals.answer(late)
    assert shown(signals, 1) == "NG"
    signals.answer(lost)
    signals.forget()
    assert signals.changed == [late] and signals.lost == [lost] and signals.untold == 1


def test_latch_stays_until_the_trigger_or_the_next_answer() -> None:
    signals = Signals(output="latch", pulse_ms=4)
    signals.answer(answer())
    assert [shown(signals, ms) for ms in (0, 100_000)] == ["OK", "OK"]
    signals.trigger(100_001 * MS)
    assert shown(signals, 100_001) == "-"
    signals.answer(answer("NG"))
    assert shown(signals, 100_002) == "NG"
    signals.answer(answer("NG"))
    assert [shown(signals, ms) for ms in (100_100, 100_101)] == ["-", "NG"]
    assert signals.cut == 0


def test_reject_wire_for_two_parts_in_a_row_is_one_long_pulse() -> None:
    signals = Signals()
    signals.reject(0, 100)
    signals.reject(60 * MS, 100)
    assert [signals.levels(ms * MS).reject for ms in (0, 99, 101, 159, 160)] == [True, True, True, True, False]


def test_rest_has_ok_off_whatever_is_configured() -> None:
    assert Signals().rest == Levels()
    assert Signals(rejects_at_rest=True).rest == Levels(reject=True)


def test_reject_at_rest_ends_with_ready_and_stays_away_between_parts() -> None:
    signals = Signals(rejects_at_rest=True, heartbeat_ms=10_000)
    assert signals.levels(0).reject
    for now_ms, ready, busy, rejects in (
        (1, True, False, False), (2, False, True, False), (3000, False, False, False), (3001, True, False, False),
        (3002, False, True, False), (5000, False, False, False), (5199, False, False, False),
        (5200, False, False, True), (9000, False, False, True), (9001, False, True, False),
    ):  # fmt: skip
        signals.status(ready, busy)
        assert signals.levels(now_ms * MS).reject == rejects, now_ms
    signals.status(False, False)
    assert not signals.levels(9100 * MS).reject
    assert signals.next_ns(9100 * MS) == 9300 * MS


def test_heartbeat_changes_at_its_period_and_stands_without_life() -> None:
    signals = Signals(heartbeat_ms=10)
    assert [signals.levels(ms * MS).heartbeat for ms in (0, 9, 10, 19, 20)] == [False, False, True, True, False]
    assert signals.next_ns(12 * MS) == 20 * MS
    assert not signals.levels(10 * MS, alive=False).heartbeat


def test_what_was_to_be_told_while_the_wires_were_away_is_forgotten() -> None:
    signals = Signals()
    for _ in range(MOST_UNTOLD + 5):
        signals.answer(answer())
    assert signals.untold == 5
    signals.reject(0, 1000)
    signals.forget()
    assert signals.levels(1) == Levels() and signals.untold == 5 + MOST_UNTOLD


def test_one_line_cannot_be_two_wires() -> None:
    with pytest.raises(ValueError, match="given twice"):
        Wires(trigger=4, ok=4)


@given(
    st.lists(
        st.tuples(st.integers(0, 60), st.sampled_from(["OK", "NG", "UNKNOWN"]), st.integers(-20, 200)), max_size=40
    ),
    st.sampled_from(["pulse", "latch"]),
)
def test_every_answer_is_one_edge_in_its_order_and_no_late_one_is_ok(
    arrivals: list[tuple[int, AnswerKind, int]], output: str
) -> None:
    signals = Signals(output=output, pulse_ms=20, heartbeat_ms=10_000)  # type: ignore[arg-type]
    now_ns, edges, was = 0, [], "-"
    due: list[tuple[int, AnswerKind, int]] = []
    for gap_ms, kind, in_ms in arrivals:
        due.append((gap_ms * MS + (due[-1][0] if due else 0), kind, in_ms))
    wanted = [(kind, at_ns + in_ms * MS) for at_ns, kind, in_ms in due]
    end_ns = 10_000 * MS
    while now_ns < end_ns:
        while due and due[0][0] <= now_ns:
            at_ns, kind, in_ms = due.pop(0)
            signals.answer(answer(kind, deadline_ns=at_ns + in_ms * MS))
        level = shown(signals, now_ns / MS)
        if level not in (was, "-"):
            edges.append((level, now_ns))
        assert not (level != "-" and was not in ("-", level)), "never from one to the other without a gap"
        was = level
        moments = [moment for moment in (signals.next_ns(now_ns), due[0][0] if due else end_ns) if moment > now_ns]
        now_ns = min([*moments, end_ns])
    assert len(edges) == len(wanted)
    for (level, at_ns), (kind, deadline_ns) in zip(edges, wanted, strict=True):
        assert level == ("OK" if kind == "OK" and at_ns < deadline_ns else "NG")
    assert signals.untold == 0
