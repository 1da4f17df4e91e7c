"""The campaign of triggers in small: each has one answer, and nothing that could not be judged is OK."""

from __future__ import annotations

import pytest

from tests.campaign.commands import run


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_each_trigger_has_one_answer_while_everything_goes_wrong() -> None:
    pytest.importorskip("pymodbus", reason="needs the extra `line`")
    result = run("triggers", "--triggers", "400", "--unplugs", "1", "--hangs", "1", "--swaps", "1", "--deliver")
    failed = result["failed"]
    assert not any(failed.values()), failed
    assert result["n"] == result["answers"] == 460
    assert result["unplugs"] >= 1 and result["hangs"] == result["swaps"] == 1
    assert result["ok"] > 0 and result["ng"] > 0, "nothing was judged: the campaign showed nothing"
    assert result["unknown"].get("overrun", 0) > 0, "no overload: the campaign showed nothing"
