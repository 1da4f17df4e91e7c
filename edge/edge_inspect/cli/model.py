"""`edge-inspect model list|show|verify ...`: what models there are, what one says about itself, whether it may run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edge_inspect.cli.folded import page_console, print_folded
from edge_inspect.cli.model_box import (
    OTHER,
    ConfigFile,
    Place,
    StateDir,
    digest_of_factory,
    folder_meant,
    place,
    roles,
    waiting,
)
from edge_inspect.cli.model_change import activate, rollback
from edge_inspect.cli.model_history import history
from edge_inspect.cli.model_import import import_model
from edge_inspect.cli.model_watch import watch
from edge_inspect.cli.options import AsJson, ProviderName, ThreadCount, check_provider
from edge_inspect.cli.output import emit, size
from edge_inspect.cli.plural import counted
from edge_inspect.errors import BadModel
from edge_inspect.inference.engine import Engine
from edge_inspect.inference.package import DEFAULT_MODEL, ModelPackage, shipped_models
from edge_inspect.update.state import State
from edge_wire.manifest import Manifest, Measured, Tally

Model = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[DIR | NAME [VERSION] | DIGEST]",
        help="A package folder, or a model of `model list`, by NAME alone where there is one. "
        f"(default: what judges here; where nothing does, the shipped {DEFAULT_MODEL})",
        show_default=False,
    ),
]


def add(app: typer.Typer) -> None:
    """Register the family."""
    model = typer.Typer(
        help="Models: what is there, what judges and did judge, what shall judge.",
        no_args_is_help=True,
        epilog="Example: edge-inspect model verify metal-plate --run",
    )
    model.command("list", epilog="Example: edge-inspect model list")(list_models)
    model.command("show", epilog="Example: edge-inspect model show metal-plate 1.0.0")(show)
    model.command("verify", epilog="Example: edge-inspect model verify ./my-model --run --provider cpu")(verify)
    model.command("history", epilog="Example: edge-inspect model history --state /var/lib/edge-inspect")(history)
    model.command("watch", epilog="Example: edge-inspect model watch --state /var/lib/edge-inspect && echo kept")(watch)
    model.command("import", epilog="Example: edge-inspect model import /media/stick --config line.toml")(import_model)
    model.command("activate", epilog="Example: edge-inspect model activate metal-plate 1.1.0 --why 'new steel'")(
        activate
    )
    model.command("rollback", epilog="Example: edge-inspect model rollback --why 'rejects good parts'")(rollback)
    app.add_typer(model, name="model")


def list_models(state: StateDir = None, config: ConfigFile = None, json: AsJson = False) -> None:
    """The models on this box: which one judges, which one is tried, and those that came with this installation."""
    box = place(state, config)
    if state is not None:
        box.insist_on_models()
    told, checked = box.look()
    names = {entry.digest: (entry.name, entry.version) for entry in checked.entries}
    names |= {known.digest: (known.name, known.version) for known in (told.known if told else ())}
    factory, offered = digest_of_factory(box), waiting(box, told)
    models = []
    for folder in dict.fromkeys([*box.packages(), box.factory, *shipped_models()]):
        models.append(_listed(folder, told, factory, offered, names))
    models = list({found["digest"]: found for found in reversed(models)}.values())[::-1]
    here = {found["digest"] for found in models}
    gone = [known for known in (told.known if told else ()) if known.digest not in here]
    for known in gone:
        was = {"name": known.name, "version": known.version, "digest": known.digest, "classes": [], "variants": []}
        is_now = [role for role in roles(told, factory, known.digest, offered) if role not in ("offered", "unused")]
        models.append({**was, "dir": None, "roles": [*is_now, "not here any more"]})
    if not box.says_what_judges():
        models = [{**found, "roles": [role for role in found["roles"] if role != "active"]} for found in models]
    console = page_console(stderr=json)
    for line, at in [*_lines(models), (_whose(box), 4)]:
        print_folded(console, line, at)
    if json:
        stage = told.stage.value if told else None
        emit({"models": models, "stage": stage, "state_dir": str(box.state_dir)})


def _whose(box: Place) -> Text:
    if box.says_what_judges():
        return Text(f"of {box.state_dir}", "dim")
    return Text(f"{box.state_dir}: {OTHER}", "yellow")


def _lines(models: list[dict[str, Any]]) -> Iterator[tuple[Text, int]]:
    """What each one is, and what it can do below; with the column in which a line goes on."""
    width = max(len(f"{found['name']} {found['version']}") for found in models)
    for found in models:
        is_now = Text(", ".join(found["roles"]), "bold green" if "active" in found["roles"] else "")
        name = f"{found['name']} {found['version']}".ljust(width)
        begin = Text.assemble((name, "bold"), f"  {found['digest'].removeprefix('sha256:')[:12]}  ")
        yield begin + is_now, len(begin)
        if found["classes"]:
            variants = ", ".join(f"{v['precision']} {v['shape']}" for v in found["variants"])
            yield Text(f"    {', '.join(found['classes'])}; {variants}", "dim"), 4


def _listed(
    folder: Path, told: State | None, factory: str, offered: set[str], names: dict[str, tuple[str, str]]
) -> dict[str, Any]:
    """A damaged package is listed, too: by its folder's name, as what was known under it."""
    try:
        found = _short(ModelPackage.load(folder))
    except BadModel as err:
        digest = f"sha256:{folder.name}"
        name, version = names.get(digest, ("?", "?"))
        found = {"name": name, "version": version, "digest": digest, "classes": [], "variants": []}
        is_now = [role for role in roles(told, factory, digest, offered) if role not in ("offered", "unused")]
        return {**found, "dir": str(folder), "roles": [*is_now, f"damaged: {err.code}"]}
    is_now = roles(told, factory, found["digest"], offered)
    if is_now == ["unused"] and folder in shipped_models():
        is_now = ["shipped"]
    return {**found, "dir": str(folder), "roles": is_now}


def show(model: Model = None, state: StateDir = None, config: ConfigFile = None, json: AsJson = False) -> None:
    """What a model's manifest says: classes, inputs, accuracy and how it was measured."""
    package = ModelPackage.load(folder_meant(place(state, config), model or []))
    manifest = package.manifest
    table = Table(title=f"{manifest.name} {manifest.version}", show_header=False)
    for column in ("what", "value", "how"):
        table.add_column(column, overflow="fold")
    table.add_row("folder", str(package.dir), "")
    table.add_row("digest", package.digest, "")
    table.add_row("licence", manifest.licence, manifest.source)
    table.add_row("data", manifest.dataset.name, counted(manifest.dataset.pictures, "picture"))
    for name, threshold in manifest.thresholds.items():
        table.add_row(f"class {name}", f"from {threshold:g}", "")
    for variant in manifest.variants:
        what = f"{variant.precision} {variant.height_px}x{variant.width_px}"
        table.add_row(what, variant.file, f"{variant.output.layout}, {size(variant.size_bytes)}")
    for row in _measures(manifest):
        table.add_row(*row)
    page_console(stderr=json).print(table)
    if json:
        emit({"dir": str(package.dir), "digest": package.digest, "manifest": manifest.model_dump(mode="json")})


def _measures(manifest: Manifest) -> Iterator[tuple[str, str, str]]:
    """What, value with its unit, how."""
    for measured in manifest.measured:
        yield from _accuracy(measured, manifest)
    for what, measure in manifest.accuracy.items():
        yield what, f"{measure.value:g}", measure.how
    if not manifest.measured and not manifest.accuracy:
        yield "accuracy", "not measured", ""
    for left in manifest.left_out:
        yield f"{left.precision} left out", "", left.why
    for what, measure in manifest.latency_budget_ms.items():
        yield f"latency on {what}", f"at most {measure.value:g} ms", measure.how
    for what, measure in manifest.memory_budget_bytes.items():
        yield f"memory on {what}", f"at most {size(measure.value)}", measure.how


def _accuracy(measured: Measured, manifest: Manifest) -> Iterator[tuple[str, str, str]]:
    variant = next(one for one in manifest.variants if one.file == measured.file)
    name = f"{variant.precision} {variant.height_px}x{variant.width_px}"
    yield f"accuracy of {name}", f"mAP50 {measured.map50:.3f}", _mistakes(measured.pictures)
    for label, tally in measured.classes.items() if len(measured.classes) > 1 else ():
        yield f"  {label}", "", _mistakes(tally)


def _mistakes(tally: Tally) -> str:
    return (
        f"{tally.escapes} of {counted(tally.defective, 'picture')} with a defect missed (escapes), "
        f"{tally.overkill} of {tally.good} without rejected (overkill)"
    )


def verify(
    model: Model = None,
    run: Annotated[bool, typer.Option("--run", help="Also load it and ask the golden pictures.")] = False,
    provider: ProviderName = None,
    threads: ThreadCount = None,
    state: StateDir = None,
    config: ConfigFile = None,
    json: AsJson = False,
) -> None:
    """Check every byte and each ONNX file's contract; with --run its known answers too. Exit code 1: not to be run."""
    words = model or []
    try:
        package = ModelPackage.load(folder_meant(place(state, config), words))
        ran_on = _ask_golden(package, check_provider(provider) or "auto", threads or 0) if run else None
    except BadModel as err:
        if json:
            emit({"ok": False, "code": err.code, "error": " ".join(str(err).split()), "model": " ".join(words) or None})
        raise
    files = len(package.manifest.files())
    answers = f", {counted(len(package.manifest.golden), 'known answer')} right on {ran_on}" if ran_on else ""
    Console(stderr=True, highlight=False).print(
        f"{package.dir}: {counted(files, 'file')} verified{answers}", soft_wrap=True
    )
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
