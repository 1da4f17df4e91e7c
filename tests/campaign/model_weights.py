"""Accidents to a network's numbers: noise, lost filters, coarse values, a wrong calibration.

Its graph stays what it was, so each picture costs what it did.

    noise(0.3, seed=1)(model)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

Change = Callable[[onnx.ModelProto], None]
Array = NDArray[Any]

HEAD = ("model.22.cv3.0.2", "model.22.cv3.1.2", "model.22.cv3.2.2")
"""The last convolution of each of the three scales: one score for each place."""


def weights(change: Callable[[Array], Array], where: str = "", bias: bool = False) -> Change:
    """Each weight tensor (`bias`: each bias) whose name begins with one of `where`, changed."""

    def edit(model: onnx.ModelProto) -> None:
        touched = 0
        for tensor in model.graph.initializer:
            is_bias = tensor.name.endswith(".bias")
            if is_bias != bias or not (is_bias or tensor.name.endswith(".weight")) or ".dfl." in tensor.name:
                continue
            if tensor.name.startswith(tuple(where.split())) or not where:
                values = change(numpy_helper.to_array(tensor)).astype(np.float32)
                tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))
                touched += 1
        assert touched, where

    return edit


def noise(share: float, seed: int, where: str = "") -> Change:
    """Normal noise of so much of each tensor's standard deviation."""
    dice = np.random.default_rng(seed)
    return weights(lambda values: values + dice.normal(0, share * values.std(), values.shape), where)


def zeroed(share: float, seed: int, where: str = "") -> Change:
    """So many of each layer's filters are 0."""
    dice = np.random.default_rng(seed)

    def cut(values: Array) -> Array:
        lost = dice.permutation(len(values))[: round(share * len(values))]
        kept = values.copy()
        kept[lost] = 0
        return kept

    return weights(cut, where)


def rounded(levels: int, where: str = "") -> Change:
    """Each weight is one of so many values, as far apart as the largest one demands."""

    def grid(values: Array) -> Array:
        step = 2 * np.abs(values).max() / levels or 1.0
        return np.round(values / step) * step

    return weights(grid, where)


def shuffled(seed: int, where: str) -> Change:
    """A layer's filters in another order: its outputs mean something else."""
    dice = np.random.default_rng(seed)
    return weights(lambda values: values[dice.permutation(len(values))], where)


def head_bias(more: float) -> Change:
    """Every score is surer (or less sure) by so many logits."""
    return weights(lambda values: values + more, " ".join(HEAD), bias=True)


def forgotten_scale(number: int) -> Change:
    """One of the three scales finds nothing any more: 0 the small defects, 2 the large ones."""
    return weights(lambda values: values - 20, HEAD[number], bias=True)


def retrained_head(model: onnx.ModelProto) -> None:
    """No bad one: the last layers as a real retraining moved them (`retrains.sh`, number 1)."""
    moved = np.load(Path(__file__).with_name("retrained_head.npz"))
    for tensor in model.graph.initializer:
        if tensor.name in moved:
            values = numpy_helper.to_array(tensor) + moved[tensor.name].astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def calibrated_wrongly(factor: float, seed: int | None = None) -> Change:
    """Activation scales off by `factor` (or by up to that, up or down), as after calibration on the wrong pictures."""
    dice = np.random.default_rng(seed)

    def edit(model: onnx.ModelProto) -> None:
        touched = 0
        weight_scales = {
            node.input[1] for node in model.graph.node
            if node.op_type == "DequantizeLinear" and any(t.name == node.input[0] for t in model.graph.initializer)
        }  # fmt: skip
        for tensor in model.graph.initializer:
            if tensor.name.endswith("_scale") and tensor.name not in weight_scales:
                by = factor if seed is None else factor ** dice.uniform(-1, 1)
                values = numpy_helper.to_array(tensor) * np.float32(by)
                tensor.CopyFrom(numpy_helper.from_array(np.asarray(values, np.float32), tensor.name))
                touched += 1
        assert touched

    return edit
