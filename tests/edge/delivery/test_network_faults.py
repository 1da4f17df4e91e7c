"""The network fails in every way we know; every report arrives all the same, and a person can see what was wrong."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from edge_inspect.delivery import dial
from edge_inspect.delivery.dial import Dialer
from edge_inspect.delivery.link_errors import from_exception
from edge_inspect.delivery.outages import UNSTEADY_LOSSES, Outages
from edge_inspect.delivery.outbox import Outbox
from edge_inspect.delivery.retry import Retry, Waits
from edge_wire.messages import DeviceState
from tests.edge.delivery.couriers import listening, running, until
from tests.edge.delivery.reports import DEVICE, TOPICS, report, state, without_repeats
from tests.mosquitto import Mosquitto, free_port
from tests.sim.chaos import ChaosProxy

NewMosquitto = Callable[..., Mosquitto]
SOON = Waits(network=(0.05, 0.3, 10.0), says_no=(0.05, 0.3, 10.0), taken_over=(0.5, 2.0, 3600.0))


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    box = Outbox(tmp_path / "outbox.sqlite3", device=DEVICE)
    yield box
    box.close()


@pytest.fixture
def net(mosquitto: Mosquitto) -> Iterator[ChaosProxy]:
    with ChaosProxy(mosquitto.port) as proxy:
        yield proxy


def url(net: ChaosProxy) -> str:
    return f"mqtt://127.0.0.1:{net.port}"


# E1: the broker is not there, or comes and goes


def test_a_broker_that_comes_and_goes_all_the_time_gets_everything(
    mosquitto: Mosquitto, net: ChaosProxy, outbox: Outbox
) -> None:
    with listening(mosquitto, TOPICS.defect) as listener:
        net.refuse()  # not there at the start
        with running(outbox, url(net), waits=SOON, drain_s=0.0) as courier:
            until(lambda: courier.failures.get("refused", 0) >= 2)
            for number in range(1, 201):
                outbox.put(report(number))
                courier.wake()
                if number % 20 == 0:
                    net.accept()
                    connects = courier.connects
                    until(lambda connects=connects: courier.connects > connects)  # type: ignore[misc]
                    net.refuse()
            net.accept()
            until(lambda: outbox.stats().depth == 0)
            assert [alarm.code for alarm in courier.alarms()] == ["link-unsteady"]
            assert courier.connects >= 10 and courier.down is None
            last = courier.vitals().last_outage
            assert last is not None and courier.vitals().outage_s >= last.seconds > 0
        until(lambda: len(set(without_repeats(listener.payloads()))) == 200)
        assert sorted(without_repeats(listener.payloads())) == list(range(1, 201))


def test_without_a_broker_one_can_see_since_when_and_why(outbox: Outbox) -> None:
    with running(outbox, f"mqtt://127.0.0.1:{free_port()}", waits=SOON) as courier:
        until(lambda: courier.failures.get("refused", 0) >= 3)
        down = courier.down
        assert down is not None and down.code == "refused" and down.seconds > 0 and "nobody listens" in down.detail
        assert courier.vitals().last_outage is None and courier.vitals().outage_s > 0


# E2: half-open connections


@pytest.mark.parametrize("way", ["both", "up", "down"])
@pytest.mark.parametrize("protocol", [5, 311])
def test_a_black_hole_is_found_and_nothing_is_lost_in_it(
    mosquitto: Mosquitto, net: ChaosProxy, outbox: Outbox, way: Literal["both", "up", "down"], protocol: int
) -> None:
    settings: dict[str, Any] = {"keepalive_s": 2, "protocol": protocol}
    with listening(mosquitto, TOPICS.defect) as listener:
        with running(outbox, url(net), broker=settings, waits=SOON, drain_s=0.2) as courier:
            outbox.put(report(1))
            courier.wake()
            until(lambda: outbox.stats().depth == 0)
            net.stall() if way == "both" else net.stall_one_way(way)
            for number in range(2, 102):  # twice the window: what is sent in vain does not keep the link alive
                outbox.put(report(number))
                courier.wake()
            until(lambda: not courier.connected)
            assert courier.failures.get("silent", 0) + courier.failures.get("closed", 0) >= 1
            net.flow()
            until(lambda: outbox.stats().depth == 0)
        until(lambda: set(without_repeats(listener.payloads())) == set(range(1, 102)))


def test_a_black_hole_ends_the_daemon_no_later(net: ChaosProxy, outbox: Outbox) -> None:
    """No thread is stuck in a send or a connect: `running` asserts that the courier ends."""
    with running(outbox, url(net), waits=SOON, drain_s=0.2) as courier:
        until(lambda: courier.connected)
        net.stall()
        outbox.put_many([report(number, picture_bytes=60_000) for number in range(1, 51)])
        courier.wake()
        until(lambda: courier._sender.busy)
    with running(outbox, url(net), waits=SOON, drain_s=0.2) as courier:
        until(lambda: net.connections >= 2)  # accepted, and then silence instead of a CONNACK


# E3: slow lines


def test_a_line_of_four_kilobytes_a_second_is_slow_but_not_silent(mosquitto: Mosquitto, outbox: Outbox) -> None:
    """One report takes twice 1.5 keep-alives; the connection stands, and the report arrives with its picture."""
    with listening(mosquitto, TOPICS.defect) as listener, ChaosProxy(mosquitto.port, narrow=True) as net:
        net.up_rate_bytes_s = 4000.0
        outbox.put_many([report(1, picture_bytes=45_000), report(2)])
        with running(outbox, url(net), broker={"keepalive_s": 5}, drain_s=0.2) as courier:
            until(lambda: outbox.stats().depth == 0, timeout_s=60)
            assert courier.connects <= 2
        payloads = listener.wait_for(2)
        assert set(without_repeats(payloads)) == {1, 2} and max(map(len, payloads)) > 60_000


def test_a_second_of_delay_and_resets_cost_time_only(mosquitto: Mosquitto, net: ChaosProxy, outbox: Outbox) -> None:
    net.delay_s = 0.5
    with listening(mosquitto, TOPICS.defect) as listener:
        outbox.put_many([report(number, picture_bytes=2000) for number in range(1, 61)])
        with running(outbox, url(net), waits=SOON, drain_s=0.2) as courier:
            for _ in range(3):
                connects = courier.connects
                until(lambda connects=connects: courier.connects > connects)  # type: ignore[misc]
                net.reset()
            until(lambda: outbox.stats().depth == 0, timeout_s=60)
        until(lambda: set(without_repeats(listener.payloads())) == set(range(1, 61)))


# E7: two devices with one name


@contextmanager
def says_taken_over() -> Iterator[str]:
    """A broker that says 0x8E to the first client when a second one comes; mosquitto 2.0 does not."""
    peers: list[socket.socket] = []

    def serve() -> None:
        for _ in range(2):
            peer, _where = server.accept()
            peer.settimeout(20)
            peer.recv(4096)
            if peers:
                peers[0].sendall(bytes.fromhex("e0018e"))
                peers[0].close()
            peers.append(peer)
            peer.sendall(bytes.fromhex("2003000000"))

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, name="scripted")
        thread.start()
        try:
            yield f"mqtt://127.0.0.1:{server.getsockname()[1]}"
        finally:
            thread.join(20)
            for peer in peers:
                peer.close()


def with_epoch(outbox: Outbox) -> DeviceState:
    return state().model_copy(update={"epoch": outbox.epoch})


def test_a_takeover_that_the_broker_tells_of_is_an_alarm_and_a_long_wait(outbox: Outbox) -> None:
    with says_taken_over() as url, running(outbox, url, drain_s=0.0) as first:
        until(lambda: first.connected)
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=20) as second:
            second.sendall(b"CONNECT")
            until(lambda: first.failures == {"taken-over": 1})
        down = first.down
        assert down is not None and down.code == "taken-over" and "two devices with one name" in down.detail
        (alarm,) = first.alarms()
        assert alarm.code == "taken-over" and "1 times" in alarm.detail


@pytest.mark.parametrize("protocol", [5, 311])
def test_two_devices_with_one_name_notice_it_and_do_not_fight(
    mosquitto: Mosquitto, outbox: Outbox, tmp_path: Path, protocol: int
) -> None:
    """mosquitto 2.0 only closes the older connection: the state that the other one left there gives it away."""
    settings: dict[str, Any] = {"broker": {"protocol": protocol}, "waits": Waits(network=(0.2, 0.4, 10.0))}
    with closing(Outbox(tmp_path / "twin" / "outbox.sqlite3", device=DEVICE)) as other:
        with running(outbox, mosquitto.url, **settings) as first, running(other, mosquitto.url, **settings) as second:
            first.announce(with_epoch(outbox))
            second.announce(with_epoch(other))
            both = (first, second)
            until(lambda: any(courier.down and courier.down.code == "taken-over" for courier in both))
            away, stays = both if first.down and first.down.code == "taken-over" else both[::-1]
            assert "taken-over" in [alarm.code for alarm in away.alarms()]
            box = other if stays is second else outbox
            box.put_many([report(number) for number in range(1, 31)])
            stays.wake()
            until(lambda: box.stats().depth == 0)  # in peace: the other one stays away for now
            assert first.connects + second.connects < 20


def test_our_own_older_state_is_no_twin(mosquitto: Mosquitto, outbox: Outbox, tmp_path: Path) -> None:
    with closing(Outbox(tmp_path / "before" / "outbox.sqlite3", device=DEVICE)) as before:
        with running(before, mosquitto.url) as courier:
            courier.announce(with_epoch(before))
            until(lambda: courier.connected)
    with ChaosProxy(mosquitto.port) as net, running(outbox, url(net), waits=SOON) as courier:
        courier.announce(with_epoch(outbox))
        for connects in (1, 2, 3):
            until(lambda connects=connects: courier.connects == connects)  # type: ignore[misc]
            until(lambda: not courier._announcing and courier.connected)
            net.reset()
        assert "taken-over" not in courier.failures


def test_two_devices_with_one_name_both_get_their_turn(mosquitto: Mosquitto, outbox: Outbox, tmp_path: Path) -> None:
    with closing(Outbox(tmp_path / "twin" / "outbox.sqlite3", device=DEVICE)) as other:
        outbox.put_many([report(number) for number in range(1, 101)])
        other.put_many([report(number) for number in range(1, 101)])
        settings: dict[str, Any] = {"waits": SOON, "drain_per_s": 50}
        with running(outbox, mosquitto.url, **settings), running(other, mosquitto.url, **settings):
            until(lambda: outbox.stats().depth == other.stats().depth == 0, timeout_s=60)


def test_takeovers_make_us_stay_away_longer_and_longer_even_if_each_connection_held() -> None:
    retry = Retry(random01=lambda: 0.5)
    waits = [retry.wait_s("taken-over", held_s=120.0) for _ in range(6)]
    assert waits == [30.0, 60.0, 120.0, 240.0, 400.0, 400.0]
    assert retry.wait_s("taken-over", held_s=3601.0) == 30.0


# E9: the broker takes no large messages


def size_limited(new_mosquitto: NewMosquitto) -> Mosquitto:
    return new_mosquitto("message_size_limit 8000").start()


def test_a_size_limit_told_only_afterwards_costs_the_picture_and_no_connection(
    new_mosquitto: NewMosquitto, outbox: Outbox
) -> None:
    broker = size_limited(new_mosquitto)
    with listening(broker, TOPICS.defect) as listener, running(outbox, broker.url) as courier:
        outbox.put_many([report(1), report(2, picture_bytes=30_000), report(3)])
        courier.wake()
        until(lambda: outbox.stats().depth == 0)
        listener.wait_for(3)
        assert sorted(without_repeats(listener.payloads())) == [1, 2, 3]
        assert courier.connects == 1 and not courier.failures and courier.vitals().pictures_left == 1


def test_a_configured_limit_keeps_large_reports_sendable_where_the_broker_says_nothing(
    new_mosquitto: NewMosquitto, outbox: Outbox
) -> None:
    """MQTT 3.1.1: mosquitto confirms what it throws away."""
    broker = size_limited(new_mosquitto)
    settings: dict[str, Any] = {"broker": {"protocol": 311}, "max_packet_bytes": 8000}
    with listening(broker, TOPICS.defect) as listener, running(outbox, broker.url, **settings) as courier:
        outbox.put_many([report(1), report(2, picture_bytes=30_000), report(3)])
        assert outbox.pictures_left == 1  # before it was kept
        courier.wake()
        listener.wait_for(3)
        assert sorted(without_repeats(listener.payloads())) == [1, 2, 3]
        assert courier.vitals().pictures_left == 1


# E10: names and addresses


def resolving_to(monkeypatch: pytest.MonkeyPatch, answer: Callable[[], list[tuple[str, int]]]) -> None:
    """Names lead where `answer` says; numbers are numbers, as ever."""
    real = socket.getaddrinfo

    def look_up(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host != "broker.plant.example":
            return real(host, port, *args, **kwargs)
        if kwargs.get("flags", 0) & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "not a number")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", where) for where in answer()]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


def test_a_broker_whose_address_changes_is_found_again(
    mosquitto: Mosquitto, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = [("127.0.0.1", free_port())]
    resolving_to(monkeypatch, lambda: where)
    with running(outbox, "mqtt://broker.plant.example", waits=SOON) as courier:
        until(lambda: courier.failures.get("refused", 0) >= 1)
        where[:] = [("127.0.0.1", free_port()), ("127.0.0.1", mosquitto.port)]  # the first one is dead
        until(lambda: courier.connected)


def test_a_name_server_that_fails_and_one_that_hangs_hold_nobody_up(
    mosquitto: Mosquitto, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()
    fails = threading.Event()
    asked: list[float] = []

    def answer() -> list[tuple[str, int]]:
        asked.append(time.monotonic())
        if fails.is_set():
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        answers.wait(60)
        return [("127.0.0.1", mosquitto.port)]

    resolving_to(monkeypatch, answer)
    monkeypatch.setattr(dial, "RESOLVE_S", 0.5)
    with running(outbox, "mqtt://broker.plant.example", waits=SOON) as courier:
        until(lambda: courier.failures.get("name-resolution", 0) >= 3)
        assert len(asked) == 1  # one look-up hangs, not one more at each try
        fails.set()
        answers.set()
        until(lambda: courier.connected)
    fails.set()
    with running(outbox, "mqtt://broker.plant.example", waits=SOON) as courier:
        until(lambda: courier.failures.get("name-resolution", 0) >= 2)
        assert "Temporary failure" in str(courier.failure)
        fails.clear()
        until(lambda: courier.connected)


def test_the_courier_beats_and_ends_while_a_name_server_hangs(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()
    asked = threading.Event()

    def answer() -> list[tuple[str, int]]:
        asked.set()
        answers.wait(60)
        raise socket.gaierror(socket.EAI_FAIL, "hung")

    resolving_to(monkeypatch, answer)
    try:
        with running(outbox, "mqtt://broker.plant.example") as courier:
            assert asked.wait(20)
            beat_ns = courier.beat_ns
            until(lambda: courier.beat_ns is not None and beat_ns is not None and courier.beat_ns > beat_ns)
    finally:
        answers.set()
        for thread in threading.enumerate():
            if thread.name == "resolver":
                thread.join(20)


def test_an_ipv6_only_broker_and_a_name_without_an_address() -> None:
    try:
        server = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 here")
    with server, closing(Dialer().dial("::1", server.getsockname()[1], 5.0)) as connection:
        assert connection.family == socket.AF_INET6
    for host in ("no-such-host.invalid", "x" * 64 + ".example"):
        with pytest.raises(OSError) as failed:
            Dialer().dial(host, 1, 1.0)
        assert from_exception(failed.value, host).code == "name-resolution"


# Not all at once


def test_devices_do_not_come_back_in_the_same_second() -> None:
    """Three hundred devices lose their broker for a minute: no second of the next minute sees a fifth of them."""
    seed = 7

    def dice() -> float:
        nonlocal seed
        seed = (seed * 1_103_515_245 + 12_345) % 2**31
        return seed / 2**31

    arrivals: dict[int, int] = {}
    for _ in range(300):
        retry, now_s = Retry(random01=dice), 0.0
        now_s += retry.wait_s("closed", held_s=3600.0)
        while now_s < 60.0:
            now_s += retry.wait_s("refused", held_s=0.0)
        arrivals[int(now_s)] = arrivals.get(int(now_s), 0) + 1
    assert max(arrivals.values()) < 60 and max(arrivals) < 100


def test_what_a_person_must_change_is_asked_less_often_than_the_network() -> None:
    retry = Retry(random01=lambda: 0.5)
    assert [retry.wait_s("refused", 0.0) for _ in range(7)] == [1.0, 2.0, 4.0, 8.0, 16.0, 20.0, 20.0]
    assert [retry.wait_s("certificate-expired", 0.0) for _ in range(6)] == [4.0, 8.0, 16.0, 32.0, 40.0, 40.0]
    assert retry.wait_s("refused", 11.0) == 1.0  # it held: soon again
    assert retry.wait_s("renewed-certificate", 11.0) == 0.0


def test_outages_are_told_apart_and_added_up() -> None:
    now_s = [100.0]
    outages = Outages(utc_ns=lambda: 1_795_338_098_000_000_000, monotonic_s=lambda: now_s[0])
    assert outages.down is not None and outages.down.code == "connecting"
    now_s[0] += 5
    outages.came_up()
    assert outages.last is None  # a start is no outage
    for _ in range(UNSTEADY_LOSSES):
        now_s[0] += 60
        outages.went_down("closed", "x [closed]")
        outages.went_down("refused", "y [refused]")
        now_s[0] += 2
        outages.came_up()
    assert outages.total_s == 5.0 + 2.0 * UNSTEADY_LOSSES
    assert outages.last is not None and (outages.last.seconds, outages.last.code) == (2.0, "refused")
    assert [alarm.code for alarm in outages.alarms()] == ["link-unsteady"]
    now_s[0] += 600
    assert not outages.alarms()
