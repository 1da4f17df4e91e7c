"""Killed at any file system call of an update, a device goes on with the old or the new model, never with neither."""

from __future__ import annotations

import pytest

from tests.campaign import commands

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_a_kill_at_any_system_call_of_an_update_costs_nothing() -> None:
    last = commands.run("updates_killed", "--every", "1301")
    assert last["failures"] == 0 and last["n"] >= 4
