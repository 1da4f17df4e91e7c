"""Weights without pickle: what is shipped is what was exported, what is broken is refused, classes go by name."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cloud_inspect.cli.train_start import IN_PACKAGE, find_start, shipped
from cloud_inspect.errors import BadWeights
from cloud_inspect.learning.weights import Start, Weights, read_weights, start_of, write_weights

SHIPPED = shipped() / IN_PACKAGE


def small() -> Weights:
    return Weights("yolov8n", ("scratch", "dent"), {"model.0.conv.weight": np.ones((2, 3), np.float16)})


def test_weights_come_back_as_they_were_written_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    files = [write_weights(tmp_path / name, small()) for name in ("a.npz", "b.npz")]
    found = read_weights(files[0])
    assert (found.network, found.classes) == ("yolov8n", ("scratch", "dent"))
    assert found.arrays.keys() == small().arrays.keys()
    assert found.arrays["model.0.conv.weight"].dtype == np.float16
    assert files[0].read_bytes() == files[1].read_bytes()


def test_shipped_weights_are_the_card_s_and_those_that_the_shipped_model_was_exported_from() -> None:
    onnx = pytest.importorskip("onnx")
    card = (shipped() / "MODEL_CARD.md").read_text()
    assert hashlib.sha256(SHIPPED.read_bytes()).hexdigest() in card
    assert SHIPPED.stat().st_size <= 7_000_000
    found = read_weights(SHIPPED)
    assert found.classes == ("scratch",)
    graph = onnx.load(str(shipped() / "model.onnx")).graph
    exported = [onnx.numpy_helper.to_array(one) for one in graph.initializer]
    convolutions = [name.removesuffix(".weight") for name, array in found.arrays.items() if array.ndim == 4]
    assert len(convolutions) == 64
    for name in convolutions:
        fused = _fused(found, name)
        same = [one for one in exported if one.shape == fused.shape and np.allclose(one, fused, rtol=1e-3, atol=1e-4)]
        assert same or "dfl" in name, name


def _fused(weights: Weights, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """A convolution with the batch norm behind it, as an export fuses them (ultralytics: eps = 1e-3)."""
    kernel = weights.arrays[f"{name}.weight"].astype(np.float64)
    norm = name.removesuffix("conv") + "bn"
    if f"{norm}.weight" not in weights.arrays:
        return kernel
    gain = weights.arrays[f"{norm}.weight"] / np.sqrt(weights.arrays[f"{norm}.running_var"].astype(np.float64) + 1e-3)
    return np.asarray(kernel * gain[:, None, None, None])


def _zip(**members: bytes) -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as made:
        for name, content in members.items():
            made.writestr(f"{name}.npy", content)
    return whole.getvalue()


def _npy(array: object) -> bytes:
    content = io.BytesIO()
    np.save(content, np.asarray(array), allow_pickle=True)
    return content.getvalue()


def _about(**changed: object) -> bytes:
    about = {"format": 1, "network": "yolov8n", "classes": ["scratch"]} | changed
    return _npy(np.frombuffer(json.dumps(about).encode(), np.uint8))


BROKEN: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing in it": (lambda: b"", "not weights that"),
    "cut off": (lambda: SHIPPED.read_bytes()[:100_000], "not weights that"),
    "a pickle": (lambda: _zip(about=_npy([{"a": 1}, None])), "not weights that"),
    "a pickled array": (lambda: _zip(about=_about(), weight=_npy([{"a": 1}, None])), "not weights that"),
    "no description": (lambda: _zip(weight=_npy([1.0])), "not weights that"),
    "another network": (lambda: _zip(about=_about(network="../yolo.yaml")), "network ../yolo.yaml; allowed 1, yolov8n"),
    "another format": (lambda: _zip(about=_about(format=2)), "format 2"),
    "no classes": (lambda: _zip(about=_about(classes=None)), "not weights that"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_no_file_of_weights_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    content, said = BROKEN[case]
    path = tmp_path / "weights.npz"
    path.write_bytes(content())
    with pytest.raises(BadWeights) as refused:
        read_weights(path)
    assert said in str(refused.value) and "\n" not in str(refused.value) and str(path) in str(refused.value)


def test_classes_are_kept_by_name() -> None:
    assert start_of(small(), ("dent", "stain")) == Start(("dent",), ("stain",), ("scratch",))


def test_a_start_is_found_by_the_words_a_person_uses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_INSPECT_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    coco = tmp_path / "weights" / "yolov8n.pt"
    coco.parent.mkdir()
    coco.write_bytes(b"x")
    run = write_weights(tmp_path / "runs" / "plates" / "weights.npz", small())
    nothing = Path("yolov8n.pt")
    assert find_start("coco", nothing, Path("runs"), None) == coco
    assert find_start("coco", tmp_path / "other.pt", Path("runs"), None) == tmp_path / "other.pt"
    assert find_start("active", nothing, Path("runs"), None) == SHIPPED
    assert find_start("runs/plates", nothing, Path("runs"), None).resolve() == run
    assert find_start(str(shipped()), nothing, Path("runs"), None) == SHIPPED
    with pytest.raises(BadWeights, match="neither a training's folder"):
        find_start("weights", nothing, Path("runs"), None)


@pytest.mark.train
def test_a_network_keeps_its_old_class_in_another_place(tmp_path: Path) -> None:
    pytest.importorskip("ultralytics", reason="needs the extra `train`")
    torch = pytest.importorskip("torch", reason="needs the extra `train`")
    from ultralytics.nn.tasks import DetectionModel

    from cloud_inspect.learning.weights import network_of, weights_of

    old = network_of(read_weights(SHIPPED))
    new = DetectionModel("yolov8n.yaml", nc=2, verbose=False)
    new.names = {0: "dent", 1: "scratch"}
    new.load(old)
    for theirs, ours in zip(old.model[-1].cv3, new.model[-1].cv3, strict=True):
        assert torch.equal(ours[2].weight[1], theirs[2].weight[0]) and torch.equal(ours[2].bias[1], theirs[2].bias[0])
        assert torch.equal(ours[1].conv.weight, theirs[1].conv.weight)
    again = weights_of(old.half())
    assert again.classes == ("scratch",)
    assert all(np.array_equal(again.arrays[name], one) for name, one in read_weights(SHIPPED).arrays.items())
