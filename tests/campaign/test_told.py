"""Short form of `tests.campaign.told`: what the line was told NG or UNKNOWN is in the outbox, once, after any kill."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.campaign.told import run


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("in_memory", [True, False], ids=["runtime-directory", "state-folder"])
def test_what_the_line_was_told_is_reported_once_whenever_the_daemon_is_killed(in_memory: bool) -> None:
    if in_memory and not Path("/dev/shm").is_dir():
        if os.environ.get("CI"):
            pytest.fail("not there: /dev/shm")
        pytest.skip("not there: /dev/shm")
    result = run(3, seed=3, in_memory=in_memory)
    print(json.dumps(result))
    assert result["told_not_ok"] > 0
    assert (result["lost"], result["twice"], result["otherwise"], result["of_ok_parts"]) == (0, 0, 0, 0)
