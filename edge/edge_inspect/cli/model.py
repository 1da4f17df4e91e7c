"""`edge-inspect model list|show|verify ...`: what models there are, what one says about itself, whether it may run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from edge_inspect.cli.model_box import ConfigFile, digest_of_factory, folder_meant, place, roles
from edge_inspect.cli.model_change import activate, import_model, rollback
from edge_inspect.cli.model_history import history
from edge_inspect.cli.options import AsJson, ProviderName, StateDir, ThreadCount, check_provider
from edge_inspect.cli.output import emit
from edge_inspect.errors import BadModel
from edge_inspect.inference.engine import Engine
from edge_inspect.inference.package import DEFAULT_MODEL, ModelPackage, shipped_models
from edge_inspect.update.state import State

Model = Annotated[
    str, typer.Argument(help="A package folder, the name of a shipped model, or a digest of `model list`.")
]


def add(app: typer.Typer) -> None:
    """Register the family."""
    model = typer.Typer(
        help="Models: what is there, what judges and did judge, what shall judge.",
        no_args_is_help=True,
        epilog="Example: edge-inspect model verify metal-plate --run",
    )
    model.command("list", epilog="Example: edge-inspect model list")(list_models)
    model.command("show", epilog="Example: edge-inspect model show metal-plate")(show)
    model.command("verify", epilog="Example: edge-inspect model verify ./my-model --run --provider cpu")(verify)
    model.command("history", epilog="Example: edge-inspect model history --state /var/lib/edge-inspect")(history)
    model.command("import", epilog="Example: edge-inspect model import /media/stick --config line.toml")(import_model)
    model.command("activate", epilog="Example: edge-inspect model activate metal-plate 1.1.0 --why 'new steel'")(
        activate
    )
    model.command("rollback", epilog="Example: edge-inspect model rollback --why 'rejects good parts'")(rollback)
    app.add_typer(model, name="model")


def list_models(state: StateDir = None, config: ConfigFile = None, json: AsJson = False) -> None:
    """The models on this box: which one judges, which one is tried, and those that came with this installation."""
    box = place(state, config)
    told, _ = box.look()
    factory = digest_of_factory(box)
    models = []
    for folder in dict.fromkeys([*box.packages(), box.factory, *shipped_models()]):
        models.append(_listed(folder, told, factory))
    models = list({found["digest"]: found for found in reversed(models)}.values())[::-1]
    here = {found["digest"] for found in models}
    gone = [known for known in (told.known if told else ()) if known.digest not in here]
    for known in gone:
        was = {"name": known.name, "version": known.version, "digest": known.digest, "classes": [], "variants": []}
        models.append({**was, "dir": None, "roles": [*roles(told, factory, known.digest), "not here any more"]})
    table = Table("model", "version", "is", "classes", "variants", "digest")
    for found in models:
        variants = " ".join(f"{v['precision']}:{v['shape']}" for v in found["variants"])
        digest = found["digest"].removeprefix("sha256:")[:12]
        table.add_row(
            found["name"], found["version"], ", ".join(found["roles"]), ", ".join(found["classes"]), variants, digest
        )
    Console(stderr=json).print(table)
    if json:
        emit({"models": models, "stage": told.stage.value if told else None})


def _listed(folder: Path, told: State | None, factory: str) -> dict[str, Any]:
    """A damaged package is listed, too: by its folder's name."""
    try:
        found = _short(ModelPackage.load(folder))
    except BadModel as err:
        digest = f"sha256:{folder.name}"
        found = {"name": "?", "version": "?", "digest": digest, "classes": [], "variants": []}
        return {**found, "dir": str(folder), "roles": [*roles(told, factory, digest), f"damaged: {err.code}"]}
    return {**found, "dir": str(folder), "roles": roles(told, factory, found["digest"])}


def show(model: Model = DEFAULT_MODEL, state: StateDir = None, config: ConfigFile = None, json: AsJson = False) -> None:
    """What a model's manifest says: classes, inputs, accuracy and how it was measured."""
    package = ModelPackage.load(folder_meant(place(state, config), model))
    manifest = package.manifest
    table = Table(title=f"{manifest.name} {manifest.version}", show_header=False)
    for column in ("what", "value", "how"):
        table.add_column(column, overflow="fold")
    table.add_row("folder", str(package.dir), "")
    table.add_row("digest", package.digest, "")
    table.add_row("licence", manifest.licence, manifest.source)
    table.add_row("data", manifest.dataset.name, f"{manifest.dataset.pictures} pictures")
    for name, threshold in manifest.thresholds.items():
        table.add_row(f"class {name}", f"from {threshold:g}", "")
    for variant in manifest.variants:
        size = f"{variant.height_px}x{variant.width_px}"
        table.add_row(
            f"{variant.precision} {size}", variant.file, f"{variant.output.layout}, {variant.size_bytes} bytes"
        )
    for what, measure in {**manifest.accuracy, **manifest.latency_budget_ms}.items():
        table.add_row(what, f"{measure.value:g}", measure.how)
    Console(stderr=json).print(table)
    if json:
        emit({"dir": str(package.dir), "digest": package.digest, "manifest": manifest.model_dump(mode="json")})


def verify(
    model: Model = DEFAULT_MODEL,
    run: Annotated[bool, typer.Option("--run", help="Also load it and ask the golden pictures.")] = False,
    provider: ProviderName = None,
    threads: ThreadCount = None,
    state: StateDir = None,
    config: ConfigFile = None,
    json: AsJson = False,
) -> None:
    """Check every byte and each ONNX file's contract; with --run its known answers too. Exit code 1: not to be run."""
    try:
        package = ModelPackage.load(folder_meant(place(state, config), model))
        ran_on = _ask_golden(package, check_provider(provider) or "auto", threads or 0) if run else None
    except BadModel as err:
        if json:
            emit({"ok": False, "code": err.code, "error": " ".join(str(err).split()), "model": str(model)})
        raise
    files = len(package.manifest.files())
    answers = f", {len(package.manifest.golden)} known answers right on {ran_on}" if ran_on else ""
    Console(stderr=True).print(f"{package.dir}: {files} files verified{answers}", soft_wrap=True, highlight=False)
    if json:
        emit({"ok": True, "code": None, "dir": str(package.dir), "files": files, "ran_on": ran_on, **_short(package)})


def _ask_golden(package: ModelPackage, provider: str, threads: int) -> str:
    """Every variant answers its golden pictures; the provider that did it."""
    ran_on = provider
    for variant in package.manifest.variants:
        shape = (variant.height_px, variant.width_px)
        engine = Engine(package, provider=provider, threads=threads, shape=shape, precision=variant.precision)
        try:
            engine.warm_up()
            engine.known_answer()
            ran_on = engine.provider
        finally:
            engine.close()
    return ran_on


def _short(package: ModelPackage) -> dict[str, Any]:
    manifest = package.manifest
    return {
        "name": manifest.name,
        "version": manifest.version,
        "digest": package.digest,
        "classes": list(manifest.classes),
        "variants": [
            {
                "file": v.file,
                "precision": v.precision,
                "shape": f"{v.height_px}x{v.width_px}",
                "layout": v.output.layout,
            }
            for v in manifest.variants
        ],
    }
