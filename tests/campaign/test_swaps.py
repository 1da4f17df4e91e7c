"""The campaign of swaps in small: nothing is lost, and each part carries the model that judged it."""

from __future__ import annotations

from tests.campaign.commands import run


def test_models_that_take_turns_lose_no_part_and_mix_up_none() -> None:
    result = run("swaps", "--swaps", "20", "--frames", "2", "--calm", "20", "--slots", "64")
    failed = result["failed"]
    # How long a busy machine stands still, and what 30 swaps leave in the allocator, are the long form's to judge.
    del failed["gaps_too_long"], failed["memory_grew"]
    assert not any(failed.values()), failed
    assert result["n"] == 30 and result["reports"] == result["frames"] >= 60
