"""`edge-inspect camera list|test`: which cameras there are, and what one really gives."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from edge_inspect.capture.open import camera_from
from edge_inspect.capture.picture_check import PictureCheck
from edge_inspect.capture.protocol import Camera, Format, Pixels, Read, Stamp
from edge_inspect.cli.options import AsJson
from edge_inspect.cli.output import emit
from edge_inspect.cli.plural import counted
from edge_inspect.cli.targets import check_target, source_path
from edge_inspect.errors import CameraLost, StorageFailing, Usage

Px = Annotated[int | None, typer.Option(metavar="PX", min=1, max=65535)]

SILENCE_S = 5.0
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def add(app: typer.Typer) -> None:
    """Register the family."""
    camera = typer.Typer(
        help="Cameras: list them, test one.",
        no_args_is_help=True,
        epilog="Example: edge-inspect camera test /dev/video0 --out seen.jpg",
    )
    camera.command("list", epilog="Example: edge-inspect camera list")(list_cameras)
    camera.command("test", epilog="Example: edge-inspect camera test /dev/video0 --width 1280 --out seen.jpg")(test)
    app.add_typer(camera, name="camera")


def list_cameras(json: AsJson = False) -> None:
    """The V4L2 cameras on this machine, with the pixel formats and picture sizes their drivers offer."""
    cameras = _v4l2_cameras()
    console = Console(stderr=json, highlight=False)
    table = Table("device", "camera", "bus", "formats", "lasting names")
    for found in cameras:
        formats = "\n".join(f"{fourcc}: {' '.join(sizes) or '?'}" for fourcc, sizes in found["formats"].items())
        table.add_row(found["device"], found["card"], found["bus_info"], formats, "\n".join(found["names"]))
    if cameras:
        console.print(table)
    else:
        console.print("no V4L2 camera found (network cameras, files and `sim` need no listing)")
    if json:
        emit({"cameras": cameras})


def _v4l2_cameras() -> list[dict[str, Any]]:
    from edge_inspect.capture.v4l2_node import Node, nodes, stable_names

    cameras = []
    for found in nodes():
        if not found.captures:
            continue
        try:
            node = Node(found.path)
        except OSError:
            continue  # unplugged since it was found
        try:
            formats = {fourcc: [f"{w}x{h}" for w, h in node.sizes(fourcc)] for fourcc in node.pixel_formats()}
        except OSError:
            continue
        finally:
            node.close()
        identity = found.identity._asdict()
        cameras.append({"device": found.path, **identity, "formats": formats, "names": stable_names(found.path)})
    return cameras


def test(
    source: Annotated[
        str, typer.Argument(help="/dev/video0, rtsp://…, a recording, a folder, gst:PIPELINE, sim, sim:seed=3.")
    ],
    frames: Annotated[int, typer.Option(metavar="N", min=2, help="How many pictures to read.")] = 50,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Save the last good picture here.")] = None,
    width: Px = None,
    height: Px = None,
    fps: Annotated[float | None, typer.Option(min=0.1, max=10_000)] = None,
    pixel_format: Annotated[str | None, typer.Option(help="V4L2: auto, MJPG, YUYV.")] = None,
    exposure_us: Annotated[int | None, typer.Option(min=1, help="Hold the exposure at so many microseconds.")] = None,
    gain: Annotated[int | None, typer.Option(min=0, help="Hold the gain, in the driver's units.")] = None,
    white_balance_k: Annotated[int | None, typer.Option(min=1000, help="Hold the white balance, kelvin.")] = None,
    json: AsJson = False,
) -> None:
    """Open a source, read pictures, and report the format it really gives, its rate, jitter, losses and damage."""
    if out is not None and out.suffix.lower() not in PICTURE_SUFFIXES:
        raise Usage(f"--out {out}: unknown kind of picture; allowed: {', '.join(PICTURE_SUFFIXES)}")
    if out is not None:
        check_target("--out", out, [("source", source_path(source))])
    camera = camera_from(
        source, width=width, height=height, fps=fps, pixel_format=pixel_format, exposure_us=exposure_us, gain=gain,
        white_balance_k=white_balance_k,
    )  # fmt: skip
    try:
        given = camera.open()
        seen = _watch(camera, given, frames)
    finally:
        camera.close()
    if out is not None:
        _save(out, seen.good)
    result = _result(camera, given, seen, out)
    _print(Console(stderr=json, highlight=False), result)
    if json:
        emit(result)


@dataclass
class Seen:
    """What came out of a source, one entry a picture."""

    captured_ns: list[int] = field(default_factory=list)
    ages_ms: list[float] = field(default_factory=list)
    broken: Counter[str] = field(default_factory=Counter)
    missed: int = 0
    good: Pixels | None = None


def _watch(camera: Camera, given: Format, frames: int) -> Seen:
    """Read up to `frames` pictures. Raises CameraLost when the source falls silent, or has nothing at all."""
    seen, stamp = Seen(), Stamp()
    pixels = np.empty((given.height_px, given.width_px, 3), np.uint8)
    check = PictureCheck(given.height_px, given.width_px) if camera.live else None
    until = time.monotonic() + SILENCE_S
    while len(seen.captured_ns) < frames:
        read = camera.read_into(pixels, stamp)
        if read is Read.END:
            break
        if read is Read.NOTHING:
            if time.monotonic() > until:
                raise CameraLost(f"{camera.label}: no picture for {SILENCE_S:.0f} s after {len(seen.captured_ns)}")
            continue
        until = time.monotonic() + SILENCE_S
        _note(seen, stamp, stamp.broken or (check.check(pixels) if check else ""), pixels)
    if not seen.captured_ns:
        raise CameraLost(f"{camera.label}: ended without a picture")
    return seen


def _note(seen: Seen, stamp: Stamp, unusable: str, pixels: Pixels) -> None:
    seen.captured_ns.append(stamp.captured_ns)
    seen.ages_ms.append((time.monotonic_ns() - stamp.captured_ns) / 1e6)
    seen.missed += stamp.missed
    if unusable:
        seen.broken[unusable] += 1
    elif seen.good is None:
        seen.good = pixels.copy()
    else:
        np.copyto(seen.good, pixels)


def _save(out: Path, pixels: Pixels | None) -> None:
    if pixels is None:
        raise CameraLost(f"--out {out}: not one picture came that is whole")
    try:
        coded = cv2.imencode(out.suffix, pixels)[1]
        out.write_bytes(coded.tobytes())
    except cv2.error as err:
        raise StorageFailing(f"--out {out}: cannot be written ({err.err})") from err
    except OSError as err:
        raise StorageFailing(f"--out {out}: cannot be written: {err.strerror or err}") from err


def _result(camera: Camera, given: Format, seen: Seen, out: Path | None) -> dict[str, Any]:
    steps_ms = np.diff(np.array(seen.captured_ns, np.float64)) / 1e6
    usual_ms = float(np.median(steps_ms)) if len(steps_ms) else 0.0
    span_s = (seen.captured_ns[-1] - seen.captured_ns[0]) / 1e9
    return {
        "source": camera.label,
        "live": camera.live,
        "width_px": given.width_px,
        "height_px": given.height_px,
        "pixel_format": given.pixel_format,
        "fps": given.fps,
        "settings": dict(given.settings),
        "frames": len(seen.captured_ns),
        "measured_fps": round(len(steps_ms) / span_s, 3) if span_s > 0 else None,
        "jitter_ms": round(float(np.percentile(np.abs(steps_ms - usual_ms), 99)), 3) if len(steps_ms) else None,
        "age_ms": {"p50": round(float(np.median(seen.ages_ms)), 3), "max": round(max(seen.ages_ms), 3)},
        "missed": seen.missed,
        "broken": dict(seen.broken),
        "out": str(out) if out else None,
    }


def _print(console: Console, result: dict[str, Any]) -> None:
    table = Table(title=result["source"], show_header=False)
    rate = "?" if result["fps"] is None else f"{result['fps']:g}"
    size = f"{result['width_px']}x{result['height_px']} {result['pixel_format']}"
    table.add_row("format", f"{size}, {rate} fps by its own word")
    measured = "?" if result["measured_fps"] is None else f"{result['measured_fps']:g}"
    table.add_row(
        "measured", f"{counted(result['frames'], 'picture')}, {measured} fps, jitter {result['jitter_ms']} ms (p99)"
    )
    table.add_row("age when read", f"median {result['age_ms']['p50']} ms, most {result['age_ms']['max']} ms")
    table.add_row("missed", str(result["missed"]))
    broken = ", ".join(f"{reason} {count}" for reason, count in result["broken"].items())
    table.add_row("not to be judged", broken or "none")
    for name, value in result["settings"].items():
        table.add_row(name, "-" if value is None else str(value))
    if result["out"]:
        table.add_row("saved", result["out"])
    console.print(table)
