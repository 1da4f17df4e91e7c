"""A sender's time stamps laid over ours: what arrives late is old, whatever the two clocks say."""

from __future__ import annotations

import random

from edge_inspect.capture.sender_clock import Overlay, SenderClock

S = 1_000_000_000
MS = 1_000_000
OURS_AHEAD_NS = 777 * S


def arrive(clock: SenderClock, sent_ns: int, delay_ns: int, wall_ahead_ns: int | None = None) -> int:
    """A packet that took `delay_ns`; returns its age as the clock sees it."""
    arrived_ns = sent_ns + OURS_AHEAD_NS + delay_ns
    clock.arrived(sent_ns, arrived_ns, None if wall_ahead_ns is None else sent_ns + wall_ahead_ns)
    return arrived_ns - clock.captured_ns(sent_ns)


def test_stall_shows_as_age_however_long_it_lasts() -> None:
    clock = SenderClock(Overlay())
    rng = random.Random(1)
    for number in range(100):
        assert arrive(clock, number * 40 * MS, 5 * MS + rng.randrange(10 * MS)) < 20 * MS
    for number in range(100, 1600):  # a minute of pictures that come 3 s late
        age_ns = arrive(clock, number * 40 * MS, 3 * S)
        assert 2.9 * S < age_ns < 3.01 * S
    assert arrive(clock, 1600 * 40 * MS, 5 * MS) < 20 * MS


def test_clocks_that_run_apart_do_not_age_the_pictures() -> None:
    clock = SenderClock(Overlay())
    for number in range(0, 25 * 3600 * 8, 25):  # eight hours, the sender 100 ppm fast: 2.9 s
        sent_ns = number * 40 * MS
        age_ns = arrive(clock, sent_ns + sent_ns // 10_000, 5 * MS - sent_ns // 10_000)
        assert age_ns < 20 * MS
    for number in range(0, 25 * 3600 * 8, 25):
        sent_ns = 9 * 3600 * S + number * 40 * MS
        age_ns = arrive(clock, sent_ns, 5 * MS + number * 40 * MS // 10_000)
        assert age_ns < 3 * S  # leaves what the first half had gained, then follows


def test_nothing_is_settled_while_stored_pictures_come_faster_than_time() -> None:
    clock = SenderClock(Overlay())
    assert not clock.settled(OURS_AHEAD_NS)
    for number in range(50):  # two seconds of pictures within 0.1 s
        now_ns = OURS_AHEAD_NS + 2 * S + number * 2 * MS
        clock.arrived(number * 40 * MS, now_ns, None)
        assert not clock.settled(now_ns)
    for number in range(50, 70):
        clock.arrived(number * 40 * MS, OURS_AHEAD_NS + number * 40 * MS + 100 * MS, None)
    assert clock.settled(OURS_AHEAD_NS + 70 * 40 * MS + 100 * MS)
    assert not clock.settled(OURS_AHEAD_NS + 50 * 40 * MS + 100 * MS)


def test_delay_that_came_with_the_reconnect_is_seen_by_the_wall_clock() -> None:
    wall = Overlay()
    before = SenderClock(wall)
    for number in range(50):
        arrive(before, number * 40 * MS, 5 * MS, wall_ahead_ns=1000 * S)
    after = SenderClock(wall)
    first_ns = 60 * S
    assert arrive(after, first_ns, 905 * MS) == 0, "nothing to compare with yet"
    assert not after.settled(first_ns + OURS_AHEAD_NS + S), "the sender told its wall clock before: wait for it"
    assert 880 * MS < arrive(after, first_ns + 40 * MS, 905 * MS, wall_ahead_ns=1000 * S) < 910 * MS


def test_wall_clock_that_is_set_does_not_age_the_pictures() -> None:
    clock = SenderClock(Overlay())
    for number in range(50):
        arrive(clock, number * 40 * MS, 5 * MS, wall_ahead_ns=1000 * S)
    for number in range(50, 100):
        assert arrive(clock, number * 40 * MS, 5 * MS, wall_ahead_ns=400 * S) < 20 * MS
