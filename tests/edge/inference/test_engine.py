"""The engine on the tiny network: always the same memory, what was asked for or an error, known answers that catch."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest

from edge_inspect.errors import BadModel, ProviderMissing, RuntimeMissing, Usage
from edge_inspect.inference import providers
from edge_inspect.inference.decode import Decoder
from edge_inspect.inference.engine import Engine, preferred
from edge_inspect.inference.letterbox import Letterbox
from edge_inspect.inference.package import ModelPackage, find_model
from edge_wire.manifest import Manifest
from tests.sim.tiny_model import draw_defect, write_tiny_package

THERE = [offer.provider for offer in providers.survey() if offer.there and offer.provider != "tensorrt"]


@pytest.fixture
def package(tmp_path: Path) -> ModelPackage:
    return ModelPackage.load(write_tiny_package(tmp_path / "tiny"))


@pytest.fixture(params=THERE)
def provider(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("layout", ["raw", "end2end"])
def test_spot_is_found_where_it_is(tmp_path: Path, provider: str, layout: Any) -> None:
    folder = write_tiny_package(tmp_path / "tiny", layout=layout, classes=("red", "green"))
    engine = Engine(ModelPackage.load(folder), provider=provider)
    letterbox = Letterbox(360, 640, engine.height, engine.width)
    decoder = Decoder(engine.layout, engine.classes)
    for box in [(100, 80, 160, 120), (400, 200, 430, 260)]:
        pixels = np.full((360, 640, 3), 90, np.uint8)
        draw_defect(pixels, box, cls=1)
        letterbox(pixels, out=engine.input)
        engine.run()
        found = decoder.decode(engine.output, letterbox, engine.thresholds())
        assert (found.n, int(found.classes[0])) == (1, 1)
        assert np.abs(found.boxes[0] - np.array(box)).max() < 6
    engine.close()
    engine.close()


def test_output_lands_in_our_own_memory_at_every_run(package: ModelPackage, provider: str) -> None:
    engine = Engine(package, provider=provider)
    where = engine.input.ctypes.data, engine.output.ctypes.data
    for fill in (np.nan, 7.0):
        engine.output[:] = fill
        engine.warm_up()
        assert np.isfinite(engine.output).all()
        assert (engine.output != 7.0).all()
        assert (engine.input.ctypes.data, engine.output.ctypes.data) == where
    engine.close()


def test_known_answer_passes_on_a_good_model(package: ModelPackage, provider: str) -> None:
    engine = Engine(package, provider=provider)
    engine.warm_up()
    engine.known_answer()
    engine.close()


def expect(folder: Path, **golden: Any) -> ModelPackage:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["golden"][0].update(golden)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return ModelPackage.load(folder)


SPOT = {"cls": "scratch", "confidence": 0.95, "box": [100, 60, 140, 84]}


@pytest.mark.parametrize(
    ("expected", "says"),
    [
        ([], "found and not expected"),
        ([SPOT, {**SPOT, "box": [10, 10, 40, 40]}], "is not found"),
        ([{**SPOT, "box": [120, 60, 160, 84]}], "is not found"),
        ([{**SPOT, "confidence": 0.7}], "is not found"),
        ([SPOT, SPOT], "is not found"),
    ],
    ids=["one too many", "one too few", "elsewhere", "less sure", "one for two"],
)
def test_wrong_answer_is_refused(package: ModelPackage, expected: list[dict[str, Any]], says: str) -> None:
    engine = Engine(expect(package.dir, expect=expected), provider="cpu")
    with pytest.raises(BadModel, match=says) as refusal:
        engine.known_answer()
    assert refusal.value.code == "known-answer"


def test_expected_detection_near_its_threshold_may_be_missing(package: ModelPackage) -> None:
    near = {**SPOT, "box": [10, 10, 40, 40], "confidence": 0.55}
    Engine(expect(package.dir, expect=[SPOT, near]), provider="cpu").known_answer()


def test_model_that_answers_nan_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_package(tmp_path / "tiny", poison=True)
    blue = cv2.imread(str(folder / "golden" / "spot.png"))
    assert blue is not None
    draw_defect(blue, (10, 100, 60, 150), cls=2)  # type: ignore[arg-type]
    cv2.imwrite(str(folder / "golden" / "spot.png"), blue)
    content = (folder / "golden" / "spot.png").read_bytes()
    package = expect(folder, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    with pytest.raises(BadModel, match="not finite"):
        Engine(package, provider="cpu").known_answer()


def test_golden_picture_that_is_none_is_refused(package: ModelPackage) -> None:
    (package.dir / "golden" / "spot.png").write_bytes(b"no picture")
    digest = hashlib.sha256(b"no picture").hexdigest()
    with pytest.raises(BadModel) as refusal:
        Engine(expect(package.dir, size_bytes=10, sha256=digest), provider="cpu")
    assert refusal.value.code == "golden-unreadable"


def test_model_that_the_runtime_does_not_take_is_refused(package: ModelPackage, provider: str) -> None:
    model = onnx.load(str(package.dir / "model.onnx"))
    model.graph.node[0].op_type = "TopK"  # of the right kind, with the wrong inputs
    content = model.SerializeToString()
    (package.dir / "model.onnx").write_bytes(content)
    manifest = json.loads((package.dir / "manifest.json").read_text())
    manifest["variants"][0] |= {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (package.dir / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BadModel) as refusal:
        Engine(ModelPackage.load(package.dir), provider=provider)
    assert refusal.value.code == "runtime-refuses"
    assert "\n" not in str(refusal.value)


def test_older_runtime_than_the_model_needs_is_refused(package: ModelPackage) -> None:
    manifest = json.loads((package.dir / "manifest.json").read_text())
    manifest["runtime"]["onnxruntime"] = "99.0"
    (package.dir / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BadModel) as refusal:
        Engine(ModelPackage.load(package.dir), provider="cpu")
    assert refusal.value.code == "runtime-too-old"


class TestProviders:
    def test_unknown_provider_is_a_usage_error(self, package: ModelPackage) -> None:
        with pytest.raises(Usage, match="allowed are auto, cpu"):
            Engine(package, provider="gpu")

    def test_unknown_precision_is_a_usage_error(self, package: ModelPackage) -> None:
        with pytest.raises(Usage, match="fp16"):
            Engine(package, precision="fp8")

    def test_provider_that_is_not_there_names_the_extra(self, package: ModelPackage) -> None:
        missing = [offer.provider for offer in providers.survey() if not offer.there]
        for name in missing:
            with pytest.raises(ProviderMissing, match=r"pip install|no NVIDIA GPU") as refusal:
                Engine(package, provider=name)
            assert "\n" not in str(refusal.value)

    def test_no_runtime_at_all_names_the_extras(self, package: ModelPackage, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(providers, "_onnxruntime", lambda: None)
        monkeypatch.setattr(providers, "_plugin_devices", lambda: ())
        monkeypatch.setattr(providers, "_is_installed", lambda name: False)
        with pytest.raises(RuntimeMissing, match=r"edge-inspect\[cpu\]"):
            Engine(package)

    def test_silent_fall_back_is_an_error(self, package: ModelPackage, monkeypatch: pytest.MonkeyPatch) -> None:
        """ONNX Runtime takes the CPU and only logs when CUDA cannot start."""

        class FellBack:
            def get_providers(self) -> list[str]:
                return ["CPUExecutionProvider"]

        monkeypatch.setattr(providers, "choose", lambda wanted: wanted)
        monkeypatch.setattr(providers, "_open_session", lambda *_: FellBack())
        with pytest.raises(ProviderMissing, match="fell back to CPUExecutionProvider"):
            providers.open_binding(b"", package.variant(), "cuda")

    def test_auto_takes_cuda_before_openvino_before_cpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for there, chosen in [("cpu", "cpu"), ("cpu openvino", "openvino"), ("cpu openvino cuda tensorrt", "cuda")]:
            monkeypatch.setattr(
                providers, "_offer", lambda name, there=there: providers.Offer(name, name in there.split(), "")
            )
            assert providers.choose("auto") == chosen

    @pytest.mark.skipif("openvino" not in THERE, reason="OpenVINO is not installed")
    def test_openvino_is_loaded_without_what_reports_home(self, package: ModelPackage) -> None:
        script = (
            "import sys, threading; from pathlib import Path\n"
            "from edge_inspect.inference.engine import Engine\n"
            "from edge_inspect.inference.package import ModelPackage\n"
            f"Engine(ModelPackage.load(Path({str(package.dir)!r})), provider='openvino').warm_up()\n"
            "assert not [m for m in sys.modules if 'telemetry' in m and sys.modules[m]], 'telemetry is loaded'\n"
            "assert threading.active_count() == 1, threading.enumerate()\n"
        )
        subprocess.run([sys.executable, "-c", script], check=True, timeout=60)

    @pytest.mark.parametrize(("fast", "first"), [(True, "int8"), (False, "fp32")])
    def test_int8_is_taken_where_the_cpu_has_it(self, fast: bool, first: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("edge_inspect.inference.engine.computes_int8_fast", lambda: fast)
        assert [preferred(name)[0] for name in ("cpu", "openvino", "cuda", "tensorrt")] == [
            first,
            first,
            "fp16",
            "fp16",
        ]

    def test_threads_are_those_asked_for_or_what_this_process_may_use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2})
        assert (providers.usable_threads(0), providers.usable_threads(5)) == (3, 5)


class TestVariants:
    @pytest.fixture
    def several(self, tmp_path: Path) -> ModelPackage:
        """fp32 in two shapes, fp16 and int8 by name only: choosing looks at nothing but the manifest."""
        folder = write_tiny_package(tmp_path / "several")
        manifest = json.loads((folder / "manifest.json").read_text())
        first = manifest["variants"][0]
        for name, precision, shape in [
            ("square", "fp32", (160, 160)),
            ("half", "fp16", (96, 160)),
            ("byte", "int8", (160, 160)),
        ]:
            (folder / f"{name}.onnx").write_bytes((folder / "model.onnx").read_bytes())
            extra = json.loads(json.dumps(first))
            extra |= {"file": f"{name}.onnx", "precision": precision}
            extra["input"]["shape"][2:] = shape
            manifest["variants"].append(extra)
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return ModelPackage(folder, Manifest.model_validate(manifest, strict=False), "sha256:" + "0" * 64)

    @pytest.mark.parametrize(
        ("asked", "file"),
        [
            ({}, "square.onnx"),  # no camera known: the largest
            ({"source": (1080, 1920)}, "model.onnx"),
            ({"source": (1000, 1000)}, "square.onnx"),
            ({"shape": (96, 160)}, "model.onnx"),
            ({"precision": "fp16"}, "half.onnx"),
            ({"precision": "int8", "source": (1080, 1920)}, "byte.onnx"),
            ({"source": (1080, 1920), "prefer": ("fp16", "fp32")}, "half.onnx"),
            ({"source": (1080, 1920), "prefer": ("int8", "fp32")}, "model.onnx"),  # int8 is there in another shape only
            ({"source": (1000, 1000), "prefer": ("int8", "fp32")}, "byte.onnx"),
        ],
        ids=str,
    )
    def test_variant_fits_precision_and_aspect(self, several: ModelPackage, asked: dict[str, Any], file: str) -> None:
        assert several.variant(**asked).file == file

    def test_variant_that_is_not_there_is_refused_and_names_those_that_are(self, several: ModelPackage) -> None:
        with pytest.raises(BadModel, match=r"fp32 96x160.*int8 160x160") as refusal:
            several.variant("int8", (96, 160))
        assert refusal.value.code == "no-such-variant"


def test_model_is_found_by_folder_and_unknown_name_is_refused(package: ModelPackage) -> None:
    assert find_model(str(package.dir)) == package.dir
    with pytest.raises(BadModel) as refusal:
        find_model("no-such-model")
    assert refusal.value.code == "package-missing"
