"""What this box is to do: one TOML file, read once, into frozen models.

1. A file becomes a `Config` in which every path is absolute and every value was checked, or one BadConfig: file, key,
   what was found, what is allowed; exit code 78.
2. Relative paths are relative to the configuration file; `credential:NAME` is a file that LoadCredential= gave.
3. A file that every user may write is refused: who writes it decides what the daemon runs and where it sends.

    config = load_config(Path("/etc/edge-inspect/edge-inspect.toml"))
    config = config_from_options(camera="/dev/video0", mqtt="mqtt://broker")     # the bare command line, no file
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from pydantic import ValidationError

from edge_inspect.config_line import LineConfig, line_mistakes
from edge_inspect.config_model import (
    SYSTEM_CA,
    CameraConfig,
    Config,
    DeviceConfig,
    LogConfig,
    ModelConfig,
    MqttConfig,
    OutboxConfig,
    default_state_dir,
)
from edge_inspect.delivery.broker import Broker
from edge_inspect.errors import BadConfig, Usage
from edge_inspect.toml_model import read_toml, shortened
from edge_inspect.verdict.recipe import find_recipe

__all__ = [
    "CameraConfig",
    "Config",
    "DeviceConfig",
    "LineConfig",
    "LogConfig",
    "ModelConfig",
    "MqttConfig",
    "OutboxConfig",
    "broker_of",
    "config_from_options",
    "load_config",
]

CREDENTIAL = "credential:"


class Mistake(NamedTuple):
    """What single keys cannot say alone: two keys that contradict each other, a file that is not there."""

    key: str
    found: str
    allowed: str


def load_config(path: Path, environ: Mapping[str, str] | None = None) -> Config:
    """Read and check the configuration file. Raises BadConfig: one line with file, key, found, allowed."""
    environ = os.environ if environ is None else environ
    written = read_toml(path, Config)
    mistakes = [*_writable_by_others(path), *_contradictions(written), *_secrets_in_urls(written)]
    mistakes += _credentials_not_given(written, environ)
    if not mistakes:
        config = _resolved(written, path.absolute().parent, environ)
        mistakes = [*_missing_files(_files(config)), *_unknown_recipes(config)]
    _refuse(path, mistakes)
    return config


def load_for_fetching(path: Path, environ: Mapping[str, str] | None = None) -> Config:
    """For a process that may only fetch: files of other tables (keys, passwords) are not looked for.

    Raises BadConfig.
    """
    environ = os.environ if environ is None else environ
    written = read_toml(path, Config)
    mistakes = [*_writable_by_others(path)]
    config = _resolved(written, path.absolute().parent, {"CREDENTIALS_DIRECTORY": "/nonexistent", **environ})
    mistakes += _missing_files((key, file) for key, file in _files(config) if key.startswith("update."))
    _refuse(path, mistakes)
    return config


def _refuse(path: Path, mistakes: Sequence[Mistake]) -> None:
    if mistakes:
        first, more = mistakes[0], f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else ""
        key = f"key `{first.key}`: " if first.key else ""
        raise BadConfig(f"{path}: {key}found {first.found}, allowed: {first.allowed}{more}")


def broker_of(mqtt: MqttConfig) -> Broker:
    """What the courier needs to know of the broker. Raises BadConfig."""
    return Broker(
        url=mqtt.url,
        protocol=mqtt.protocol,
        ca="system" if mqtt.ca == SYSTEM_CA else mqtt.ca,
        cert=mqtt.cert,
        key=mqtt.key,
        username=mqtt.username,
        password_file=mqtt.password_file,
        keepalive_s=mqtt.keepalive_s,
    )


def config_from_options(
    base: Config | None = None,
    *,
    camera: str | None = None,
    mqtt: str | None = None,
    state: Path | None = None,
    provider: str | None = None,
    threads: int | None = None,
    recipe: Path | None = None,
    model: str | Path | None = None,
) -> Config:
    """A Config from the command line alone, or `base` with what the command line says instead. Raises Usage.

    `recipe` and `model` hold for every camera. `camera` stands for a whole configuration: lines, recipes and names
    of a `base` would go on meaning another one.
    """
    if base is not None and camera is not None:
        raise Usage("--camera and --config: one or the other")
    tables: dict[str, Any] = base.model_dump(mode="json") if base else {}
    if camera is not None:
        tables["camera"] = [{"name": "camera", "source": camera}]
    if not tables.get("camera"):
        raise Usage("no camera: give --camera SOURCE or --config FILE")
    for table in tables["camera"]:
        table.update(_given(recipe=recipe and str(_recipe_path(recipe, Path.cwd())), model=model and str(model)))
    tables.setdefault("model", {}).update(_given(provider=provider, threads=threads))
    if mqtt is not None:
        table = tables["mqtt"] = {**(tables.get("mqtt") or {}), "url": mqtt}
        if mqtt.startswith("mqtts://") and not table.get("ca"):
            table["ca"] = str(SYSTEM_CA)
    if state is not None:
        tables["state_dir"] = str(state.absolute())
    try:
        config = Config.model_validate_json(json.dumps(tables), strict=True)
    except ValidationError as err:
        raise Usage(_option_mistake(err)) from err
    for mistake in _contradictions(config):
        raise Usage(f"{mistake.key}: found {mistake.found}, allowed: {mistake.allowed}")
    return config


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _option_mistake(err: ValidationError) -> str:
    """`--camera ftp://x: allowed: ...`; the option's name is the key it sets."""
    first = err.errors(include_url=False)[0]
    names = {"source": "--camera", "url": "--mqtt", "provider": "--provider", "threads": "--threads"}
    key = str(first["loc"][-1]) if first["loc"] else ""
    allowed = re.sub(r"^(Value error, allowed: |Input should (be )?)", "", first["msg"])
    return f"{names.get(key, key)}: found {_shown(first['input'])}, allowed: {allowed}"


def _shown(value: object) -> str:
    text = re.sub(r"(://[^\s/@:]*:)[^\s/@]*@", r"\1***@", json.dumps(value, default=str))
    return shortened(text, 80)


def _writable_by_others(path: Path) -> Iterator[Mistake]:
    mode = path.stat().st_mode
    if mode & stat.S_IWOTH:
        yield Mistake("", f"a file that every user may write (mode {stat.S_IMODE(mode):04o})", f"chmod o-w {path}")


def _contradictions(config: Config) -> Iterator[Mistake]:
    names: set[str] = set()
    for index, camera in enumerate(config.camera):
        at = f"camera[{index}]"
        if camera.name in names:
            yield Mistake(f"{at}.name", f"{_shown(camera.name)} a second time", "a name of its own for each camera")
        names.add(camera.name)
        yield from _camera_contradictions(at, camera)
    if config.mqtt:
        yield from _mqtt_contradictions(config.mqtt)
    if config.update and config.update.ca is not None and not (config.update.url or "").startswith("https://"):
        yield Mistake("update.ca", f"it with url {_shown(config.update.url)}", "only with https://")
    for mistake in line_mistakes(config.line, [camera.name for camera in config.camera]):
        yield Mistake(*mistake)
    for index, line in enumerate(config.line):
        if line.mqtt is not None and line.mqtt.url is None and config.mqtt is None:
            yield Mistake(f"line[{index}].mqtt.url", "nothing, without [mqtt]", "mqtt://HOST[:PORT], or [mqtt]")


def _camera_contradictions(at: str, camera: CameraConfig) -> Iterator[Mistake]:
    if (camera.width is None) != (camera.height is None):
        given, other = ("height", "width") if camera.width is None else ("width", "height")
        yield Mistake(f"{at}.{given}", f"no {other} beside it", "both width and height, or neither")
    if not (camera.source.isdecimal() or camera.source.startswith("/dev/")):
        for name in ("pixel_format", "exposure_us", "gain", "white_balance_k"):
            if camera.options()[name] is not None:
                yield Mistake(f"{at}.{name}", f"it with source {_shown(camera.source)}", "only with a V4L2 device")
    if not camera.source.lower().startswith(("rtsp://", "rtsps://")):
        for name in ("username", "password_file"):
            if getattr(camera, name) is not None:
                yield Mistake(
                    f"{at}.{name}", f"it with source {_shown(camera.source)}", "only with rtsp:// or rtsps://"
                )
    if camera.password_file is not None and camera.username is None:
        yield Mistake(f"{at}.password_file", "no username beside it", "both, or neither")


def _mqtt_contradictions(mqtt: MqttConfig) -> Iterator[Mistake]:
    if mqtt.url.startswith("mqtts://"):
        if mqtt.ca is None:
            yield Mistake("mqtt.ca", "nothing, with mqtts", 'a CA file, or "system" for the system\'s CAs')
    else:
        for name in ("ca", "cert", "key"):
            if getattr(mqtt, name) is not None:
                yield Mistake(f"mqtt.{name}", f"it with {_shown(mqtt.url)}", "only with mqtts://, which encrypts")
    if (mqtt.cert is None) != (mqtt.key is None):
        given, other = ("key", "cert") if mqtt.cert is None else ("cert", "key")
        yield Mistake(f"mqtt.{given}", f"no {other} beside it", "both cert and key, or neither")
    if mqtt.password_file is not None and mqtt.username is None:
        yield Mistake("mqtt.password_file", "no username beside it", "both, or neither")


def _secrets_in_urls(config: Config) -> Iterator[Mistake]:
    """On a command line a password in a URL is the caller's choice; in a file it would be shown, copied, backed up."""
    urls = [(f"camera[{index}]", camera.source) for index, camera in enumerate(config.camera)]
    keys = [(f"{at}.source", at, url) for at, url in urls if url.lower().startswith(("rtsp://", "rtsps://"))]
    keys += [("mqtt.url", "mqtt", config.mqtt.url)] if config.mqtt else []
    for key, at, url in keys:
        if "@" in urlsplit(url).netloc:
            yield Mistake(key, "a user name or password in it", f"{at}.username and {at}.password_file instead")
    for index, line in enumerate(config.line):
        if line.mqtt is not None and line.mqtt.url is not None and "@" in urlsplit(line.mqtt.url).netloc:
            yield Mistake(f"line[{index}].mqtt.url", "a user name or password in it", "mqtt.username and password_file")


def _resolved(config: Config, folder: Path, environ: Mapping[str, str]) -> Config:
    """Every path absolute, every credential the file that systemd gave."""
    cameras = tuple(
        camera.model_copy(
            update={
                "source": _resolved_source(camera.source, folder),
                "recipe": camera.recipe and _recipe_path(camera.recipe, folder),
                "password_file": _absolute(camera.password_file, folder, environ),
                "model": _resolved_model(camera.model, folder),
            }
        )
        for camera in config.camera
    )
    mqtt = config.mqtt and config.mqtt.model_copy(
        update={
            name: _absolute(getattr(config.mqtt, name), folder, environ)
            for name in ("ca", "cert", "key", "password_file")
        }
    )
    model = config.model.model_copy(update={"dir": _resolved_model(config.model.dir, folder)})
    lines = tuple(_resolved_line(line, folder) for line in config.line)
    update_table = config.update and config.update.model_copy(
        update={name: _absolute(getattr(config.update, name), folder, environ) for name in ("root", "models_dir", "ca")}
    )
    state_dir = config.state_dir if "state_dir" in config.model_fields_set else default_state_dir(environ)
    update = {"camera": cameras, "mqtt": mqtt, "model": model, "line": lines, "update": update_table}
    return config.model_copy(update={**update, "state_dir": folder / state_dir})


def _resolved_line(line: LineConfig, folder: Path) -> LineConfig:
    if line.socket is None or line.socket.path is None:
        return line
    return line.model_copy(update={"socket": line.socket.model_copy(update={"path": folder / line.socket.path})})


def _recipe_path(recipe: Path, folder: Path) -> Path:
    """A bare name is a shipped recipe and stays as it is: `verdict.recipe.find_recipe` knows where those lie."""
    return recipe if recipe.suffix != ".toml" and recipe.parent == Path() else folder / recipe


def _absolute(path: Path | None, folder: Path, environ: Mapping[str, str]) -> Path | None:
    if path is None or path == SYSTEM_CA:
        return path
    if str(path).startswith(CREDENTIAL):
        return Path(environ["CREDENTIALS_DIRECTORY"]) / str(path)[len(CREDENTIAL) :]
    return folder / path


def _resolved_source(source: str, folder: Path) -> str:
    if source.isdecimal() or "://" in source or source == "sim" or source.startswith(("sim:", "gst:")):
        return source
    return str(folder / source)


def _resolved_model(name: str | None, folder: Path) -> str | None:
    """A folder beside the configuration file wins over a shipped model of the same name."""
    return name if name is None or not (folder / name).is_dir() else str(folder / name)


def _files(config: Config) -> Iterator[tuple[str, Path | None]]:
    """Every key that names a file that must be there."""
    for index, camera in enumerate(config.camera):
        yield f"camera[{index}].recipe", camera.recipe
        yield f"camera[{index}].password_file", camera.password_file
    if config.mqtt:
        for name in ("ca", "cert", "key", "password_file"):
            yield f"mqtt.{name}", getattr(config.mqtt, name)
    if config.update:
        yield "update.root", config.update.root
        yield "update.ca", config.update.ca


def _credentials_not_given(config: Config, environ: Mapping[str, str]) -> Iterator[Mistake]:
    for key, path in _files(config):
        if str(path).startswith(CREDENTIAL) and not environ.get("CREDENTIALS_DIRECTORY"):
            yield Mistake(key, f"{_shown(path)} without $CREDENTIALS_DIRECTORY", "only where systemd loads credentials")


def _missing_files(files: Iterable[tuple[str, Path | None]]) -> Iterator[Mistake]:
    for key, path in files:
        if path is not None and path.is_absolute() and not (path.is_file() and os.access(path, os.R_OK)):
            what = (
                "which may not be read"
                if path.is_file()
                else "which is no file"
                if path.exists()
                else "which is not there"
            )
            yield Mistake(key, f"{_shown(path)}, {what}", "a file that can be read")


def _unknown_recipes(config: Config) -> Iterator[Mistake]:
    for index, camera in enumerate(config.camera):
        if camera.recipe is not None and not camera.recipe.is_absolute():
            try:
                find_recipe(camera.recipe)
            except BadConfig as err:
                allowed = str(err).partition("allowed: ")[2]
                yield Mistake(f"camera[{index}].recipe", _shown(camera.recipe), allowed or str(err))
