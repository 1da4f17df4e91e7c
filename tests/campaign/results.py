"""Campaign: no report is lost and none is kept twice, whatever is killed between the outbox and the database.

    python -m tests.campaign.results --results 5000 --kills 10 --outages 8 --database postgresql
    python -m tests.campaign.results --results 200000 --kills 200 --outages 40 --longest-outage-s 600     # hours

A device without a camera, a mosquitto as Debian ships it (killed, it forgets everything), `cloud-inspect ingest` and
its database run as processes. At random moments, each `kills` times: SIGKILL of the device, of the broker, of the
ingester; the database stopped as by a crash (PostgreSQL) or locked by another program (SQLite). Between device, broker
and ingester lie proxies for outages. A kill is not a power cut: that is another campaign.

What the device promised to keep is logged by the device's test code on another file system (/dev/shm), and compared
with what the database's own client program reads. `raw_duplicates` are reports that came to the ingester again after it
had kept them: its own count, which has to lie between two that are taken from the packets in front of it
(`results_witness`): reports answered more than once, and reports written to it more than once. The latter
(`sent_again`) holds what was on its way into a process that was killed before it read it. More than
`--most-raw-duplicates-percent` of the results fail the campaign, as a lost or doubled one does.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tests.campaign.results_device import read_oracle
from tests.campaign.results_witness import Witness
from tests.cloud.ingesters import IngesterProcess, environment
from tests.mosquitto import DEFAULTS, Mosquitto
from tests.postgres import Postgres
from tests.sim.chaos import ChaosProxy

KINDS = ("device", "broker", "ingester", "database")
LAST_WAIT_S = 240.0
"""After the last fault: so long may it take until everything has arrived."""


@dataclass(frozen=True)
class Plan:
    results: int = 5000
    kills: int = 10
    outages: int = 8
    longest_outage_s: float = 3.0
    longest_down_s: float = 0.8
    rate_per_s: float = 200.0
    resend_s: float = 4.0
    most_raw_duplicates_percent: float = 1.0
    database: str = "sqlite"
    seed: int = 0


class Database(Protocol):
    url: str

    def stop(self) -> None: ...
    def start(self) -> None: ...
    def rows(self, sql: str) -> list[list[str]]: ...
    def close(self) -> None: ...


class SqliteDatabase:
    """`stop`: another program holds the lock."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "inspect.sqlite3"
        self.url = f"sqlite:///{self._path}"
        self._lock: sqlite3.Connection | None = None

    def stop(self) -> None:
        if self._path.exists():
            self._lock = sqlite3.connect(self._path, isolation_level=None, timeout=30)
            self._lock.execute("BEGIN IMMEDIATE")

    def start(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def rows(self, sql: str) -> list[list[str]]:
        command = ["sqlite3", "-readonly", str(self._path), ".timeout 60000", sql]
        text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
        return [line.split("|") for line in text.splitlines()]

    def close(self) -> None:
        self.start()


class PostgresDatabase:
    """`stop`: as a crash."""

    def __init__(self) -> None:
        self._server = Postgres().create()
        self.url = self._server.new_database()

    def stop(self) -> None:
        self._server.stop()

    def start(self) -> None:
        self._server.start()

    def rows(self, sql: str) -> list[list[str]]:
        return self._server.query(self.url, sql)

    def close(self) -> None:
        self._server.remove()


class Device:
    """The process of `results_device`; a new life at each start."""

    def __init__(self, folder: Path, log_path: Path, mqtt: str, oracle: Path, allowed: Path, resend_s: float) -> None:
        self._log_path = log_path
        self._lives = 0
        self._arguments = ["--folder", str(folder), "--oracle", str(oracle), "--allowed", str(allowed)]
        self._arguments += ["--mqtt", mqtt, "--resend-s", str(resend_s)]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._lives += 1
        command = [sys.executable, "-m", "tests.campaign.results_device", *self._arguments, "--life", str(self._lives)]
        with self._log_path.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment()
            )

    def end(self, how: signal.Signals) -> int:
        assert self.process is not None
        if self.process.poll() not in (None, 0):
            raise AssertionError(f"the device died by itself: {self._log_path.read_text()[-2000:]}")
        self.process.send_signal(how)
        return self.process.wait(timeout=60)


@dataclass
class Bench:
    """Everything that runs; made by `set_up`."""

    broker: Mosquitto
    database: Database
    nets: list[ChaosProxy]
    witness: Witness
    device: Device
    ingester: IngesterProcess
    oracle: Path
    allowed: Path
    done: Counter[str] = field(default_factory=Counter)

    def promised(self) -> int:
        return self.oracle.read_bytes().count(b" .\n")

    def fault(self, kind: str, rng: random.Random, plan: Plan) -> tuple[Callable[[], None], float]:
        """Do it; how to undo it, and for how long it lasts."""
        self.done[kind] += 1
        down_s = rng.uniform(0, plan.longest_down_s)
        if kind == "device":
            self.device.end(signal.SIGKILL)
            return self.device.start, down_s
        if kind == "broker":
            self.broker.kill()
            return self._start_broker, down_s
        if kind == "ingester":
            assert self.ingester.process.poll() is None, self.ingester.log()[-3000:]
            self.ingester.kill()
            return self.ingester.restart, down_s
        if kind == "database":
            self.database.stop()
            return self.database.start, down_s
        net = rng.choice(self.nets)
        how = rng.choice(("stall", "refuse", "cut", "reset"))
        outage_s = plan.longest_outage_s ** rng.random() if plan.longest_outage_s > 1 else plan.longest_outage_s
        getattr(net, how)()
        if how in ("cut", "reset"):
            return (lambda: None), 0.0
        return (net.flow if how == "stall" else net.accept), outage_s

    def _start_broker(self) -> None:
        self.broker.start()


def set_up(plan: Plan, folder: Path, fast: Path, stack: ExitStack) -> Bench:
    """Start everything; `fast` is on another file system than `folder`. `stack` ends it all."""
    database: Database = PostgresDatabase() if plan.database == "postgresql" else SqliteDatabase(folder)
    stack.callback(database.close)
    broker = Mosquitto(folder / "mosquitto", *DEFAULTS).start()
    stack.callback(broker.kill)
    witness = Witness()
    watches = (None, witness.connection)
    nets = [stack.enter_context(ChaosProxy(broker.port, new_watch=watch)) for watch in watches]
    oracle, allowed = fast / "oracle", fast / "allowed"
    oracle.touch()
    allowed.write_text("0")
    (folder / "device").mkdir()
    urls = [f"mqtt://127.0.0.1:{net.port}" for net in nets]
    device = Device(folder / "device", folder / "device.log", urls[0], oracle, allowed, plan.resend_s)
    settings = folder / "cloud.toml"
    settings.write_text("[mqtt]\nkeepalive_s = 5\n[database]\ntimeout_s = 2.0\n[ingest]\ngap_wait_s = 30.0\n")
    ingester = IngesterProcess(folder / "ingester.log", urls[1], database.url, "--config", str(settings))
    stack.callback(ingester.kill)
    device.start()
    stack.callback(lambda: device.process is not None and device.process.poll() is None and device.process.kill())
    ingester.wait_for("ingest.connected")
    return Bench(broker, database, nets, witness, device, ingester, oracle, allowed)


def allow(bench: Bench, number: int) -> None:
    """Let the device put reports up to this number, all its lives together."""
    fresh = bench.allowed.with_suffix(".new")
    fresh.write_text(str(number))
    fresh.replace(bench.allowed)


def torment(bench: Bench, plan: Plan, say: Callable[[str], None]) -> None:
    """All faults, in random order and evenly over the results that are put; some two at a time."""
    rng = random.Random(plan.seed)
    faults = [kind for kind in KINDS for _ in range(plan.kills)] + ["outage"] * plan.outages
    rng.shuffle(faults)
    allowed, stop = 0.0, threading.Event()
    at = 0
    while at < len(faults):
        together = 2 if at + 1 < len(faults) and faults[at] != faults[at + 1] and rng.random() < 0.3 else 1
        until = plan.results * (at + together) / len(faults)
        begun_s, before = time.monotonic(), allowed
        strike_s = rng.uniform(0, (until - before) / plan.rate_per_s)
        undo: list[tuple[float, Callable[[], None]]] = []
        struck = False
        while allowed < until or undo or not struck:
            now_s = time.monotonic() - begun_s
            allowed = min(until, before + now_s * plan.rate_per_s)
            allow(bench, int(allowed))
            if not struck and now_s >= strike_s:
                struck = True
                for kind in faults[at : at + together]:
                    back, lasts_s = bench.fault(kind, rng, plan)
                    undo.append((now_s + lasts_s, back))
            for moment in [entry for entry in undo if entry[0] <= now_s]:
                moment[1]()
                undo.remove(moment)
            stop.wait(0.02)
        # On a busy machine a new life of the device takes seconds; faults that strike before that would show little.
        while bench.promised() < until - plan.rate_per_s and time.monotonic() - begun_s < LAST_WAIT_S:
            stop.wait(0.1)
        at += together
        if at % 20 < together:
            say(f"{at} of {len(faults)} faults, {bench.promised()} of {plan.results} results put")


def wait_for_all(bench: Bench, plan: Plan, say: Callable[[str], None]) -> None:
    """Until every promised report is in the database, or LAST_WAIT_S without any progress."""
    allow(bench, plan.results)
    before, since_s = -1, time.monotonic()
    while True:
        promised = bench.promised()
        arrived = int(bench.database.rows("SELECT count(*) FROM report")[0][0])
        # More may lie there than was promised: a kill between the commit and the oracle's line.
        if promised >= plan.results and arrived >= promised and read_oracle(bench.oracle).keys() <= stored_ids(bench):
            return
        if arrived + promised > before:
            before, since_s = arrived + promised, time.monotonic()
        if time.monotonic() - since_s > LAST_WAIT_S:
            say(f"gave up: {arrived} of {promised} arrived")
            return
        time.sleep(0.3)


def stored_ids(bench: Bench) -> set[tuple[str, int]]:
    return {(epoch, int(seq)) for epoch, seq in bench.database.rows("SELECT epoch, seq FROM report")}


def compare(bench: Bench, plan: Plan) -> dict[str, Any]:
    """What the device promised against what the database's own client reads."""
    promised = read_oracle(bench.oracle)
    rows = bench.database.rows("SELECT epoch, seq, part FROM report")
    stored = [((epoch, int(seq)), int(part)) for epoch, seq, part in rows]
    ids, parts = Counter(key for key, _ in stored), Counter(part for _, part in stored)
    found = dict(stored)
    counted = int(bench.database.rows("SELECT coalesce(sum(repeats), 0) FROM epoch")[0][0])
    witness = bench.witness
    return {
        "results": len(promised),
        "lost": sum(key not in found for key in promised),
        "duplicates": sum(count - 1 for count in ids.values()) + sum(count - 1 for count in parts.values()),
        "changed": sum(key in found and found[key] != part for key, part in promised.items()),
        "stored": len(stored),
        "put_but_not_promised": sum(key not in promised for key in found),
        "quarantined": int(bench.database.rows("SELECT count(*) FROM quarantine")[0][0]),
        "raw_duplicates": counted,
        "answered_again": witness.sure_repeats,
        "sent_again": witness.repeats,
        "arrivals": witness.arrivals,
        "answered": witness.answered.total(),
        "unseen": sum(key not in witness.ids for key in found),
        "raw_duplicates_percent": round(100 * counted / max(1, len(promised)), 2),
        "most_raw_duplicates_percent": plan.most_raw_duplicates_percent,
        "failure_rate_below": 3 / max(1, len(promised)),
        "faults": dict(bench.done),
        "database": plan.database,
    }


def failed(result: dict[str, Any]) -> bool:
    too_many = result["raw_duplicates_percent"] > result["most_raw_duplicates_percent"]
    # What was written to the ingester and never answered may be in the database or not: hence two bounds.
    counted = result["answered_again"] <= result["raw_duplicates"] <= result["sent_again"]
    return bool(
        result["lost"] or result["duplicates"] or result["changed"] or result["unseen"] or too_many or not counted
    )


def run(plan: Plan, *, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """The campaign; `failed` tells whether what it found is a failure. Folders go when all is well."""
    begun_s = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="results-"))
    fast = Path(tempfile.mkdtemp(prefix="results-", dir="/dev/shm"))
    with ExitStack() as stack:
        bench = set_up(plan, folder, fast, stack)
        torment(bench, plan, say)
        say(f"faults done after {time.monotonic() - begun_s:.0f} s: {dict(bench.done)}")
        wait_for_all(bench, plan, say)
        assert bench.device.end(signal.SIGTERM) == 0, (folder / "device.log").read_text()[-2000:]
        bench.ingester.stop()
        gaps = subprocess.run(
            [sys.executable, "-m", "cloud_inspect", "gaps", "--db", bench.database.url, "--json"],
            capture_output=True,
            env=environment(),
            check=True,
            timeout=120,
        )
        result = compare(bench, plan)
    result["gaps"] = {kind: json.loads(gaps.stdout)[kind] for kind in ("missing", "waiting", "gone")}
    result["seconds"] = round(time.monotonic() - begun_s, 1)
    if failed(result):
        say(f"kept: {folder} and {fast}")
    else:
        shutil.rmtree(folder)
        shutil.rmtree(fast)
    return result


def main() -> int:
    defaults = Plan()
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    for name, value in vars(defaults).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    plan = Plan(**vars(parser.parse_args()))

    def say(text: str) -> None:
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
        sys.stderr.flush()

    result = run(plan, say=say)
    sys.stdout.write(json.dumps(result) + "\n")
    return int(failed(result))


if __name__ == "__main__":
    sys.exit(main())
