"""`train`, `average`, `export`, `quantise`, `measure`, `package`: from labelled pictures to a model package."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cloud_inspect.cli.output import finish
from cloud_inspect.cli.train_start import COCO_FILE, find_start
from cloud_inspect.errors import BadTraining
from cloud_inspect.learning import training
from cloud_inspect.learning.datasets import SPLITS, load_dataset

_err = Console(stderr=True)


def add(app: typer.Typer) -> None:
    for command in (train, average, export, quantise, measure, package):
        app.command()(command)


def train(
    data: Annotated[list[Path], typer.Argument(help="One data.yaml or more; they are mixed.")],
    name: Annotated[str, typer.Option(help="Name of this training; a folder under --runs.")],
    start: Annotated[
        str, typer.Option("--from", help="coco, active, a .npz or .pt, a training's folder.", metavar="START")
    ] = "coco",
    weights: Annotated[Path, typer.Option(help="With --from coco: the file.")] = Path(COCO_FILE),
    released: Annotated[
        str | None, typer.Option(help="With --from active: the repository, else the shipped model.", metavar="URL")
    ] = None,
    product: Annotated[str, typer.Option(help="With --released.")] = "metal-plate",
    channel: Annotated[str, typer.Option(help="With --released.")] = "stable",
    epochs: Annotated[int, typer.Option(min=1)] = 30,
    imgsz: Annotated[str, typer.Option(help="Network input, HEIGHTxWIDTH, steps of 32.")] = "384x640",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    batch: Annotated[int, typer.Option(min=1)] = 16,
    lr0: Annotated[float, typer.Option(help="First learning rate (AdamW, cosine).")] = 0.0015,
    belt_views: Annotated[int, typer.Option(min=0, help="Views of each small picture at line scale.")] = 2,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0: all cores.")] = 0,
    bf16: Annotated[bool, typer.Option(help="bfloat16 forward pass on a CPU.")] = True,
    runs: Annotated[Path, typer.Option(help="Folder of all trainings.")] = Path("runs"),
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted training.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")] = False,
) -> None:
    """Train a detector on one or several YOLO data sets.

    Example: cloud-inspect train metal_tag/data.yaml sim/data.yaml --name plates --from active --epochs 30 --seed 7
    """
    place = (released, product, channel) if released else None
    plan = training.Plan(
        sources=tuple(data),
        weights=find_start(start, weights, runs, place),
        folder=runs / name,
        epochs=epochs,
        imgsz=parse_size(imgsz),
        seed=seed,
        batch=batch,
        lr0=lr0,
        belt_views=belt_views,
        threads=threads,
        bf16=bf16,
    )
    with _epoch_bar(name, epochs) as after_epoch:
        trained = training.train(plan, resume=resume, progress=after_epoch)
    result = {"weights": str(trained.weights), "map50": trained.map50, "map50_95": trained.map50_95}
    finish(result | {"epochs": trained.epochs, "dataset_digest": trained.dataset_digest}, json_)


def average(
    weights: Annotated[list[Path], typer.Argument(help="Weights (.pt) of a training and its continuations.")],
    out: Annotated[Path, typer.Option(help="The .pt file to write.")],
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")] = False,
) -> None:
    """Write the mean of several trainings' weights: steadier on unseen pictures than each of them.

    Example: cloud-inspect average runs/a/run/weights/best.pt runs/b/run/weights/best.pt --out mean.pt
    """
    training.average_weights(weights, out)
    finish({"out": str(out), "averaged": len(weights)}, json_)


def export(
    weights: Annotated[Path, typer.Argument(help="Trained weights (.pt).")],
    out: Annotated[Path, typer.Option(help="The ONNX file to write.")],
    imgsz: Annotated[str, typer.Option(help="Network input, HEIGHTxWIDTH, steps of 32.")] = "384x640",
    fp16: Annotated[bool, typer.Option("--fp16", help="float16 inside, float32 in and out.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")] = False,
) -> None:
    """Export trained weights as ONNX with a static input.

    Example: cloud-inspect export runs/plates/run/weights/best.pt --out model.onnx --imgsz 384x640
    """
    from cloud_inspect.learning.export import convert_fp16, export_onnx

    export_onnx(weights, out, parse_size(imgsz))
    if fp16:
        convert_fp16(out, out)
    finish({"out": str(out), "size_bytes": out.stat().st_size}, json_)


def quantise(
    model: Annotated[Path, typer.Argument(help="fp32 ONNX file.")],
    data: Annotated[list[Path], typer.Option(help="data.yaml whose train pictures calibrate; may be repeated.")],
    out: Annotated[Path, typer.Option(help="The ONNX file to write.")],
    pictures: Annotated[int, typer.Option(min=1, help="How many pictures, evenly taken.")] = 150,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")] = False,
) -> None:
    """Quantise an ONNX file to INT8, calibrated on training pictures.

    Example: cloud-inspect quantise model.onnx --data metal_tag/data.yaml --out model-int8.onnx
    """
    from cloud_inspect.learning.export import quantise_int8

    found = [sample.picture for path in data for sample in load_dataset(path).train]
    chosen = found[:: max(1, len(found) // pictures)][:pictures]
    quantise_int8(model, out, chosen)
    finish({"out": str(out), "size_bytes": out.stat().st_size, "pictures": len(chosen)}, json_)


def measure(
    model: Annotated[Path, typer.Argument(help="ONNX file.")],
    data: Annotated[Path, typer.Argument(help="data.yaml.")],
    split: Annotated[str, typer.Option(help="val or train.")] = "val",
    threshold: Annotated[float, typer.Option(min=0.0, max=1.0, help="Confidence that makes a picture NG.")] = 0.25,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")] = False,
) -> None:
    """Measure a model on labelled pictures: mAP, escapes, overkill.

    Example: cloud-inspect measure models/metal-plate/1.0.0/model.onnx metal_tag/data.yaml
    """
    from cloud_inspect.learning import measure as measuring

    if split not in SPLITS:
        raise BadTraining(f"--split {split}: must be one of {', '.join(SPLITS)}")
    dataset = load_dataset(data)
    samples = dataset.val if split == "val" else dataset.train
    measured = measuring.measure(model, samples, dataset.classes, threshold=threshold)
    finish({"model": str(model), "split": split, "threshold": threshold} | asdict(measured), json_)


def package(
    draft: Annotated[Path, typer.Argument(help="TOML with name, version, classes, thresholds, measured accuracy.")],
    out: Annotated[Path, typer.Option(help="Folder of the package.")],
    variant: Annotated[list[Path], typer.Option(help="ONNX file; the first is the reference. May be repeated.")],
    golden: Annotated[list[Path], typer.Option(help="Known-answer picture. May be repeated.")],
    extra: Annotated[list[Path] | None, typer.Option(help="File to lie beside it, e.g. a model card.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace an unreleased package.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")] = False,
) -> None:
    """Build a model package: files, digests, golden answers, manifest.

    Example: cloud-inspect package package.toml --out plate/1.0.0 --variant model.onnx --golden good.png
    """
    from cloud_inspect.release.package import build_package, load_draft

    manifest = build_package(
        out, load_draft(draft), variants=variant, golden=golden, extra=extra or [], replace=replace
    )
    finish({"out": str(out), "name": manifest.name, "version": manifest.version}, json_)


@contextmanager
def _epoch_bar(name: str, epochs: int) -> Iterator[training.Progress]:
    """A bar on stderr that appears with the first finished epoch, so that a refusal stays one line."""
    columns = (TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=_err)
    task = bar.add_task(f"train {name}", total=epochs)

    def after_epoch(epoch: int, _: int, metrics: dict[str, float]) -> None:
        bar.start()
        bar.update(task, completed=epoch)
        _err.print(f"epoch {epoch}: val mAP50 {metrics.get('metrics/mAP50(B)', float('nan')):.4f}")

    try:
        yield after_epoch
    finally:
        if bar.live.is_started:
            bar.stop()


def parse_size(text: str) -> tuple[int, int]:
    """ "384x640" -> (384, 640), height first; one number is a square."""
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not match:
        raise BadTraining(f"--imgsz {text}: must be HEIGHTxWIDTH, e.g. 384x640")
    return int(match[1]), int(match[2] or match[1])
