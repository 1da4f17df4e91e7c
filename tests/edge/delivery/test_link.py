"""Every way a connection can fail has its own code and line; where TLS was asked for, nothing travels in the clear."""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from edge_inspect.delivery.broker import Broker
from edge_inspect.delivery.link import Link
from edge_inspect.delivery.link_errors import LinkLost
from edge_inspect.delivery.outbox import Outbox
from edge_inspect.delivery.paho_client import packet_bytes
from edge_inspect.errors import BadConfig
from tests.certificates import Authority
from tests.edge.delivery.couriers import running, until
from tests.edge.delivery.reports import DEVICE, TOPICS, report
from tests.mosquitto import Mosquitto, free_port

NewMosquitto = Callable[..., Mosquitto]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture(autouse=True)
def no_leftover_sockets() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before


def failure(broker: Broker, step_s: float = 0.0) -> LinkLost:
    """How connecting to `broker` fails; with `step_s`, how the link ends after it was accepted."""
    with closing(Link(broker, DEVICE)) as link, pytest.raises(LinkLost) as lost:
        link.connect()
        while step_s:
            link.step(step_s)
    text = str(lost.value)
    assert "\n" not in text and broker.where in text and text.endswith(f"[{lost.value.code}]")
    return lost.value


def tls_lines(server_cert: Path, server_key: Path, ca: Path, *more: str) -> tuple[str, ...]:
    return (f"certfile {server_cert}", f"keyfile {server_key}", f"cafile {ca}", *more)


def test_reports_travel_over_tls_with_a_client_certificate(
    new_mosquitto: NewMosquitto, authority: Authority, tmp_path: Path
) -> None:
    server, device = authority.issue("broker", hosts=("127.0.0.1",)), authority.issue(DEVICE)
    broker = new_mosquitto(
        *tls_lines(
            server.cert, server.key, authority.cert, "require_certificate true", "use_identity_as_username true"
        ),
        scheme="mqtts",
        anonymous=False,
    ).start()
    settings = {"ca": authority.cert, "cert": device.cert, "key": device.key}
    with closing(Outbox(tmp_path / "outbox.sqlite3", device=DEVICE)) as outbox:
        outbox.put_many([report(1), report(2)])
        with running(outbox, broker.url, broker=settings) as courier:
            until(lambda: outbox.stats().depth == 0)
        assert courier.reports_sent == 2
    assert f"as {DEVICE} (p5" in broker.log() and f"u'{DEVICE}'" in broker.log()


@pytest.mark.parametrize(
    ("hosts", "begins_h", "ends_h", "code"),
    [
        (("127.0.0.2", "broker.plant.example"), -1, 4, "wrong-host"),
        ((), -1, 4, "wrong-host"),
        (("127.0.0.1",), -4, -1, "certificate-expired"),
        (("127.0.0.1",), 1, 4, "certificate-not-yet-valid"),
    ],
)
def test_a_wrong_broker_certificate_has_its_own_error_and_nothing_was_sent(
    new_mosquitto: NewMosquitto, authority: Authority, hosts: tuple[str, ...], begins_h: int, ends_h: int, code: str
) -> None:
    server = authority.issue("broker", hosts=hosts, begins=timedelta(hours=begins_h), ends=timedelta(hours=ends_h))
    broker = new_mosquitto(*tls_lines(server.cert, server.key, authority.cert), scheme="mqtts").start()
    assert failure(Broker(broker.url, ca=authority.cert)).code == code
    assert f"as {DEVICE}" not in broker.log()


def test_another_ca_is_not_trusted(new_mosquitto: NewMosquitto, authority: Authority, tmp_path: Path) -> None:
    server = authority.issue("broker", hosts=("127.0.0.1",))
    broker = new_mosquitto(*tls_lines(server.cert, server.key, authority.cert), scheme="mqtts").start()
    other = Authority(tmp_path / "other", "Other CA")
    assert failure(Broker(broker.url, ca=other.cert)).code == "untrusted-ca"
    assert failure(Broker(broker.url, ca="system")).code == "untrusted-ca"
    assert failure(Broker(broker.url)).code == "untrusted-ca"
    assert f"as {DEVICE}" not in broker.log()


def test_a_client_certificate_that_is_missing_foreign_or_expired_is_named(
    new_mosquitto: NewMosquitto, authority: Authority, tmp_path: Path
) -> None:
    server = authority.issue("broker", hosts=("127.0.0.1",))
    lines = tls_lines(server.cert, server.key, authority.cert, "require_certificate true")
    broker = new_mosquitto(*lines, scheme="mqtts").start()
    namesake = Authority(tmp_path / "namesake").issue(DEVICE)
    foreign = Authority(tmp_path / "other", "Other CA").issue(DEVICE)
    expired = authority.issue("old", begins=timedelta(hours=-4), ends=timedelta(hours=-1))
    early = authority.issue("early", begins=timedelta(hours=1), ends=timedelta(hours=4))
    assert failure(Broker(broker.url, ca=authority.cert)).code == "client-certificate-missing"
    for pair, code in (
        (namesake, "refused"),  # the right name on the CA, another key
        (foreign, "unknown-ca"),
        (expired, "expired"),
        (early, "not-yet-valid"),
    ):
        lost = failure(Broker(broker.url, ca=authority.cert, cert=pair.cert, key=pair.key))
        assert lost.code == f"client-certificate-{code}"
    assert f"as {DEVICE}" not in broker.log()


def test_a_revoked_client_certificate_is_named(new_mosquitto: NewMosquitto, authority: Authority) -> None:
    server, device, other = (
        authority.issue("broker", hosts=("127.0.0.1",)),
        authority.issue(DEVICE),
        authority.issue("b"),
    )
    lines = tls_lines(
        server.cert, server.key, authority.cert, "require_certificate true", f"crlfile {authority.revoke(device)}"
    )
    broker = new_mosquitto(*lines, scheme="mqtts").start()
    settings = {"cert": device.cert, "key": device.key}
    assert failure(Broker(broker.url, ca=authority.cert, **settings)).code == "client-certificate-revoked"
    with closing(Link(Broker(broker.url, ca=authority.cert, cert=other.cert, key=other.key), "b")) as link:
        link.connect()
        link.say_goodbye()


@pytest.mark.parametrize(
    ("revoked", "ends_h", "code"), [(True, 4, "certificate-revoked"), (False, -1, "crl-expired"), (False, 4, "")]
)
def test_a_brokers_certificate_on_the_revocation_list_beside_our_ca_is_refused(
    new_mosquitto: NewMosquitto, authority: Authority, tmp_path: Path, revoked: bool, ends_h: int, code: str
) -> None:
    server, other = authority.issue("broker", hosts=("127.0.0.1",)), authority.issue("other")
    crl = authority.revoke(server if revoked else other, ends=timedelta(hours=ends_h))
    trusted = tmp_path / "ca-and-crl.pem"
    trusted.write_bytes(authority.cert.read_bytes() + crl.read_bytes())
    broker = new_mosquitto(*tls_lines(server.cert, server.key, authority.cert), scheme="mqtts").start()
    if code:
        assert failure(Broker(broker.url, ca=trusted)).code == code
        return
    with closing(Link(Broker(broker.url, ca=trusted), DEVICE)) as link:
        link.connect()
        link.say_goodbye()


def test_a_renewed_certificate_is_used_at_the_next_connection(
    new_mosquitto: NewMosquitto, authority: Authority, tmp_path: Path
) -> None:
    server = authority.issue("broker", hosts=("127.0.0.1",))
    lines = tls_lines(server.cert, server.key, authority.cert, "require_certificate true")
    broker = new_mosquitto(*lines, scheme="mqtts").start()
    old = authority.issue("old", begins=timedelta(hours=-4), ends=timedelta(hours=-1))
    cert, key = tmp_path / "device.pem", tmp_path / "device.key"
    cert.write_bytes(old.cert.read_bytes())
    key.write_bytes(old.key.read_bytes())
    settings = {"ca": authority.cert, "cert": cert, "key": key}
    with closing(Outbox(tmp_path / "outbox.sqlite3", device=DEVICE)) as outbox:
        with running(outbox, broker.url, broker=settings) as courier:
            until(lambda: courier.failures.get("client-certificate-expired", 0) > 0)
            new = authority.issue(DEVICE)
            key.write_bytes(new.key.read_bytes())
            cert.write_bytes(new.cert.read_bytes())
            until(lambda: courier.connected)


@pytest.mark.parametrize("broken", ["ca", "cert", "key"])
@pytest.mark.parametrize("how", ["missing", "garbage"])
def test_a_file_of_ours_that_cannot_be_used_is_named(authority: Authority, broken: str, how: str) -> None:
    pair = authority.issue(DEVICE)
    files = {"ca": authority.cert, "cert": pair.cert, "key": pair.key}
    if how == "missing":
        files[broken].unlink()
    else:
        files[broken].write_text("garbage")
    with pytest.raises(LinkLost) as lost, closing(Link(Broker("mqtts://127.0.0.1:1", **files), DEVICE)) as link:
        link.connect()
    assert lost.value.code == "credentials" and str(files[broken]) in str(lost.value)


def test_tls_to_a_plain_port_and_plain_text_to_a_tls_port(
    new_mosquitto: NewMosquitto, mosquitto: Mosquitto, authority: Authority
) -> None:
    server = authority.issue("broker", hosts=("127.0.0.1",))
    secure = new_mosquitto(*tls_lines(server.cert, server.key, authority.cert), scheme="mqtts").start()
    tls_to_plain = Broker(mosquitto.url.replace("mqtt:", "mqtts:"), ca=authority.cert)
    assert failure(tls_to_plain).code == "not-tls"
    assert failure(Broker(secure.url.replace("mqtts:", "mqtt:"))).code == "closed-before-answer"


@pytest.mark.parametrize("protocol", [5, 311])
def test_wrong_password_is_refused_auth_and_the_right_one_gets_in(
    new_mosquitto: NewMosquitto, tmp_path: Path, protocol: int
) -> None:
    users, secret = tmp_path / "users", tmp_path / "secret"
    users.touch(mode=0o600)
    subprocess.run(
        ["mosquitto_passwd", "-b", str(users), "device", "right"], check=True, timeout=20, capture_output=True
    )
    broker = new_mosquitto(f"password_file {users}", anonymous=False).start()
    assert failure(Broker(broker.url, protocol=protocol)).code == "refused-auth"
    secret.write_text("wrong\n")
    settings = Broker(broker.url, protocol=protocol, username="device", password_file=secret)
    assert failure(settings).code == "refused-auth"
    secret.write_text("right\n")
    with closing(Link(settings, DEVICE)) as link:
        link.connect()
        link.say_goodbye()
    secret.unlink()
    with pytest.raises(LinkLost, match=r"secret: cannot be read: No such file.*\[credentials\]"):
        with closing(Link(settings, DEVICE)) as link:
            link.connect()


def test_a_publish_that_the_broker_does_not_allow_is_refused_and_kept(
    new_mosquitto: NewMosquitto, tmp_path: Path
) -> None:
    rights = tmp_path / "acl"
    rights.write_text(f"topic write {TOPICS.state}\n")
    broker = new_mosquitto(f"acl_file {rights}").start()
    with closing(Outbox(tmp_path / "outbox.sqlite3", device=DEVICE)) as outbox:
        outbox.put(report(1))
        with running(outbox, broker.url) as courier:
            until(lambda: courier.failures.get("refused-publish", 0) >= 1)
        assert outbox.stats().depth == 1


def test_a_name_that_does_not_resolve_and_a_port_nobody_listens_on() -> None:
    assert failure(Broker("mqtt://no-such-host.invalid")).code == "name-resolution"
    assert failure(Broker(f"mqtt://127.0.0.1:{free_port()}")).code == "refused"


@contextmanager
def scripted(*answers: bytes, hang_up: bool = True) -> Iterator[str]:
    """A broker that says `answers` after the CONNECT packet, then hangs up or stays silent."""
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            peer, _ = server.accept()
            with peer:
                peer.settimeout(10)
                peer.recv(4096)
                for answer in answers:
                    peer.sendall(answer)
                if not hang_up:
                    done.wait(20)

        thread = threading.Thread(target=serve, name="scripted")
        thread.start()
        try:
            yield f"mqtt://127.0.0.1:{server.getsockname()[1]}"
        finally:
            done.set()
            thread.join(timeout=20)


CONNACK = bytes.fromhex("2003000000")


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        ((), "closed-before-answer"),
        ((b"HTTP/1.1 400 Bad Request\r\n\r\n",), "closed-before-answer"),
        ((bytes.fromhex("2003008400"),), "refused-protocol"),
        ((bytes.fromhex("2003008500"),), "refused-client-id"),
        ((bytes.fromhex("2003008600"),), "refused-auth"),
        ((bytes.fromhex("2003008700"),), "refused-auth"),
        ((bytes.fromhex("2003008800"),), "refused-by-broker"),
        ((bytes.fromhex("2003008900"),), "broker-busy"),
        ((bytes.fromhex("2003008a00"),), "refused-auth"),
        ((bytes.fromhex("2003009700"),), "refused-quota"),
        ((bytes.fromhex("2003009f00"),), "refused-quota"),
        ((CONNACK, bytes.fromhex("e00187")), "refused-auth"),
        ((CONNACK, bytes.fromhex("e00196")), "refused-quota"),
        ((CONNACK, bytes.fromhex("e00197")), "refused-quota"),
        ((CONNACK, bytes.fromhex("e00198")), "refused-by-broker"),
        ((CONNACK,), "closed"),
        ((CONNACK, bytes.fromhex("e0018e")), "taken-over"),
        ((CONNACK, bytes.fromhex("e0018b")), "broker-stopping"),
        ((CONNACK, bytes.fromhex("e0018d")), "silent"),
        ((CONNACK, bytes.fromhex("e00195")), "packet-too-large"),
        ((CONNACK, bytes.fromhex("e00182")), "protocol-error"),
    ],
)
def test_every_answer_of_a_broker_has_its_own_code(answers: tuple[bytes, ...], code: str) -> None:
    with scripted(*answers) as url:
        assert failure(Broker(url), step_s=0.5).code == code


def test_a_broker_that_takes_the_connection_and_says_nothing_is_given_up() -> None:
    with scripted(hang_up=False) as url:
        assert failure(Broker(url, connect_timeout_s=0.3)).code == "timeout"


def test_a_tls_peer_that_says_nothing_is_given_up(authority: Authority) -> None:
    with scripted(hang_up=False) as url:
        broker = Broker(url.replace("mqtt:", "mqtts:"), ca=authority.cert, connect_timeout_s=0.3)
        assert failure(broker).code == "timeout"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "broker",
        "http://broker",
        "mqtt://",
        "mqtt:///path",
        "mqtt://broker:0",
        "mqtt://broker:70000",
        "mqtt://broker:port",
        "mqtt://broker/path",
        "mqtt://broker?x=1",
        "mqtt://[::1",
        "mqtt://user:secret@broker",
    ],
)
def test_a_wrong_url_is_a_bad_config_that_shows_no_password(url: str) -> None:
    with pytest.raises(BadConfig) as refusal:
        Broker(url)
    assert "secret" not in str(refusal.value) and "\n" not in str(refusal.value)


def test_certificates_beside_a_plain_url_are_a_mistake_and_come_in_pairs(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="plain text"):
        Broker("mqtt://broker", ca=tmp_path / "ca.pem")
    with pytest.raises(BadConfig, match="come together"):
        Broker("mqtts://broker", ca="system", cert=tmp_path / "cert.pem")
    assert Broker("mqtts://broker").port == 8883 and Broker("mqtt://[::1]").host == "::1"


@pytest.mark.parametrize(
    ("payload_bytes", "head"), [(0, 6), (123, 6), (124, 7), (16_379, 7), (16_380, 8), (2_097_147, 8), (2_097_148, 9)]
)
def test_packet_size_counts_the_variable_length_field(payload_bytes: int, head: int) -> None:
    assert packet_bytes("ab", b"x" * payload_bytes, 0, protocol=311) == payload_bytes + head
    assert packet_bytes("ab", b"x" * 10, 1, protocol=5) == 10 + 6 + 2 + 1
