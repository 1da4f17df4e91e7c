"""What devices report is in the database, once, before anyone is told so; whatever is sent, stopped or killed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from cloud_inspect.intake.reading import KEPT_BYTES
from cloud_inspect.intake.session import MAX_PACKET_BYTES
from edge_inspect.delivery.outbox import Outbox
from edge_wire.messages import MAX_PAYLOAD_BYTES, Ack, DefectReport
from tests.certificates import Authority
from tests.cloud.ingesters import IngesterProcess, cloud_inspect
from tests.edge.delivery.couriers import listening, running, until
from tests.edge.delivery.reports import DEVICE, TOPICS, report, state
from tests.mosquitto import Mosquitto, free_port
from tests.postgres import Postgres

Query = Callable[[str, str], list[list[str]]]
NewIngester = Callable[..., IngesterProcess]
NewMosquitto = Callable[..., Mosquitto]
Lock = Callable[[str], sqlite3.Connection]
EPOCH = "000000000001-00000000000000aa"
SOON_S = 60.0


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    with closing(Outbox(tmp_path / "device" / "outbox.sqlite3", device=DEVICE)) as box:
        yield box


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/inspect.sqlite3"


class Publisher:
    """Another program's connection; `send` returns when the broker has confirmed everything so far."""

    def __init__(self, broker: Mosquitto) -> None:
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        self._client.max_inflight_messages = 20
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()

    def send(self, *messages: tuple[str, bytes], qos: int = 1, retain: bool = False) -> None:
        sent = [self._client.publish(topic, payload, qos=qos, retain=retain) for topic, payload in messages]
        for info in sent:
            info.wait_for_publish(SOON_S)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def publisher(mosquitto: Mosquitto) -> Iterator[Publisher]:
    with closing(Publisher(mosquitto)) as one:
        yield one


def numbered(seq: int) -> DefectReport:
    return report(seq).numbered(EPOCH, seq)


def stored(query: Query, url: str) -> list[int]:
    """Part numbers in the database, in the order of their ids."""
    return [int(part) for (part,) in query(url, "SELECT part FROM report ORDER BY device, epoch, seq")]


def soon(query: Query, url: str, sql: str, value: str) -> None:
    """Until this query's one value is `value`."""

    def is_so() -> bool:
        try:
            return query(url, sql) == [[value]]
        except subprocess.CalledProcessError:  # no table yet
            return False

    until(is_so, SOON_S)


def acked(payloads: list[bytes]) -> set[int]:
    acks = [Ack.from_bytes(payload) for payload in payloads]
    return {seq for ack in acks for first, last in ack.ranges for seq in range(first, last + 1)}


def test_reports_and_their_pictures_are_in_the_database_and_the_outbox_is_empty(
    mosquitto: Mosquitto, outbox: Outbox, database_url: str, query: Query, new_ingester: NewIngester
) -> None:
    ingester = new_ingester(mosquitto.url, database_url)
    ingester.wait_for("ingest.connected")
    outbox.put_many([report(number, picture_bytes=3000 if number % 2 else 0) for number in range(1, 61)])
    with running(outbox, mosquitto.url, ack="ingester"):
        until(lambda: outbox.stats().depth == 0, SOON_S)
    assert outbox.stats().acked == 60
    assert stored(query, database_url) == list(range(1, 61))
    assert query(database_url, "SELECT count(*), sum(length(jpeg)) FROM picture") == [["30", "90000"]]
    counts = ingester.stop()
    assert (counts["new"], counts["quarantined"]) == (60, 0)


def test_nothing_is_acknowledged_to_anyone_before_it_is_committed(
    mosquitto: Mosquitto,
    publisher: Publisher,
    sqlite_url: str,
    query: Query,
    new_ingester: NewIngester,
    lock_sqlite: Lock,
) -> None:
    ingester = new_ingester(mosquitto.url, sqlite_url, "--in-flight", "10")
    ingester.wait_for("ingest.connected")
    with listening(mosquitto, TOPICS.ack) as listener:
        other = lock_sqlite(sqlite_url)
        publisher.send(*((TOPICS.defect, numbered(seq).to_bytes()) for seq in range(1, 101)))
        ingester.wait_for("ingest.database_lost")
        log = mosquitto.log()
        assert "Received PUBACK from ingest-a" not in log and listener.heard == []
        assert log.count("Sending PUBLISH to ingest-a") <= 10
        other.close()
        ingester.wait_for("ingest.database_back")
        until(lambda: acked(listener.payloads()) == set(range(1, 101)), SOON_S)
        assert stored(query, sqlite_url) == list(range(1, 101))
    events = [line["event"] for line in ingester.events()]
    assert events.count("ingest.database_lost") == events.count("ingest.database_back") == 1
    until(lambda: mosquitto.log().count("Received PUBACK from ingest-a") == 100, SOON_S)


@pytest.mark.parametrize("first", ["device", "ingester"])
def test_a_device_is_reminded_of_what_it_has_delivered_when_either_comes_back(
    mosquitto: Mosquitto, publisher: Publisher, sqlite_url: str, new_ingester: NewIngester, first: str
) -> None:
    """The first acknowledgements may have been lost with the broker's memory: no report has to come again for them."""
    ingester = new_ingester(mosquitto.url, sqlite_url)
    ingester.wait_for("ingest.connected")
    online = state().model_copy(update={"epoch": EPOCH}).to_bytes()
    with listening(mosquitto, TOPICS.ack) as before:
        publisher.send(*((TOPICS.defect, numbered(seq).to_bytes()) for seq in (1, 2, 3, 5)))
        until(lambda: acked(before.payloads()) == {1, 2, 3, 5}, SOON_S)
    if first == "ingester":
        publisher.send((TOPICS.state, online), retain=True)
        ingester.stop()
    with listening(mosquitto, TOPICS.ack) as after:
        if first == "ingester":
            ingester.restart()
        else:
            publisher.send((TOPICS.state, online))
        until(lambda: acked(after.payloads()) == {1, 2, 3, 5}, SOON_S)
    assert ingester.stop()["repeats"] == 0


@contextlib.contextmanager
def killed_at(pid: int, call: str, nth: int) -> Iterator[None]:
    """SIGKILL at the n-th time that a thread of the process makes this system call."""
    inject = f"inject={call}:signal=SIGKILL:when={nth}"
    tool = subprocess.Popen(
        ["strace", "-f", "-p", str(pid), "-o", "/dev/null", "-e", f"trace={call}", "-e", inject],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        tasks = Path(f"/proc/{pid}/task")
        until(lambda: all("TracerPid:\t0" not in (task / "status").read_text() for task in tasks.iterdir()), SOON_S)
        yield
    finally:
        tool.kill()
        tool.wait(timeout=SOON_S)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("strace") is None and not os.environ.get("CI"), reason="strace is not installed")
def test_killed_at_every_commit_and_send_it_loses_nothing_and_keeps_nothing_twice(
    mosquitto: Mosquitto, outbox: Outbox, sqlite_url: str, query: Query, new_ingester: NewIngester
) -> None:
    # Counted in each thread: the database's thread commits, the main thread talks to the broker.
    points = [("fdatasync", nth) for nth in range(1, 4)] + [("sendto", nth) for nth in range(1, 8)]
    ingester = new_ingester(mosquitto.url, sqlite_url)
    number = 0
    with running(outbox, mosquitto.url, ack="ingester", resend_s=1.0, window=7) as courier:
        for life, (call, nth) in enumerate(points, start=1):
            ingester.wait_for("ingest.connected", life)
            with killed_at(ingester.process.pid, call, nth):
                until_s = time.monotonic() + SOON_S
                while ingester.process.poll() is None:
                    assert time.monotonic() < until_s, f"it never came to {call} {nth}"
                    number += 1
                    outbox.put(report(number))
                    courier.wake()
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        ingester.process.wait(timeout=0.05)
            ingester.kill()
            ingester.restart()
        until(lambda: outbox.stats().depth == 0, SOON_S)
    assert stored(query, sqlite_url) == list(range(1, number + 1))
    assert query(sqlite_url, "SELECT count(*) FROM quarantine") == [["0"]]


def test_a_tenth_of_poison_stops_nothing_and_every_good_report_is_stored(
    mosquitto: Mosquitto, publisher: Publisher, database_url: str, query: Query, new_ingester: NewIngester
) -> None:
    rng = random.Random(5)
    good = {seq: numbered(seq).to_bytes() for seq in range(1, 1001)}
    foreign = report(1, device="edge-9").numbered(EPOCH, 1).to_bytes()

    def poison(seq: int) -> bytes:
        payload = good[seq]
        return rng.choice(
            (
                payload[: rng.randrange(1, len(payload))],
                payload.replace(b"inspect.defect/1", b"inspect.defect/7"),
                payload.replace(b'"NG"', b'"OK"'),
                payload.replace(b'"part":', b'"prat":'),
                rng.randbytes(rng.randrange(1, 300)),
                b"[" * rng.randrange(1, 50_000),
                b"\x00" * rng.randrange(1, 1000),
                b"x" * (MAX_PAYLOAD_BYTES + rng.randrange(1, 1000)),
                foreign[:-1] + b" " * rng.randrange(1, 1000) + b"}",
                payload.replace(b'"camera":"cam-1"', b'"camera":"' + b"\xc3\x28" + b'"'),
            )
        )

    messages = [(TOPICS.defect, payload) for payload in good.values()]
    bad = [(TOPICS.defect, poison(seq)) for seq in range(1, 101)]
    bad += [("inspect/v1/plant/press 4/edge-1/defect", good[1]), ("inspect/v1/plant//edge-1/defect", good[1])]
    bad += [(TOPICS.vitals, b"junk"), (TOPICS.state, b""), (TOPICS.gone, b"{}"), (TOPICS.vitals, good[1])]
    mixed = [*messages, *bad]
    rng.shuffle(mixed)
    ingester = new_ingester(mosquitto.url, database_url)
    ingester.wait_for("ingest.connected")
    publisher.send(*mixed)
    soon(query, database_url, "SELECT count(*) FROM report", "1000")
    soon(query, database_url, "SELECT sum(times) FROM quarantine", "102")
    counts = ingester.stop()
    assert counts["new"] == 1000 and counts["unreadable"] == 4 and "Traceback" not in ingester.log()
    said = [line for line in ingester.events() if line["event"] == "ingest.quarantined"]
    assert 1 <= len(said) <= 10, "one line a reason, not one a message"


def test_strange_ways_of_publishing_end_in_the_database_or_in_quarantine(
    mosquitto: Mosquitto, publisher: Publisher, sqlite_url: str, query: Query, new_ingester: NewIngester
) -> None:
    ingester = new_ingester(mosquitto.url, sqlite_url)
    ingester.wait_for("ingest.connected")
    publisher.send((TOPICS.defect, numbered(1).to_bytes()), retain=True)
    publisher.send((TOPICS.defect, numbered(2).to_bytes()), qos=0)
    publisher.send((TOPICS.defect, numbered(3).to_bytes()), qos=2)
    publisher.send((TOPICS.defect, b""), retain=True)
    publisher.send((TOPICS.defect, numbered(4).to_bytes()))
    publisher.send((TOPICS.defect, b"L" * 1_200_000))
    publisher.send((TOPICS.defect, b"L" * (MAX_PACKET_BYTES + 1)))  # the broker keeps it from us, and holds up nothing
    publisher.send((TOPICS.defect, numbered(5).to_bytes()))
    soon(query, sqlite_url, "SELECT group_concat(seq) FROM (SELECT seq FROM report ORDER BY seq)", "1,2,3,4,5")
    found = query(sqlite_url, "SELECT reason, acked, size_bytes, length(payload) FROM quarantine ORDER BY id")
    assert found == [["empty", "0", "0", "0"], ["oversized", "0", "1200000", str(KEPT_BYTES)]]
    assert ingester.stop()["qos0"] == 1


def test_a_report_under_anothers_topic_is_kept_aside_and_acknowledged_to_nobody(
    mosquitto: Mosquitto, publisher: Publisher, sqlite_url: str, query: Query, new_ingester: NewIngester
) -> None:
    new_ingester(mosquitto.url, sqlite_url).wait_for("ingest.connected")
    with listening(mosquitto, "inspect/v1/+/+/+/ack") as listener:
        publisher.send(("inspect/v1/plant/press-4/edge-2/defect", numbered(1).to_bytes()))
        newer = numbered(2).to_bytes().replace(b"inspect.defect/1", b"inspect.defect/2")
        publisher.send((TOPICS.defect, newer), (TOPICS.defect, numbered(3).to_bytes()))
        until(lambda: acked(listener.payloads()) == {2, 3}, SOON_S)
        assert {str(message["topic"]) for message in listener.heard} == {TOPICS.ack}
    rows = query(sqlite_url, "SELECT reason, device, acked FROM quarantine ORDER BY id")
    assert rows == [["foreign", "edge-2", "0"], ["newer-schema", "edge-1", "1"]]


def test_two_ingesters_share_the_work_and_one_may_be_killed(
    mosquitto: Mosquitto, outbox: Outbox, tmp_path: Path, database_url: str, query: Query, new_ingester: NewIngester
) -> None:
    settings = tmp_path / "cloud.toml"
    settings.write_text("[mqtt]\nsession_s = 2\n")
    first = new_ingester(mosquitto.url, database_url, "--config", str(settings), name="ingest-a")
    second = new_ingester(mosquitto.url, database_url, "--config", str(settings), name="ingest-b")
    for ingester in (first, second):
        ingester.wait_for("ingest.connected")
    with running(outbox, mosquitto.url, ack="ingester", resend_s=1.0) as courier:
        for number in range(1, 601):
            outbox.put(report(number))
            courier.wake()
            if number == 300:
                until(lambda: outbox.stats().acked > 100, SOON_S)
                first.kill()
        until(lambda: outbox.stats().depth == 0, SOON_S)
    assert stored(query, database_url) == list(range(1, 601))
    log = mosquitto.log()
    assert "Received PUBACK from ingest-a" in log and "Received PUBACK from ingest-b" in log
    second.stop()


def test_it_waits_for_a_broker_and_a_database_that_are_not_there_yet(
    new_mosquitto: NewMosquitto, outbox: Outbox, query: Query, new_ingester: NewIngester, postgres: Postgres
) -> None:
    url = postgres.new_database()
    broker = new_mosquitto("persistence true")
    postgres.stop()
    ingester = new_ingester(broker.url, url)
    try:
        ingester.wait_for("ingest.database_lost")
    finally:
        postgres.start()
    ingester.wait_for("ingest.database_ready")
    ingester.wait_for("ingest.broker_lost")
    broker.start()
    ingester.wait_for("ingest.connected")
    outbox.put_many([report(number) for number in range(1, 21)])
    with running(outbox, broker.url, ack="ingester"):
        until(lambda: outbox.stats().depth == 0, SOON_S)
    assert stored(query, url) == list(range(1, 21))


def test_the_database_ends_in_the_middle_and_nothing_is_lost_or_twice(
    mosquitto: Mosquitto, outbox: Outbox, query: Query, new_ingester: NewIngester, postgres: Postgres
) -> None:
    url = postgres.new_database()
    ingester = new_ingester(mosquitto.url, url)
    ingester.wait_for("ingest.connected")
    with running(outbox, mosquitto.url, ack="ingester") as courier:
        for number in range(1, 401):
            outbox.put(report(number))
            courier.wake()
            if number in (100, 250):
                postgres.stop()
                outbox.put(report(1000 + number))
                courier.wake()
                nth = 1 + (number == 250)
                ingester.wait_for("ingest.database_lost", nth)
                postgres.start()
                ingester.wait_for("ingest.database_back", nth)
        until(lambda: outbox.stats().depth == 0, SOON_S)
    assert sorted(stored(query, url)) == [*range(1, 401), 1100, 1250]
    assert query(url, "SELECT count(*) FROM quarantine") == [["0"]]
    assert ingester.process.poll() is None and "Traceback" not in ingester.log()


@pytest.mark.parametrize("state", ["idle", "no-broker", "no-database"])
def test_sigterm_ends_it_in_good_order(
    mosquitto: Mosquitto, sqlite_url: str, new_ingester: NewIngester, lock_sqlite: Lock, state: str
) -> None:
    if state == "no-database":
        lock_sqlite(sqlite_url)
    url = f"mqtt://127.0.0.1:{free_port()}" if state == "no-broker" else mosquitto.url
    ingester = new_ingester(url, sqlite_url)
    ingester.wait_for(
        {"idle": "ingest.connected", "no-broker": "ingest.broker_lost", "no-database": "ingest.database_lost"}[state]
    )
    assert ingester.stop()["new"] == 0
    assert ingester.events()[-1]["event"] == "ingest.stopped" and "Traceback" not in ingester.log()
    if state == "idle":
        mosquitto.wait_for_log("Received DISCONNECT from ingest-a")


def test_lost_rows_come_back_by_hand_and_by_themselves_or_are_said_to_be_gone(
    mosquitto: Mosquitto, outbox: Outbox, tmp_path: Path, sqlite_url: str, query: Query, new_ingester: NewIngester
) -> None:
    settings = tmp_path / "cloud.toml"
    settings.write_text("[ingest]\ngap_wait_s = 0.5\ngap_tries = 50\n")
    ingester = new_ingester(mosquitto.url, sqlite_url, "--config", str(settings))
    ingester.wait_for("ingest.connected")
    path = sqlite_url.removeprefix("sqlite:///")
    with running(outbox, mosquitto.url, ack="ingester"):
        outbox.put_many([report(number) for number in range(1, 51)])
        until(lambda: outbox.stats().acked == 50, SOON_S)
        ingester.stop()
        # As if yesterday's backup of the database had been put back.
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("DELETE FROM report WHERE seq BETWEEN 11 AND 30")
            database.execute("UPDATE epoch SET complete_to = 0")
        found = command("gaps", "--db", sqlite_url, "--json")
        assert (found["missing"], found["gaps"][0]["first"], found["gaps"][0]["last"]) == (20, 11, 30)
        asked = command(
            "resync", DEVICE, str(outbox.epoch), "11-20", "--mqtt", mosquitto.url, "--db", sqlite_url, "--json"
        )
        assert asked["asked"] is True
        ingester.restart()
        soon(query, sqlite_url, "SELECT count(*) FROM report", "50")
        assert stored(query, sqlite_url) == list(range(1, 51))
        ingester.wait_for("ingest.asked_again")
        # What the device has forgotten too is said to be gone, and no longer missing.
        forget(outbox, 40, 45)
        with closing(sqlite3.connect(path, timeout=30)) as database, database:
            database.execute("DELETE FROM report WHERE seq BETWEEN 40 AND 45")
            database.execute("UPDATE epoch SET complete_to = 0")
        until(lambda: command("gaps", "--db", sqlite_url, "--json")["gone"] == 6, SOON_S)
        assert command("gaps", "--db", sqlite_url, "--json")["missing"] == 0


def forget(outbox: Outbox, first: int, last: int) -> None:
    with closing(sqlite3.connect(outbox.path, timeout=30)) as file, file:
        file.execute("DELETE FROM report WHERE seq BETWEEN ? AND ?", (first, last))


def command(*arguments: str) -> dict[str, Any]:
    """Run `cloud-inspect`; its JSON."""
    ended = cloud_inspect(*arguments)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def test_what_arrived_can_be_looked_at(
    mosquitto: Mosquitto, publisher: Publisher, database_url: str, query: Query, new_ingester: NewIngester
) -> None:
    new_ingester(mosquitto.url, database_url).wait_for("ingest.connected")
    publisher.send(*((TOPICS.defect, numbered(seq).to_bytes()) for seq in range(1, 6)), (TOPICS.defect, b"junk"))
    soon(query, database_url, "SELECT count(*) FROM report", "5")
    soon(query, database_url, "SELECT count(*) FROM quarantine", "1")
    found = command("reports", "list", "--db", database_url, "--limit", "2", "--json")
    assert (found["total"], found["quarantined"], [row["seq"] for row in found["reports"]]) == (5, 1, [5, 4])
    aside = command("quarantine", "list", "--db", database_url, "--json")["quarantine"]
    assert [(row["reason"], row["topic"], row["size_bytes"]) for row in aside] == [("not-json", TOPICS.defect, 4)]


def test_two_with_one_name_are_told_so(mosquitto: Mosquitto, sqlite_url: str, new_ingester: NewIngester) -> None:
    first = new_ingester(mosquitto.url, sqlite_url, name="same")
    first.wait_for("ingest.connected")
    new_ingester(mosquitto.url, sqlite_url, name="same")
    why = first.wait_for("ingest.broker_lost")["why"]
    assert "another program use" in why and "the name same" in why


def test_a_broker_that_refuses_it_is_one_line_and_tried_again(
    new_mosquitto: NewMosquitto, sqlite_url: str, new_ingester: NewIngester
) -> None:
    broker = new_mosquitto(anonymous=False).start()
    ingester = new_ingester(broker.url, sqlite_url)
    assert "Not authorized" in ingester.wait_for("ingest.broker_lost")["why"]
    until(lambda: broker.log().count("disconnected, not authorised") >= 3, SOON_S)
    assert len([line for line in ingester.events() if line["event"] == "ingest.broker_lost"]) == 1


def test_a_broker_that_takes_no_acknowledgements_is_one_line(
    new_mosquitto: NewMosquitto, tmp_path: Path, sqlite_url: str, query: Query, new_ingester: NewIngester
) -> None:
    rights = tmp_path / "acl"
    rights.write_text("topic read inspect/#\ntopic write inspect/+/+/+/+/defect\n")
    rights.chmod(0o644)
    broker = new_mosquitto(f"acl_file {rights}").start()
    ingester = new_ingester(broker.url, sqlite_url)
    ingester.wait_for("ingest.connected")
    with closing(Publisher(broker)) as publisher:
        publisher.send(*((TOPICS.defect, numbered(seq).to_bytes()) for seq in range(1, 31)))
    assert ingester.wait_for("ingest.ack")["why"] == "the broker does not let us acknowledge"
    soon(query, sqlite_url, "SELECT count(*) FROM report", "30")
    ingester.stop()
    assert len([line for line in ingester.events() if line["event"] == "ingest.ack"]) == 1


def test_reports_travel_over_tls_with_a_certificate_and_a_password(
    new_mosquitto: NewMosquitto,
    tmp_path: Path,
    outbox: Outbox,
    sqlite_url: str,
    query: Query,
    new_ingester: NewIngester,
) -> None:
    authority = Authority(tmp_path / "ca")
    server, own, device = (authority.issue(name, hosts=("127.0.0.1",)) for name in ("broker", "ingest-a", DEVICE))
    lines = (f"certfile {server.cert}", f"keyfile {server.key}", f"cafile {authority.cert}")
    broker = new_mosquitto(*lines, "require_certificate true", "use_identity_as_username true", scheme="mqtts").start()
    tls = ["--ca", str(authority.cert), "--cert", str(own.cert), "--key", str(own.key)]
    plain = new_ingester(broker.url, sqlite_url, "--ca", str(authority.cert), name="ingest-b")
    plain.wait_for("ingest.broker_lost")
    new_ingester(broker.url, sqlite_url, *tls).wait_for("ingest.connected")
    outbox.put_many([report(number) for number in range(1, 6)])
    credentials = {"ca": authority.cert, "cert": device.cert, "key": device.key}
    with running(outbox, broker.url, ack="ingester", broker=credentials):
        until(lambda: outbox.stats().depth == 0, SOON_S)
    assert stored(query, sqlite_url) == [1, 2, 3, 4, 5]
