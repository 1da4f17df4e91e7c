"""A detector's weights without pickle: an .npz that says which network and classes its arrays belong to.

1. Reading one runs nobody's code: no pickle, a network out of a fixed list, built from ultralytics' own description.
2. Written and read again they are the same numbers: float16 where the checkpoint holds float16, as ultralytics' do.
3. A network that starts from them keeps every class that goes on existing, by name and not by number (ultralytics does
   it where it loads another network's weights); the rows of new classes in the head's last layer begin afresh.

    write_weights(Path("weights.npz"), weights_of(checkpoint_model))
    found = read_weights(Path("weights.npz"))
    start_of(found, ("scratch", "dent"))       # Start(kept=("scratch",), new=("dent",), dropped=())
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud_inspect.errors import BadWeights

NETWORKS = ("yolov8n", "yolov8s", "yolov8m", "yolov8l", "yolov8x")
MOST_BYTES = 1 << 30
_ABOUT = "about"
"""The array that is none: JSON as bytes."""
_FORMAT = 1

Array = NDArray[Any]


@dataclass(frozen=True)
class Weights:
    network: str
    classes: tuple[str, ...]
    arrays: Mapping[str, Array]
    """By ultralytics' names of its parameters and buffers."""


@dataclass(frozen=True)
class Start:
    """What became of the classes."""

    kept: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]


def write_weights(path: Path, weights: Weights) -> Path:
    """In one step. Returns `path`."""
    about = json.dumps({"format": _FORMAT, "network": weights.network, "classes": list(weights.classes)})
    partial = path.with_name(path.name + ".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("wb") as stream:
        arrays: dict[str, Any] = {_ABOUT: np.frombuffer(about.encode(), np.uint8), **weights.arrays}
        np.savez(stream, **arrays)
    partial.replace(path)
    return path


def read_weights(path: Path) -> Weights:
    """Raises BadWeights."""
    try:
        with zipfile.ZipFile(path) as whole:
            size = sum(entry.file_size for entry in whole.infolist())
        if size > MOST_BYTES:
            raise BadWeights(f"{path}: {size} bytes unpacked, allowed {MOST_BYTES}")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(arrays.pop(_ABOUT).tobytes())
        version, network, classes = about["format"], about["network"], tuple(map(str, about["classes"]))
    except OSError as err:
        raise BadWeights(f"{path}: cannot be read: {err.strerror or err}") from err
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, EOFError) as err:
        raise BadWeights(f"{path}: not weights that `cloud-inspect train` wrote: {str(err).splitlines()[0]}") from err
    if version != _FORMAT or network not in NETWORKS:
        raise BadWeights(f"{path}: format {version}, network {network}; allowed {_FORMAT}, {', '.join(NETWORKS)}")
    return Weights(network, classes, arrays)


def weights_of(model: Any) -> Weights:
    """Of a network as ultralytics loads it (a torch module with `names`). Raises BadWeights."""
    classes = tuple(str(model.names[number]) for number in sorted(model.names))
    arrays = {name: value.numpy() for name, value in model.state_dict().items()}
    for network in NETWORKS:
        weights = Weights(network, classes, arrays)
        try:
            network_of(weights)
        except BadWeights:
            continue
        return weights
    raise BadWeights(f"weights of another network; known are {', '.join(NETWORKS)}")


def network_of(weights: Weights) -> Any:
    """The network with these weights, float32, as a torch module with `names`. Raises BadWeights."""
    import torch
    from ultralytics.nn.tasks import DetectionModel

    width = _width_of_class_branch(weights)
    model = DetectionModel(f"{weights.network}.yaml", nc=width, verbose=False)  # the branch is as wide as nc, at least
    head = model.model[-1]
    head.nc = len(weights.classes)
    head.no = head.nc + 4 * head.reg_max
    for branch in head.cv3:
        branch[-1] = torch.nn.Conv2d(branch[-1].in_channels, head.nc, 1)
    given = {name: torch.from_numpy(array.copy()) for name, array in weights.arrays.items()}
    try:
        model.load_state_dict(given)
    except RuntimeError as err:
        raise BadWeights(f"weights do not go with {weights.network}: {str(err).splitlines()[1].strip()}") from err
    model.nc = head.nc
    model.names = dict(enumerate(weights.classes))
    return model


def start_of(weights: Weights, classes: Sequence[str]) -> Start:
    """What becomes of the classes when a network for `classes` starts from `weights`."""
    return Start(
        tuple(name for name in classes if name in weights.classes),
        tuple(name for name in classes if name not in weights.classes),
        tuple(name for name in weights.classes if name not in classes),
    )


def _width_of_class_branch(weights: Weights) -> int:
    """Channels before the head's last layer: a network that began with COCO's 80 classes keeps 80."""
    last = [array for name, array in weights.arrays.items() if name.endswith(".cv3.0.2.weight") and array.ndim == 4]
    if len(last) != 1 or not 1 <= last[0].shape[1] <= 4096:
        raise BadWeights(f"weights do not go with {weights.network}: no head")
    return int(last[0].shape[1])
