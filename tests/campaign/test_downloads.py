"""Over whatever line a model comes, what is offered is whole and right, and what has come once is not fetched again."""

from __future__ import annotations

import pytest

from tests.campaign import commands

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_bad_line_costs_time_and_nothing_else() -> None:
    last = commands.run("downloads", "--each", "2")
    assert last["failures"] == 0
    assert last["n"] > 35
