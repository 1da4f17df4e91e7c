"""Order, pace and bounds of what is sent, against a broker that answers what the test says."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_inspect.delivery.link_errors import LinkLost
from edge_inspect.delivery.outbox import Outbox
from edge_inspect.delivery.paho_client import TOO_LARGE, Confirmed
from edge_inspect.delivery.sender import GRACE_S, SETTLE_S, UNSENT_BYTES, Sender
from edge_wire.messages import DefectReport
from tests.edge.delivery.reports import DEVICE, TOPICS, report


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def monotonic_s(self) -> float:
        return self.now_s

    def utc_ns(self) -> int:
        return round(self.now_s * 1e9)


class Broker:
    """Keeps what it is given and confirms it when asked to."""

    window = 65535
    max_packet_bytes = 1 << 28

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.unsent = 0
        self._unconfirmed: list[int] = []

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> int:
        assert (topic, qos, retain) == (TOPICS.defect, 1, False)
        self.payloads.append(payload)
        self._unconfirmed.append(len(self.payloads))
        return len(self.payloads)

    def unsent_bytes(self) -> int:
        return self.unsent

    def confirm(self, sender: Sender, code: int = 0) -> int:
        mids, self._unconfirmed = self._unconfirmed, []
        for mid in mids:
            sender.take(Confirmed(mid, code, "said by the test"), "test:1883")
        sender.mark()
        return len(mids)

    def parts(self) -> list[int]:
        return [DefectReport.from_bytes(payload).part.number for payload in self.payloads]

    def pictures(self) -> list[bool]:
        return [b'"jpeg_base64":"' in payload for payload in self.payloads]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def outbox(tmp_path: Path, clock: Clock) -> Iterator[Outbox]:
    box = Outbox(tmp_path / "outbox.sqlite3", device=DEVICE, utc_ns=clock.utc_ns)
    yield box
    box.close()


def new_sender(outbox: Outbox, clock: Clock, broker: Broker, **settings: object) -> Sender:
    settings = {"ack": "broker", "device": DEVICE, **settings}
    sender = Sender(outbox, TOPICS.defect, utc_ns=clock.utc_ns, monotonic_s=clock.monotonic_s, **settings)  # type: ignore[arg-type]
    sender.begin(broker)
    return sender


def put(outbox: Outbox, first: int, last: int, picture_bytes: int = 0) -> None:
    outbox.put_many([report(number, picture_bytes=picture_bytes) for number in range(first, last + 1)])


def test_a_backlog_drains_in_order_at_the_configured_pace(outbox: Outbox, clock: Clock) -> None:
    put(outbox, 1, 500)
    broker = Broker()
    sender = new_sender(outbox, clock, broker, drain_per_s=20)
    seconds = 0
    while outbox.stats().depth:
        for _ in range(10):  # ten looks a second
            sender.fill(broker)
            broker.confirm(sender)
            clock.now_s += 0.1
        seconds += 1
        assert len(broker.payloads) <= 10 + 20 * seconds + 50  # half a second's worth saved up; the last 50 at once
    assert broker.parts() == list(range(1, 501))
    assert 20 <= seconds <= 26


def test_new_reports_go_before_a_backlog_and_both_keep_their_order(outbox: Outbox, clock: Clock) -> None:
    put(outbox, 1, 300)
    broker = Broker()
    sender = new_sender(outbox, clock, broker, drain_per_s=10)
    sender.fill(broker)
    broker.confirm(sender)
    for number in range(1001, 1021):
        put(outbox, number, number)
        sender.fill(broker)
        assert number in broker.parts()  # at once, whatever waits
        broker.confirm(sender)
        clock.now_s += 0.5
    live = [number for number in broker.parts() if number > 1000]
    backlog = [number for number in broker.parts() if number <= 1000]
    assert live == list(range(1001, 1021))
    assert backlog == list(range(1, len(backlog) + 1)) and 90 <= len(backlog) <= 110


def test_new_reports_that_pile_up_join_the_backlog(outbox: Outbox, clock: Clock) -> None:
    put(outbox, 1, 100)
    broker = Broker()
    sender = new_sender(outbox, clock, broker, drain_per_s=10)
    sender.fill(broker)
    broker.confirm(sender)
    sent = len(broker.payloads)
    put(outbox, 101, 200)  # more than a window at once
    sender.fill(broker)
    broker.confirm(sender)
    assert len(broker.payloads) == sent  # the pace holds for them too
    clock.now_s += 1.0
    sender.fill(broker)
    assert broker.parts() == list(range(1, len(broker.payloads) + 1))


def test_a_backlog_does_not_starve_behind_new_reports(outbox: Outbox, clock: Clock) -> None:
    put(outbox, 1, 100)
    broker = Broker()
    broker.window = 2  # as narrow as it gets
    sender = new_sender(outbox, clock, broker, drain_per_s=10)
    number = 1000
    while len([part for part in broker.parts() if part <= 100]) < 100:
        number += 1
        put(outbox, number, number)
        sender.fill(broker)
        broker.confirm(sender)
        clock.now_s += 0.2
        assert number < 2000


@pytest.mark.parametrize("ack", ["broker", "ingester"])
def test_never_more_than_the_window_is_unconfirmed(outbox: Outbox, clock: Clock, ack: str) -> None:
    put(outbox, 1, 200)
    broker = Broker()
    sender = new_sender(outbox, clock, broker, drain_per_s=100_000, ack=ack)
    for _ in range(5):
        sender.fill(broker)
    assert len(broker.payloads) == 50
    put(outbox, 201, 210)
    sender.fill(broker)
    assert len(broker.payloads) == 50


def test_a_silent_plant_has_at_most_a_window_and_a_fifth_to_acknowledge(outbox: Outbox, clock: Clock) -> None:
    put(outbox, 1, 300)
    broker = Broker()
    sender = new_sender(outbox, clock, broker, drain_per_s=100_000, ack="ingester", resend_s=1e6)
    for number in range(301, 600):
        sender.fill(broker)
        broker.confirm(sender)
        put(outbox, number, number)
        clock.now_s += 1.0
    assert outbox.stats().sent <= 60 and outbox.stats().sent == len(broker.payloads)


def test_what_is_not_acknowledged_goes_again_later_and_later_with_jitter(outbox: Outbox, clock: Clock) -> None:
    put(outbox, 1, 1)
    broker = Broker()
    sender = new_sender(outbox, clock, broker, ack="ingester", resend_s=10.0)
    sent_s = []
    started_s = clock.now_s
    while clock.now_s < started_s + 600:
        before = len(broker.payloads)
        sender.fill(broker)
        if len(broker.payloads) > before:
            sent_s.append(clock.now_s - started_s)
        broker.confirm(sender)
        clock.now_s += 0.5
    waits = [later - earlier for earlier, later in itertools.pairwise(sent_s)]
    for wait_s, centre_s in zip(waits, [10, 20, 40, 80, 80, 80], strict=False):
        assert 0.75 * centre_s - 1 <= wait_s <= 1.25 * centre_s + 1
    assert len(set(waits[3:])) > 1  # no two alike
    assert sender.resent == len(sent_s) - 1 and sender.plant_silent_s > 500


def test_devices_do_not_resend_in_step(outbox: Outbox, clock: Clock) -> None:
    """Two hundred devices whose plant came back: their resends spread over half of the waiting time."""
    put(outbox, 1, 1)
    outbox.mark_sent([1])
    (row,) = outbox.window(1)
    devices = [f"edge-{index}" for index in range(200)]
    senders = [new_sender(outbox, clock, Broker(), ack="ingester", resend_s=30.0, device=name) for name in devices]
    again_s = {round(sender._wait_ns(row) / 1e9) for sender in senders}
    assert len(again_s) >= 14 and min(again_s) >= 22 and max(again_s) <= 38


def test_a_plant_that_is_heard_again_gets_the_rest_soon(outbox: Outbox, clock: Clock) -> None:
    put(outbox, 1, 2)
    assert outbox.epoch is not None
    broker = Broker()
    sender = new_sender(outbox, clock, broker, ack="ingester", resend_s=10.0)
    for _ in range(1200):  # ten minutes of silence
        sender.fill(broker)
        broker.confirm(sender)
        clock.now_s += 0.5
    outbox.ack_ranges(outbox.epoch, [(1, 1)])
    sender.plant_heard()
    before = len(broker.payloads)
    clock.now_s += 12.6
    sender.plant_heard()
    sender.fill(broker)
    assert len(broker.payloads) == before + 1


@pytest.mark.parametrize("jump_s", [-10 * 365 * 86400, -3600, 3600, 10 * 365 * 86400])
def test_a_clock_that_jumps_costs_at_most_one_more_send_each(outbox: Outbox, clock: Clock, jump_s: int) -> None:
    put(outbox, 1, 20)
    broker = Broker()
    sender = new_sender(outbox, clock, broker, ack="ingester", resend_s=30.0, drain_per_s=1000)
    sender.fill(broker)
    broker.confirm(sender)
    wall = clock.utc_ns
    clock.utc_ns = lambda: max(1, wall() + jump_s * 10**9)  # type: ignore[method-assign]
    sender._utc_ns = outbox._utc_ns = clock.utc_ns
    for _ in range(40):
        sender.fill(broker)
        broker.confirm(sender)
        clock.now_s += 0.5
    assert 20 < len(broker.payloads) <= 40
    assert outbox.stats().depth == 20


@pytest.mark.parametrize("plant_speaks", [True, False])
def test_on_a_new_connection_the_plant_may_first_say_what_it_has(
    outbox: Outbox, clock: Clock, plant_speaks: bool
) -> None:
    """Its acknowledgements may have been lost with the broker's memory; new reports do not wait for that."""
    put(outbox, 1, 20)
    broker = Broker()
    sender = new_sender(outbox, clock, broker, ack="ingester", resend_s=30.0, drain_per_s=1000)
    sender.fill(broker)
    broker.confirm(sender)
    clock.now_s += 3600.0
    sender.begin(broker)
    put(outbox, 21, 22)
    sender.fill(broker)
    broker.confirm(sender)
    assert broker.parts() == list(range(1, 23))
    if plant_speaks:
        sender.plant_heard(outbox.ack_ranges(outbox.epoch or "", [(1, 18)]))
    clock.now_s += SETTLE_S - 0.01
    sender.fill(broker)
    assert len(broker.payloads) == 22
    clock.now_s += 0.02 if plant_speaks else GRACE_S
    sender.fill(broker)
    assert broker.parts()[22:] == ([19, 20] if plant_speaks else list(range(1, 21)))


def test_a_slow_line_is_not_given_more_than_it_can_hold(outbox: Outbox, clock: Clock) -> None:
    put(outbox, 1, 20)
    broker = Broker()
    sender = new_sender(outbox, clock, broker)
    broker.unsent = UNSENT_BYTES + 1
    sender.fill(broker)
    assert not broker.payloads
    broker.unsent = 0
    sender.fill(broker)
    assert len(broker.payloads) == 20


def test_what_the_broker_says_is_too_large_goes_without_its_picture_and_blocks_nothing(
    outbox: Outbox, clock: Clock
) -> None:
    put(outbox, 1, 1, picture_bytes=20_000)
    put(outbox, 2, 3)
    broker = Broker()
    sender = new_sender(outbox, clock, broker)
    sender.fill(broker)
    assert broker.parts() == [1, 2, 3]
    sender.take(Confirmed(1, TOO_LARGE, "Packet too large"), "test:1883")
    for mid in (2, 3):
        sender.take(Confirmed(mid, 0, "Success"), "test:1883")
    sender.mark()
    sender.fill(broker)
    assert broker.parts() == [1, 2, 3, 1] and broker.pictures() == [True, False, False, False]
    sender.take(Confirmed(4, 0, "Success"), "test:1883")
    sender.mark()
    assert outbox.stats().depth == 0 and sender.pictures_left == 1


def test_a_report_no_broker_takes_waits_counted_and_blocks_nothing(outbox: Outbox, clock: Clock) -> None:
    put(outbox, 1, 60)
    big = report(61)
    outbox.put(big.model_copy(update={"defects": big.defects * 200}))
    put(outbox, 62, 120)
    broker = Broker()
    broker.max_packet_bytes = 8192
    sender = new_sender(outbox, clock, broker, drain_per_s=100_000)
    for _ in range(20):
        sender.fill(broker)
        broker.confirm(sender)
        clock.now_s += 10
    assert sorted(broker.parts()) == [*range(1, 61), *range(62, 121)]
    assert sender.too_large == 1 and outbox.stats().depth == 1
    broker.max_packet_bytes = 1 << 28  # the next broker, or the next setting, takes it
    sender.begin(broker)
    sender.fill(broker)
    broker.confirm(sender)
    assert outbox.stats().depth == 0 and sender.too_large == 0


def test_a_broker_that_refuses_even_the_bare_report_is_not_asked_over_and_over(outbox: Outbox, clock: Clock) -> None:
    """It never said how much it takes; what it says to one report holds for all that are larger."""
    big = report(1)
    outbox.put(big.model_copy(update={"defects": big.defects * 200}))
    put(outbox, 2, 2)
    broker = Broker()
    sender = new_sender(outbox, clock, broker)
    for _ in range(10):
        sender.fill(broker)
        broker.confirm(sender, TOO_LARGE) if 2 not in broker.parts() else broker.confirm(sender)
        clock.now_s += 1
    assert broker.parts().count(1) <= 2


def test_pictures_are_left_before_a_report_is_kept_once_the_limit_is_known(outbox: Outbox, clock: Clock) -> None:
    broker = Broker()
    broker.max_packet_bytes = 8192
    sender = new_sender(outbox, clock, broker)
    outbox.put(report(1, picture_bytes=20_000))
    outbox.put(report(2, picture_bytes=1000))
    assert outbox.pictures_left == 1
    assert len(outbox.payload(1)) < 8192 and b'"jpeg_base64":null' in outbox.payload(1)
    sender.fill(broker)
    assert broker.pictures() == [False, True] and all(len(payload) < 8192 for payload in broker.payloads)


def test_what_is_dropped_on_the_way_without_a_word_goes_without_its_picture(outbox: Outbox, clock: Clock) -> None:
    """As mosquitto does over MQTT 3.1.1 with `message_size_limit`: confirmed and thrown away."""
    put(outbox, 1, 1, picture_bytes=20_000)
    assert outbox.epoch is not None
    broker = Broker()
    sender = new_sender(outbox, clock, broker, ack="ingester", resend_s=10.0)
    for number in range(2, 12):  # others arrive and are acknowledged
        put(outbox, number, number)
        sender.fill(broker)
        broker.confirm(sender)
        outbox.ack_ranges(outbox.epoch, [(number, number)])
        sender.plant_heard()
        clock.now_s += 13
    assert broker.pictures()[0] and broker.parts().count(1) >= 4
    assert [has for part, has in zip(broker.parts(), broker.pictures(), strict=True) if part == 1][3] is False


@pytest.mark.parametrize(
    ("code", "stable"), [(0x97, "refused-quota"), (0x87, "refused-publish"), (0x83, "refused-publish")]
)
def test_a_broker_that_refuses_reports_ends_the_connection_and_keeps_them(
    outbox: Outbox, clock: Clock, code: int, stable: str
) -> None:
    put(outbox, 1, 1)
    broker = Broker()
    sender = new_sender(outbox, clock, broker)
    sender.fill(broker)
    with pytest.raises(LinkLost) as lost:
        broker.confirm(sender, code)
    assert lost.value.code == stable and outbox.stats().pending == 1


def test_what_the_plant_never_acknowledges_does_not_stand_in_the_way(outbox: Outbox, clock: Clock) -> None:
    """Twenty reports that the plant cannot read, twice the window, stand before eighty that it can."""
    put(outbox, 1, 100)
    assert outbox.epoch is not None
    broker = Broker()
    sender = new_sender(outbox, clock, broker, ack="ingester", resend_s=10.0, drain_per_s=1000, window=10)
    reads_all, taken, number = False, 0, 1000
    for turn in range(600):
        if turn % 10 == 0 and not reads_all:
            number += 1
            put(outbox, number, number)
        sender.fill(broker)
        broker.confirm(sender)
        arrived, taken = broker.parts()[taken:], len(broker.payloads)
        for row in arrived:
            if row > 20 or reads_all:
                seq = row if row <= 100 else 100 + row - 1000
                outbox.ack_ranges(outbox.epoch, [(seq, seq)])
                sender.plant_heard()
        clock.now_s += 2.0
        reads_all = reads_all or outbox.stats().depth == 20  # only those are left: the plant learns to read them
        if outbox.stats().depth == 0:
            break
    assert reads_all and outbox.stats().depth == 0
