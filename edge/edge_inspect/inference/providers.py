"""Which runtimes are really there, which one to take, and how each is opened.

1. A provider that was asked for and not got is an error with one line that says what to install, never a silent CPU.
2. `auto` takes the best that is there: cuda, then openvino, then cpu. tensorrt only when asked for by name.
3. Nothing is imported or probed when this module is imported; probing never loads a model.
4. The runtime is handed bytes that the package has verified, never a path.

    binding = open_binding(package.read(variant), variant, "auto", threads=2)

OpenVINO comes in two shapes. Its ONNX Runtime plugin offers itself on Intel CPUs only
(https://github.com/microsoft/onnxruntime/pull/31981); on other CPUs its own runtime is used, which serves them well
(docs/measurements/README.md).
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import io
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple, get_args

from edge_inspect.errors import BadModel, ProviderMissing, RuntimeMissing, Usage
from edge_inspect.inference.binding import Binding, CpuBinding, CudaBinding, OpenVinoBinding
from edge_inspect.inference.byte_input import with_byte_input
from edge_inspect.inference.package import version_key
from edge_wire.manifest import Variant

Provider = Literal["auto", "cpu", "cuda", "tensorrt", "openvino"]
PROVIDERS: tuple[str, ...] = get_args(Provider)
AUTO_ORDER = ("cuda", "openvino", "cpu")
INSTALL = {
    "cpu": "pip install 'edge-inspect[cpu]'",
    "cuda": "pip install 'edge-inspect[cuda]'",
    "tensorrt": "pip install 'edge-inspect[tensorrt]'",
    "openvino": "pip install 'edge-inspect[openvino]'",
}
_ORT_NAME = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}


class Offer(NamedTuple):
    """One provider on this machine."""

    provider: str
    there: bool
    how: str
    """Which library serves it, or why not and what to install."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """What may be chosen about a session; the defaults are what measured best (docs/measurements/README.md)."""

    threads: int = 0
    """0: one per usable physical core."""
    spin: bool = True
    """Let the runtime's threads wait busily between operators: faster, and a core stays hot while a frame runs."""
    exact: bool = False
    """Compute in float32 even where the provider would choose a shorter type (OpenVINO takes bfloat16 where it can)."""
    cuda_graph: bool = False
    cache_dir: Path | None = None
    """Where TensorRT keeps its engines; None builds them anew at every start."""


def survey() -> tuple[Offer, ...]:
    """Every provider and whether it is there, best first; never raises."""
    return tuple(_offer(provider) for provider in ("tensorrt", *AUTO_ORDER))


def choose(wanted: str) -> str:
    """The provider to open. Raises Usage, RuntimeMissing (nothing installed at all) or ProviderMissing."""
    if wanted not in PROVIDERS:
        raise Usage(f"--provider {wanted}: allowed are {', '.join(PROVIDERS)}")
    for name in AUTO_ORDER if wanted == "auto" else (wanted,):
        offer = _offer(name)
        if offer.there:
            return name
    if wanted == "auto" or not any(other.there for other in survey()):
        extras = ", ".join(f"edge-inspect[{name}]" for name in ("cpu", "openvino", "cuda"))
        raise RuntimeMissing(f"no runtime is installed; install one of {extras}, e.g. {INSTALL['cpu']}")
    raise ProviderMissing(f"provider {wanted} is not there: {offer.how}")


def open_binding(model: bytes, variant: Variant, provider: str, tuning: Tuning | None = None) -> Binding:
    """Load verified ONNX bytes on `provider`, give them a byte input and bind input and output.

    Raises RuntimeMissing, ProviderMissing, Usage; BadModel `runtime-refuses` when the runtime does not take the model.
    """
    chosen, tuning = choose(provider), tuning or Tuning()
    model = with_byte_input(model, variant.input.name, variant.input.shape)
    if chosen == "openvino" and not _plugin_devices():
        return _open_native_openvino(model, variant, tuning)
    ort = _onnxruntime()
    assert ort is not None
    session = _open_session(ort, model, variant, chosen, tuning)
    got = session.get_providers()[0]
    if got != _ORT_NAME[chosen]:
        # ONNX Runtime says so only in its log and goes on with the CPU.
        raise ProviderMissing(f"asked for {chosen}, ONNX Runtime fell back to {got}: {INSTALL[chosen]}")
    bind = CudaBinding if chosen in ("cuda", "tensorrt") else CpuBinding
    return bind(ort, session, variant, chosen)


def runtime_versions() -> dict[str, str]:
    """Installed runtime distributions and their versions, for records and cache keys."""
    names = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-ep-openvino", "openvino", "tensorrt-cu13", "tensorrt")
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def check_runtime_floor(provider: str, least: str) -> None:
    """Raises BadModel `runtime-too-old` when ONNX Runtime is there and older than the model's manifest demands."""
    ort = _onnxruntime()
    if ort is not None and provider != "openvino" and version_key(ort.__version__) < version_key(least):
        raise BadModel(
            "runtime-too-old", f"onnxruntime {ort.__version__} is installed, the model needs {least} or newer"
        )


@cache
def computes_int8_fast() -> bool:
    """This CPU has byte dot products (VNNI, AMX, Arm's); without them INT8 is slow and may saturate."""
    words = set(Path("/proc/cpuinfo").read_text().split())
    return bool(words & {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"})


def usable_threads(wanted: int) -> int:
    """`wanted`, or as many as this process may use cores. Given explicitly, ONNX Runtime does not pin its threads."""
    return wanted or len(os.sched_getaffinity(0))


def _offer(provider: str) -> Offer:
    ort = _onnxruntime()
    if provider == "openvino":
        return _offer_openvino()
    if ort is None:
        return Offer(provider, False, f"onnxruntime is not installed: {INSTALL[provider]}")
    if _ORT_NAME[provider] in ort.get_available_providers():
        if provider in ("cuda", "tensorrt") and not _gpu_there():
            return Offer(provider, False, "onnxruntime-gpu is installed, but there is no NVIDIA GPU or driver")
        return Offer(provider, True, f"onnxruntime {ort.__version__}")
    return Offer(provider, False, f"this onnxruntime has no {_ORT_NAME[provider]}: {INSTALL[provider]}")


def _offer_openvino() -> Offer:
    versions = runtime_versions()
    if _plugin_devices():
        return Offer("openvino", True, f"onnxruntime-ep-openvino {versions.get('onnxruntime-ep-openvino', '?')}")
    if _is_installed("openvino"):
        return Offer("openvino", True, f"openvino {versions.get('openvino', '?')}")
    if "onnxruntime-ep-openvino" in versions:
        return Offer(
            "openvino", False, "its ONNX Runtime plugin serves Intel CPUs only, on others: pip install openvino"
        )
    return Offer("openvino", False, f"not installed: {INSTALL['openvino']}")


def _gpu_there() -> bool:
    """PC, Jetson (two generations), WSL."""
    return any(Path("/dev", name).exists() for name in ("nvidiactl", "nvhost-gpu", "nvmap", "dxg"))


@cache
def _import(name: str) -> ModuleType | None:
    if name == "openvino":
        # Its model converter, which nobody here needs, reports every import to Google Analytics (openvino-telemetry).
        # `None` makes Python refuse that import, and openvino goes on without it.
        sys.modules["openvino.tools.ovc"] = None  # type: ignore[assignment]
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _openvino() -> Any:
    """The openvino package without its model converter, whose import reports home (`telemetry.send_event` in
    openvino/tools/ovc/__init__.py, to Google Analytics unless opted out); openvino itself does well without it."""
    converter = "openvino.tools.ovc"
    ours = converter not in sys.modules
    if ours:
        sys.modules[converter] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("openvino")
    except ImportError as err:
        raise ProviderMissing(f"openvino is installed but cannot be loaded: {err}") from err
    finally:
        if ours:
            del sys.modules[converter]


@cache
def _onnxruntime() -> Any | None:
    ort: Any = _import("onnxruntime")
    if ort is not None and hasattr(ort, "InferenceSession"):
        ort.set_default_logger_severity(3)  # errors; what it warns about at load is checked here and said in one line
        return ort
    return None


@cache
def _plugin_devices() -> tuple[Any, ...]:
    """What OpenVINO's plugin offers on this machine's CPU; empty where it is not installed or offers nothing."""
    ort, plugin = _onnxruntime(), _import("onnxruntime_ep_openvino")
    if ort is None or plugin is None or not hasattr(ort, "register_execution_provider_library"):
        return ()
    name = _ORT_NAME["openvino"]
    ort.register_execution_provider_library(name, plugin.get_library_path())
    cpu = ort.OrtHardwareDeviceType.CPU
    return tuple(d for d in ort.get_ep_devices() if d.ep_name == name and d.device.type == cpu)[:1]


def _open_session(ort: Any, model: bytes, variant: Variant, provider: str, tuning: Tuning) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = usable_threads(tuning.threads)
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if tuning.spin else "0")
    providers: list[tuple[str, Mapping[str, str]]] = []
    if provider == "openvino":
        options.add_provider_for_devices(list(_plugin_devices()), _openvino_plugin_options(tuning))
    else:
        providers = [(_ORT_NAME[provider], _provider_options(provider, variant, tuning))]
    if provider in ("cuda", "tensorrt"):
        _load_nvidia_libraries(ort, provider)
    if provider == "tensorrt":
        providers.append((_ORT_NAME["cuda"], _provider_options("cuda", variant, tuning)))  # what TensorRT leaves over
    try:
        return ort.InferenceSession(model, options, providers=providers)
    except Exception as err:  # the runtime's own exceptions share no base class
        reason = " ".join(str(err).split())[:200]
        if provider in ("cuda", "tensorrt"):
            raise ProviderMissing(f"{provider} does not start: {reason}") from err
        raise BadModel("runtime-refuses", f"{variant.file}: {provider} does not take it: {reason}") from err


def _load_nvidia_libraries(ort: Any, provider: str) -> None:
    """From the nvidia-* wheels that the extras bring; they do not lie where the loader looks."""
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(sys.stderr):  # it prints what it does not find
            ort.preload_dlls()
    if provider == "tensorrt":
        _import("tensorrt")


def _provider_options(provider: str, variant: Variant, tuning: Tuning) -> dict[str, str]:
    if provider == "cuda":
        return {"device_id": "0", "enable_cuda_graph": "1" if tuning.cuda_graph else "0"}
    if provider == "tensorrt":
        return _tensorrt_options(variant, tuning)
    return {}


def _tensorrt_options(variant: Variant, tuning: Tuning) -> dict[str, str]:
    options = {
        "device_id": "0",
        "trt_fp16_enable": "1" if variant.precision == "fp16" else "0",
        "trt_int8_enable": "1" if variant.precision == "int8" else "0",
        "trt_cuda_graph_enable": "1" if tuning.cuda_graph else "0",
    }
    if tuning.cache_dir is not None:
        # An engine is only good for the very model, ONNX Runtime, TensorRT and GPU that it was built with.
        versions = runtime_versions()
        runtime = versions.get("onnxruntime-gpu", "0"), versions.get("tensorrt-cu13", versions.get("tensorrt", "0"))
        key = "-".join((variant.sha256[:16], *runtime, _gpu_name()))
        folder = tuning.cache_dir / "tensorrt" / key
        folder.mkdir(parents=True, exist_ok=True)
        options |= {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(folder),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(folder),
        }
    return options


def _gpu_name() -> str:
    """The GPU's model as the driver's files in /proc name it, fit for a folder name."""
    for info in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        for line in info.read_text().splitlines():
            if line.startswith("Model:"):
                return "".join(c if c.isalnum() else "_" for c in line.removeprefix("Model:").strip())
    board = Path("/proc/device-tree/model")
    return "".join(c for c in board.read_text() if c.isalnum()) if board.exists() else "gpu"


def _openvino_plugin_options(tuning: Tuning) -> dict[str, str]:
    options = {}
    if tuning.threads:
        options["num_of_threads"] = str(tuning.threads)
    if tuning.exact:
        options["load_config"] = '{"CPU": {"INFERENCE_PRECISION_HINT": "f32"}}'
    return options


def _open_native_openvino(model: bytes, variant: Variant, tuning: Tuning) -> Binding:
    openvino = _openvino()
    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    if tuning.threads:
        options["INFERENCE_NUM_THREADS"] = tuning.threads
    if tuning.exact:
        options["INFERENCE_PRECISION_HINT"] = "f32"
    try:
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(io.BytesIO(model)), "CPU", options)
    except RuntimeError as err:
        reason = " ".join(str(err).split())[:200]
        raise BadModel("runtime-refuses", f"{variant.file}: openvino does not take it: {reason}") from err
    return OpenVinoBinding(openvino, compiled, variant)
