"""`edge-inspect config init|check|show|docs`: the configuration without starting anything."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel

from edge_inspect.capture.open import camera_from
from edge_inspect.cli.config_docs import configuration_page, starter_file
from edge_inspect.cli.options import AsJson, permitted_config
from edge_inspect.cli.output import emit
from edge_inspect.config import CameraConfig, Config, load_config
from edge_inspect.errors import BadConfig, BadModel, BadSource, StorageFailing, Usage
from edge_inspect.inference.package import ModelPackage, find_model
from edge_inspect.lane import part_times
from edge_inspect.line.open import check_adapters, check_fit
from edge_inspect.lines import check_has_line
from edge_inspect.verdict.recipe import find_recipe, load_recipe

DEFAULT_FILE = Path("/etc/edge-inspect/edge-inspect.toml")

ConfigFile = Annotated[
    Path, typer.Argument(metavar="[FILE]", readable=False, callback=permitted_config, help="Configuration file.")
]


def add(app: typer.Typer) -> None:
    family = typer.Typer(
        help="Write, check and show the configuration.",
        no_args_is_help=True,
        epilog="Example: edge-inspect config init line.toml --camera /dev/video0",
    )
    family.command("init", epilog="Example: edge-inspect config init line.toml --camera /dev/video0")(init)
    family.command("check", epilog="Example: edge-inspect config check line.toml && systemctl restart edge-inspect")(
        check
    )
    family.command("show", epilog="Example: edge-inspect config show line.toml --json | jq .mqtt")(show)
    family.command("docs", epilog="Example: edge-inspect config docs --write docs/configuration.md")(docs)
    app.add_typer(family, name="config")


def init(
    file: Annotated[Path, typer.Argument(metavar="[FILE]", help="File to write.")] = Path("edge-inspect.toml"),
    camera: Annotated[str, typer.Option(metavar="SOURCE", help="The first camera.")] = "/dev/video0",
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE if it is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a configuration to start from: it works as it is, every other key stands in it as a comment."""
    if file.exists() and not force:
        raise Usage(f"{file} is already there; --force overwrites it")
    try:
        file.write_text(starter_file(camera), encoding="utf-8")
        file.chmod(0o644)
    except OSError as err:
        raise StorageFailing(f"{file}: cannot be written: {err.strerror}") from err
    load_config(file)
    _tell(as_json, f"{file} written; next: edge-inspect config check {file}", {"file": str(file), "camera": camera})


def check(file: ConfigFile = DEFAULT_FILE, as_json: AsJson = False) -> None:
    """Check what `run` would refuse: keys, values, recipes, model packages, sources, adapters. Opens no device.

    One line and exit code 78 when something is wrong. Whether devices are there and ports free, says `doctor`.
    """
    config = load_config(file)
    for index, camera in enumerate(config.camera):
        try:
            _check_camera(config, camera)
        except BadSource as err:
            raise BadConfig(f"{file}: key `camera[{index}].source`: {err}") from err
        except BadModel as err:
            key = f"camera[{index}].model" if camera.model else "model.dir"
            raise BadConfig(f"{file}: key `{key}`: {err}") from err
    for line in config.line:
        check_adapters(line)
    names = [camera.name for camera in config.camera]
    _tell(as_json, f"{file}: ok, {len(names)} camera(s): {', '.join(names)}", {"file": str(file), "cameras": names})


def _check_camera(config: Config, camera: CameraConfig) -> None:
    camera_from(camera.address(), **camera.options()).close()
    recipe = load_recipe(find_recipe(camera.recipe) if camera.recipe else find_recipe())
    lines = [line for line in config.line if line.camera in (camera.name, None)]
    for line in lines:
        check_fit(line, part_times(recipe))
    check_has_line(camera, recipe, bool(lines))
    named = camera.model or config.model.dir
    package = ModelPackage.load(find_model(named) if named else find_model())
    recipe.thresholds(package.manifest.classes)


def show(file: ConfigFile = DEFAULT_FILE, as_json: AsJson = False) -> None:
    """Show what is in force: the file, its defaults, absolute paths. Holds no secret: only the names of their files."""
    config = load_config(file)
    if as_json:
        emit(config.model_dump(mode="json"))
    else:
        typer.echo("\n".join(_as_toml(config)))


def docs(
    write: Annotated[Path | None, typer.Option("--write", metavar="FILE", help="Write it there instead.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print the page on every key of configuration and recipe, as in docs/configuration.md."""
    page = configuration_page()
    if write is None and not as_json:
        typer.echo(page, nl=False)
        return
    if write is not None:
        try:
            write.write_text(page, encoding="utf-8")
        except OSError as err:
            raise StorageFailing(f"{write}: cannot be written: {err.strerror}") from err
    _tell(as_json, f"{write} written", {"file": write and str(write), "page": page})


def _tell(as_json: bool, line: str, result: dict[str, Any]) -> None:
    if as_json:
        emit(result)
    else:
        typer.echo(line)


def _as_toml(config: Config) -> Iterator[str]:
    """The configuration as TOML; what has no value is left out."""
    values = config.model_dump(mode="json", exclude_none=True)
    yield from _keys(
        {name: value for name, value in values.items() if not isinstance(getattr(config, name), (BaseModel, tuple))}
    )
    for name, value in values.items():
        for table in value if isinstance(value, list) else [value] if isinstance(value, dict) else []:
            yield ""
            yield f"[[{name}]]" if isinstance(value, list) else f"[{name}]"
            yield from _keys({key: inner for key, inner in table.items() if not isinstance(inner, dict)})
            for key, inner in table.items():
                if isinstance(inner, dict):
                    yield f"[{name}.{key}]"
                    yield from _keys(inner)


def _keys(table: dict[str, Any]) -> Iterator[str]:
    return (f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in table.items())
