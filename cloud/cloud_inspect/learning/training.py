"""Training of a detector: one call from checked data sets to the best weights.

Promises:

1. Nothing is downloaded, installed or sent anywhere: weights, data and settings come from the caller. A .pt is read by
   torch's restricted unpickler, an .npz without any.
2. Data is checked in full before training starts (`datasets.load_dataset`).
3. The same sources, weights, seed and machine give the same training.
4. An interrupted training continues from its last finished epoch with `resume=True`.
5. Classes that the weights know are kept by name; a new one is learnt beside them (`weights.start_of`).

    plan = Plan((Path("metal_tag/data.yaml"),), weights=Path("yolov8n.pt"), folder=Path("runs/first"), epochs=20)
    trained = train(plan)
    trained.weights, trained.map50
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cloud_inspect.errors import BadTraining, BadWeights, TrainingMissing
from cloud_inspect.learning.datasets import load_dataset, mix
from cloud_inspect.learning.weights import Weights, network_of, read_weights, weights_of, write_weights

WEIGHTS_NAME = "weights.npz"
"""In a training's folder: what a later training starts from."""

Progress = Callable[[int, int, dict[str, float]], None]
"""Called after each epoch with (epoch from 1, epochs, metrics)."""

AUGMENTATION: dict[str, float] = {
    "degrees": 4.0,
    "translate": 0.1,
    "scale": 0.25,
    "shear": 1.0,
    "fliplr": 0.5,
    "flipud": 0.5,
    "hsv_h": 0.0,
    "hsv_s": 0.1,
    "hsv_v": 0.3,
    "erasing": 0.0,
}
"""Scale lies between a photo that fills the input and the same part at the line camera's size."""


@dataclass(frozen=True)
class Plan:
    """What to train. `imgsz` is (height, width) of the network's input, multiples of 32."""

    sources: tuple[Path, ...]
    weights: Path
    """.pt (COCO's, or a training's) or .npz (`weights.write_weights`)."""
    folder: Path
    epochs: int
    imgsz: tuple[int, int] = (384, 640)
    seed: int = 0
    batch: int = 16
    lr0: float = 0.0015
    belt_views: int = 2
    threads: int = 0
    bf16: bool = True


@dataclass(frozen=True)
class Trained:
    """The outcome. `map50`, `map50_95`: of `weights` on the mixed val pictures, as measured by ultralytics."""

    weights: Path
    epochs: int
    map50: float
    map50_95: float
    dataset_digest: str
    classes: tuple[str, ...]


def train(plan: Plan, *, resume: bool = False, progress: Progress | None = None) -> Trained:
    """Mix the data, train, and write `plan.folder`/training.json and weights.npz beside `run/`.

    Raises BadDataset, BadTraining, BadWeights, TrainingMissing.
    """
    _check(plan)
    last = plan.folder / "run" / "weights" / "last.pt"
    if resume and not last.is_file():
        raise BadTraining(f"nothing to resume: {last} does not exist")
    if not resume and plan.folder.exists() and any(plan.folder.iterdir()):
        raise BadTraining(f"{plan.folder}: is not empty; choose another name, or resume")
    prepare_environment()  # what is not installed is said before anything is written
    data_yaml = plan.folder / "data" / "data.yaml"
    if resume:
        dataset = load_dataset(data_yaml)
    else:
        dataset = mix(plan.sources, data_yaml.parent, canvas=plan.imgsz, seed=plan.seed, belt_views=plan.belt_views)
    metrics = _run(plan, data_yaml, last if resume else None, progress)
    best = last.with_name("best.pt")
    keep_weights(best, plan.folder / WEIGHTS_NAME)
    trained = Trained(
        best, plan.epochs, metrics["metrics/mAP50(B)"], metrics["metrics/mAP50-95(B)"], dataset.digest, dataset.classes
    )
    record = {"plan": asdict(plan), "trained": asdict(trained), "augmentation": AUGMENTATION}
    (plan.folder / "training.json").write_text(json.dumps(record, indent=2, default=str) + "\n")
    return trained


def _check(plan: Plan) -> None:
    if any(side < 64 or side % 32 for side in plan.imgsz):
        raise BadTraining(f"imgsz {plan.imgsz[0]}x{plan.imgsz[1]} is not possible: both sides in steps of 32, from 64")
    if plan.imgsz[0] > plan.imgsz[1]:
        raise BadTraining(f"imgsz {plan.imgsz[0]}x{plan.imgsz[1]} is upright; height must not exceed width")
    if plan.epochs < 1 or plan.batch < 1:
        raise BadTraining(f"epochs = {plan.epochs} and batch = {plan.batch} must be 1 or more")
    if not plan.weights.is_file():
        raise BadWeights(f"{plan.weights}: there are no weights to start from")
    if plan.weights.suffix == ".npz":
        read_weights(plan.weights)


def prepare_environment() -> None:
    """Keep ultralytics from installing, phoning home and unpickling foreign code; before its first import."""
    os.environ.setdefault("YOLO_AUTOINSTALL", "False")
    os.environ.setdefault("ULTRALYTICS_SAFE_LOAD", "1")
    os.environ.setdefault("YOLO_OFFLINE", "True")
    try:
        from ultralytics.utils import SETTINGS
    except ImportError as err:
        raise TrainingMissing(f"{err.name} is not installed: pip install 'edge-inspect[train]'") from err
    if SETTINGS["sync"]:
        SETTINGS.update({"sync": False})


def average_weights(weights: Sequence[Path], out: Path) -> Path:
    """Write the mean of several trainings of one line (a training and its continuation) to `out`; returns it.

    The mean of such weights is usually steadier on unseen pictures than each of them (Wortsman et al., "Model soups",
    2022). Raises BadWeights when they are not of one family.
    """
    if len(weights) < 2:
        raise BadWeights(f"{len(weights)} file of weights given; averaging needs two or more")
    prepare_environment()
    models = [_yolo(path) for path in weights]
    states = [model.model.float().state_dict() for model in models]
    for path, model, state in zip(weights[1:], models[1:], states[1:], strict=True):
        same = state.keys() == states[0].keys() and all(state[k].shape == states[0][k].shape for k in state)
        if not same or model.names != models[0].names:
            raise BadWeights(f"{path}: not the same network and classes as {weights[0]}")
    mean = {key: sum(state[key] for state in states) / len(states) for key in states[0]}
    models[0].model.load_state_dict({key: value.to(states[0][key].dtype) for key, value in mean.items()})
    out.parent.mkdir(parents=True, exist_ok=True)
    models[0].save(str(out))
    return out


def keep_weights(checkpoint: Path, out: Path) -> Path:
    """Write a training's .pt as .npz, number for number. Returns `out`. Raises BadWeights, TrainingMissing."""
    prepare_environment()
    from ultralytics.nn.tasks import torch_safe_load

    if not checkpoint.is_file():
        raise BadWeights(f"{checkpoint}: no such file")
    try:
        found = torch_safe_load(checkpoint, safe_only=True)[0]
    except Exception as err:
        raise BadWeights(f"{checkpoint}: not weights that can be loaded: {str(err).splitlines()[0]}") from err
    return write_weights(out, weights_of(found.get("ema") or found["model"]))


def _yolo(path: Path) -> Any:
    from ultralytics import YOLO

    if not path.is_file():
        raise BadWeights(f"{path}: no such file")
    try:
        return YOLO(path)
    except Exception as err:
        raise BadWeights(f"{path}: not weights that can be loaded: {str(err).splitlines()[0]}") from err


def _run(plan: Plan, data_yaml: Path, last: Path | None, progress: Progress | None) -> dict[str, float]:
    import torch

    if plan.threads:
        torch.set_num_threads(plan.threads)
    start = read_weights(plan.weights) if plan.weights.suffix == ".npz" else None
    settings: dict[str, Any] = {
        "model": str(last or (f"{start.network}.yaml" if start else plan.weights)),
        "data": str(data_yaml),
        "imgsz": plan.imgsz[1],
        "epochs": plan.epochs,
        "batch": plan.batch,
        "nbs": plan.batch,
        "seed": plan.seed,
        "optimizer": "AdamW",
        "lr0": plan.lr0,
        "lrf": 0.02,
        "cos_lr": True,
        "warmup_epochs": min(2.0, 0.1 * plan.epochs),
        "patience": 0,
        "workers": 1,
        "mosaic": 0.0,
        "amp": False,
        "plots": False,
        "verbose": False,
        "device": None if torch.cuda.is_available() else "cpu",
        "project": str(plan.folder.resolve()),
        "name": "run",
        "exist_ok": True,
        **AUGMENTATION,
    }
    trainer = _trainer_class(start)(overrides=settings | ({"resume": str(last)} if last else {}))
    if progress:

        def after_epoch(trainer: Any) -> None:
            if trainer.epoch < trainer.epochs:  # once more after the last epoch, for the best weights
                progress(trainer.epoch + 1, trainer.epochs, {k: float(v) for k, v in trainer.metrics.items()})

        trainer.add_callback("on_fit_epoch_end", after_epoch)
    with _bf16_on_cpu(plan.bf16 and trainer.device.type == "cpu"):
        trainer.train()
    return {key: float(value) for key, value in trainer.validator.metrics.results_dict.items()}


def _trainer_class(start: Weights | None) -> Any:
    """ultralytics' trainer for pictures of one size: rectangular batches, shuffled; channels last, faster on CPUs.

    start: what the network begins with; None where ultralytics loads a .pt.
    """
    import torch
    from ultralytics.data.build import build_yolo_dataset
    from ultralytics.models.yolo.detect import DetectionTrainer

    class EqualSizeTrainer(DetectionTrainer):  # type: ignore[misc]
        def build_dataset(self, img_path: str, mode: str = "train", batch: int | None = None) -> Any:
            return build_yolo_dataset(self.args, img_path, batch, self.data, mode=mode, rect=True, stride=32)

        def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> Any:
            if start is not None and weights is None:  # a resumed training has its own
                weights = network_of(start)
            model = super().get_model(cfg=cfg, weights=weights, verbose=verbose)
            return model.to(memory_format=torch.channels_last)

        def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
            batch = super().preprocess_batch(batch)
            batch["img"] = batch["img"].contiguous(memory_format=torch.channels_last)
            return batch

    return EqualSizeTrainer


@contextmanager
def _bf16_on_cpu(wanted: bool) -> Iterator[None]:
    """Let the forward pass run in bfloat16 on a CPU: twice as fast where it has AVX512-BF16 or AMX.

    ultralytics refuses `amp="bf16"` without CUDA, so its autocast is replaced for the time of the training.
    """
    if not wanted:
        yield
        return
    import torch
    from ultralytics.engine import trainer

    theirs = trainer.autocast
    trainer.autocast = lambda *_, **__: torch.autocast("cpu", dtype=torch.bfloat16)
    try:
        yield
    finally:
        trainer.autocast = theirs
