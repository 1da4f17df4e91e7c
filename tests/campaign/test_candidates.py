"""The campaign of candidates in small: one that shows itself only on the line goes back, a retrained one stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.campaign.commands import run

SHORT = ("--shadow-parts", "6", "--trial-parts", "6", "--trial-least-s", "0")
"""And without the probe, which has tests of its own and is half of the work."""


@pytest.mark.timeout(600)
def test_a_model_that_fails_on_the_line_goes_back_and_a_retrained_one_is_kept() -> None:
    result = run("candidates", "--bad", "nan-when-dim", "--without", "probe", *SHORT)
    assert result["bad"] == result["good"] == 1, result
    assert result["caught_by_code"] == {"trial-non-finite": 1}
    assert not result["kept_bad"] and not result["refused_good"], result
    assert "non-finite" in result["unknown_parts"], result


def test_a_campaign_that_tried_nobody_has_failed(tmp_path: Path) -> None:
    result = run("candidates", "--bad", "none", "--good", str(tmp_path))
    assert (result["bad"], result["good"], result["nobody_tried"], result["failures"]) == (0, 0, 1, 1)
