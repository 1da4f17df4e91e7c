"""The configuration file as frozen models: every table, key, default and limit of it, and the words that explain them.

1. A value is taken as written ("3" is no number, 1 is not true) and an unknown key is an error.
2. No secret stands in a model: only the name of the file that holds it, which is read when a connection is made.
3. docs/configuration.md and `edge-inspect config init` are generated from here: the text under a key is its docs.

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

from pydantic import AfterValidator, Field

from edge_inspect.config_evidence import EvidenceConfig
from edge_inspect.config_line import LineConfig
from edge_inspect.config_metrics import MetricsConfig
from edge_inspect.config_table import BrokerUrl, Name, Table
from edge_inspect.config_update import UpdateConfig
from edge_inspect.errors import BadConfig

SYSTEM_CA = Path("system")
MOST_CAMERAS = 64
SOURCE_ALLOWED = (
    "/dev/video0 or a number, rtsp://HOST/PATH, rtsps://HOST/PATH, sim or sim:seed=3, gst:PIPELINE, a folder, a file"
)


def _source(text: str) -> str:
    """Only what can be told without looking at the disk; the rest is `camera_from`'s to say."""
    source = text.strip()
    scheme, mark, _ = source.partition("://")
    try:
        parts = urlsplit(source) if mark and not source.startswith("gst:") else None
        known = parts is None or (scheme.lower() in ("rtsp", "rtsps") and parts.hostname) or scheme.lower() == "file"
        usable = source and "\0" not in source and known and (parts is None or parts.port != 0)
    except ValueError:  # a port of 70000, half an IPv6 address
        usable = False
    if not usable:
        raise ValueError(f"allowed: {SOURCE_ALLOWED}")
    return source


def _shape(shape: tuple[int, int]) -> tuple[int, int]:
    if any(side % 32 or not 32 <= side <= 4096 for side in shape):
        raise ValueError("allowed: [height, width], each a multiple of 32 from 32 to 4096")
    return shape


def _some_cameras(cameras: tuple[CameraConfig, ...]) -> tuple[CameraConfig, ...]:
    if not 1 <= len(cameras) <= MOST_CAMERAS:
        raise ValueError(f"allowed: 1-{MOST_CAMERAS} [[camera]] tables")
    return cameras


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


Shape = Annotated[tuple[int, int], AfterValidator(_shape)]


class DeviceConfig(Table):
    """`[device]`: who this box is; the levels of its MQTT topics, `inspect/v1/<site>/<line>/<device>/...`"""

    site: Name = "site"
    """Plant."""
    line: Name = "line"
    """Production line."""
    device: Name = Field(default_factory=host_name)
    """This box, unique in the plant; with mutual TLS its certificate's name. Without: the host name."""


class CameraConfig(Table):
    """`[[camera]]`: once for each camera. What the driver really gave is read back and logged at start."""

    name: Name
    """Its name in reports and logs; unique in this file."""
    source: Annotated[str, AfterValidator(_source)]
    """/dev/video0 or a number, rtsp[s]://HOST/PATH, sim or sim:seed=3, gst:PIPELINE, a folder of pictures, a recording.
    Prefer /dev/v4l/by-path/...: it stays when devices are renumbered."""
    width: Annotated[int | None, Field(ge=16, le=16384)] = None
    """Picture width in px; together with `height`."""
    height: Annotated[int | None, Field(ge=16, le=16384)] = None
    """Picture height in px; together with `width`."""
    fps: Annotated[float | None, Field(gt=0, le=1000)] = None
    """Frames per second to ask for."""
    pixel_format: Literal["auto", "MJPG", "YUYV"] = "auto"
    """V4L2 only. `auto`: the fastest in which the size is offered."""
    exposure_us: Annotated[int | None, Field(ge=1, le=10_000_000)] = None
    """V4L2 only: lock the exposure time, in microseconds."""
    gain: Annotated[int | None, Field(ge=0, le=65535)] = None
    """V4L2 only: lock the gain, in the driver's own unit."""
    white_balance_k: Annotated[int | None, Field(ge=1000, le=20000)] = None
    """V4L2 only: lock the white balance, in kelvin."""
    username: Annotated[str | None, Field(min_length=1, max_length=200)] = None
    """RTSP only: user name."""
    password_file: Path | None = None
    """RTSP only: file with the password, or `credential:NAME`."""
    policy: Literal["newest", "every", "trigger"] | None = None
    """When frames come faster than they are inspected; wins over the recipe's `frames.policy`. `newest`: older ones are
    dropped and counted. `every`: the source waits (recordings). `trigger`: a part not inspected in time is UNKNOWN."""
    slots: Annotated[int, Field(ge=3, le=64)] = 4
    """Frames the ring holds; allocated once."""
    stall_s: Annotated[float | None, Field(ge=0.5, le=86_400)] = None
    """No picture for so long: the camera is lost and opened anew. Without: 2 s, or 10 frame times where that is longer.
    Raise it for a camera that a machine triggers, above the longest pause of the line."""
    recipe: Path | None = None
    """What counts as a defect: a recipe file, or the name of a shipped one."""
    model: Annotated[str | None, Field(min_length=1)] = None
    """Model package for this camera instead of `model.dir`."""

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
    """`[model]`: the network that looks, and what runs it."""

    dir: Annotated[str | None, Field(min_length=1)] = None
    """Model package: a folder, or the name of a shipped one. Without: the shipped metal-plate model."""
    provider: Literal["auto", "cpu", "cuda", "tensorrt", "openvino"] = "auto"
    """What runs the network. `auto`: the fastest that is installed. Any other: exactly that, or an error."""
    threads: Annotated[int, Field(ge=0, le=256)] = 0
    """Threads of the runtime; 0: the runtime's own choice."""
    cuda_graph: bool = False
    """CUDA and TensorRT only: record the run once and replay it; less work for the CPU at each frame."""
    precision: Literal["auto", "fp32", "fp16", "int8"] = "auto"
    """Which variant of the package. `auto`: fp16 on GPUs; on CPUs that compute it fast int8, on others fp32."""
    shape: Shape | None = None
    """Network input [height, width], multiples of 32. Without: the least that fits the camera's aspect."""


class MqttConfig(Table):
    """`[mqtt]`: where reports go. Without this table nothing leaves the box; reports wait in the outbox."""

    url: BrokerUrl
    """Broker: mqtt://HOST[:1883] or mqtts://HOST[:8883]."""
    protocol: Literal[5, 311] = 5
    """MQTT version; 311 means 3.1.1, for old brokers."""
    ca: Path | None = None
    """mqtts, required: file with the CA that signed the broker's certificate, or `system` for the system's own list."""
    cert: Path | None = None
    """mqtts: this device's certificate (PEM); together with `key`."""
    key: Path | None = None
    """mqtts: its private key (PEM), or `credential:mqtt.key`."""
    username: Annotated[str | None, Field(min_length=1, max_length=200)] = None
    """User name, if the broker asks for one."""
    password_file: Path | None = None
    """File with the password, or `credential:mqtt.password`; read again at each connection."""
    ack: Literal["broker", "ingester"] = "broker"
    """When a report may leave the outbox. `ingester`: after its database commit, loss-free. `broker`: after the
    broker's PUBACK, which is no proof: a broker that is killed may lose what it acknowledged."""
    keepalive_s: Annotated[int, Field(ge=5, le=3600)] = 20
    """A dead connection is noticed within 1.5 times this."""
    resend_s: Annotated[int, Field(ge=1, le=3600)] = 30
    """`ack = "ingester"`: a report that the plant did not acknowledge goes again after this, then later and later."""
    drain_per_s: Annotated[int, Field(ge=1, le=100_000)] = 100
    """After an outage: at most so many of the reports that piled up are sent each second; new ones go before them."""
    max_packet_bytes: Annotated[int | None, Field(ge=4096, le=268_435_455)] = None
    """Largest packet the broker takes, if it does not say so itself (MQTT 3.1.1 brokers never do): larger reports are
    kept and sent without their picture."""


class OutboxConfig(Table):
    """`[outbox]`: reports on disk until they are delivered."""

    cap_bytes: Annotated[int, Field(ge=1 << 20, le=1 << 40)] = 1 << 30
    """Most it may take on disk; thumbnails are shed first, then it alarms."""
    retain_h: Annotated[float, Field(ge=0, le=8760)] = 72.0
    """Hours that a report stays after its acknowledgement, so that the plant can ask for it again."""


class LogConfig(Table):
    """`[log]`: one line for each change of state, to stderr (the journal)."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level that is written."""
    format: Literal["auto", "json", "text"] = "auto"
    """`auto`: text on a terminal, else json."""


class Config(Table):
    """Everything the daemon is told."""

    state_dir: Path = Field(default_factory=default_state_dir)
    """Outbox and caches. Without: $STATE_DIRECTORY (given by systemd), else ~/.local/state/edge-inspect."""
    device: DeviceConfig = Field(default_factory=DeviceConfig)
    camera: Annotated[tuple[CameraConfig, ...], AfterValidator(_some_cameras)]
    model: ModelConfig = Field(default_factory=ModelConfig)
    mqtt: MqttConfig | None = None
    line: tuple[LineConfig, ...] = ()
    outbox: OutboxConfig = Field(default_factory=OutboxConfig)
    evidence: EvidenceConfig = Field(default_factory=EvidenceConfig)
    metrics: MetricsConfig | None = None
    update: UpdateConfig | None = None
    log: LogConfig = Field(default_factory=LogConfig)

    @property
    def cache_dir(self) -> Path:
        """For engines that take minutes to build; may be deleted at any time."""
        return self.state_dir / "cache"

    @property
    def models_dir(self) -> Path:
        """Where fetched packages lie."""
        return (self.update.models_dir if self.update else None) or self.state_dir / "models"


def _read_secret(path: Path) -> str:
    """First line of a file, without its end."""
    try:
        return path.read_text(encoding="utf-8").partition("\n")[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as err:
        reason = err.strerror if isinstance(err, OSError) else "not UTF-8"
        raise BadConfig(f"{path}: password cannot be read: {reason}") from err
