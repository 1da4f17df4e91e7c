"""`edge-inspect sim export`: the simulator's pictures as a YOLO data set, for training and for checks.

Every plate gives one photo (450x300 px) and one line frame (640x360 px) in which it and its neighbours are whole or cut
by the picture's edge. The split is by plate: no plate is in both `train` and `val`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer

from edge_inspect.capture.plates import KINDS, PLATE_HEIGHT_PX, PLATE_WIDTH_PX, render_plate
from edge_inspect.capture.protocol import Pixels
from edge_inspect.capture.sim import SimCamera
from edge_inspect.cli.output import emit
from edge_inspect.cli.sim_plc import plc
from edge_inspect.errors import BadSource, StorageFailing, Usage

VISIBLE_SHARE = 0.3
"""A defect cut by the picture's edge is labelled when this share of its width is still visible."""


def add(app: typer.Typer) -> None:
    sim = typer.Typer(
        help="The simulated line, and a PLC to try it with.",
        no_args_is_help=True,
        epilog="Example: edge-inspect sim export --out plates --plates 200",
    )
    sim.command("export")(export)
    sim.command("frames")(frames)
    sim.command("plc")(plc)
    app.add_typer(sim, name="sim")


def export(
    out: Annotated[Path, typer.Option(help="Folder to write; must be missing or empty.")],
    plates: Annotated[int, typer.Option(min=2, help="How many plates to draw.")] = 300,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same pictures.")] = 0,
    ng_share: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of plates with defects.")] = 0.6,
    val_share: Annotated[float, typer.Option(min=0.0, max=0.9, help="Share of plates kept for validation.")] = 0.1,
    kinds: Annotated[str, typer.Option(help=f"Defect kinds, comma separated, of: {', '.join(KINDS)}.")] = "scratch",
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")] = False,
) -> None:
    """Write simulated plates as a YOLO data set (images, labels, data.yaml, gt.json).

    Example: edge-inspect sim export --out /tmp/simset --plates 300 --seed 11
    """
    chosen = tuple(kinds.split(","))
    if out.exists() and any(out.iterdir()):
        raise Usage(f"--out {out} is not empty; choose a new folder")
    n_val = round(plates * val_share)
    try:
        counts = {
            "train": _export_split(out, "train", plates - n_val, seed, ng_share, chosen),
            "val": _export_split(out, "val", n_val, seed + 1_000_003, ng_share, chosen) if n_val else (0, 0),
        }
        names = "".join(f"  {number}: {kind}\n" for number, kind in enumerate(chosen))
        (out / "data.yaml").write_text(f"path: .\ntrain: images/train\nval: images/val\nnames:\n{names}")
    except OSError as err:
        raise StorageFailing(f"cannot write {err.filename or out}: {err.strerror}") from err
    result = {"out": str(out), "plates": plates, "seed": seed, "classes": list(chosen)}
    result |= {f"{split}_pictures": pictures for split, (pictures, _) in counts.items()}
    result |= {f"{split}_boxes": boxes for split, (_, boxes) in counts.items()}
    if json_:
        emit(result)
    else:
        typer.echo(f"{out}: " + ", ".join(f"{key} {value}" for key, value in result.items() if key != "out"))


def frames(
    out: Annotated[Path, typer.Option(help="Folder to write PNG pictures to.")],
    parts: Annotated[int, typer.Option(min=1, help="How many parts pass.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same pictures.")] = 0,
    ng_share: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of plates with defects.")] = 0.5,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")] = False,
) -> None:
    """Write one lossless picture a part, the part in the middle; for known-answer tests of models.

    Example: edge-inspect sim frames --out golden --parts 4 --seed 5
    """
    camera = SimCamera(seed=seed, parts=parts, ng_share=ng_share, paced=False)
    pixels = np.empty((360, 640, 3), np.uint8)
    written = {}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for part in camera.truth()["parts"]:
            camera.show(part["center_frame"], pixels)
            path = out / f"sim-{seed}-{part['id']}.png"
            path.write_bytes(_coded(pixels, ".png", [cv2.IMWRITE_PNG_COMPRESSION, 9]))
            written[path.name] = part["verdict"]
    except OSError as err:
        raise StorageFailing(f"cannot write {err.filename or out}: {err.strerror}") from err
    if json_:
        emit({"out": str(out), "seed": seed, "pictures": written})
    else:
        for name, verdict in written.items():
            typer.echo(f"{out / name}  {verdict}")


def _export_split(
    out: Path, split: str, plates: int, seed: int, ng_share: float, kinds: tuple[str, ...]
) -> tuple[int, int]:
    """One photo a plate and one line frame a plate; returns (pictures, boxes) written."""
    if plates < 1:
        raise BadSource(f"sim export: no plates left for {split}; ask for more plates or another --val-share")
    (out / "images" / split).mkdir(parents=True, exist_ok=True)
    (out / "labels" / split).mkdir(parents=True, exist_ok=True)
    boxes = _export_photos(out, split, plates, seed, ng_share, kinds)
    boxes += _export_frames(out, split, plates, seed, ng_share, kinds)
    return 2 * plates, boxes


def _export_photos(out: Path, split: str, plates: int, seed: int, ng_share: float, kinds: tuple[str, ...]) -> int:
    total = 0
    for number in range(plates):
        rng = np.random.default_rng([seed, number, 77])
        count = min(4, 1 + rng.poisson(0.8)) if rng.random() < ng_share else 0
        plate = render_plate(rng, [str(kind) for kind in rng.choice(kinds, count)])
        lines = [_label(kinds.index(kind), box, PLATE_WIDTH_PX, PLATE_HEIGHT_PX) for kind, *box in plate.boxes]
        _write(
            out,
            split,
            f"photo-{seed}-{number:05d}",
            np.asarray(cv2.cvtColor(plate.pixels, cv2.COLOR_GRAY2BGR), np.uint8),
            lines,
        )
        total += len(lines)
    return total


def _export_frames(out: Path, split: str, plates: int, seed: int, ng_share: float, kinds: tuple[str, ...]) -> int:
    camera = SimCamera(seed=seed, parts=plates, ng_share=ng_share, paced=False, kinds=kinds)
    truth = camera.truth()
    (out / f"{split}.gt.json").write_text(json.dumps(truth))
    rng = np.random.default_rng([seed, 78])
    pixels: Pixels = np.empty((360, 640, 3), np.uint8)
    total = 0
    for part in truth["parts"]:
        index = int(part["center_frame"] + rng.integers(-32, 33))
        camera.show(index, pixels)
        lines = [
            _label(kinds.index(one["cls"]), one["bbox"], 640, 360)
            for one in camera.boxes_in_frame(index, VISIBLE_SHARE)
        ]
        _write(out, split, f"frame-{seed}-{part['id']:05d}", pixels, lines)
        total += len(lines)
    return total


def _label(number: int, box: list[float], width: int, height: int) -> str:
    x1, y1, x2, y2 = box
    return (
        f"{number} {(x1 + x2) / 2 / width:.6f} {(y1 + y2) / 2 / height:.6f} "
        f"{(x2 - x1) / width:.6f} {(y2 - y1) / height:.6f}"
    )


def _write(out: Path, split: str, name: str, pixels: Pixels, lines: list[str]) -> None:
    (out / "images" / split / f"{name}.jpg").write_bytes(_coded(pixels, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, 92]))
    (out / "labels" / split / f"{name}.txt").write_text("".join(line + "\n" for line in lines))


def _coded(pixels: Pixels, ending: str, settings: list[int]) -> bytes:
    ok, coded = cv2.imencode(ending, pixels, settings)
    if not ok:
        raise RuntimeError(f"OpenCV cannot write {ending}")
    return bytes(coded)
