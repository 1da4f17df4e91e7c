"""Short form of `machine`, and that it would find a courier that believes the broker."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import rule, run_state_machine_as_test

from tests.campaign import commands
from tests.campaign.machine import Line

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_whatever_befalls_a_report_it_reaches_the_database_once() -> None:
    last = commands.run("machine", "--examples", "60")
    assert last["n"] >= 60 and last["failures"] == 0


class Believing(Line):
    """Takes the broker's word for the database's."""

    @rule()
    def believe_the_broker(self) -> None:
        rows = self.box.window(3)
        self.broker += [self.box.payload(row.number) for row in rows]
        self.box.ack_rows([row.number for row in rows])


def test_the_machine_finds_a_courier_that_takes_the_brokers_word() -> None:
    every = settings(
        max_examples=60, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    with pytest.raises(AssertionError, match="believe_the_broker"):
        run_state_machine_as_test(Believing, settings=every)  # type: ignore[no-untyped-call]
