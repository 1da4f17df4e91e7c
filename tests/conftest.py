"""Fixtures that every wing uses: where the real clips lie, and that nothing is left running behind a test."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


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
