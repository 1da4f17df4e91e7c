"""Fixtures that every wing uses: where the real clips lie, and that nothing is left running behind a test."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings

from tests.mosquitto import BINARY, KEEPS_EVERYTHING, Mosquitto

ROOT = Path(__file__).resolve().parent.parent

# How long an example takes says something about the machine, not about us.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with the real pictures and clips, beside the checkout (or EDGE_INSPECT_DATA)."""
    here = Path(os.environ.get("EDGE_INSPECT_DATA", ROOT.parent / "shared" / "data"))
    if here.is_dir():
        return here
    if os.environ.get("CI"):
        pytest.fail(f"real pictures and clips are missing: {here} is not a folder (set EDGE_INSPECT_DATA)")
    pytest.skip(f"no real pictures and clips at {here} (set EDGE_INSPECT_DATA)")


@pytest.fixture(autouse=True)
def no_leftover_threads() -> Iterator[None]:
    """A test that leaves a thread running has not finished."""
    before = set(threading.enumerate())
    yield
    left = []
    for thread in threading.enumerate():
        if thread not in before:
            thread.join(timeout=5)
            if thread.is_alive():
                left.append(thread.name)
    assert not left, f"threads left running: {left}"


@pytest.fixture(autouse=True)
def own_log() -> Iterator[None]:
    """A command that a test calls in this process sets up the log: for itself, not for the tests after it."""
    before = structlog.get_config() if structlog.is_configured() else None
    yield
    if before is None:
        structlog.reset_defaults()
    else:
        structlog.configure(**before)


@pytest.fixture
def new_mosquitto(tmp_path: Path) -> Iterator[Callable[..., Mosquitto]]:
    """Makes real brokers (not yet started) with lines of mosquitto.conf; all are stopped at the end."""
    if BINARY is None:
        if os.environ.get("CI"):
            pytest.fail("mosquitto is not installed")
        pytest.skip("mosquitto is not installed")
    made: list[Mosquitto] = []

    def make(*lines: str, scheme: str = "mqtt", anonymous: bool = True) -> Mosquitto:
        made.append(Mosquitto(tmp_path / f"mosquitto-{len(made)}", *lines, scheme=scheme, anonymous=anonymous))
        return made[-1]

    yield make
    for broker in made:
        broker.kill()


@pytest.fixture
def mosquitto(new_mosquitto: Callable[..., Mosquitto]) -> Mosquitto:
    """A running broker on a free port of 127.0.0.1 that keeps what it acknowledged; has `url`, `kill`, `restart`."""
    return new_mosquitto(*KEEPS_EVERYTHING).start()
