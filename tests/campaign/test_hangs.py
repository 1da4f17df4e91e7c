"""The short form of `python -m tests.campaign.hangs`: every thread hangs once, every calm case comes once.

How soon a hang is seen is the long form's to judge, on a machine that does nothing else; here it must be seen at all.
"""

from __future__ import annotations

import os
import sys

import pytest

from tests.campaign import hangs
from tests.mosquitto import BINARY

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(BINARY is None and not os.environ.get("CI"), reason="mosquitto is not installed"),
]


def test_each_thread_that_hangs_is_named_and_cured_and_nothing_calm_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.version_info < (3, 11):  # https://github.com/python/cpython/issues/85876
        monkeypatch.setattr(hangs.Campaign, "clock_jumps", lambda *_: {"skipped": "waits follow the wall clock"})
    slow = hangs.Limits(seen_s=45.0, back_s=90.0, fed_s=30.0)
    result = hangs.run(each=1, calm=1, stop_s=15.0, hold_s=13.0, limits=slow, side_by_side=5)
    assert result["failures"] == []
    cases = [*hangs.THREADS, *map(hangs.unread, hangs.UNREAD)]
    assert {thread: found["n"] for thread, found in result["hangs"].items()} == dict.fromkeys(cases, 1)
