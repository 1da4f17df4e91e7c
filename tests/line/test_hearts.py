"""No thread without a heart, and no thread that hangs because it waits for a large file to be checked."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from edge_inspect.delivery import outbox_db
from edge_inspect.delivery.outbox import FILE_NAME, Outbox
from edge_inspect.errors import StorageFailing
from edge_inspect.threads import Thread
from tests.line.conftest import Build
from tests.line.test_looking_in import Endless, running, until_there

WATCHED_OTHERWISE = {"evidence", "shadow"}
"""No line stops for a picture, nor for a model that nobody hears."""


def test_every_thread_of_the_daemon_has_a_heart_that_beats(build: Build) -> None:
    before = {thread.name for thread in threading.enumerate()}
    appliance, _ = build({"left": Endless(), "right": Endless()}, deliver=True)
    with running(appliance):
        until_there(lambda: len(appliance.pipeline._lanes) == 2)
        started = {thread.name for thread in threading.enumerate() if isinstance(thread, Thread)}
        hearts = {heart.name: heart for heart in appliance._hearts()}
        assert started - before - WATCHED_OTHERWISE == set(hearts)
        begun_ns = time.monotonic_ns()
        for heart in hearts.values():
            until_there(lambda heart=heart: (heart.beat_ns() or 0) > begun_ns)


def test_who_waits_for_a_file_that_is_checked_is_given_the_time_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / FILE_NAME
    outbox = Outbox(path, device="edge")
    assert outbox.busy_until_ns == 0
    outbox.close()
    told: list[float] = []

    def slow(path: Path, *, check: str) -> None:
        told.append((opening.busy_until_ns - time.monotonic_ns()) / 1e9 if check else -1)
        raise StorageFailing("not now")

    opening = outbox_db.OutboxDatabase(path, device="edge", cap_bytes=1 << 30, utc_ns=time.time_ns)
    monkeypatch.setattr(outbox_db, "SLOWEST_CHECK_BYTES_PER_S", path.stat().st_size / 1000)
    monkeypatch.setattr(outbox_db.file, "connect", slow)
    with pytest.raises(StorageFailing), opening.reading():
        pass
    opening.close()
    assert 500 < told[0] <= 1000
    assert opening.busy_until_ns == 0
