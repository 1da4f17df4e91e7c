"""Settings are one model, or one line that says what to change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cloud_inspect.errors import BadSettings, BrokerGone
from cloud_inspect.settings import Settings, load_settings

NOTHING: Mapping[str, str] = {}


def test_options_come_before_variables_before_the_file_before_defaults(tmp_path: Path) -> None:
    path = tmp_path / "cloud.toml"
    path.write_text('[mqtt]\nurl = "mqtts://broker"\nca = "system"\nkeepalive_s = 7\n[ingest]\nname = "one"\n')
    environ = {
        "CLOUD_INSPECT_MQTT_KEEPALIVE_S": "9",
        "CLOUD_INSPECT_DATABASE_TIMEOUT_S": "2.5",
        "CLOUD_INSPECT_DATABASE_URL": "sqlite:///a",
    }
    settings = load_settings(path, {"database": {"url": "sqlite:///b"}, "ingest": {"in_flight": None}}, environ)
    assert (settings.mqtt.host, settings.mqtt.port, settings.mqtt.keepalive_s) == ("broker", 8883, 9)
    assert (settings.database.url, settings.database.timeout_s) == ("sqlite:///b", 2.5)
    assert (settings.ingest.name, settings.ingest.in_flight) == ("one", 200)
    assert load_settings(None, None, NOTHING).mqtt == Settings().mqtt


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[mqtt]\nulr = 1", "{path}: key `mqtt.ulr`: unknown key; allowed: ca, cert"),
        ("[mqtt]\nulr = 1", "did you mean `url`?"),
        ("[broker]\nurl = 1", "{path}: key `broker`: unknown key; allowed: database, ingest, mqtt"),
        ('[mqtt]\nurl = "http://x"', 'found "http://x", allowed: mqtt://HOST'),
        ('[mqtt]\nurl = "mqtt://me:secret@x"', "user name and password do not belong in the URL"),
        ('[mqtt]\nurl = "mqtt://x:99999"', "key `mqtt.url`: found"),
        ('[mqtt]\nurl = "mqtt://x"\nca = "system"', "beside certificates, allowed: mqtts://"),
        ('[mqtt]\nurl = "mqtts://x"\ncert = "a.pem"', "found one of cert and key, allowed: both or none"),
        ('[database]\nurl = "mysql://me:secret@x/y"', "allowed: sqlite:///FILE or postgresql://"),
        ("[ingest]\nin_flight = 0", "key `ingest.in_flight`: found 0, allowed: greater than or equal to 1"),
        ('[ingest]\nin_flight = "3"', 'key `ingest.in_flight`: found "3", allowed: a valid integer'),
        ('[ingest]\nname = "a b"', "key `ingest.name`: found"),
        ("[ingest]\ngap_wait_s = nan", "key `ingest.gap_wait_s`"),
        ("mqtt = 3", "key `mqtt`: found no table"),
        ("[mqtt\n", "not TOML"),
        ("a = " + "[" * 20_000, "not TOML"),
    ],
)
def test_a_mistake_is_one_line_with_file_key_found_and_allowed(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "cloud.toml"
    path.write_text(text)
    with pytest.raises(BadSettings) as refused:
        load_settings(path, None, NOTHING)
    line = str(refused.value)
    assert said.format(path=path) in line and line.startswith(str(path)) and "\n" not in line and "secret" not in line
    assert refused.value.exit_code == 78


def test_a_mistake_in_a_variable_or_an_option_names_it() -> None:
    with pytest.raises(BadSettings, match=r"^CLOUD_INSPECT_MQTT_KEEPALIVE_S: key `mqtt.keepalive_s`: found \"soon\""):
        load_settings(None, None, {"CLOUD_INSPECT_MQTT_KEEPALIVE_S": "soon"})
    options: dict[str, dict[str, Any]] = {"ingest": {"name": "a b"}}
    with pytest.raises(BadSettings, match=r"^--name: key `ingest.name`"):
        load_settings(None, options, NOTHING)
    with pytest.raises(BadSettings, match=r"^--db: key `database.url`: found \"foo://x\""):
        load_settings(None, {"database": {"url": "foo://x"}}, NOTHING)
    with pytest.raises(BadSettings, match=r"^--mqtt: key `mqtt.url`: found \"foo\""):
        load_settings(None, {"mqtt": {"url": "foo"}}, NOTHING)
    with pytest.raises(BadSettings, match=r"^--cert: key `mqtt.cert`"):
        load_settings(None, {"mqtt": {"url": "mqtts://x", "cert": "a.pem"}}, NOTHING)


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"\xff" * 2_000_000])
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "cloud.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadSettings) as refused:
        load_settings(path, None, NOTHING)
    assert str(refused.value).startswith(f"{path}: ") and "\n" not in str(refused.value)


def test_credentials_that_are_not_there_are_the_worlds_trouble_not_a_crash(tmp_path: Path) -> None:
    options = {"mqtt": {"url": "mqtts://x", "ca": str(tmp_path / "no-ca"), "password_file": tmp_path / "none"}}
    settings = load_settings(None, options, NOTHING)
    with pytest.raises(BrokerGone):
        settings.mqtt.tls()
    with pytest.raises(BrokerGone, match="cannot be read"):
        settings.mqtt.password()
