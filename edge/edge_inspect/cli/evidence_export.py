"""Exported evidence: pictures, what is known of them, labels to correct and train on, and a page to look at.

    pictures/*.jpg       as they were stored, each with its record inside
    evidence.json        every picture with all that is known of it
    annotations.json     COCO: one picture a part, the model's boxes as labels (format `coco`)
    index.html           all parts to look through

1. A picture that is damaged, or that the daemon removed meanwhile, is left out and counted.
2. evidence.json comes last: a folder without it is an export that did not end. A ZIP appears whole or not at all.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from edge_inspect.cli.contact_sheet import contact_sheet
from edge_inspect.cli.plural import counted
from edge_inspect.delivery.evidence_file import Damaged, Mark, Record
from edge_inspect.delivery.evidence_read import KeptPart, Picture, read_whole
from edge_inspect.errors import StorageFailing, Usage

FORMATS = ("files", "coco")


class Exported(NamedTuple):
    parts: int
    pictures: int
    bytes: int
    damaged: int
    gone: int


class Target(Protocol):
    def write(self, name: str, content: bytes) -> None: ...


def export(
    folder: Path, parts: Sequence[KeptPart], to: Path, form: str, moved: Callable[[int], None] = lambda done: None
) -> Exported:
    """Write parts into a new folder, or into a ZIP if `to` ends in .zip. `moved`: parts done so far.

    Raises Usage when something is there already, StorageFailing when it cannot be written.
    """
    size = damaged = gone = 0
    written: list[tuple[Record, list[tuple[str, Picture]]]] = []
    with _target(to) as target:
        for done, part in enumerate(parts, start=1):
            files: list[tuple[str, Picture]] = []
            for picture in part.pictures if form == "files" else part.pictures[:1]:
                name = f"pictures/{picture.file.partition('/')[2]}"
                try:
                    stored = read_whole(folder, picture)
                except Damaged:
                    damaged += 1
                    continue
                except FileNotFoundError:
                    gone += 1
                    continue
                target.write(name, stored)
                files.append((name, picture))
                size += len(stored)
            if files:
                written.append((part.record, files))
            moved(done)
        if form == "coco":
            target.write("annotations.json", _json(coco(written)))
        page = [(record, [(name, picture.record) for name, picture in files]) for record, files in written]
        target.write("index.html", contact_sheet(f"Evidence of {counted(len(written), 'part')}", page).encode())
        target.write("evidence.json", _json([_told(*each) for _, files in written for each in files]))
    return Exported(len(written), sum(len(files) for _, files in written), size, damaged, gone)


def coco(parts: Sequence[tuple[Record, Sequence[tuple[str, Picture]]]]) -> dict[str, Any]:
    """The first picture of each part with its boxes, as a COCO data set."""
    names = sorted({mark.cls for record, _ in parts for mark in record.defects})
    numbers = {name: number for number, name in enumerate(names, start=1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (record, files) in enumerate(parts, start=1):
        name, picture = files[0]
        x0, y0, x1, y1 = picture.record.crop_px
        images.append(
            {
                "id": number,
                "file_name": name,
                "width": x1 - x0,
                "height": y1 - y0,
                "date_captured": f"{record.captured_utc:%Y-%m-%dT%H:%M:%S.%f}Z",
                "part": record.id,
                "camera": record.camera,
                "verdict": record.verdict,
                "reason": record.reason,
            }
        )
        for mark in record.defects:
            box = _inside(mark, x0, y0, x1, y1)
            if box is not None:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": numbers[mark.cls],
                        "bbox": box,
                        "area": round(box[2] * box[3], 2),
                        "iscrowd": 0,
                        "score": round(mark.confidence, 4),
                        "severity": mark.severity,
                    }
                )
    return {
        "info": {"description": "Boxes as the model found them: suggestions, to be corrected before training."},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in numbers.items()],
    }


def _inside(mark: Mark, x0: int, y0: int, x1: int, y1: int) -> list[float] | None:
    """x, y, width, height in px of the picture, cut at its edges; None when nothing is left."""
    left, top = max(mark.box_px[0], x0), max(mark.box_px[1], y0)
    right, bottom = min(mark.box_px[2], x1), min(mark.box_px[3], y1)
    if right <= left or bottom <= top:
        return None
    return [round(value, 2) for value in (left - x0, top - y0, right - left, bottom - top)]


def _told(name: str, picture: Picture) -> dict[str, Any]:
    told = picture.record.model_dump(mode="json")
    told["defects"] = [mark._asdict() for mark in picture.record.defects]
    captured = f"{picture.record.captured_utc:%Y-%m-%dT%H:%M:%S.%f}Z"
    return {"file": name, "bytes": picture.bytes, "sha256": picture.sha256, "captured_utc": captured, **told}


def _json(content: object) -> bytes:
    return (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode()


class _Folder:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, name: str, content: bytes) -> None:
        (self._folder / name).write_bytes(content)


class _Zip:
    def __init__(self, file: zipfile.ZipFile) -> None:
        self._file = file

    def write(self, name: str, content: bytes) -> None:
        packed = zipfile.ZIP_STORED if name.endswith(".jpg") else zipfile.ZIP_DEFLATED
        self._file.writestr(name, content, compress_type=packed)


def check_name(to: Path) -> None:
    """Raises Usage when something is there already, or the name asks for another kind of file than we write."""
    zipped = to.suffix.lower() == ".zip"
    try:
        if to.exists() and (zipped or not to.is_dir() or any(to.iterdir())):
            raise Usage(f"{to}: is there already; give a new folder or a new .zip file")
        if not zipped and not to.exists() and re.search("[A-Za-z]", to.suffix):
            raise Usage(f"{to}: `{to.suffix}` is not written; allowed: a new folder's name or a file that ends in .zip")
    except OSError as err:
        raise StorageFailing(f"{to}: cannot be written: {err.strerror or err}") from err


@contextmanager
def _target(to: Path) -> Iterator[Target]:
    check_name(to)
    zipped = to.suffix.lower() == ".zip"
    unfinished = to.absolute().with_name(to.absolute().name + ".part")
    try:
        if not zipped:
            (to / "pictures").mkdir(parents=True)
            yield _Folder(to)
            return
        to.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(unfinished, "w", allowZip64=True) as file:
            yield _Zip(file)
        unfinished.replace(to)
    except OSError as err:
        raise StorageFailing(f"{to}: cannot be written: {err.strerror or err}") from err
    finally:
        if zipped:
            unfinished.unlink(missing_ok=True)
