"""The short form of `python -m tests.campaign.cameras`.

How soon a loss is told is the long form's to judge, on a machine that does nothing else; here it must be told, the
camera must come back alone, and nothing may be left behind.
"""

from __future__ import annotations

import pytest

from tests.campaign import cameras

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_cameras_that_are_unplugged_and_hang_come_back_alone_and_leave_nothing_behind() -> None:
    result = cameras.run(unplugs=6, hangs=5, death_count=1, cameras=3, slack=20.0)
    assert result["failures"] == []
    assert result["n"] == 12
    assert "too few" in result["unplug"]["rss_growth_bytes_per_1000"]


def test_memory_that_grows_is_judged_from_enough_events_only() -> None:
    campaign = cameras.Campaign(None, slack=1.0)  # type: ignore[arg-type]
    for done, expected in ((20, None), (cameras.LEAST_EVENTS - 1, None), (1000, 1_200_000.0)):
        campaign._done = done
        campaign.samples = [(event, 100_000_000 + 1200 * event) for event in range(1, done + 1, max(1, done // 60))]
        assert campaign.growth_per_1000() == expected
