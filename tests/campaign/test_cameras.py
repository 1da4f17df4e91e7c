"""The short form of `python -m tests.campaign.cameras`.

How soon a loss is told is the long form's to judge, on a machine that does nothing else; here it must be told, the
camera must come back alone, and nothing may be left behind.
"""

from __future__ import annotations

import pytest

from tests.campaign import cameras

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_cameras_that_are_unplugged_and_hang_come_back_alone_and_leave_nothing_behind() -> None:
    result = cameras.run(unplugs=15, hangs=5, death_count=1, cameras=3, slack=20.0)
    assert result["failures"] == []
    assert result["n"] == 21
