"""A power cut at a random moment of an update leaves a device that starts with the old or the new model."""

from __future__ import annotations

import pytest

from tests.campaign import commands

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_a_power_cut_during_updates_leaves_a_verified_model() -> None:
    last = commands.run("updates_power_cuts", "--cuts", "5")
    assert last["n"] == 5 and last["failures"] == 0


def test_the_harness_would_see_a_store_that_does_not_sync() -> None:
    """Without fsync a cut leaves files without their content, and a state that was never written."""
    last = commands.run("updates_power_cuts", "--cuts", "5", "--without-fsync")
    assert last["n"] == 5 and last["failures"] > 0
