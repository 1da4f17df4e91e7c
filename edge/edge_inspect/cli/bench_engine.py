"""The network and our own work around it: bare runtime against the whole pipeline, against other people's pipeline.

Every number comes from processes that ran in turns (bench_side); ratios are of medians, `fps` is of means.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from edge_inspect.capture.open import camera_from
from edge_inspect.capture.protocol import Read, Stamp
from edge_inspect.capture.sim import SimCamera
from edge_inspect.cli.bench_side import Side, percentiles, take_turns, worker_command
from edge_inspect.errors import BadSource, ProviderMissing, Usage
from edge_inspect.inference.package import ModelPackage
from edge_inspect.inference.providers import AUTO_ORDER, survey

WAYS = ("bare", "pipeline", "whole")
PICTURES = 6
PICTURES_APART = 37
"""Frames between two pictures; at the simulator every picture shows another plate."""
SIM_PLATES_APART = 510
"""Pixels of belt from plate to plate, at 640x360 (capture/sim.py)."""
MEMORY_FRAMES = 1_000
PEERS = (("onnx", (640, 640)), ("onnx", (384, 640)), ("openvino", (640, 640)), ("openvino", (384, 640)))
PEER_SCRIPT = Path(__file__).resolve().parents[3] / "tests" / "bench" / "peer_ultralytics.py"


@dataclass(frozen=True, slots=True)
class Settings:
    package: ModelPackage
    providers: tuple[str, ...] = ()
    """Empty: every one that is there."""
    shapes: tuple[tuple[int, int], ...] = ()
    """Empty: every one that the model has in that precision."""
    precisions: tuple[str, ...] = ("auto",)
    threads: int = 0
    spin: bool = True
    cv_threads: int | None = None
    frames: int = 40
    rounds: int = 5


@dataclass(frozen=True, slots=True)
class Peers:
    """ultralytics under a Python of its own."""

    python: str
    weights: Path


def save_pictures(source: str, width: int, height: int, path: Path) -> Path:
    """Some pictures of `source`, as (n, height, width, 3) uint8 in a .npy file; each side maps the same ones."""
    frames = np.zeros((PICTURES, height, width, 3), np.uint8)
    if source == "sim":
        camera = SimCamera(seed=1, width=width, height=height, px_per_frame=10, ng_share=0.5)
        frames_a_plate = round(SIM_PLATES_APART * min(width / 640, height / 360) / 10)
        for number, frame in enumerate(frames):
            camera.show(frames_a_plate * (number + 1), frame)
    else:
        _read_pictures(source, frames)
    np.save(path, frames)
    return path


def _read_pictures(source: str, frames: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    camera, stamp = camera_from(source), Stamp()
    form = camera.open()
    pixels = np.empty((form.height_px, form.width_px, 3), np.uint8)
    try:
        for number in range(PICTURES * PICTURES_APART):
            if camera.read_into(pixels, stamp) is not Read.FRAME:
                raise BadSource(f"{source}: only {number} frames, the benchmark needs {PICTURES * PICTURES_APART}")
            if number % PICTURES_APART == 0:
                frame = frames[number // PICTURES_APART]
                cv2.resize(pixels, (frame.shape[1], frame.shape[0]), dst=frame)
    finally:
        camera.close()


def bench_engine(settings: Settings, pictures: Path, peers: Peers | None, console: Console) -> dict[str, Any]:
    """`engine`: one row a provider, shape and precision; `peers` and their `ratios` when asked for."""
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory(prefix="edge-inspect-peers-") as folder:
        ours = [stack.enter_context(side) for side in _our_sides(settings, pictures)]
        theirs = [stack.enter_context(side) for side in _peer_sides(peers, pictures, folder)] if peers else []
        turns = [(side, way) for side in ours for way in WAYS] + [(side, "predict") for side in theirs]
        console.print(f"{len(turns)} turns of {settings.frames} frames, {settings.rounds} rounds ...")
        samples = take_turns(turns, settings.rounds, settings.frames)
    rows = [_row(side, samples) for side in ours]
    _print_rows(rows, console)
    if not peers:
        return {"engine": rows}
    their_rows = [{"peer": side.name, "ms": percentiles(samples[side.name, "predict"]["frame"])} for side in theirs]
    ratios = _ratios(rows, their_rows)
    for ratio in ratios:
        console.print(
            f"{ratio['peer']} {ratio['peer_ms']:.1f} ms / ours {ratio['ours']} {ratio['ours_ms']:.1f} ms "
            f"= [bold]{ratio['times']:.2f}[/]",
            highlight=False,
        )
    return {"engine": rows, "peers": their_rows, "ratios": ratios}


def bench_memory(settings: Settings, pictures: Path, console: Console) -> dict[str, Any]:
    """Growth of the resident set over MEMORY_FRAMES whole frames after as many to warm up."""
    side = next(_our_sides(settings, pictures))
    with side:
        process = psutil.Process(side.pid)
        side.ask("whole", MEMORY_FRAMES)
        before = process.memory_info().rss
        side.ask("whole", MEMORY_FRAMES)
        growth = process.memory_info().rss - before
    console.print(f"{side.name}: {before / 1e6:.0f} MB resident, {growth / 1e3:+.0f} kB over {MEMORY_FRAMES} frames")
    return {"memory": {"side": side.name, "rss_bytes": before, "growth_bytes": growth, "frames": MEMORY_FRAMES}}


def _our_sides(settings: Settings, pictures: Path) -> Iterator[Side]:
    there = [offer.provider for offer in survey() if offer.there]
    providers = settings.providers or tuple(name for name in AUTO_ORDER if name in there)
    missing = [name for name in providers if name not in there and name != "auto"]
    if missing or not providers:
        raise ProviderMissing(
            f"provider {', '.join(missing) or 'of any kind'} is not there; `edge-inspect doctor` says why"
        )
    for provider in providers:
        for precision in settings.precisions:
            for shape in settings.shapes or _shapes(settings.package, precision):
                yield Side(
                    f"{provider} {shape[0]}x{shape[1]}" + (f" {precision}" if precision != "auto" else ""),
                    worker_command(
                        {
                            "model": str(settings.package.dir), "provider": provider, "shape": shape,
                            "precision": precision, "threads": settings.threads, "spin": settings.spin,
                            "cv_threads": settings.cv_threads, "frames": str(pictures),
                        }
                    ),
                )  # fmt: skip


def _shapes(package: ModelPackage, precision: str) -> list[tuple[int, int]]:
    variants = package.manifest.variants
    return sorted({(v.height_px, v.width_px) for v in variants if precision in ("auto", v.precision)})


def _peer_sides(peers: Peers, pictures: Path, folder: str) -> Iterator[Side]:
    if not PEER_SCRIPT.is_file():
        raise Usage(f"--peers works in a source checkout only: {PEER_SCRIPT} is not there")
    for kind, shape in PEERS:
        settings = {
            "weights": str(peers.weights), "format": kind, "shape": shape, "frames": str(pictures), "folder": folder,
        }  # fmt: skip
        yield Side(f"YOLO({kind}) {shape[0]}x{shape[1]}", peer_command(peers.python, settings))


def peer_command(python: str, settings: dict[str, Any]) -> Sequence[str]:
    return [python, str(PEER_SCRIPT), json.dumps(settings)]


def _row(side: Side, samples: dict[tuple[str, str], dict[str, list[float]]]) -> dict[str, Any]:
    bare, pipeline, whole = (samples[side.name, way] for way in WAYS)
    bare_ms, pipeline_ms, whole_ms = (percentiles(way["frame"]) for way in (bare, pipeline, whole))
    return {
        "side": side.name,
        "provider": side.about["provider"],
        "shape": "x".join(map(str, side.about["shape"])),
        "file": side.about["file"],
        "bare_ms": bare_ms,
        "pipeline_ms": pipeline_ms,
        "whole_ms": whole_ms,
        "own_ms": percentiles(pipeline["own"]),
        "inference_ms": percentiles(pipeline["inference"]),
        "fps": {way: _fps(samples[side.name, way]["frame"]) for way in WAYS},
        "pipeline_over_bare": round(bare_ms["p50"] / pipeline_ms["p50"], 4),
        "whole_over_bare": round(bare_ms["p50"] / whole_ms["p50"], 4),
    }


def _fps(times_ms: Sequence[float]) -> float:
    return round(1000 * len(times_ms) / sum(times_ms), 2)


def _ratios(rows: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each peer's whole call over each of our sides' whole pipeline."""
    return [
        {
            "peer": their["peer"],
            "ours": row["side"],
            "peer_ms": their["ms"]["p50"],
            "ours_ms": row["pipeline_ms"]["p50"],
            "times": round(their["ms"]["p50"] / row["pipeline_ms"]["p50"], 3),
        }
        for their in theirs
        for row in rows
    ]


def _print_rows(rows: list[dict[str, Any]], console: Console) -> None:
    columns = ("side", "bare", "pipeline", "p99", "+ grab", "own", "own p99", "pipeline/bare", "+ grab/bare")
    table = Table(*columns, title="milliseconds a frame", box=None, padding=(0, 2, 0, 0))
    for row in rows:
        cells = (
            row["bare_ms"]["p50"], row["pipeline_ms"]["p50"], row["pipeline_ms"]["p99"], row["whole_ms"]["p50"],
            row["own_ms"]["p50"], row["own_ms"]["p99"], row["pipeline_over_bare"], row["whole_over_bare"],
        )  # fmt: skip
        table.add_row(row["side"], *(f"{cell:.3f}" for cell in cells))
    console.print(table)
