"""A device without a camera: real outbox, writer and courier. The campaign kills it; what was put is logged elsewhere.

Reports are handed over as the file `--allowed` lets it; after each commit (`put_many` has returned) the ids are
appended to `--oracle`, which lies on another file system. SIGTERM ends it in good order.
"""

from __future__ import annotations

import argparse
import os
import signal
import threading
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType

from edge_inspect.delivery.broker import Broker
from edge_inspect.delivery.courier import Courier
from edge_inspect.delivery.outbox import Outbox
from edge_inspect.delivery.retry import Waits
from edge_inspect.delivery.writer import OutboxWriter
from edge_wire.messages import DefectReport, ReportId, Vitals
from tests.edge.delivery.reports import DEVICE, TOPICS, report, state

PARTS_A_LIFE = 100_000_000
TICK_S = 0.02
VITALS_EVERY_S = 1.0
MOST_WAITING = 400
"""The writer takes a thousand; a campaign must not lose one because it hands over faster than a disk can be."""


class WatchedOutbox(Outbox):
    """Says on another file system what it has promised to keep."""

    oracle: int

    def put_many(self, reports: Sequence[DefectReport]) -> list[ReportId]:
        ids = super().put_many(reports)
        lines = [f"{key.epoch} {key.seq} {what.part.number} .\n" for key, what in zip(ids, reports, strict=True)]
        os.write(self.oracle, "".join(lines).encode())
        return ids


def read_oracle(path: Path) -> dict[tuple[str, int], int]:
    """(epoch, seq) -> part. A line that a kill cut short does not count."""
    found = {}
    for line in path.read_text().splitlines():
        fields = line.split(" ")
        if len(fields) == 4 and fields[3] == ".":
            found[fields[0], int(fields[1])] = int(fields[2])
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--oracle", type=Path, required=True)
    parser.add_argument("--allowed", type=Path, required=True, help="file with the number of reports to put in all")
    parser.add_argument("--mqtt", required=True)
    parser.add_argument("--life", type=int, required=True, help="number of this start")
    parser.add_argument("--resend-s", type=float, required=True)
    given = parser.parse_args()

    ending = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        ending.set()

    signal.signal(signal.SIGTERM, end)
    done = len(read_oracle(given.oracle))
    outbox = WatchedOutbox(given.folder / "outbox.sqlite3", device=DEVICE)
    outbox.oracle = os.open(given.oracle, os.O_WRONLY | os.O_APPEND)
    os.write(outbox.oracle, b"\n")
    courier = Courier(
        outbox,
        Broker(given.mqtt, keepalive_s=5),
        TOPICS,
        state=state().model_copy(update={"epoch": outbox.epoch}),
        ack="ingester",
        resend_s=given.resend_s,
        drain_per_s=2000.0,
        waits=Waits(network=(0.1, 2.0, 1.0)),
    )
    writer = OutboxWriter(outbox, wake=courier.wake)
    stop_writer, stop_courier = threading.Event(), threading.Event()
    threads = [
        threading.Thread(target=writer.run, args=(stop_writer,), name="outbox"),
        threading.Thread(target=courier.run, args=(stop_courier,), name="courier"),
    ]
    for thread in threads:
        thread.start()
    feed(writer, courier, given.allowed, given.life * PARTS_A_LIFE, done, ending)
    for thread, stop in zip(threads, (stop_writer, stop_courier), strict=True):
        stop.set()
        thread.join()
    outbox.close()


def feed(writer: OutboxWriter, courier: Courier, allowed: Path, part: int, done: int, ending: threading.Event) -> None:
    """Hand over reports until `ending`, never more than `allowed` says."""
    vitals_s = time.monotonic()
    while not ending.wait(TICK_S):
        target = int(allowed.read_text() or 0)
        while done < target and writer.waiting < MOST_WAITING:
            part, done = part + 1, done + 1
            taken = writer.hand_over(report(part, picture_bytes=2000 if part % 10 == 0 else 0))
            assert taken, "the campaign's device dropped a report by itself"
        if time.monotonic() >= vitals_s:
            vitals_s += VITALS_EVERY_S
            courier.publish_vitals(vitals(writer, courier))


def vitals(writer: OutboxWriter, courier: Courier) -> Vitals:
    return Vitals(
        site=TOPICS.site,
        line=TOPICS.line,
        device=TOPICS.device,
        utc=datetime.now(timezone.utc),
        uptime_s=time.monotonic(),
        cameras=(),
        outbox=writer.vitals(),
        link=courier.vitals(),
        rss_bytes=1,
        temperature_c=None,
    )


if __name__ == "__main__":
    main()
