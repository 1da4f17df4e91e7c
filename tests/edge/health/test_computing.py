"""A GPU that is gone, a machine that grew slow, a model that computed nonsense: each is said, and ends when it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_inspect.counts import Durations, LaneCounts
from edge_inspect.health import computing
from edge_inspect.health.computing import Computing
from edge_inspect.health.vitals import CameraPulse

MODEL = "sha256:" + "ab" * 32


class Box:
    """One start after the other in the same folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now_s = 0.0
        self.counts = LaneCounts()

    def start(self, wanted: str = "auto") -> Computing:
        return Computing(self.folder, wanted, clock_s=lambda: self.now_s)

    def pulse(self, provider: str = "cpu") -> CameraPulse:
        return CameraPulse("left", "up", self.counts, 0, None, provider)

    def minute(self, watch: Computing, ms: float, runs: int = 300) -> list[str]:
        """A minute in which the network took so long each time, a tenth of them half as long again."""
        for run in range(runs):
            self.counts.inference.add(int(ms * 1e6 * (1.5 if run % 10 == 0 else 1)))
        self.now_s += 61
        watch.look([self.pulse()])
        return codes(watch)


def codes(watch: Computing) -> list[str]:
    return [alarm.code for alarm in watch.alarms()]


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


def seen(watch: Computing, box: Box, provider: str) -> list[str]:
    watch.look([box.pulse(provider)])
    return codes(watch)


def test_processor_in_place_of_a_gpu_is_said_until_the_gpu_is_back(box: Box) -> None:
    assert seen(box.start(), box, "cuda") == []
    for _ in range(3):
        first = box.start()
        assert seen(first, box, "cpu") == ["provider-fallback"]
    assert "it was cuda" in first.alarms()[0].detail
    assert seen(box.start("cpu"), box, "cpu") == [], "named: then it is meant"
    assert seen(box.start(), box, "cpu") == [], "and remembered as meant"
    assert seen(box.start(), box, "cuda") == []
    assert seen(box.start(), box, "openvino") == ["provider-fallback"]


def test_what_cannot_be_read_is_begun_anew(box: Box) -> None:
    for nonsense in (b"", b"{", b"[]", b'{"provider": 3}', b"\xff"):
        (box.folder / computing.PROVIDER_FILE).write_bytes(nonsense)
        (box.folder / computing.DOUBTS_FILE).write_bytes(nonsense)
        assert seen(box.start(), box, "cpu") == []
    assert seen(box.start(), box, "cuda") == []


def test_slower_for_three_minutes_is_said_and_ends(box: Box) -> None:
    watch = box.start()
    assert [box.minute(watch, ms) for ms in (10, 10, 12, 25, 25)] == [[]] * 5
    assert box.minute(watch, 25) == ["slower"]
    assert watch.alarms()[0].detail == "left: p99 37.5 ms, was 15.0 ms"
    assert box.minute(watch, 18) == ["slower"], "not near the best one yet"
    assert box.minute(watch, 11) == []


def test_a_slow_minute_and_minutes_of_few_runs_say_nothing(box: Box) -> None:
    watch = box.start()
    for ms, runs in ((10, 300), (30, 300), (10, 300), (30, 300), (30, 50), (30, 50), (30, 50), (10, 300)):
        assert box.minute(watch, ms, runs) == []


def test_results_in_doubt_are_named_for_a_week_over_starts(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    now = computing._now()
    box.start().doubt(MODEL, now - computing.timedelta(seconds=250), "scratch is not found")
    later = box.start()
    assert codes(later) == ["results-in-doubt"]
    assert "abababababab" in later.alarms()[0].detail
    monkeypatch.setattr(computing, "_now", lambda: now + computing.timedelta(days=8))
    assert codes(box.start()) == []


def test_durations_since_a_moment() -> None:
    counted = Durations()
    for ms in (1, 2, 3):
        counted.add(ms * 1_000_000)
    before = counted.since(Durations())
    assert (before.count, before.total_ns) == (3, 6_000_000)
    for _ in range(10):
        counted.add(50_000_000)
    passed = counted.since(before)
    assert (passed.count, passed.total_ns) == (10, 500_000_000)
    assert passed.percentile_ms(50) == pytest.approx(50, rel=0.03)
