"""Is the software that runs the network there, once, and is it the fastest this box can have?"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from edge_inspect.errors import InspectError
from edge_inspect.health.findings import Finding, fail, ok, warn
from edge_inspect.inference.engine import Engine
from edge_inspect.inference.package import ModelPackage, find_model
from edge_inspect.inference.providers import AUTO_ORDER, INSTALL, Offer

LEAST_PYTHON = (3, 10)
TIMED_RUNS = 10
ONNXRUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-rocm")
"""Distributions that all install the same package `onnxruntime`: the last installed overwrites the others' files."""
SPEED_FLAGS = (
    *("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile", "amx_bf16", "amx_int8"),
    *("asimddp", "i8mm", "bf16"),
)


def check_python(version: tuple[int, int]) -> Finding:
    name = f"Python {version[0]}.{version[1]}"
    if version < LEAST_PYTHON:
        return fail("python", name, "install Python 3.10 or newer and make a new virtual environment with it")
    return ok("python", name)


def installed_distributions(names: Collection[str] = ONNXRUNTIMES) -> dict[str, str]:
    """Those of `names` that are installed, with their versions."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def check_runtime_installed_once(installed: Mapping[str, str], offers: Sequence[Offer]) -> Finding:
    told = ", ".join(f"{name} {version}" for name, version in installed.items())
    if len(installed) > 1:
        mend = f"pip uninstall -y {' '.join(installed)}, then install one again, e.g. {INSTALL['cpu']}"
        return fail("runtime", f"{told} are installed together and overwrite each other's files", mend)
    if not any(offer.there for offer in offers):
        return fail("runtime", f"no runtime works here ({told or 'none is installed'})", INSTALL["cpu"])
    return ok("runtime", told or next(offer.how for offer in offers if offer.there))


def check_providers(offers: Sequence[Offer], wanted: str) -> Finding:
    there = {offer.provider: offer for offer in offers if offer.there}
    told = ", ".join(f"{name} ({offer.how})" for name, offer in there.items())
    if wanted != "auto" and wanted not in there:
        why = next((offer.how for offer in offers if offer.provider == wanted), "unknown")
        return fail("providers", f"model.provider = {wanted} is not there: {why}; there are: {told or 'none'}", why)
    taken = wanted if wanted != "auto" else next((name for name in AUTO_ORDER if name in there), "none")
    if taken == "none":
        return fail("providers", "none is there", INSTALL["cpu"])
    return ok("providers", f"{told}; {wanted} takes {taken}")


def cpu_of(cpuinfo: str) -> tuple[str, tuple[str, ...]]:
    """Model name and the features that make networks fast, from the text of /proc/cpuinfo (x86 and ARM)."""
    name = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    found = set(flags.group(1).split()) if flags else set()
    return (name.group(1).strip() if name else "unknown CPU"), tuple(flag for flag in SPEED_FLAGS if flag in found)


def check_cpu(cpuinfo: str, cores: int) -> Finding:
    name, flags = cpu_of(cpuinfo)
    return ok("cpu", f"{name}, {cores} core(s) for us, {' '.join(flags) or 'no vector features that we know'}")


def check_faster(
    offers: Sequence[Offer], wanted: str, flags: Collection[str], *, nvidia_driver: bool, jetson: bool
) -> Iterator[Finding]:
    """What would be faster on this very box than what is taken now, and how to get it."""
    there = {offer.provider for offer in offers if offer.there}
    how = {offer.provider: offer.how for offer in offers}
    if jetson and "cuda" not in there:
        mend = "install JetPack's own onnxruntime-gpu wheel; the one on PyPI has no kernels for Orin"
        yield warn("faster", "a Jetson's GPU is idle: no CUDA provider", mend)
    elif nvidia_driver and "cuda" not in there:
        mend = f"pip uninstall -y onnxruntime; {INSTALL['cuda']}"
        yield warn("faster", f"an NVIDIA GPU is there, its provider is not: {how.get('cuda', '')}", mend)
    elif "openvino" not in there and "avx2" in flags and "cuda" not in there:
        amx = "amx_tile" in flags
        gain = (
            "was 3 times as fast on a CPU with AMX, such as this"
            if amx
            else "may be faster; `edge-inspect bench` tells"
        )
        yield warn("faster", f"openvino {gain}: {how.get('openvino', '')}", _openvino(how))
    elif wanted == "cpu" and (better := [name for name in ("cuda", "openvino") if name in there]):
        yield warn("faster", f"provider cpu is chosen while {better[0]} is there", 'set model.provider = "auto"')
    else:
        yield ok("faster", "nothing faster for this box that is not used already")


def _openvino(how: Mapping[str, str]) -> str:
    """Its ONNX Runtime plugin offers itself on Intel CPUs only; elsewhere its own runtime is taken."""
    return "pip install openvino" if "pip install openvino" in how.get("openvino", "") else INSTALL["openvino"]


def check_model(name: str | None, provider: str, threads: int, source: tuple[int, int]) -> Iterator[Finding]:
    """Verify the package byte by byte, then let it answer its golden frames on the provider that will be used.

    source: (height, width) of the camera's pictures in px; decides which input shape is timed.
    """
    try:
        package = ModelPackage.load(find_model(name) if name else find_model())
    except InspectError as err:
        yield fail("model", str(err), "edge-inspect model verify; copy the package again")
        return
    manifest = package.manifest
    yield ok("model", f"{manifest.name} {manifest.version} ({package.digest[:19]}...) verified: {package.dir}")
    try:
        engine = Engine(package, provider=provider, threads=threads, source=source)
    except InspectError as err:
        yield fail("known answer", str(err), "see `runtime` and `providers` above")
        return
    try:
        engine.warm_up()
        engine.known_answer()
        ms = min(_time_ms(engine.run) for _ in range(TIMED_RUNS))
        yield ok(
            "known answer", f"right on {engine.provider}, {engine.width}x{engine.height}, {ms:.1f} ms a run at best"
        )
    except InspectError as err:
        yield fail(
            "known answer", str(err), "the runtime answers wrongly: another provider, or another runtime version"
        )
    finally:
        engine.close()


def _time_ms(run: Callable[[], None]) -> float:
    begin = time.perf_counter()
    run()
    return (time.perf_counter() - begin) * 1e3


def python_version() -> tuple[int, int]:
    return sys.version_info[:2]


def nvidia_driver_there(proc: Path = Path("/proc")) -> bool:
    return (proc / "driver/nvidia/version").exists()


def is_jetson(proc: Path = Path("/proc")) -> bool:
    model = proc / "device-tree/model"
    return model.exists() and "jetson" in model.read_text(errors="replace").lower()
