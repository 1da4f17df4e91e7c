"""`edge-inspect bench`: how fast this box is, and that our own work hides behind the network's."""

from __future__ import annotations

import os
import platform
import tempfile
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import cv2
import typer
from rich.console import Console

from edge_inspect.cli.bench_engine import Peers, Settings, bench_engine, bench_memory, save_pictures
from edge_inspect.cli.bench_line import bench_latency, bench_start
from edge_inspect.cli.bench_plc import bench_line, check_enough_judged
from edge_inspect.cli.log import configure_log
from edge_inspect.cli.options import AsJson, ModelDir, ThreadCount, check_provider
from edge_inspect.cli.output import emit
from edge_inspect.errors import Usage
from edge_inspect.inference.package import DEFAULT_MODEL, PRECISIONS, ModelPackage, find_model
from edge_inspect.inference.providers import runtime_versions

EXAMPLES = """Examples:\n
  edge-inspect bench\n
  edge-inspect bench all --json\n
  edge-inspect bench line --provider cpu --triggers 3000\n
  edge-inspect bench --provider cpu --shape 384x640 --no-spin\n
  edge-inspect bench --peers --peer-python ~/yolo/bin/python --peer-weights yolov8n.pt
"""


class What(str, Enum):
    engine = "engine"
    latency = "latency"
    line = "line"
    start = "start"
    memory = "memory"
    all = "all"


def add(app: typer.Typer) -> None:
    app.command("bench", epilog=EXAMPLES)(bench)


def bench(
    what: Annotated[What, typer.Argument(help="What to measure.")] = What.engine,
    model: ModelDir = None,
    provider: Annotated[str, typer.Option(metavar="NAMES", help="cpu,openvino,… (default: all that are there)")] = "",
    shape: Annotated[str, typer.Option(metavar="SHAPES", help="384x640,… (HxW) (default: all of the model)")] = "",
    precision: Annotated[str, typer.Option(metavar="NAMES", help="auto,fp32,fp16,int8")] = "auto",
    threads: ThreadCount = None,
    spin: Annotated[bool, typer.Option("--spin/--no-spin", help="Let ONNX Runtime's threads wait busily.")] = True,
    cv_threads: Annotated[int | None, typer.Option(metavar="N", help="cv2.setNumThreads(N) on our side.")] = None,
    source: Annotated[
        str, typer.Option(metavar="SOURCE", help="Where pictures come from: a recording, or sim.")
    ] = "sim",
    size: Annotated[str, typer.Option(metavar="WxH", help="Picture size.")] = "1920x1080",
    frames: Annotated[int, typer.Option("--frames", metavar="N", min=5, help="Frames a turn.")] = 40,
    rounds: Annotated[int, typer.Option(metavar="N", min=1, help="Turns of each side.")] = 5,
    triggers: Annotated[int, typer.Option("--triggers", metavar="N", min=10, help="Triggers of `line`.")] = 1000,
    poll_ms: Annotated[float, typer.Option(metavar="MS", min=1, help="How often `line` polls the PLC.")] = 2.0,
    peers: Annotated[bool, typer.Option("--peers", help="Also time ultralytics' predict.")] = False,
    peer_python: Annotated[str, typer.Option(metavar="PATH", help="A Python that has ultralytics.")] = "python3",
    peer_weights: Annotated[Path | None, typer.Option(metavar="PT", help="The peers' weights (.pt).")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure this box.

    engine (the default): bare runtime against our whole pipeline. latency: camera to MQTT subscriber. line: a PLC's
    trigger to the answer in its memory. start: process start to first verdict. memory: growth while running. all:
    everything.
    """
    console = Console(stderr=True, highlight=False)
    package = ModelPackage.load(find_model(model or DEFAULT_MODEL))
    settings = Settings(
        package,
        providers=tuple(_provider(name) for name in _list(provider)),
        shapes=tuple(_size(text, "--shape") for text in _list(shape)),
        precisions=tuple(_precision(name) for name in _list(precision)),
        threads=threads or 0,
        spin=spin,
        cv_threads=cv_threads,
        frames=frames,
        rounds=rounds,
    )
    result: dict[str, Any] = {"machine": machine(), "model": f"{package.manifest.name} {package.manifest.version}"}
    if what in (What.engine, What.memory, What.all):
        width, height = _size(size, "--size")
        with tempfile.TemporaryDirectory(prefix="edge-inspect-bench-") as folder:
            pictures = save_pictures(source, width, height, Path(folder) / "frames.npy")
            if what is not What.memory:
                result |= bench_engine(settings, pictures, _peers(peers, peer_python, peer_weights), console)
            if what is not What.engine:
                result |= bench_memory(settings, pictures, console)
    line_provider = settings.providers[0] if settings.providers else "auto"
    if what in (What.latency, What.all):
        result["latency"] = bench_latency(package, line_provider, settings.threads, console)
    if what in (What.line, What.all):
        configure_log("error", "text")  # a PLC that begins and ends is no news
        result["line"] = bench_line(package, line_provider, settings.threads, triggers, poll_ms, console)
    if what in (What.start, What.all):
        result["start"] = bench_start(package, line_provider, rounds, console)
    if as_json:
        emit(result)
    if "line" in result:
        check_enough_judged(result["line"])


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "opencv": cv2.__version__,
        **runtime_versions(),
    }


def _peers(wanted: bool, python: str, weights: Path | None) -> Peers | None:
    if not wanted:
        return None
    if weights is None or not weights.is_file():
        raise Usage(f"--peers needs --peer-weights FILE.pt (found {weights})")
    return Peers(python, weights.resolve())


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _size(text: str, option: str) -> tuple[int, int]:
    first, _, second = text.lower().partition("x")
    if not (first.isdigit() and second.isdigit() and 32 <= int(first) <= 8192 and 32 <= int(second) <= 8192):
        raise Usage(f"{option} {text}: must be two numbers from 32 to 8192, e.g. 384x640")
    return int(first), int(second)


def _provider(name: str) -> str:
    check_provider(name)
    return name


def _precision(name: str) -> str:
    if name not in PRECISIONS:
        raise Usage(f"--precision {name}: allowed are {', '.join(PRECISIONS)}")
    return name
