"""`release build`: from an fp32 ONNX file and labelled pictures to a model package that may be signed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from cloud_inspect.cli.output import AsJson, emit
from cloud_inspect.errors import BadPackage

if TYPE_CHECKING:
    from cloud_inspect.release.judge import Step
    from edge_wire.manifest import Manifest

_err = Console(stderr=True)


def add(app: typer.Typer) -> None:
    app.command()(build)


def build(
    model: Annotated[Path, typer.Argument(help="A training's folder; or an fp32 ONNX file that `export` wrote.")],
    name: Annotated[str, typer.Option(help="The model's name, e.g. metal-plate.")],
    version: Annotated[str, typer.Option(help="1.1.0; a version stands for the same bytes for ever.")],
    out: Annotated[Path, typer.Option(help="Folder of the package; must not exist.")],
    data: Annotated[
        list[Path] | None, typer.Option(help="data.yaml; train calibrates, val judges. Else the training's.")
    ] = None,
    classes: Annotated[str, typer.Option(help="With commas, to be sure: must be the data set's.")] = "",
    threshold: Annotated[
        list[str] | None, typer.Option(help="CLASS=CONFIDENCE; else as in --than, else 0.25.", metavar="C=X")
    ] = None,
    than: Annotated[Path | None, typer.Option(help="Package that it must not be worse than, in any class.")] = None,
    precision: Annotated[
        str, typer.Option(help="Besides fp32: fp16, int8, with a comma; none for neither.")
    ] = "fp16,int8",
    map50_loss: Annotated[float, typer.Option(min=0, max=1, help="Most mAP50 that fp16, int8 may lose.")] = 0.02,
    escape_rise: Annotated[float, typer.Option(min=0, max=1, help="Most share of escapes they may add.")] = 0.01,
    overkill_rise: Annotated[float, typer.Option(min=0, max=1, help="Most share of overkill they may add.")] = 0.01,
    golden: Annotated[
        list[Path] | None, typer.Option(help="Known-answer picture of the data set; else chosen from val.")
    ] = None,
    cost_factor: Annotated[
        float, typer.Option(min=1, max=100, help="Latency and memory budget: so often what was measured here.")
    ] = 3.0,
    training: Annotated[Path | None, typer.Option(help="The training's record; else the folder's.")] = None,
    description: Annotated[str, typer.Option(help="For people.")] = "",
    licence: Annotated[str, typer.Option(help="Of the weights.")] = "AGPL-3.0-or-later",
    extra: Annotated[list[Path] | None, typer.Option(help="File to lie beside it, e.g. a model card.")] = None,
    json_: AsJson = False,
) -> None:
    """Build a package: gate, accuracy by picture, fp16 and INT8 within a budget, golden pictures, costs, provenance.

    Example: cloud-inspect release build runs/plates --name metal-plate --version 1.1.0
    --out packages/metal-plate/1.1.0 --than models/metal-plate/1.0.0
    """
    from cloud_inspect.release.build import Plan
    from cloud_inspect.release.build import build as build_release
    from cloud_inspect.release.from_training import read_run
    from edge_wire.manifest import AccuracyBudget

    try:
        model.stat()
    except OSError as err:
        raise BadPackage(f"{model}: {err.strerror}") from err
    run = read_run(model) if model.is_dir() else None
    if not data and run is None:
        raise typer.BadParameter("--data is missing: a single file does not say what it was trained on")
    plan = Plan(
        model=run.export() if run else model,
        data=tuple(data or (run.data if run else ())),
        name=name,
        version=version,
        out=out,
        classes=tuple(word.strip() for word in classes.split(",")) if classes else (),
        thresholds=dict(_threshold(text) for text in threshold or []),
        than=than,
        precisions=_precisions(precision),
        budget=AccuracyBudget(
            most_map50_loss=map50_loss, most_escape_rise=escape_rise, most_overkill_rise=overkill_rise
        ),
        golden=tuple(golden or ()),
        cost_factor=cost_factor,
        training=training or (run.record if run else None),
        description=description,
        licence=licence,
        extra=tuple(extra or ()),
    )
    with _bar() as step:
        built = build_release(plan, step)
    if json_:
        emit({"out": str(out), "compared": built.compared} | _facts(built.manifest))
    else:
        _tell(built.manifest, out, than if built.compared else None)


def _facts(manifest: Manifest) -> dict[str, Any]:
    keys = {"name", "version", "thresholds", "measured", "left_out", "latency_budget_ms", "memory_budget_bytes"}
    facts = manifest.model_dump(mode="json", include=keys)
    variants = [variant.file for variant in manifest.variants]
    return facts | {"variants": variants, "golden": [golden.file for golden in manifest.golden]}


def _tell(manifest: Manifest, out: Path, than: Path | None) -> None:
    for one in manifest.measured:
        all_ = one.pictures
        typer.echo(
            f"{one.file}: {all_.escapes} escapes of {all_.defective}, {all_.overkill} overkill of {all_.good}, "
            f"mAP50 {one.map50:.4f}"
        )
    for left in manifest.left_out:
        typer.echo(f"left out {left.precision}: {left.why}")
    if than:
        typer.echo(f"not worse than {than} in any class")
    for kind, budget in manifest.latency_budget_ms.items():
        typer.echo(f"budget on {kind}: {budget.value:g} ms, {manifest.memory_budget_bytes[kind].value / 2**20:.0f} MiB")
    typer.echo(f"{manifest.name} {manifest.version}: {out}")


def _precisions(text: str) -> tuple[Any, ...]:
    words = tuple(word.strip() for word in text.split(",") if word.strip() != "none")
    if not set(words) <= {"fp16", "int8"}:
        raise BadPackage(f"--precision {text}: allowed are fp16, int8, none")
    return words


def _threshold(text: str) -> tuple[str, float]:
    name, _, number = text.rpartition("=")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if not name or not 0 <= value <= 1:
        raise BadPackage(f"--threshold {text}: must be CLASS=CONFIDENCE, e.g. scratch=0.35")
    return name, value


@contextmanager
def _bar() -> Iterator[Step]:
    """A bar on stderr for each step; it starts with the first, so that a refusal stays one line."""
    columns = (TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn())
    bar = Progress(*columns, console=_err)
    tasks: dict[str, Any] = {}

    def step(what: str, done: int, of: int) -> None:
        bar.start()
        if what not in tasks:
            tasks[what] = bar.add_task(what, total=of)
        bar.update(tasks[what], completed=done, total=of)

    try:
        yield step
    finally:
        if bar.live.is_started:
            bar.stop()
