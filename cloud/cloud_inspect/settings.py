"""What the plant's side runs with: one TOML file, environment variables over it, options of the command over both.

1. Settings are one frozen model, or one BadSettings line that names the file or variable, the key, what was found and
   what is allowed; exit code 78.
2. `CLOUD_INSPECT_MQTT_URL` stands for `url` in `[mqtt]`, `CLOUD_INSPECT_DATABASE_URL` for that in `[database]`, ...
3. A password stands in a file of its own (`password_file`), never in the broker's URL. A database URL may hold one:
   messages of ours show it without.

    settings = load_settings(Path("cloud.toml"), {"mqtt": {"url": "mqtts://broker"}})
"""

from __future__ import annotations

import difflib
import json
import os
import re
import socket
import ssl
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from cloud_inspect.errors import BadSettings, BrokerGone
from edge_wire.topics import NAME_PATTERN

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PREFIX = "CLOUD_INSPECT_"
MAX_BYTES = 1 << 20
PORTS = {"mqtt": 1883, "mqtts": 8883}
OPTIONS = {("mqtt", "url"): "--mqtt", ("database", "url"): "--db"}
"""Options that are not named as the key that they set."""
_PASSWORD = re.compile(r"(://[^\s/@:]*:)[^\s/@]*@")

Seconds = Annotated[float, Field(gt=0, le=86_400)]


def default_name() -> str:
    host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname().split(".")[0]).strip(".-_")
    return f"ingest-{host[:30] or 'box'}"


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class MqttSettings(Table):
    """[mqtt]: where the broker is and who we are to it."""

    url: str = "mqtt://127.0.0.1"
    ca: Path | Literal["system"] | None = None
    cert: Path | None = None
    key: Path | None = None
    username: str | None = None
    password_file: Path | None = None
    keepalive_s: Annotated[int, Field(ge=2, le=3600)] = 20
    session_s: Annotated[int, Field(ge=0, le=86_400)] = 15
    """How long the broker keeps for us what arrives while we are away: a restart, not more. So long it goes on giving
    us our share of the reports, which other ingesters then do not get."""

    @field_validator("url")
    @classmethod
    def _is_a_broker(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in PORTS or not parts.hostname or parts.path not in ("", "/") or parts.query:
            raise ValueError("allowed: mqtt://HOST[:PORT] or mqtts://HOST[:PORT]")
        if parts.username is not None or parts.password is not None:
            raise ValueError("user name and password do not belong in the URL; allowed: username and password_file")
        if parts.port == 0:  # .port itself raises ValueError for what is no port at all
            raise ValueError("allowed: a port from 1 to 65535")
        return url

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        parts = urlsplit(self.url)
        return parts.port or PORTS[parts.scheme]

    def tls(self) -> ssl.SSLContext | None:
        """None for mqtt://. Certificates are read now, so renewed ones are seen. Raises BrokerGone."""
        if not self.url.startswith("mqtts:"):
            return None
        try:
            context = ssl.create_default_context(cafile=None if self.ca in (None, "system") else str(self.ca))
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key)
        except OSError as err:  # ssl.SSLError is one
            raise BrokerGone(f"certificates of [mqtt]: cannot be used: {err}") from err
        return context

    def password(self) -> str | None:
        """As it is in its file now. Raises BrokerGone."""
        if self.password_file is None:
            return None
        try:
            return self.password_file.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as err:
            raise BrokerGone(f"{self.password_file}: cannot be read: {getattr(err, 'strerror', None) or err}") from err


class DatabaseSettings(Table):
    """[database]"""

    url: str = "sqlite:///cloud-inspect.sqlite3"
    """`sqlite:///FILE` or `postgresql://USER:PASSWORD@HOST/NAME`."""
    timeout_s: Annotated[float, Field(gt=0, le=8)] = 5.0
    """The longest that one statement, or waiting for another program's lock, may take."""

    @field_validator("url")
    @classmethod
    def _is_a_database(cls, url: str) -> str:
        if not re.match(r"(sqlite:///.|postgres(ql)?(\+psycopg)?://.)", url):
            raise ValueError("allowed: sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME")
        return url


class IngestSettings(Table):
    """[ingest]"""

    name: Annotated[str, Field(pattern=NAME_PATTERN)] = Field(default_factory=default_name)
    """Of this ingester, its client id at the broker: another one for each that runs."""
    in_flight: Annotated[int, Field(ge=1, le=10_000)] = 200
    """Reports that the broker may have sent us and that are not committed yet: bounds memory and batch."""
    device_per_s: Annotated[float, Field(ge=1, le=1_000_000)] = 1000.0
    """Messages of one device beyond this (and twice that at once) are not looked at; it sends its reports again."""
    quarantine_rows: Annotated[int, Field(ge=0, le=10_000_000)] = 1000
    """Of one device; what comes beyond is refused, counted and not acknowledged."""
    quarantine_mib: Annotated[int, Field(ge=0, le=1_000_000)] = 16
    """Of one device."""
    gap_wait_s: Seconds = 120.0
    """A gap that stays this long is asked for again."""
    gap_tries: Annotated[int, Field(ge=0, le=100)] = 5
    """How often a gap is asked for, each time after four times as long; 0: never."""


class Settings(Table):
    mqtt: MqttSettings = MqttSettings()
    database: DatabaseSettings = DatabaseSettings()
    ingest: IngestSettings = Field(default_factory=IngestSettings)


def load_settings(
    path: Path | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """The file's tables, then variables, then `options` (None: not given). Raises BadSettings."""
    document: dict[str, Any] = {} if path is None else _read(path)
    where: dict[tuple[str, ...], str] = {(table,): str(path) for table in document}
    for name, (table, key, value) in _variables(os.environ if environ is None else environ).items():
        document.setdefault(table, {})[key] = value
        where[table, key] = name
    for table, keys in (options or {}).items():
        for key, value in keys.items():
            if value is not None:
                document.setdefault(table, {})[key] = str(value) if isinstance(value, Path) else value
                where[table, key] = OPTIONS.get((table, key), f"--{key.replace('_', '-')}")
    try:
        settings = Settings.model_validate_json(json.dumps(document, default=str), strict=True)
    except ValidationError as err:
        raise BadSettings(_explain(err, where, path)) from err
    _refuse_contradictions(settings.mqtt, where, path)
    return settings


def hide_password(text: str) -> str:
    """For messages: what stands between `:` and `@` in a URL is not shown."""
    return _PASSWORD.sub(r"\1***@", text)


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = path.read_bytes()
        if len(raw) > MAX_BYTES:
            raise BadSettings(f"{path}: found {len(raw)} bytes, allowed: at most {MAX_BYTES}")
        document = tomllib.loads(raw.decode("utf-8-sig"))
    except OSError as err:
        raise BadSettings(f"{path}: cannot be read: {err.strerror or err}") from err
    except (ValueError, RecursionError) as err:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise BadSettings(f"{path}: not TOML: {' '.join(str(err).split())[:200]}") from err
    for table, found in document.items():
        if not isinstance(found, dict):
            raise BadSettings(f"{path}: key `{table}`: found no table, allowed: [mqtt], [database], [ingest]")
    return document


def _variables(environ: Mapping[str, str]) -> dict[str, tuple[str, str, Any]]:
    """Variable -> table, key, value; numbers as numbers."""
    found: dict[str, tuple[str, str, Any]] = {}
    for table, field in Settings.model_fields.items():
        model = field.annotation
        assert isinstance(model, type) and issubclass(model, BaseModel)
        for key, inner in model.model_fields.items():
            name = f"{PREFIX}{table}_{key}".upper()
            if (text := environ.get(name)) is not None:
                is_number = inner.annotation in (int, float) and re.fullmatch(r"-?\d+(\.\d+)?", text)
                found[name] = (table, key, json.loads(text) if is_number else text)
    return found


def _explain(err: ValidationError, where: Mapping[tuple[str, ...], str], path: Path | None) -> str:
    errors = err.errors(include_url=False, include_context=False)
    errors.sort(key=lambda error: error["type"] != "extra_forbidden")
    first, more = errors[0], f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    key = tuple(str(step) for step in first["loc"])[:2]
    source = where.get(key) or where.get(key[:1]) or str(path or "settings")
    name = ".".join(key)
    if first["type"] == "extra_forbidden":
        known = sorted(_known(key[:-1]))
        close = difflib.get_close_matches(key[-1], known, n=1)
        slip = f"; did you mean `{close[0]}`?" if close else ""
        return f"{source}: key `{name}`: unknown key; allowed: {', '.join(known)}{slip}{more}"
    allowed = re.sub(r"^(Input should be |String should |Value error, (allowed: )?)", "", first["msg"])
    shown = hide_password(json.dumps(first["input"], default=str))[:80]
    return f"{source}: key `{name}`: found {shown}, allowed: {allowed}{more}"


def _known(table: tuple[str, ...]) -> set[str]:
    if not table:
        return set(Settings.model_fields)
    model = Settings.model_fields[table[0]].annotation
    assert isinstance(model, type) and issubclass(model, BaseModel)
    return set(model.model_fields)


def _refuse_contradictions(mqtt: MqttSettings, where: Mapping[tuple[str, ...], str], path: Path | None) -> None:
    def source(key: str) -> str:
        return where.get(("mqtt", key)) or where.get(("mqtt",)) or str(path or "settings")

    if not mqtt.url.startswith("mqtts:") and (mqtt.ca or mqtt.cert or mqtt.key):
        raise BadSettings(f"{source('url')}: key `mqtt.url`: found {mqtt.url!r} beside certificates, allowed: mqtts://")
    if (mqtt.cert is None) != (mqtt.key is None):
        at = source("key" if mqtt.cert is None else "cert")
        raise BadSettings(f"{at}: key `mqtt.cert`: found one of cert and key, allowed: both or none")
