"""Short form of `tests.campaign.results`: no report lost, none twice, whatever is killed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.campaign.results import Plan, run
from tests.mosquitto import BINARY
from tests.postgres import find_binaries


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(Plan(results=5000, kills=10, outages=8, database="postgresql", seed=1), id="postgresql"),
        # One batch that the broker hands out again after a kill of the ingester is a larger share of so few.
        pytest.param(
            Plan(results=1000, kills=2, outages=2, database="sqlite", seed=2, most_raw_duplicates_percent=5.0),
            id="sqlite",
        ),
    ],
)
def test_no_report_is_lost_or_kept_twice_whatever_is_killed(plan: Plan) -> None:
    missing = [
        name
        for name, there in (
            ("mosquitto", BINARY),
            ("PostgreSQL", plan.database != "postgresql" or find_binaries()),
            ("sqlite3", shutil.which("sqlite3")),
            ("/dev/shm", Path("/dev/shm").is_dir()),
        )
        if not there
    ]
    if missing and os.environ.get("CI"):
        pytest.fail(f"not there: {', '.join(missing)}")
    if missing:
        pytest.skip(f"not there: {', '.join(missing)}")
    result = run(plan)
    print(json.dumps(result))
    assert result["results"] >= plan.results
    assert (result["lost"], result["duplicates"], result["changed"], result["quarantined"]) == (0, 0, 0, 0)
    assert result["raw_duplicates_percent"] <= plan.most_raw_duplicates_percent
    assert result["gaps"] == {"missing": 0, "waiting": 0, "gone": 0}
    assert all(result["faults"][kind] == plan.kills for kind in ("device", "broker", "ingester", "database"))
