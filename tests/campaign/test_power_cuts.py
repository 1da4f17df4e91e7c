"""A power cut at a random moment costs nothing that was acknowledged; the harness sees a database that does lose."""

from __future__ import annotations

import pytest

from tests.campaign import commands

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_a_power_cut_costs_no_report_that_was_acknowledged() -> None:
    last = commands.run("power_cuts", "--cuts", "5")
    assert last["n"] == 5 and last["failures"] == 0 and last["lost"] == 0 and last["put"] > 20


def test_the_harness_would_see_lost_reports() -> None:
    """`synchronous = NORMAL` loses what it acknowledged."""
    last = commands.run("power_cuts", "--cuts", "12", "--synchronous", "NORMAL")
    assert last["failures"] > 0
