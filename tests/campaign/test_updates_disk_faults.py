"""Whatever call of an update meets a full or failing disk, the box goes on judging and takes the model in the end."""

from __future__ import annotations

import pytest

from tests.campaign import commands

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_a_disk_that_fails_at_any_system_call_of_an_update_costs_nothing() -> None:
    last = commands.run("updates_disk_faults", "--every", "101")
    assert last["failures"] == 0 and last["n"] >= 15
