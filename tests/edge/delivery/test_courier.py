"""What was put arrives: everything, exactly once after de-duplication, whatever the broker goes through."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from edge_inspect.delivery.outbox import Outbox
from edge_wire.messages import Ack, DefectReport, DeviceState, Vitals
from edge_wire.topics import Topics
from tests.edge.delivery.couriers import listening, running, until
from tests.edge.delivery.reports import DEVICE, TOPICS, part_numbers, report, state, without_repeats
from tests.mosquitto import DEFAULTS, Mosquitto


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    box = Outbox(tmp_path / "state" / "outbox.sqlite3", device=DEVICE)
    yield box
    box.close()


def vitals() -> Vitals:
    return Vitals(
        site="plant",
        line="press-4",
        device=DEVICE,
        utc=datetime(2026, 11, 22, tzinfo=timezone.utc),
        uptime_s=1.0,
        cameras=(),
        outbox=None,
        link=None,
        rss_bytes=1,
        temperature_c=None,
    )


@pytest.mark.parametrize("protocol", [5, 311])
def test_what_was_put_arrives_in_order_and_nothing_else(mosquitto: Mosquitto, outbox: Outbox, protocol: int) -> None:
    with listening(mosquitto, "inspect/v1/plant/press-4/edge-1/defect") as listener:
        outbox.put_many([report(number, picture_bytes=2000) for number in range(1, 31)])
        with running(outbox, mosquitto.url, broker={"protocol": protocol}) as courier:
            listener.wait_for(30)
            for number in range(31, 61):
                outbox.put(report(number, picture_bytes=2000))
                courier.wake()
            listener.wait_for(60)
            until(lambda: outbox.stats().depth == 0)
        assert part_numbers(listener.payloads()) == list(range(1, 61))
        assert all(message["retain"] == 0 and message["qos"] == 1 for message in listener.heard)
    assert outbox.stats().acked == 60


def test_every_report_survives_a_broker_killed_in_the_middle(mosquitto: Mosquitto, outbox: Outbox) -> None:
    with listening(mosquitto, TOPICS.defect) as listener, running(outbox, mosquitto.url) as courier:
        for number in range(1, 401):
            outbox.put(report(number, picture_bytes=500))
            courier.wake()
            if number == 200:
                listener.wait_for(100)
                mosquitto.restart(kill=True)
        until(lambda: outbox.stats().depth == 0)
        until(lambda: len(without_repeats(listener.payloads())) >= 400)
        assert sorted(without_repeats(listener.payloads())) == list(range(1, 401))
        assert courier.connects == 2


def test_state_is_retained_online_then_offline_after_a_clean_end(mosquitto: Mosquitto, outbox: Outbox) -> None:
    with running(outbox, mosquitto.url) as courier:
        until(lambda: courier.connected)
        with listening(mosquitto, TOPICS.state) as listener:
            (online,) = listener.wait_for(1)
            assert DeviceState.from_bytes(online).status == "online"
    with listening(mosquitto, TOPICS.state) as listener:
        (offline,) = listener.wait_for(1)
        said = DeviceState.from_bytes(offline)
        assert (said.status, said.reason) == ("offline", "stopped")
        assert listener.heard[0]["retain"] == 1


def test_last_will_says_offline_when_the_process_is_killed(mosquitto: Mosquitto, tmp_path: Path) -> None:
    program = (
        "import threading\nfrom pathlib import Path\n"
        "from edge_inspect.delivery.broker import Broker\nfrom edge_inspect.delivery.courier import Courier\n"
        "from edge_inspect.delivery.outbox import Outbox\n"
        "from tests.edge.delivery.reports import DEVICE, TOPICS, state\n"
        f"box = Outbox(Path({str(tmp_path / 'outbox.sqlite3')!r}), device=DEVICE)\n"
        f"Courier(box, Broker({mosquitto.url!r}), TOPICS, state=state()).run(threading.Event())\n"
    )
    with listening(mosquitto, TOPICS.state) as listener:
        with subprocess.Popen([sys.executable, "-c", program]) as daemon:
            assert DeviceState.from_bytes(listener.wait_for(1)[0]).status == "online"
            daemon.send_signal(signal.SIGKILL)
        said = DeviceState.from_bytes(listener.wait_for(2)[1])
        assert (said.status, said.reason, said.since) == ("offline", "connection-lost", None)


def test_reports_of_a_daemon_killed_in_the_middle_are_delivered_by_the_next(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    """The oracle is the daemon's own output: what it said it had put before it was killed must arrive."""
    path = tmp_path / "outbox.sqlite3"
    program = (
        "import threading\nfrom pathlib import Path\n"
        "from edge_inspect.delivery.broker import Broker\nfrom edge_inspect.delivery.courier import Courier\n"
        "from edge_inspect.delivery.outbox import Outbox\n"
        "from tests.edge.delivery.reports import DEVICE, TOPICS, report, state\n"
        f"box = Outbox(Path({str(path)!r}), device=DEVICE)\n"
        f"courier = Courier(box, Broker({mosquitto.url!r}), TOPICS, state=state())\n"
        "threading.Thread(target=courier.run, args=(threading.Event(),), daemon=True).start()\n"
        "number = 0\n"
        "while True:\n"
        "    number += 1; box.put(report(number, picture_bytes=300)); courier.wake()\n"
        "    print('put', number, flush=True)\n"
    )
    with listening(mosquitto, TOPICS.defect) as listener:
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as daemon:
            listener.wait_for(30)
            daemon.send_signal(signal.SIGKILL)
            assert daemon.stdout is not None
            put = {int(line[4:]) for line in daemon.stdout if line.startswith("put ")}
        with closing(Outbox(path, device=DEVICE)) as box:
            later = box.put(report(100_000))
            with running(box, mosquitto.url):
                until(lambda: box.stats().depth == 0)
        until(lambda: put <= set(without_repeats(listener.payloads())))
        until(lambda: 100_000 in without_repeats(listener.payloads()))
        arrived = without_repeats(listener.payloads())
    assert put == set(range(1, len(put) + 1))
    assert set(arrived) - put in ({100_000}, {len(put) + 1, 100_000})  # put, but killed before it could say so
    assert later.seq == len(arrived)


def test_a_change_of_state_is_published_and_vitals_are_not_kept(mosquitto: Mosquitto, outbox: Outbox) -> None:
    with (
        listening(mosquitto, "inspect/v1/plant/press-4/edge-1/+") as listener,
        running(outbox, mosquitto.url) as courier,
    ):
        listener.wait_for(1)
        courier.announce(state().model_copy(update={"versions": {"edge-inspect": "0.2.0"}}))
        listener.wait_for(2)
        courier.publish_vitals(vitals())
        listener.wait_for(3)
        counts = listener.heard[2]
        assert DeviceState.from_bytes(listener.payloads()[1]).versions == {"edge-inspect": "0.2.0"}
        assert (counts["topic"], counts["qos"], counts["retain"]) == (TOPICS.vitals, 0, 0)
        assert Vitals.from_bytes(listener.payloads()[2]) == vitals()
    with listening(mosquitto, "inspect/v1/#") as late:
        late.wait_for(1)
        assert [message["topic"] for message in late.heard] == [TOPICS.state]


def packets(peer: socket.socket) -> Iterator[bytes]:
    """MQTT packets as they come: type byte and body."""
    with peer.makefile("rb") as stream:
        while kind := stream.read(1):
            length, shift = 0, 0
            while True:
                (digit,) = stream.read(1)
                length |= (digit & 0x7F) << shift
                shift += 7
                if digit < 0x80:
                    break
            yield kind + stream.read(length)


@pytest.mark.parametrize(("ours", "brokers"), [(50, 7), (7, 50)])
def test_no_more_than_the_window_is_under_way(outbox: Outbox, ours: int, brokers: int) -> None:
    """Against a broker that confirms nothing: vitals, which are always sent, mark that nothing more is to come."""
    outbox.put_many([report(number) for number in range(1, 101)])
    connack = bytes.fromhex("20060000032100") + bytes([brokers])  # with Receive Maximum
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"mqtt://127.0.0.1:{server.getsockname()[1]}"
        with running(outbox, url, window=ours, drain_s=0.0) as courier:
            peer, _ = server.accept()
            with peer:
                peer.settimeout(20)
                seen = 0
                for packet in packets(peer):
                    if packet[0] == 0x10:
                        peer.sendall(connack)
                    seen += packet[0] == 0x32 and TOPICS.defect.encode() in packet
                    if seen == 7:
                        courier.publish_vitals(vitals())
                    if TOPICS.vitals.encode() in packet:
                        break
            assert seen == 7 and courier.reports_sent == 0


def test_bytes_sent_are_what_the_broker_received(mosquitto: Mosquitto, outbox: Outbox) -> None:
    outbox.put_many([report(number, picture_bytes=5000) for number in range(1, 11)])
    sizes = [len(outbox.payload(row.number)) for row in outbox.window(100)]
    with listening(mosquitto, "inspect/v1/#") as listener:
        with running(outbox, mosquitto.url) as courier:
            until(lambda: outbox.stats().depth == 0)
            reported = courier.bytes_sent
        # packet type, length (2 bytes up to 16,383), length of the topic, topic, packet id, no properties
        heads = 10 * (1 + 2 + 2 + len(TOPICS.defect) + 2 + 1)
        announced = 1 + 2 + 2 + len(TOPICS.state) + 2 + 1 + len(state().to_bytes())
        assert reported == sum(sizes) + heads + announced
        listener.wait_for(12)


def test_a_report_nobody_subscribed_to_is_counted_where_the_broker_tells(mosquitto: Mosquitto, outbox: Outbox) -> None:
    outbox.put_many([report(1), report(2)])
    with running(outbox, mosquitto.url) as courier:
        until(lambda: outbox.stats().depth == 0)
    assert courier.unheard == 2


def test_a_picture_too_large_for_the_broker_is_left_out(
    new_mosquitto: Callable[..., Mosquitto], outbox: Outbox
) -> None:
    broker = new_mosquitto("max_packet_size 20000").start()
    outbox.put_many([report(1, picture_bytes=1000), report(2, picture_bytes=30_000), report(3)])
    with listening(broker, TOPICS.defect) as listener, running(outbox, broker.url):
        found = [DefectReport.from_bytes(payload) for payload in listener.wait_for(3)]
    assert [bool(entry.thumbnail and entry.thumbnail.jpeg) for entry in found] == [True, False, False]


def test_reports_wait_while_there_is_no_broker_and_then_all_arrive(
    new_mosquitto: Callable[..., Mosquitto], outbox: Outbox
) -> None:
    broker = new_mosquitto()
    outbox.put_many([report(number) for number in range(1, 21)])
    with running(outbox, broker.url) as courier:
        until(lambda: courier.failures.get("refused", 0) >= 2)
        assert courier.failure is not None
        broker.start()
        with listening(broker, TOPICS.defect) as listener:
            until(lambda: outbox.stats().depth == 0)
            outbox.put(report(21))
            courier.wake()
            until(lambda: 21 in part_numbers(listener.payloads()))
        assert courier.failure is None and courier.connects == 1


def test_reconnecting_leaves_no_socket_behind(mosquitto: Mosquitto, outbox: Outbox) -> None:
    with running(outbox, mosquitto.url) as courier:
        until(lambda: courier.connected)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            mosquitto.kill()
            until(lambda: courier.failure is not None)
            mosquitto.start()
            until(lambda: courier.connected)
        assert len(os.listdir("/proc/self/fd")) == before


def test_a_broker_that_goes_silent_is_given_up_in_one_and_a_half_keepalives(
    mosquitto: Mosquitto, outbox: Outbox
) -> None:
    with running(outbox, mosquitto.url, broker={"keepalive_s": 2}, drain_s=0.2) as courier:
        until(lambda: courier.connected)
        mosquitto.freeze()
        until(lambda: courier.failures.get("silent", 0) == 1, timeout_s=10)
        mosquitto.thaw()
        until(lambda: courier.connected)


class Ingester:
    """The plant's side in ten lines: takes reports into a list, then acknowledges them by epoch and range."""

    def __init__(self, broker: Mosquitto, *, deaf_to: int = 0) -> None:
        self.database: dict[object, int] = {}
        self.raw = 0
        self._deaf_to = deaf_to
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="ingester", clean_session=False)
        self._client.on_connect = lambda client, *_: client.subscribe("inspect/v1/+/+/+/defect", qos=1)
        self._client.on_message = self._take
        self._client.reconnect_delay_set(0.1, 0.5)
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()

    def _take(self, client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage) -> None:
        self.raw += 1
        found = DefectReport.from_bytes(message.payload)
        if self.raw <= self._deaf_to:
            return
        self.database[found.id] = found.part.number
        topics, _ = Topics.parse(message.topic)
        ack = Ack(device=found.device, epoch=found.epoch, ranges=((found.seq, found.seq),))
        client.publish(topics.ack, ack.to_bytes(), qos=1)

    def wait_for(self, count: int) -> None:
        until(lambda: len(self.database) >= count)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.mark.parametrize("protocol", [5, 311])
def test_nothing_is_lost_to_a_broker_that_forgets_what_it_acknowledged(
    new_mosquitto: Callable[..., Mosquitto], outbox: Outbox, protocol: int
) -> None:
    """Killed three times, with the settings Debian ships; the plant's own acknowledgement alone counts."""
    broker = new_mosquitto(*DEFAULTS).start()
    ingester = Ingester(broker)
    settings = {"ack": "ingester", "resend_s": 1.0, "broker": {"protocol": protocol}}
    try:
        with running(outbox, broker.url, **settings) as courier:
            for number in range(1, 301):
                outbox.put(report(number))
                courier.wake()
                if number % 80 == 0:
                    ingester.wait_for(number - 60)
                    broker.restart(kill=True)
            until(lambda: outbox.stats().depth == 0, timeout_s=60)
    finally:
        ingester.close()
    assert sorted(ingester.database.values()) == list(range(1, 301))
    assert outbox.stats().acked == 300


def test_what_the_plant_does_not_acknowledge_is_sent_again_later_and_later(
    mosquitto: Mosquitto, outbox: Outbox
) -> None:
    ingester = Ingester(mosquitto, deaf_to=6)
    try:
        outbox.put_many([report(1), report(2)])
        with running(outbox, mosquitto.url, ack="ingester", resend_s=0.2):
            until(lambda: outbox.stats().depth == 0)
    finally:
        ingester.close()
    assert ingester.raw == 8 and sorted(ingester.database.values()) == [1, 2]


def test_the_window_does_not_move_on_while_the_plant_is_silent(mosquitto: Mosquitto, outbox: Outbox) -> None:
    outbox.put_many([report(number) for number in range(1, 31)])
    with listening(mosquitto, TOPICS.defect) as listener:
        with running(outbox, mosquitto.url, ack="ingester", window=10) as courier:
            until(lambda: outbox.stats().sent == 10)
            courier.wake()
            listener.wait_for(10)
        assert part_numbers(listener.payloads()) == list(range(1, 11))


def test_forged_and_foreign_acknowledgements_are_counted_and_ignored(mosquitto: Mosquitto, outbox: Outbox) -> None:
    outbox.put(report(1))
    assert outbox.epoch is not None
    good = Ack(device=DEVICE, epoch=outbox.epoch, ranges=((1, 1),))
    publish = ["mosquitto_pub", "-p", str(mosquitto.port), "-q", "1", "-t", TOPICS.ack, "-m"]
    subprocess.run([*publish, good.to_bytes().decode(), "-r"], check=True, timeout=20)
    with running(outbox, mosquitto.url, ack="ingester") as courier:
        until(lambda: courier.failures.get("bad-ack", 0) == 1)  # the retained one, of yesterday
        for payload in (b"garbage", good.model_copy(update={"device": "edge-2"}).to_bytes()):
            subprocess.run([*publish, payload.decode()], check=True, timeout=20)
        until(lambda: courier.failures.get("bad-ack", 0) == 3)
        assert outbox.stats().depth == 1
        subprocess.run([*publish, good.to_bytes().decode()], check=True, timeout=20)
        until(lambda: outbox.stats().depth == 0)
