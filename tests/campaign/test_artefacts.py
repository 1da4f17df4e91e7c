"""Whatever bit of a release is another one, nothing of it is taken."""

from __future__ import annotations

import pytest

from tests.campaign import commands

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_bent_release_is_refused_and_leaves_nothing() -> None:
    last = commands.run("artefacts", "--step", "173", "--model-step", "50000")
    assert last["n"] >= 35 and last["failures"] == 0
