"""A new certificate or password on the disk is used without a restart; a bad one costs nothing."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from edge_inspect.delivery.broker import Broker
from edge_inspect.delivery.certificate_dates import dates_of
from edge_inspect.delivery.courier import Courier
from edge_inspect.delivery.dial import Dialer
from edge_inspect.delivery.outbox import Outbox
from edge_inspect.delivery.renewal import Renewal
from edge_inspect.delivery.retry import Waits
from tests.certificates import Authority, Pair
from tests.edge.delivery.couriers import running, until
from tests.edge.delivery.reports import DEVICE, report
from tests.mosquitto import Mosquitto

NewMosquitto = Callable[..., Mosquitto]
NEVER = Waits(says_no=(600.0, 1200.0, 10.0))


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    box = Outbox(tmp_path / "outbox.sqlite3", device=DEVICE)
    yield box
    box.close()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture
def secure(new_mosquitto: NewMosquitto, authority: Authority) -> Mosquitto:
    server = authority.issue("broker", hosts=("127.0.0.1",))
    return new_mosquitto(
        f"certfile {server.cert}",
        f"keyfile {server.key}",
        f"cafile {authority.cert}",
        "require_certificate true",
        "use_identity_as_username true",
        scheme="mqtts",
        anonymous=False,
    ).start()


class Installed:
    """The device's own certificate and key, as the daemon is configured to find them."""

    def __init__(self, folder: Path, authority: Authority, pair: Pair) -> None:
        self.cert, self.key = folder / "device.pem", folder / "device.key"
        self.settings: dict[str, Any] = {"ca": authority.cert, "cert": self.cert, "key": self.key}
        self.install(pair)

    def install(self, pair: Pair) -> None:
        for source, target in ((pair.key, self.key), (pair.cert, self.cert)):
            fresh = target.with_suffix(".new")
            shutil.copy(source, fresh)
            fresh.replace(target)


def refusal(courier: Courier) -> str:
    """Why new files are not used, as the plant sees it."""
    return " ".join(alarm.detail for alarm in courier.alarms() if alarm.code == "renewal-refused")


@pytest.mark.parametrize("ack", ["broker", "ingester"])
def test_a_new_certificate_is_used_while_the_old_connection_still_stands(
    secure: Mosquitto, authority: Authority, outbox: Outbox, tmp_path: Path, ack: str
) -> None:
    files = Installed(tmp_path, authority, authority.issue("edge-1-old"))
    with running(outbox, secure.url, broker=files.settings, settle_s=0.2, ack=ack) as courier:
        until(lambda: courier.connected)
        assert "u'edge-1-old'" in secure.log()
        files.install(authority.issue("edge-1-new"))
        until(lambda: courier.connects == 2)
        secure.wait_for_log("u'edge-1-new'")
        assert courier.failures == {"renewed-certificate": 1} and not refusal(courier)
        outbox.put(report(1))
        courier.wake()
        until(lambda: outbox.stats().sent + outbox.stats().acked == 1)


def test_a_new_certificate_that_is_no_good_does_not_cost_the_connection(
    secure: Mosquitto, authority: Authority, outbox: Outbox, tmp_path: Path
) -> None:
    files = Installed(tmp_path, authority, authority.issue("edge-1-old"))
    other = Authority(tmp_path / "other", "Other CA")
    with running(outbox, secure.url, broker=files.settings, settle_s=0.2) as courier:
        until(lambda: courier.connected)
        files.install(other.issue("edge-1-foreign"))
        until(lambda: "client-certificate-unknown-ca" in refusal(courier))
        files.key.write_text("half a key")  # the next one is being written, slowly
        until(lambda: "credentials" in refusal(courier))
        assert courier.connected and courier.connects == 1
        files.install(authority.issue("edge-1-good"))
        until(lambda: courier.connects == 2)
        assert not refusal(courier)
    secure.wait_for_log("u'edge-1-good'")


def test_a_device_that_stays_away_comes_back_when_its_certificate_is_renewed(
    secure: Mosquitto, authority: Authority, outbox: Outbox, tmp_path: Path
) -> None:
    """Its next try would be in ten minutes."""
    old = authority.issue("old", begins=timedelta(hours=-4), ends=timedelta(hours=-1))
    files = Installed(tmp_path, authority, old)
    with running(outbox, secure.url, broker=files.settings, settle_s=0.2, waits=NEVER) as courier:
        until(lambda: courier.failures == {"client-certificate-expired": 1})
        files.install(authority.issue(DEVICE))
        until(lambda: courier.connected)


def test_a_new_password_is_used_at_once(new_mosquitto: NewMosquitto, outbox: Outbox, tmp_path: Path) -> None:
    users, secret = tmp_path / "users", tmp_path / "secret"
    users.touch(mode=0o600)
    subprocess.run(["mosquitto_passwd", "-b", str(users), "device", "right"], check=True, timeout=20)
    broker = new_mosquitto(f"password_file {users}", anonymous=False).start()
    secret.write_text("wrong")
    settings = {"username": "device", "password_file": secret}
    with running(outbox, broker.url, broker=settings, settle_s=0.2, waits=NEVER) as courier:
        until(lambda: courier.failures == {"refused-auth": 1})
        secret.write_text("right\n")
        until(lambda: courier.connected)


def test_a_certificate_that_ends_soon_is_an_alarm(
    new_mosquitto: NewMosquitto, authority: Authority, outbox: Outbox, tmp_path: Path
) -> None:
    server = authority.issue("broker", hosts=("127.0.0.1",), ends=timedelta(hours=3))
    broker = new_mosquitto(
        f"certfile {server.cert}", f"keyfile {server.key}", f"cafile {authority.cert}", scheme="mqtts"
    ).start()
    files = Installed(tmp_path, authority, authority.issue(DEVICE))
    with running(outbox, broker.url, broker=files.settings) as courier:
        until(lambda: courier.connected)
        ours, theirs = courier.alarms()
        assert (ours.code, theirs.code) == ("certificate-ends", "broker-certificate-ends")
        ends = dates_of(files.cert)
        assert ends is not None and f"{ends.ends:%Y-%m-%d %H:%M}" in ours.detail


def test_certificates_that_are_good_for_long_are_no_alarm(authority: Authority, tmp_path: Path) -> None:
    pair = authority.issue(DEVICE, ends=timedelta(days=30))
    renewal = Renewal(Broker("mqtts://h", ca=authority.cert, cert=pair.cert, key=pair.key), Dialer())
    renewal.connecting()
    renewal.connected(datetime.now(timezone.utc) + timedelta(days=30))
    assert renewal.alarms() == []


def test_a_change_counts_once_the_files_have_settled(authority: Authority) -> None:
    pair = authority.issue(DEVICE)
    now_s = [0.0]
    broker = Broker("mqtts://h", ca=authority.cert, cert=pair.cert, key=pair.key)
    renewal = Renewal(broker, Dialer(), settle_s=2.0, monotonic_s=lambda: now_s[0])
    renewal.connecting()

    def changed_after(seconds: float) -> bool:
        now_s[0] += seconds
        return renewal.changed()

    assert not changed_after(10)
    pair.key.write_text("new key, longer than before " * 30)
    assert not changed_after(1.5)  # seen now
    pair.cert.write_text("new certificate, longer than before " * 90)
    assert not changed_after(1.5)  # seen now: the pair is whole only now
    assert not changed_after(1.5)
    assert changed_after(1.5)


@pytest.mark.parametrize("year", [2026, 2049, 2050, 2120])
def test_dates_are_read_as_cryptography_reads_them(authority: Authority, year: int) -> None:
    now = datetime.now(timezone.utc)
    ends = datetime(year, 12, 31, 23, 59, 58, tzinfo=timezone.utc)
    pair = authority.issue("dated", begins=timedelta(days=-400), ends=ends - now)
    found = dates_of(pair.cert)
    assert found is not None and abs(found.ends - ends) < timedelta(seconds=2)
    assert abs(found.begins - (now - timedelta(days=400))) < timedelta(seconds=120)


@pytest.mark.parametrize("content", ["", "garbage", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate_has_no_dates(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.pem"
    path.write_text(content)
    assert dates_of(path) is None and dates_of(tmp_path / "missing.pem") is None
