"""A model with the byte door gives what it gives with its own, and is valid ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from edge_inspect.inference.byte_input import PIXELS, with_byte_input
from edge_wire.onnx_gate import inspect
from tests.sim.tiny_model import draw_defect, tiny_model

onnxruntime = pytest.importorskip("onnxruntime", reason="no runtime is installed (extra `cpu`)")
SHAPE = (1, 3, 96, 160)


def answer(model: bytes, name: str, values: NDArray[Any]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    result: NDArray[np.float32] = session.run(None, {name: values})[0]
    return result


@pytest.mark.parametrize("layout", ["raw", "end2end"])
def test_both_doors_give_the_same(layout: str) -> None:
    model = tiny_model(96, 160, layout, 3).SerializeToString()
    pixels = np.full((96, 160, 3), 100, np.uint8)
    draw_defect(pixels, (20, 30, 50, 60), cls=1, saturation=0.9)
    planes = np.ascontiguousarray(pixels[:, :, ::-1].transpose(2, 0, 1)[None])
    floats = answer(model, "images", planes.astype(np.float32) / 255)
    by_bytes = answer(with_byte_input(model, "images", SHAPE), PIXELS, planes)
    assert np.abs(floats - by_bytes).max() < 1e-3
    assert floats.max() > 0.5


def test_rewritten_model_is_valid_and_says_so(tmp_path: Path) -> None:
    content = with_byte_input(tiny_model(96, 160, "raw", 1).SerializeToString(), "images", SHAPE)
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    contract = inspect(content)
    assert [(i.name, i.dtype, i.shape) for i in contract.inputs] == [(PIXELS, "uint8", SHAPE)]
    assert [o.name for o in contract.outputs] == ["output0"]


def test_weights_are_left_as_they_are() -> None:
    before = tiny_model(96, 160, "raw", 1)
    after = onnx.load_from_string(with_byte_input(before.SerializeToString(), "images", SHAPE))
    assert list(after.graph.initializer)[1:] == list(before.graph.initializer)
    assert list(after.graph.node)[2:] == list(before.graph.node)
