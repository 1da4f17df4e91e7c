"""A disk that is full or fails at any call costs no report, raises an alarm, and is forgotten when it is well again."""

from __future__ import annotations

import pytest

from tests.campaign import commands

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_no_space_or_an_error_at_any_call_costs_nothing() -> None:
    last = commands.run("disk_faults", "--every", "300")
    assert last["failures"] == 0 and last["n"] >= 10
