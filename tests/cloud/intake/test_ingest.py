"""What devices report is in the database, once, before anyone is told so; whatever is killed or stopped in between."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from edge_inspect.delivery.outbox import Outbox
from tests.cloud.ingesters import IngesterProcess
from tests.edge.delivery.couriers import running, until
from tests.edge.delivery.reports import DEVICE, report
from tests.mosquitto import Mosquitto

Query = Callable[[str, str], list[list[str]]]
NewIngester = Callable[..., IngesterProcess]
EPOCH = "000000000001-00000000000000aa"


def stored(query: Query, url: str) -> list[int]:
    """Part numbers in the database, in the order of their ids."""
    return [int(part) for (part,) in query(url, "SELECT part FROM report ORDER BY device, epoch, seq")]


def publish(broker: Mosquitto, topic: str, payload: bytes, *options: str) -> None:
    """As another program would."""
    command = ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(broker.port), "-V", "mqttv5", "-t", topic, *options]
    command += ["-s"] if payload else ["-n"]
    subprocess.run(command, input=payload or None, check=True, timeout=60)


def test_reports_and_their_pictures_are_in_the_database_and_the_outbox_is_empty(
    mosquitto: Mosquitto, tmp_path: Path, database_url: str, query: Query, new_ingester: NewIngester
) -> None:
    ingester = new_ingester(mosquitto.url, database_url)
    ingester.wait_for("ingest.connected")
    with closing(Outbox(tmp_path / "outbox.sqlite3", device=DEVICE)) as outbox:
        outbox.put_many([report(number, picture_bytes=3000 if number % 2 else 0) for number in range(1, 61)])
        with running(outbox, mosquitto.url, ack="ingester"):
            until(lambda: outbox.stats().depth == 0)
        assert outbox.stats().acked == 60
        payloads = {row.number: outbox.payload(row.number) for row in outbox.window(100)}
    assert stored(query, database_url) == list(range(1, 61)) and not payloads
    assert query(database_url, "SELECT count(*), sum(length(jpeg)) FROM picture") == [["30", "90000"]]
    counts = ingester.stop()
    assert (counts["new"], counts["repeats"], counts["quarantined"]) == (60, 0, 0)
