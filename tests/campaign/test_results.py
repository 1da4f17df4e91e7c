"""Short form of `tests.campaign.results`: no report lost, none twice, whatever is killed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.campaign.results import Plan, run
from tests.campaign.results_witness import Witness
from tests.mosquitto import BINARY
from tests.postgres import find_binaries


def published(seq: int, packet: int) -> bytes:
    """A PUBLISH at QoS 1 (MQTT 5.0, 3.3) with one property, its length in two bytes."""
    topic, payload = b"inspect/v1/s/l/d/defect", b'{"epoch": "e", "seq": %d}%s' % (seq, b" " * 200)
    body = len(topic).to_bytes(2, "big") + topic + packet.to_bytes(2, "big") + b"\x02\x01\x01" + payload
    return bytes([0x32, len(body) & 0x7F | 0x80, len(body) >> 7]) + body


def test_witness_counts_what_arrived_and_what_was_answered_however_the_bytes_are_cut() -> None:
    witness = Witness()
    first, second = witness.connection(), witness.connection()
    for byte in b"\xd0\x00" + published(1, 7) + published(2, 8) + published(1, 9):
        first.down(bytes([byte]))
    first.up(b"\x40\x02\x00\x07" + b"\x40\x03\x00")
    first.up(b"\x09\x00")
    second.down(published(2, 7))
    second.up(b"\x40\x02\x00\x08")  # of the other connection: no packet of this one
    assert (witness.arrivals, witness.ids, witness.repeats) == (4, {("e", 1): 2, ("e", 2): 2}, 2)
    assert (witness.answered, witness.sure_repeats) == ({("e", 1): 2}, 1)


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
    assert result["raw_duplicates_percent"] <= plan.most_raw_duplicates_percent and result["unseen"] == 0
    assert result["answered_again"] <= result["raw_duplicates"] <= result["sent_again"]
    assert result["gaps"] == {"missing": 0, "waiting": 0, "gone": 0}
    assert all(result["faults"][kind] == plan.kills for kind in ("device", "broker", "ingester", "database"))
