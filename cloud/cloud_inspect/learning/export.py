"""From trained weights to the ONNX files that devices run.

Promises:

1. Static shapes, batch 1, opset at most 17, IR version at most 10: the oldest runtime in the field (ONNX Runtime 1.23)
   loads them. No external data, no custom operators.
2. Inputs and outputs are float32 in every precision; conversions are inside the graph.
3. The file carries no path, date or host name; only what is needed to read its output.
4. Nothing half-written is left behind: a file appears under its name when it is whole.

    fp32 = export_onnx(Path("best.pt"), Path("model.onnx"), (384, 640))
    convert_fp16(fp32, Path("model-fp16.onnx"))
    quantise_int8(fp32, Path("model-int8.onnx"), [sample.picture for sample in dataset.train[:200]])
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cloud_inspect.errors import BadPackage, BadWeights, TrainingMissing
from cloud_inspect.learning.detect import tensor
from cloud_inspect.learning.training import prepare_environment

OPSET = 17
NEWEST_IR = 10
_KEPT_METADATA = ("names", "stride", "task", "batch", "imgsz", "license", "author")


def export_onnx(weights: Path, out: Path, shape: tuple[int, int]) -> Path:
    """Export `weights` (.pt) as fp32 with a static input of (1, 3, height, width). Returns `out`.

    Raises BadWeights when ultralytics cannot read the weights, TrainingMissing.
    """
    if not weights.is_file():
        raise BadWeights(f"{weights}: no such file")
    if any(side < 32 or side % 32 for side in shape):
        raise BadPackage(f"input {shape[0]}x{shape[1]} is not possible: both sides in steps of 32")
    prepare_environment()
    from ultralytics import YOLO

    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copy(weights, Path(folder) / "model.pt"))  # ultralytics writes beside the weights
        try:
            model = YOLO(copy)
        except Exception as err:
            raise BadWeights(f"{weights}: not weights that can be loaded: {str(err).splitlines()[0]}") from err
        made = model.export(format="onnx", imgsz=list(shape), opset=OPSET, dynamic=False, simplify=True, device="cpu")
        graph = _onnx().load(made)
    _strip(graph)
    return _save(graph, out)


def convert_fp16(source: Path, out: Path) -> Path:
    """Weights and arithmetic in float16, input and output stay float32. For GPUs."""
    onnx = _onnx()
    from onnxruntime.transformers import float16

    graph = float16.convert_float_to_float16(onnx.load(source), keep_io_types=True)
    _sort(graph.graph)
    return _save(graph, out)


def quantise_int8(source: Path, out: Path, pictures: Sequence[Path], *, per_channel: bool = True) -> Path:
    """Static INT8 (QDQ), calibrated on `pictures`; the head's last layers and what is no convolution stay float.

    One INT8 scale cannot span boxes (0..640) and scores (0..1), so the decoding part of the head must stay float.
    """
    if not pictures:
        raise BadPackage("INT8 needs pictures to calibrate on, none given")
    onnx = _onnx()
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        prepared, made = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
        logging.getLogger("root").setLevel(logging.ERROR)
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        graph = onnx.load(prepared).graph
        quantize_static(
            str(prepared),
            str(made),
            _Calibration(graph, pictures),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=per_channel,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_exclude=float_nodes(graph),
            # ranges averaged over pictures: one picture with a glare must not widen the scale for all
            extra_options={"CalibMovingAverage": True},
        )
        result = onnx.load(made)
    _strip(result)
    return _save(result, out)


def float_nodes(graph: Any) -> list[str]:
    """Names of the nodes that stay float: all but convolutions, and the convolutions that give boxes and scores."""
    consumers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    kept = []
    for node in graph.node:
        last = node.op_type == "Conv" and any(
            after.op_type in ("Concat", "Reshape") and _leads_out(after, consumers)
            for after in consumers.get(node.output[0], [])
        )
        if node.op_type != "Conv" or last or node.output[0] == graph.output[0].name:
            kept.append(node.name)
    return kept


def _leads_out(node: Any, consumers: dict[str, list[Any]]) -> bool:
    """True when no convolution with learned weights but the fixed box decoder (DFL) follows."""
    todo, seen = [node], set()
    while todo:
        here = todo.pop()
        if here.name in seen:
            continue
        seen.add(here.name)
        if here.op_type == "Conv" and "dfl" not in here.name:
            return False
        todo += [after for name in here.output for after in consumers.get(name, [])]
    return True


class _Calibration:
    """Feeds pictures one by one, as ONNX Runtime's calibrator asks for them."""

    def __init__(self, graph: Any, pictures: Sequence[Path]) -> None:
        self._name = graph.input[0].name
        dims = [int(d.dim_value) for d in graph.input[0].type.tensor_type.shape.dim]
        self._tensors = self._open(pictures, (dims[2], dims[3]))

    def _open(self, pictures: Sequence[Path], canvas: tuple[int, int]) -> Iterator[NDArray[np.float32]]:
        for path in pictures:
            pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if pixels is None:
                raise BadPackage(f"{path}: cannot be opened for calibration")
            yield tensor(np.asarray(pixels, np.uint8), canvas)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next input, None at the end."""
        one = next(self._tensors, None)
        return None if one is None else {self._name: one}

    def __iter__(self) -> Iterator[dict[str, NDArray[np.float32]]]:
        return iter(self.get_next, None)


def _sort(graph: Any) -> None:
    """Put producers before consumers, as ONNX demands; the float16 conversion appends its casts at the end."""
    known = {one.name for one in (*graph.input, *graph.initializer)} | {""}
    waiting, ordered = list(graph.node), []
    while waiting:
        ready = [node for node in waiting if known.issuperset(node.input)]
        if not ready:
            raise BadPackage(f"graph {graph.name}: {len(waiting)} nodes depend on each other in a circle")
        known.update(name for node in ready for name in node.output)
        ordered += ready
        waiting = [node for node in waiting if not known.issuperset(node.output)]
    del graph.node[:]
    graph.node.extend(ordered)


def _strip(graph: Any) -> None:
    kept = {one.key: one.value for one in graph.metadata_props if one.key in _KEPT_METADATA}
    del graph.metadata_props[:]
    for key in sorted(kept):
        graph.metadata_props.add(key=key, value=kept[key])
    for node in graph.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    graph.doc_string = ""


def _save(graph: Any, out: Path) -> Path:
    """Check the promises and put the file in place in one step."""
    onnx = _onnx()
    graph.ir_version = min(graph.ir_version, NEWEST_IR)
    opset = max(entry.version for entry in graph.opset_import if entry.domain in ("", "ai.onnx"))
    if opset > OPSET:
        raise BadPackage(f"{out}: opset {opset}, allowed up to {OPSET}")
    onnx.checker.check_model(graph)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".partial")
    onnx.save(graph, str(partial))
    partial.replace(out)
    return out


def _onnx() -> Any:
    try:
        import onnx
    except ImportError as err:
        raise TrainingMissing(f"{err.name} is not installed: pip install 'edge-inspect[train]'") from err
    return onnx
