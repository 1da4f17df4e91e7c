"""Killed at any file system call, the outbox opens again with everything it promised; and the oracle can tell."""

from __future__ import annotations

import pytest

from tests.campaign import commands
from tests.campaign.ledger import ACKED, Found, Ledger, broken_promises

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_a_kill_at_any_system_call_costs_nothing() -> None:
    last = commands.run("syscalls", "--every", "67")
    assert last["failures"] == 0 and last["n"] >= 60


def book() -> Ledger:
    return Ledger(put={1: ("e", 1), 2: ("e", 2)}, acked={1}, maybe_acked={1}, putting=(3, 4))


def whole() -> list[Found]:
    return [Found(1, "e", 1, ACKED), Found(2, "e", 2, 0), Found(3, "e", 3, 0), Found(4, "e", 4, 0)]


def test_the_oracle_is_content_with_what_was_promised() -> None:
    assert broken_promises(book(), whole()) == []
    assert broken_promises(book(), whole()[:2]) == []  # the put that had not returned


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (whole()[:1], "part 2 was put as ('e', 2) and is gone"),
        (whole()[:3], "only some are there"),
        ([*whole(), Found(5, "e", 5, 0)], "nobody put them"),
        ([*whole()[:3], Found(4, "e", 3, 0)], "is there twice"),
        ([*whole(), Found(2, "e", 9, 0)], "is there twice"),
        ([Found(1, "e", 1, 0), *whole()[1:]], "part 1 was delivered and waits again"),
        ([whole()[0], Found(2, "e", 2, ACKED)], "part 2 counts as delivered and was not"),
        ([whole()[0], Found(2, "f", 1, 0)], "part 2 was put as ('e', 2) and is there as ('f', 1)"),
    ],
)
def test_the_oracle_sees_every_broken_promise(found: list[Found], says: str) -> None:
    assert any(says in line for line in broken_promises(book(), found))


def test_the_oracle_lets_acknowledged_reports_go_only_to_pruning() -> None:
    found = whole()[1:]
    assert broken_promises(book(), found) == ["part 1 was put as ('e', 1) and is gone"]
    pruning = book()
    pruning.pruning = True
    assert broken_promises(pruning, found) == []
