"""A training's folder as `release build` takes it: best weights exported, the record, the data it was trained on.

run = read_run(Path("runs/plates"))
run.export(), run.record, run.data
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from cloud_inspect.errors import BadPackage
from cloud_inspect.learning.export import export_onnx

RECORD_NAME = "training.json"
MODEL_NAME = "model.onnx"


@dataclass(frozen=True)
class Run:
    folder: Path
    imgsz: tuple[int, int]
    data: tuple[Path, ...]

    @property
    def record(self) -> Path:
        return self.folder / RECORD_NAME

    def export(self) -> Path:
        """model.onnx in the folder; made anew unless it is younger than the weights. Raises BadWeights,
        TrainingMissing."""
        weights, out = self.folder / "run" / "weights" / "best.pt", self.folder / MODEL_NAME
        if out.is_file() and (not weights.is_file() or out.stat().st_mtime_ns > weights.stat().st_mtime_ns):
            return out
        return export_onnx(weights, out, self.imgsz)


def read_run(folder: Path) -> Run:
    """Raises BadPackage: not the folder of a training that came to its end."""
    record = folder / RECORD_NAME
    try:
        plan = json.loads(record.read_bytes())["plan"]
        height, width = plan["imgsz"]
        return Run(folder, (int(height), int(width)), tuple(Path(source) for source in plan["sources"]))
    except OSError as err:
        raise BadPackage(f"{record}: {err.strerror}; is the training finished?") from err
    except (ValueError, KeyError, TypeError) as err:
        raise BadPackage(f"{record}: is no record of a training: {err}") from err
