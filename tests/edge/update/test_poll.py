"""The repository is looked at again and again: not in step, sooner when hinted, and for ever."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from edge_inspect.errors import BadConfig, SourceGone, Untrusted
from edge_inspect.update.known import Known, known_of, read_known
from edge_inspect.update.poll import Poller
from edge_inspect.update.state import Candidate, Floor, RefusedDigest, State
from edge_wire.release import ReleasedModel

DEADLINE_S = 30.0
NOW = datetime(2026, 11, 22, tzinfo=timezone.utc)


class Looks:
    """Fails as told, one after the other; then works."""

    def __init__(self, *errors: Exception | None) -> None:
        self.errors = list(errors)
        self.done = threading.Event()

    def __call__(self, alive: Callable[[], None]) -> None:
        error = self.errors.pop(0) if self.errors else None
        if not self.errors:
            self.done.set()
        if error:
            raise error


@pytest.mark.parametrize(("random01", "least", "most"), [(0.0, 89.9, 90.1), (0.5, 99.9, 100.1), (1.0, 109.9, 110.1)])
def test_pause_is_up_to_a_tenth_longer_or_shorter(random01: float, least: float, most: float) -> None:
    assert least < Poller(Looks(), pause_s=100, random01=lambda: random01).look_once() < most


def test_waits_grow_while_the_repository_is_gone_and_never_past_the_pause() -> None:
    gone = [SourceGone("cut", "gone") for _ in range(12)]
    poller = Poller(Looks(*gone), pause_s=600, random01=lambda: 0.5)
    waits = [poller.look_once() for _ in gone]
    assert waits[:3] == [10, 20, 40]
    assert waits == sorted(waits)
    assert waits[-1] <= 600


def test_what_is_refused_is_looked_at_again_at_the_next_pause() -> None:
    assert Poller(Looks(Untrusted("metadata-expired", "old")), pause_s=600, random01=lambda: 0.5).look_once() == 600


def test_one_line_when_it_fails_and_one_when_it_works_again() -> None:
    errors = [SourceGone("cut", "a"), SourceGone("cut", "b"), SourceGone("stalled", "c"), None, None]
    poller = Poller(Looks(*errors), pause_s=10)
    structlog.reset_defaults()  # whatever level a command before set for its process
    with capture_logs() as lines:
        for _ in errors:
            poller.look_once()
    assert [line.get("code") for line in lines] == ["cut", "stalled", None]
    assert poller.trouble == ""


def test_bad_configuration_ends_it() -> None:
    with pytest.raises(BadConfig):
        Poller(Looks(BadConfig("x")), pause_s=10).look_once()


def test_hint_shortens_the_wait_and_stop_ends_it(tmp_path: Path) -> None:
    hint, stop, looks = tmp_path / "hint", threading.Event(), Looks()
    poller = Poller(looks, pause_s=36_000, hint_file=hint, random01=lambda: 0.5)
    thread = threading.Thread(target=poller.run, args=(stop,))
    thread.start()
    try:
        while not looks.done.is_set():  # the poller may not have looked at the file before the first touch
            hint.touch()
            if looks.done.wait(0.6):
                break
    finally:
        stop.set()
        thread.join(DEADLINE_S)
    assert not thread.is_alive()
    assert poller.beat_ns is not None


class Clock(threading.Event):
    """The poller's clock and its `stop`: nothing waits, time goes on. `then` is what happens while it waits."""

    def __init__(self, then: Callable[[float], None], *, end_s: float) -> None:
        super().__init__()
        self.now_s = 0.0
        self._then = then
        self._end_s = end_s

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.now_s += timeout
        self._then(self.now_s)
        if self.now_s >= self._end_s:
            self.set()
        return self.is_set()


def looks_at(hint: Path, hints_s: list[float], *, end_s: float) -> list[float]:
    """When a poller that polls every ten hours looks, if it is hinted at these moments."""
    looks: list[float] = []
    waiting = sorted(hints_s)

    def then(now_s: float) -> None:
        while waiting and waiting[0] <= now_s:
            hint.touch()
            os.utime(hint, ns=(0, int(waiting.pop(0) * 1e9) + 1))

    clock = Clock(then, end_s=end_s)
    Poller(
        lambda alive: looks.append(clock.now_s), pause_s=36_000, hint_file=hint, random01=lambda: 0.5,
        clock_s=lambda: clock.now_s,
    ).run(clock)  # fmt: skip
    return looks


def test_whoever_hints_without_end_gets_a_look_a_minute(tmp_path: Path) -> None:
    found = looks_at(tmp_path / "hint", [float(second) for second in range(10, 310)], end_s=300.0)
    assert found == [10.0, 70.0, 130.0, 190.0, 250.0]


def test_hint_that_comes_too_soon_or_during_a_look_is_not_lost(tmp_path: Path) -> None:
    assert looks_at(tmp_path / "hint", [10.0, 12.0], end_s=300.0) == [10.0, 70.0]
    hint, looks = tmp_path / "other", 0

    def look(alive: Callable[[], None]) -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            hint.touch()

    clock = Clock(lambda now_s: None, end_s=7200.0)
    Poller(look, pause_s=36_000, hint_file=hint, random01=lambda: 0.0, clock_s=lambda: clock.now_s).run(clock)
    assert looks == 2


def test_what_the_daemon_decided_is_read_from_its_state(tmp_path: Path) -> None:
    a, b, c, d = (f"sha256:{letter * 64}" for letter in "abcd")
    model = ReleasedModel(name="m", version="1.0.0", digest=c)
    candidate = Candidate(model=model, asked_by="rollout", who="somebody", taken_at=NOW, before=(a, None))
    floor = Floor(sequence=7, digest=c, settled=True)
    state = State(
        since=NOW, active=a, previous=b, candidate=candidate, floors={"p/stable": floor},
        refused=(RefusedDigest(digest=d, code="probe-crash", at=NOW),), revoked=(b,),
    )  # fmt: skip
    wanted = Known(sequence=7, settled=True, refused=frozenset({d, b}), in_use=frozenset({a, b, c}))
    assert known_of(state, "p", "stable") == wanted
    assert known_of(state, "p", "beta").sequence == 0
    file = tmp_path / "state.json"
    file.write_text(state.model_dump_json())
    assert read_known(file, "p", "stable") == wanted


def test_unreadable_state_means_nothing_is_known_so_nothing_is_removed(tmp_path: Path) -> None:
    assert read_known(tmp_path / "none", "p", "stable") == Known()
    (tmp_path / "broken").write_text("{")
    assert read_known(tmp_path / "broken", "p", "stable").in_use is None
