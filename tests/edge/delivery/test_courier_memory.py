"""However many reports wait on the disk, the courier holds a window of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mosquitto import Mosquitto

WAITING = 20_000
PROGRAM = """
import json, sys, threading, time
from pathlib import Path
import psutil
from edge_inspect.delivery.broker import Broker
from edge_inspect.delivery.courier import Courier
from edge_inspect.delivery.outbox import Outbox
from tests.edge.delivery.reports import DEVICE, TOPICS, report, state

waiting, url, path = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
rss = psutil.Process().memory_info
box = Outbox(path, device=DEVICE)
draft = report(1, picture_bytes=4000)
for first in range(0, waiting, 500):
    box.put_many([draft] * 500)
payload_bytes = len(box.payload(1))
courier = Courier(box, Broker(url), TOPICS, state=state(), drain_per_s=100_000, drain_s=0.0)
stop = threading.Event()
thread = threading.Thread(target=courier.run, args=(stop,))
thread.start()
deadline = time.monotonic() + 280
warm = most = None
while (depth := box.stats().depth) and time.monotonic() < deadline:
    if warm is None and depth < waiting * 0.95:
        warm = rss().rss
    most = max(most or 0, rss().rss)
    time.sleep(0.05)
stop.set()
thread.join()
print(json.dumps({"depth": box.stats().depth, "grown": most - warm, "payload_bytes": payload_bytes}))
box.close()
"""


@pytest.mark.slow
def test_twenty_thousand_waiting_reports_take_no_more_memory_than_a_window(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    """All of them together are over 120 MB; what grows after the first thousand is less than two windows' worth."""
    command = [sys.executable, "-c", PROGRAM, str(WAITING), mosquitto.url, str(tmp_path / "outbox.sqlite3")]
    done = subprocess.run(command, check=True, timeout=400, stdout=subprocess.PIPE)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["depth"] == 0 and found["payload_bytes"] * WAITING > 120e6
    assert found["grown"] < 8e6
