"""Whatever byte of the outbox is another one, it opens, invents nothing, and gives no number twice."""

from __future__ import annotations

import pytest

from tests.campaign import commands

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_a_flipped_byte_stops_nothing_and_is_not_hidden() -> None:
    last = commands.run("byte_flips", "--flips", "60")
    assert last["n"] == 60 and last["failures"] == 0
