"""`cloud-inspect`: train, export, quantise and pack models from the command line.

A refusal is one line on stderr, `cloud-inspect: <what is wrong>`, and the exit code of its error; no traceback.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cloud_inspect.errors import BadTraining, CloudError
from cloud_inspect.learning import training

app = typer.Typer(help="The retraining side: data sets in, signed-off model packages out.", no_args_is_help=True)
_err = Console(stderr=True)


@app.callback()
def _root() -> None:
    """Keeps the commands' names even while there is only one."""


@app.command()
def train(
    data: Annotated[list[Path], typer.Argument(help="One data.yaml or more; they are mixed.")],
    name: Annotated[str, typer.Option(help="Name of this training; a folder under --runs.")],
    weights: Annotated[Path, typer.Option(help="Weights to start from (.pt).")] = Path("yolov8n.pt"),
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

    Example: cloud-inspect train metal_tag/data.yaml sim/data.yaml --name plates --epochs 30 --seed 7
    """
    plan = training.Plan(
        sources=tuple(data),
        weights=weights,
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
    columns = (TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_err) as bar:
        task = bar.add_task(f"train {name}", total=epochs)

        def after_epoch(epoch: int, _: int, metrics: dict[str, float]) -> None:
            bar.update(task, completed=epoch)
            _err.print(f"epoch {epoch}: val mAP50 {metrics.get('metrics/mAP50(B)', float('nan')):.4f}")

        trained = training.train(plan, resume=resume, progress=after_epoch)
    result = {"weights": str(trained.weights), "map50": trained.map50, "map50_95": trained.map50_95}
    _finish(result | {"epochs": trained.epochs, "dataset_digest": trained.dataset_digest}, json_)


def parse_size(text: str) -> tuple[int, int]:
    """ "384x640" -> (384, 640), height first; one number is a square."""
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not match:
        raise BadTraining(f"--imgsz {text}: must be HEIGHTxWIDTH, e.g. 384x640")
    return int(match[1]), int(match[2] or match[1])


def _finish(result: dict[str, object], as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(result) + "\n")
    else:
        for key, value in result.items():
            typer.echo(f"{key}: {value}")


def main() -> None:
    """Entry point of `cloud-inspect`."""
    try:
        app(standalone_mode=False)
    except CloudError as err:
        sys.stderr.write(f"cloud-inspect: {err}\n")
        sys.exit(err.exit_code)
    except typer.Abort:
        sys.exit(130)
    except Exception as err:
        code = getattr(err, "exit_code", None)
        message = getattr(err, "format_message", None)
        if message is None or code is None:
            raise
        sys.stderr.write(f"cloud-inspect: {message()}\n")
        sys.exit(64)


if __name__ == "__main__":
    main()
