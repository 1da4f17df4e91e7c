"""A configuration becomes a Config, or one line that says what to change: file, key, found, allowed; exit code 78."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import pytest

from edge_inspect.cli import run_command
from edge_inspect.config import broker_of, config_from_options, load_config
from edge_inspect.config_model import SYSTEM_CA, default_state_dir, host_name
from edge_inspect.errors import BadConfig, Usage

CAMERA = '[[camera]]\nname = "left"\nsource = "/dev/video0"\n'
TWO_LINES = (
    CAMERA + CAMERA.replace("left", "right") + '[[line]]\nname = "a"\ncamera = "left"\n{one}\n'
    '[[line]]\nname = "b"\ncamera = "right"\n{other}\n'
)  # fmt: skip
MQTTS = '[mqtt]\nurl = "mqtts://broker"\n'


class Bad(NamedTuple):
    toml: str | bytes
    says: tuple[str, ...]
    """Parts of the one line, in this order: key, found, allowed."""


BAD = {
    "empty": Bad("", ("empty file", "allowed: TOML")),
    "only blanks": Bad(" \n\t\n", ("empty file",)),
    "not toml": Bad("camera: [left]\n", ("not TOML", "line 1")),
    "yaml bomb": Bad("a: &a [x]\nb: &b [*a,*a]\n", ("not TOML",)),
    "nesting bomb": Bad("x = " + "[" * 5000 + "]" * 5000, ("nested",)),
    "dotted bomb": Bad(".".join("a" * 2000) + " = 1", ("parts",)),
    "not utf-8": Bad(b'[[camera]]\nname = "l\xe4ft"\n', ("line 2", "UTF-8")),
    "nul byte": Bad(b'[[camera]]\nname = "\0"\n', ("NUL", "offset 19")),
    "too large": Bad("#" * ((1 << 20) + 1), ("bytes", "allowed: at most 1048576")),
    "key twice": Bad(CAMERA + 'name = "again"\n', ("not TOML", "line 4")),
    "no camera": Bad('[device]\nsite = "a"\n', ("key `camera`", "required")),
    "camera list empty": Bad("camera = []\n", ("key `camera`", "found []", "allowed: 1-64 [[camera]] tables")),
    "camera not a list": Bad('[camera]\nname = "left"\nsource = "0"\n', ("key `camera`", "allowed: a valid array")),
    "unknown table": Bad(CAMERA + "[mqqt]\n", ("key `mqqt`", "unknown key", "camera, device", "did you mean `mqtt`?")),
    "unknown key": Bad(CAMERA + "exposure = 1\n", ("camera[0].exposure", "allowed:", "did you mean `exposure_us`?")),
    "unknown key with no neighbour": Bad(CAMERA + "zzz = 1\n", ("camera[0].zzz", "unknown key; allowed: exposure_us")),
    "name missing": Bad('[[camera]]\nsource = "0"\n', ("camera[0].name", "required")),
    "name is no topic level": Bad(
        '[[camera]]\nname = "left/right"\nsource = "0"\n', ("camera[0].name", '"left/right"', "allowed: 1-40 of")
    ),
    "name twice": Bad(CAMERA + CAMERA, ("camera[1].name", '"left" a second time', "allowed: a name of its own")),
    "line without adapter": Bad(CAMERA + "[[line]]\n", ("line[0]", "found no adapter", "[line.modbus_server]")),
    "line of an unknown camera": Bad(
        CAMERA + '[[line]]\ncamera = "lefd"\n[line.socket]\n', ("line[0].camera", '"lefd"', "allowed: one of left")
    ),
    "line that does not say whose": Bad(
        CAMERA + CAMERA.replace("left", "right") + "[[line]]\n[line.socket]\n",
        ("line[0].camera", "nothing, with several cameras", "one of left, right"),
    ),
    "two lines of one camera": Bad(
        CAMERA + '[[line]]\n[line.socket]\n[[line]]\nname = "b"\n[line.socket]\n',
        ("line[1].camera", "a second time", "one line for each camera"),
    ),
    "line name twice": Bad(
        CAMERA + "[[line]]\n[line.socket]\n[[line]]\n[line.socket]\n",
        ("line[1].name", '"line" a second time', "(and 1 more)"),
    ),
    "trigger of an adapter that is not there": Bad(
        CAMERA + '[[line]]\ntrigger = "gpio"\n[line.socket]\n',
        ("line[0].trigger", '"gpio"', "[line.gpio] beside it with trigger_line"),
    ),
    "gate at no distance": Bad(
        CAMERA + "[[line]]\n[line.socket]\n[line.reject]\n", ("line[0].reject", "travel_ms", "exactly one")
    ),
    "reject at rest without a wire": Bad(
        CAMERA + '[[line]]\nfail_safe = "reject"\n[line.modbus_server]\n',
        ("line[0].fail_safe", "without a reject output", "reject_line"),
    ),
    "gate by encoder without one": Bad(
        CAMERA + "[[line]]\n[line.gpio]\ntrigger_line = 1\nreject_line = 4\n[line.reject]\ntravel_counts = 9\n",
        ("line[0].reject.travel_counts", "without an encoder", "encoder_line, or travel_ms"),
    ),
    "gate wire without reject": Bad(
        CAMERA + "[[line]]\n[line.gpio]\nreject_line = 4\n", ("line[0].gpio.reject_line", "without [line.reject]")
    ),
    "gpio without a wire": Bad(CAMERA + "[[line]]\n[line.gpio]\n", ("line[0].gpio", "no wire", "ends in _line")),
    "registers of both sides in one place": Bad(
        CAMERA + '[[line]]\n[line.modbus_client]\nhost = "plc"\noutputs_at = 20\nring = 16\n',
        ("line[0].modbus_client.outputs_at", "found 20", "72 registers from inputs_at = 0", "72 or more"),
    ),
    "encoder where the time decides": Bad(
        CAMERA + "[[line]]\n[line.gpio]\nencoder_line = 1\nreject_line = 4\n[line.reject]\ntravel_ms = 900\n",
        ("line[0].gpio.encoder_line", "with travel_ms", "travel_counts, or no encoder_line"),
    ),
    "two lines on one port": Bad(
        TWO_LINES.format(one="[line.modbus_server]", other='[line.modbus_server]\nhost = "0.0.0.0"'),
        ("line[1].modbus_server.port", "1502", 'which line "a" has'),
    ),
    "two lines in the same registers": Bad(
        TWO_LINES.format(
            one='[line.modbus_client]\nhost = "plc"', other='[line.modbus_client]\nhost = "plc"\noutputs_at = 105'
        ),
        ("line[1].modbus_client.outputs_at", 'which line "a" has in the same PLC'),
    ),
    "two lines on one wire": Bad(
        TWO_LINES.format(one="[line.gpio]\nok_line = 4", other="[line.gpio]\ntrigger_line = 4"),
        ("line[1].gpio", "line 4 of /dev/gpiochip0", 'which line "a" has'),
    ),
    "two lines on one socket": Bad(
        TWO_LINES.format(one='[line.socket]\npath = "/run/a"', other='[line.socket]\npath = "/run/a"'),
        ("line[1].socket.path", '"/run/a", which line "a" has'),
    ),
    "topic with a wildcard": Bad(
        CAMERA + '[[line]]\n[line.mqtt]\nurl = "mqtt://b"\nanswer_topic = "a/+"\n',
        ("line[0].mqtt.answer_topic", '"a/+"', "allowed: an MQTT topic"),
    ),
    "a wire for two things": Bad(
        CAMERA + "[[line]]\n[line.gpio]\nok_line = 4\nng_line = 4\n", ("line[0].gpio", "line 4 for two things")
    ),
    "unknown key of an adapter": Bad(
        CAMERA + "[[line]]\n[line.modbus_server]\nportt = 502\n", ("line[0].modbus_server.portt", "did you mean `port`")
    ),
    "line over MQTT without a broker": Bad(
        CAMERA + "[[line]]\n[line.mqtt]\n", ("line[0].mqtt.url", "nothing, without [mqtt]")
    ),
    "source missing": Bad('[[camera]]\nname = "left"\n', ("camera[0].source", "required")),
    "source empty": Bad(
        '[[camera]]\nname = "left"\nsource = " "\n', ("camera[0].source", '" "', "allowed: /dev/video0")
    ),
    "source of unknown scheme": Bad(
        '[[camera]]\nname = "left"\nsource = "http://cam/stream"\n', ("camera[0].source", "http://cam", "rtsp://")
    ),
    "source without host": Bad(
        '[[camera]]\nname = "l"\nsource = "rtsp:///x"\n', ("camera[0].source", "rtsp://HOST/PATH")
    ),
    "source with impossible port": Bad(
        '[[camera]]\nname = "l"\nsource = "rtsp://cam:70000/x"\n', ("camera[0].source", "70000", "allowed:")
    ),
    "password in source": Bad(
        '[[camera]]\nname = "l"\nsource = "rtsp://u:secret@cam/x"\n',
        ("camera[0].source", "camera[0].password_file instead"),
    ),
    "number as text": Bad(CAMERA + 'width = "1920"\nheight = 1080\n', ("camera[0].width", '"1920"', "a valid integer")),
    "number with unit": Bad(CAMERA + 'exposure_us = "10ms"\n', ("camera[0].exposure_us", '"10ms"', "a valid integer")),
    "boolean as number": Bad(CAMERA + "gain = true\n", ("camera[0].gain", "true", "a valid integer")),
    "fraction as whole number": Bad(CAMERA + "slots = 4.5\n", ("camera[0].slots", "4.5", "integer")),
    "negative": Bad(CAMERA + "exposure_us = -1\n", ("camera[0].exposure_us", "-1", "greater than or equal to 1")),
    "zero frames a second": Bad(CAMERA + "fps = 0.0\n", ("camera[0].fps", "0.0", "greater than 0")),
    "not a number": Bad(CAMERA + "fps = nan\n", ("camera[0].fps", "nan", "finite")),
    "endless": Bad(CAMERA + "fps = inf\n", ("camera[0].fps", "inf", "finite")),
    "huge": Bad(CAMERA + "slots = 1000000000000\n", ("camera[0].slots", "1000000000000", "less than or equal to 64")),
    "width without height": Bad(CAMERA + "width = 1920\n", ("camera[0].width", "no height beside it", "allowed: both")),
    "unknown policy": Bad(
        CAMERA + 'policy = "newst"\n',
        ("camera[0].policy", '"newst"', "'newest', 'every' or 'trigger'", "did you mean 'newest'?"),
    ),
    "pixel format in small letters": Bad(CAMERA + 'pixel_format = "mjpg"\n', ("camera[0].pixel_format", "'MJPG'")),
    "exposure of a network camera": Bad(
        '[[camera]]\nname = "l"\nsource = "rtsp://cam/x"\ngain = 3\n',
        ("camera[0].gain", "rtsp://cam/x", "only with a V4L2"),
    ),
    "user name for a local camera": Bad(CAMERA + 'username = "u"\n', ("camera[0].username", "only with rtsp://")),
    "recipe missing": Bad(CAMERA + 'recipe = "gone.toml"\n', ("camera[0].recipe", "gone.toml", "which is not there")),
    "recipe is a folder": Bad(CAMERA + 'recipe = "/"\n', ("camera[0].recipe", "no file", "a file that can be read")),
    "recipe not shipped": Bad(
        CAMERA + 'recipe = "metl"\n', ("camera[0].recipe", '"metl"', "allowed:", "path to a .toml")
    ),
    "site with a wildcard": Bad(CAMERA + '[device]\nsite = "a/#"\n', ("device.site", '"a/#"', "allowed: 1-40 of")),
    "device empty": Bad(CAMERA + '[device]\ndevice = ""\n', ("device.device", '""', "allowed: 1-40 of")),
    "provider unknown": Bad(
        CAMERA + '[model]\nprovider = "gpu"\n', ("model.provider", '"gpu"', "'cuda', 'tensorrt' or 'openvino'")
    ),
    "shape no multiple of 32": Bad(
        CAMERA + "[model]\nshape = [384, 600]\n", ("model.shape", "[384, 600]", "multiple of 32")
    ),
    "shape of three": Bad(CAMERA + "[model]\nshape = [1, 3, 640]\n", ("model.shape", "at most 2 items")),
    "threads negative": Bad(CAMERA + "[model]\nthreads = -2\n", ("model.threads", "-2", "greater than or equal to 0")),
    "broker of unknown scheme": Bad(
        CAMERA + '[mqtt]\nurl = "tcp://b"\n', ("mqtt.url", "tcp://b", "mqtts://HOST[:PORT]")
    ),
    "broker without scheme": Bad(CAMERA + '[mqtt]\nurl = "broker:1883"\n', ("mqtt.url", "allowed: mqtt://HOST[:PORT]")),
    "broker with impossible port": Bad(CAMERA + '[mqtt]\nurl = "mqtt://b:99999"\n', ("mqtt.url", "99999", "1-65535")),
    "broker with a path": Bad(CAMERA + '[mqtt]\nurl = "mqtt://b/inspect"\n', ("mqtt.url", "allowed: mqtt://HOST")),
    "password in a line's broker url": Bad(
        CAMERA + '[[line]]\nname = "gate"\n[line.mqtt]\nurl = "mqtt://u:secret@b"\n',
        ("line[0].mqtt.url", "a user name or password", "password_file"),
    ),
    "password in broker url": Bad(
        CAMERA + '[mqtt]\nurl = "mqtt://u:secret@b"\n',
        ("mqtt.url", "a user name or password", "mqtt.password_file instead"),
    ),
    "mqtt table without url": Bad(CAMERA + "[mqtt]\nprotocol = 5\n", ("mqtt.url", "required")),
    "unknown protocol": Bad(CAMERA + '[mqtt]\nurl = "mqtt://b"\nprotocol = 3\n', ("mqtt.protocol", "3", "5 or 311")),
    "encryption without ca": Bad(CAMERA + MQTTS, ("mqtt.ca", "nothing, with mqtts", "a CA file")),
    "ca without encryption": Bad(
        CAMERA + '[mqtt]\nurl = "mqtt://b"\nca = "ca.pem"\n', ("mqtt.ca", "mqtt://b", "only with mqtts://")
    ),
    "ca file missing": Bad(CAMERA + MQTTS + 'ca = "ca.pem"\n', ("mqtt.ca", "ca.pem", "which is not there")),
    "certificate without key": Bad(
        CAMERA + MQTTS + 'ca = "system"\ncert = "c.pem"\n', ("mqtt.cert", "no key beside it", "both cert and key")
    ),
    "credential outside systemd": Bad(
        CAMERA + '[mqtt]\nurl = "mqtt://b"\nusername = "u"\npassword_file = "credential:mqtt.password"\n',
        ("mqtt.password_file", "credential:mqtt.password", "CREDENTIALS_DIRECTORY"),
    ),
    "password file without user": Bad(
        CAMERA + '[mqtt]\nurl = "mqtt://b"\npassword_file = "p"\n', ("mqtt.password_file", "no username", "both")
    ),
    "outbox too small": Bad(CAMERA + "[outbox]\ncap_bytes = 1000\n", ("outbox.cap_bytes", "1000", "1048576")),
    "size with unit": Bad(CAMERA + '[outbox]\ncap_bytes = "1GB"\n', ("outbox.cap_bytes", '"1GB"', "a valid integer")),
    "log level in capitals": Bad(CAMERA + '[log]\nlevel = "INFO"\n', ("log.level", '"INFO"', "'info'")),
    "state dir is a number": Bad("state_dir = 7\n" + CAMERA, ("state_dir", "7")),
}


@pytest.fixture(autouse=True)
def no_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CREDENTIALS_DIRECTORY", "STATE_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)


def write(folder: Path, toml: str | bytes) -> Path:
    path = folder / "line.toml"
    path.write_bytes(toml if isinstance(toml, bytes) else toml.encode())
    path.chmod(0o644)
    return path


@pytest.mark.parametrize("case", BAD)
def test_bad_config_is_one_line_and_exit_code_78(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = BAD[case]
    path = write(tmp_path, bad.toml)
    assert run_command(["config", "check", str(path)]) == 78
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"edge-inspect: {path}: ")
    assert err.count("\n") == 1, err
    assert err.endswith("\n")
    assert "secret" not in err
    at = 0
    for words in bad.says:
        at = err.find(words, at)
        assert at >= 0, f"{words!r} is missing or out of order in: {err}"


@pytest.mark.parametrize("what", ["missing", "folder", "pipe", "unreadable", "writable by others"])
def test_bad_file_is_one_line_and_exit_code_78(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "line.toml"
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "unreadable":
        path.symlink_to(path)
    elif what == "writable by others":
        write(tmp_path, CAMERA).chmod(0o666)
    assert run_command(["config", "check", str(path)]) == 78
    err = capsys.readouterr().err
    assert err.startswith(f"edge-inspect: {path}: ")
    assert err.count("\n") == 1
    if what == "writable by others":
        assert "mode 0666" in err
        assert "chmod o-w" in err


def test_nearly_right_file_name_is_suggested(tmp_path: Path) -> None:
    path = write(tmp_path, CAMERA)
    with pytest.raises(BadConfig, match=r"no such file; did you mean .*line\.toml\?"):
        load_config(path.with_name("lines.toml"))


def test_one_camera_is_enough_and_the_rest_has_defaults(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, CAMERA), {"STATE_DIRECTORY": "/var/lib/edge-inspect:/x"})
    assert config.state_dir == Path("/var/lib/edge-inspect")
    assert config.device.device == host_name()
    assert config.mqtt is None
    assert (config.model.provider, config.model.threads) == ("auto", 0)
    assert config.outbox.cap_bytes == 1 << 30
    camera = config.camera[0]
    assert (camera.policy, camera.slots, camera.recipe) == (None, 4, None)
    assert {name for name, value in camera.options().items() if value is not None} == set()


FULL = """
state_dir = "state"
[device]
site = "plant1"
line = "press-4"
device = "edge-0017"
[[camera]]
name = "left"
source = "/dev/v4l/by-path/pci-0000:00:14.0-usb-0:1:1.0-video-index0"
width = 1920
height = 1080
fps = 30
pixel_format = "MJPG"
exposure_us = 2000
gain = 16
white_balance_k = 5000
policy = "trigger"
slots = 6
recipe = "metal.toml"
[[camera]]
name = "right"
source = "rtsp://10.20.0.7/stream"
username = "in spect"
password_file = "credential:camera.password"
[[camera]]
name = "clip"
source = "clips/belt.mp4"
policy = "every"
[model]
provider = "openvino"
threads = 2
shape = [384, 640]
precision = "fp32"
[mqtt]
url = "mqtts://broker:8883"
protocol = 311
ca = "ca.pem"
cert = "device.pem"
key = "credential:mqtt.key"
username = "u"
password_file = "/pw"
ack = "ingester"
keepalive_s = 30
[outbox]
cap_bytes = 2147483648
[log]
level = "warning"
format = "text"
"""


def test_every_key_is_understood_and_every_path_becomes_absolute(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "mqtt.key").write_text("k")
    (credentials / "camera.password").write_text("p@ss/w\n")
    for name in ("ca.pem", "device.pem", "metal.toml", "pw"):
        (tmp_path / name).write_text("mqtt-secret\n")
    toml = FULL.replace('"/pw"', f'"{tmp_path / "pw"}"')
    config = load_config(write(tmp_path, toml), {"CREDENTIALS_DIRECTORY": str(credentials)})
    left, right, clip = config.camera
    assert left.recipe == tmp_path / "metal.toml"
    assert left.options()["exposure_us"] == 2000
    assert right.address() == "rtsp://in%20spect:p%40ss%2Fw@10.20.0.7/stream"
    assert "p@ss" not in repr(config)
    assert clip.source == str(tmp_path / "clips/belt.mp4")
    assert config.state_dir == tmp_path / "state"
    assert config.model.shape == (384, 640)
    assert config.mqtt is not None
    assert (config.mqtt.ca, config.mqtt.key) == (tmp_path / "ca.pem", credentials / "mqtt.key")
    broker = broker_of(config.mqtt)
    assert (broker.host, broker.port, broker.tls, broker.protocol) == ("broker", 8883, True, 311)
    assert broker.password_file == tmp_path / "pw"


def test_new_password_is_used_without_a_restart(tmp_path: Path) -> None:
    secret = tmp_path / "pw"
    secret.write_text("old\n")
    toml = '[[camera]]\nname = "a"\nsource = "rtsp://cam/x"\nusername = "u"\npassword_file = "pw"\n'
    camera = load_config(write(tmp_path, toml)).camera[0]
    assert camera.address() == "rtsp://u:old@cam/x"
    secret.write_text("new\n")
    assert camera.address() == "rtsp://u:new@cam/x"
    secret.unlink()
    with pytest.raises(BadConfig, match="cannot be read: No such file"):
        camera.address()


def test_folder_beside_the_config_wins_over_a_shipped_model(tmp_path: Path) -> None:
    (tmp_path / "metal-plate").mkdir()
    toml = CAMERA + '[model]\ndir = "metal-plate"\n'
    assert load_config(write(tmp_path, toml)).model.dir == str(tmp_path / "metal-plate")
    (tmp_path / "metal-plate").rmdir()
    assert load_config(write(tmp_path, toml)).model.dir == "metal-plate"


def test_command_line_alone_makes_a_config(tmp_path: Path) -> None:
    config = config_from_options(camera="/dev/video0", mqtt="mqtts://b", state=tmp_path, threads=2, provider="cpu")
    assert config.camera[0].source == "/dev/video0"
    assert config.mqtt is not None
    assert config.mqtt.ca == SYSTEM_CA
    assert (config.state_dir, config.model.threads, config.model.provider) == (tmp_path, 2, "cpu")


def test_command_line_wins_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("")
    base = load_config(write(tmp_path, CAMERA + '[mqtt]\nurl = "mqtt://b"\nkeepalive_s = 30\n[model]\nthreads = 4\n'))
    config = config_from_options(base, mqtt="mqtt://other", recipe=tmp_path / "r.toml")
    assert config.mqtt is not None
    assert (config.mqtt.url, config.mqtt.keepalive_s, config.model.threads) == ("mqtt://other", 30, 4)
    assert config.camera[0].source == "/dev/video0"
    assert config.camera[0].recipe == tmp_path / "r.toml"
    assert config_from_options(base) == base


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "no camera"),
        ({"camera": "ftp://x"}, '--camera: found "ftp://x", allowed: /dev/video0'),
        ({"camera": "0", "mqtt": "broker"}, '--mqtt: found "broker", allowed: mqtt://HOST'),
        ({"camera": "0", "provider": "gpu"}, '--provider: found "gpu"'),
        ({"camera": "0", "threads": -1}, "--threads: found -1"),
    ],
)
def test_bad_command_line_is_a_usage_error(options: dict[str, str], says: str) -> None:
    with pytest.raises(Usage, match=says):
        config_from_options(**options)  # type: ignore[arg-type]


def test_state_dir_without_systemd_is_below_home() -> None:
    assert default_state_dir({"XDG_STATE_HOME": "/s"}) == Path("/s/edge-inspect")
    assert default_state_dir({}) == Path.home() / ".local/state/edge-inspect"


@pytest.mark.parametrize("command", ["run", "doctor"])
def test_camera_and_config_at_once_are_refused(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "edge.toml"
    file.write_text(CAMERA)
    assert run_command([command, "--config", str(file), "--camera", "sim"]) == 64
    assert capsys.readouterr().err == "edge-inspect: --camera and --config: one or the other\n"
