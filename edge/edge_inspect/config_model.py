"""The configuration file as frozen models: every table, key, default and limit of it, and the words that explain them.

1. A value is taken as written ("3" is no number, 1 is not true) and an unknown key is an error.
2. No secret stands in a model: only the name of the file that holds it, which is read when a connection is made.
3. docs/configuration.md and `edge-inspect config init` are generated from here; a description is documentation.

What two keys say together, and where relative paths lead, is decided in `config.py`.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlsplit, urlunsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from edge_inspect.errors import BadConfig
from edge_wire.topics import checked_name

SYSTEM_CA = "system"
MQTT_ALLOWED = "mqtt://HOST[:PORT] or mqtts://HOST[:PORT]"
SOURCE_ALLOWED = (
    "/dev/video0 or a number, rtsp://HOST/PATH, rtsps://HOST/PATH, sim or sim:seed=3, gst:PIPELINE, a folder, a file"
)


def _name(text: str) -> str:
    try:
        return checked_name("it", text)
    except ValueError as err:
        raise ValueError("allowed: 1-40 of A-Z a-z 0-9 . _ - beginning with a letter or digit") from err


def _broker_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as err:
        raise ValueError(f"allowed: {MQTT_ALLOWED} with a port of 1-65535") from err
    known = parts.scheme in ("mqtt", "mqtts") and parts.hostname and port != 0
    if not known or parts.path not in ("", "/") or parts.query or parts.fragment or re.search(r"\s", url):
        raise ValueError(f"allowed: {MQTT_ALLOWED}")
    return url


def _source(text: str) -> str:
    scheme, mark, rest = text.strip().partition("://")
    if not text.strip() or "\0" in text:
        raise ValueError(f"allowed: {SOURCE_ALLOWED}")
    if mark and not text.startswith("gst:") and (scheme.lower() not in ("rtsp", "rtsps", "file") or not rest):
        raise ValueError(f"allowed: {SOURCE_ALLOWED}")
    return text.strip()


def _shape(shape: tuple[int, int]) -> tuple[int, int]:
    if any(side % 32 or not 32 <= side <= 4096 for side in shape):
        raise ValueError("allowed: [height, width], each a multiple of 32 from 32 to 4096")
    return shape


def host_name() -> str:
    """This box's host name as a topic level."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname()).lstrip("._-")[:40]
    return name or "device"


def default_state_dir(environ: Mapping[str, str] | None = None) -> Path:
    """$STATE_DIRECTORY (systemd), else $XDG_STATE_HOME/edge-inspect, else ~/.local/state/edge-inspect."""
    environ = os.environ if environ is None else environ
    if given := environ.get("STATE_DIRECTORY", "").split(":")[0]:
        return Path(given)
    home = environ.get("XDG_STATE_HOME", "")
    return (Path(home) if home.startswith("/") else Path.home() / ".local" / "state") / "edge-inspect"


Name = Annotated[str, AfterValidator(_name)]
Shape = Annotated[tuple[int, int], AfterValidator(_shape)]


class Table(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class DeviceConfig(Table):
    """Who this box is: the levels of its MQTT topics, `inspect/v1/<site>/<line>/<device>/...`."""

    site: Name = Field(default="site", description="Plant.")
    line: Name = Field(default="line", description="Production line.")
    device: Name = Field(
        default_factory=host_name, description="This box; unique in the plant. With mutual TLS: its certificate's name."
    )


class CameraConfig(Table):
    """A camera; repeat the table for each. What the driver really gave is read back and logged at start."""

    name: Name = Field(description="Its name in reports and logs; unique in this file.")
    source: Annotated[str, AfterValidator(_source)] = Field(
        description=f"{SOURCE_ALLOWED}. Prefer /dev/v4l/by-path/...: it stays when devices are renumbered."
    )
    width: int | None = Field(default=None, ge=16, le=16384, description="Picture width in px; together with `height`.")
    height: int | None = Field(
        default=None, ge=16, le=16384, description="Picture height in px; together with `width`."
    )
    fps: float | None = Field(default=None, gt=0, le=1000, description="Frames per second to ask for.")
    pixel_format: Literal["auto", "MJPG", "YUYV"] = Field(
        default="auto", description="V4L2 only. auto: the fastest that the size is offered in."
    )
    exposure_us: int | None = Field(
        default=None, ge=1, le=10_000_000, description="V4L2 only: lock the exposure time, in us."
    )
    gain: int | None = Field(
        default=None, ge=0, le=65535, description="V4L2 only: lock the gain, in the driver's own unit."
    )
    white_balance_k: int | None = Field(
        default=None, ge=1000, le=20000, description="V4L2 only: lock the white balance, in kelvin."
    )
    username: str | None = Field(default=None, min_length=1, max_length=200, description="RTSP only: user name.")
    password_file: Path | None = Field(
        default=None, description="RTSP only: file with the password, or `credential:NAME`; read at each connection."
    )
    policy: Literal["newest", "every", "trigger"] = Field(
        default="newest",
        description="When frames come faster than they are inspected. newest: older ones are dropped and counted. "
        "every: the source waits (recordings). trigger: a part that cannot be inspected in time is UNKNOWN.",
    )
    slots: int = Field(default=4, ge=3, le=64, description="Frames the ring holds, allocated once.")
    recipe: Path | None = Field(
        default=None, description="Recipe file: what counts as a defect. Without: the model's own."
    )
    model: str | None = Field(
        default=None, min_length=1, description="Model package for this camera instead of `[model] dir`."
    )

    def options(self) -> dict[str, Any]:
        """Keyword arguments for `capture.open.camera_from`; None means not given."""
        return {
            "width": self.width,
            "height": self.height,
            "fps": self.fps,
            "pixel_format": None if self.pixel_format == "auto" else self.pixel_format,
            "exposure_us": self.exposure_us,
            "gain": self.gain,
            "white_balance_k": self.white_balance_k,
        }

    def address(self) -> str:
        """`source` with user name and password put in: for `camera_from` only, never for a log. Raises BadConfig."""
        if self.username is None:
            return self.source
        parts = urlsplit(self.source)
        secret = _read_secret(self.password_file) if self.password_file else None
        login = quote(self.username, safe="") + (f":{quote(secret, safe='')}" if secret is not None else "")
        return urlunsplit(parts._replace(netloc=f"{login}@{parts.netloc.rpartition('@')[2]}"))


class ModelConfig(Table):
    """The network that looks, and what runs it."""

    dir: str | None = Field(
        default=None,
        min_length=1,
        description="Model package: a folder, or the name of a shipped one. Without: the default model.",
    )
    provider: Literal["auto", "cpu", "cuda", "tensorrt", "openvino"] = Field(
        default="auto",
        description="What runs the network. auto: the fastest installed here. Others: exactly that, or an error.",
    )
    threads: int = Field(default=0, ge=0, le=256, description="Threads of the runtime; 0: the runtime's own choice.")
    precision: Literal["auto", "fp32", "fp16"] = Field(default="auto", description="Which variant of the package.")
    shape: Shape | None = Field(
        default=None, description="Network input [height, width]. Without: the least that fits the camera's aspect."
    )


class MqttConfig(Table):
    """Where reports go. Without this table nothing leaves the box; reports wait in the outbox."""

    url: Annotated[str, AfterValidator(_broker_url)] = Field(description=f"Broker: {MQTT_ALLOWED}.")
    protocol: Literal[5, 311] = Field(default=5, description="MQTT version; 311 means 3.1.1, for old brokers.")
    ca: Path | Literal["system"] | None = Field(
        default=None,
        description="mqtts: file with the CA that signed the broker's certificate, or `system`. Required with mqtts.",
    )
    cert: Path | None = Field(default=None, description="mqtts: this device's certificate (PEM); together with `key`.")
    key: Path | None = Field(default=None, description="mqtts: its private key (PEM), or `credential:mqtt.key`.")
    username: str | None = Field(
        default=None, min_length=1, max_length=200, description="User name, if the broker asks."
    )
    password_file: Path | None = Field(
        default=None, description="File with the password, or `credential:mqtt.password`; read at each connection."
    )
    ack: Literal["broker", "ingester"] = Field(
        default="broker",
        description="When a report may leave the outbox. ingester: after its database commit, loss-free. "
        "broker: after PUBACK; a broker that is killed may lose what it acknowledged.",
    )
    keepalive_s: int = Field(
        default=20, ge=5, le=3600, description="A dead connection is noticed within 1.5 times this."
    )

    def password(self) -> str | None:
        """The password as it is in its file now. Raises BadConfig when the file cannot be read."""
        return _read_secret(self.password_file) if self.password_file else None


class OutboxConfig(Table):
    """Reports on disk until they are delivered."""

    cap_bytes: int = Field(
        default=1 << 30,
        ge=1 << 20,
        le=1 << 40,
        description="Most it may take on disk; thumbnails are shed first, then it alarms.",
    )


class LogConfig(Table):
    """One line per change of state, to stderr (the journal)."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level that is written."
    )
    format: Literal["auto", "json", "text"] = Field(default="auto", description="auto: text on a terminal, else json.")


class Config(Table):
    """Everything the daemon is told."""

    state_dir: Path = Field(
        default_factory=default_state_dir,
        description="Outbox and caches. Without: $STATE_DIRECTORY (systemd), else ~/.local/state/edge-inspect.",
    )
    device: DeviceConfig = Field(default_factory=DeviceConfig)
    camera: tuple[CameraConfig, ...] = Field(min_length=1, max_length=64)
    model: ModelConfig = Field(default_factory=ModelConfig)
    mqtt: MqttConfig | None = None
    outbox: OutboxConfig = Field(default_factory=OutboxConfig)
    log: LogConfig = Field(default_factory=LogConfig)


def _read_secret(path: Path) -> str:
    """First line of a file, without its end."""
    try:
        return path.read_text(encoding="utf-8").partition("\n")[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as err:
        reason = err.strerror if isinstance(err, OSError) else "not UTF-8"
        raise BadConfig(f"{path}: password cannot be read: {reason}") from err
