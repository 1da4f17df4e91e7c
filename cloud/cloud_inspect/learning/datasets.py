"""Data sets for training: read and checked in full before an hour of computing is spent on them.

Promises:

1. `load_dataset` refuses, with file and line, whatever would silently spoil a training: missing pictures, labels
   outside the picture, unknown or empty classes, pictures that no decoder opens, the same picture in train and val.
2. `mix` never moves a picture from val to train, or back.
3. Mixing is deterministic: the same sources, canvas and seed give the same files, byte for byte.

A YOLO data set is a data.yaml (`path`, `train`, `val`, `names`) with `images/` and `labels/` folders beside each
other; a label line is `class x_centre y_centre width height`, all relative to the picture.

    mixed = mix([Path("metal_tag/data.yaml"), Path("sim/data.yaml")], Path("mixed"), canvas=(384, 640), seed=1)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cloud_inspect.errors import BadDataset, TrainingMissing

Pixels = NDArray[np.uint8]
Boxes = NDArray[np.float64]

SPLITS = ("train", "val")
PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp")
PAD_GREY = 114
"""What the letterbox fills with, as ultralytics does it."""
BELT_PITCH = 510 / 450
"""Distance between two parts on the belt, in widths of a part's picture."""
_EDGE_SLACK = 1e-3
"""Labels made by hand may stick out of the picture by this share of it; they are clipped."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled picture. `boxes`: float64 (n, 5): class, x_centre, y_centre, width, height, relative."""

    picture: Path
    boxes: Boxes
    digest: str


@dataclass(frozen=True, slots=True)
class Dataset:
    yaml_path: Path
    classes: tuple[str, ...]
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]

    @property
    def digest(self) -> str:
        """sha256 over classes, pictures and labels of both splits, independent of paths and of order."""
        whole = hashlib.sha256("\n".join(self.classes).encode())
        for split, samples in (("train", self.train), ("val", self.val)):
            for line in sorted(f"{split} {one.digest} {np.round(one.boxes, 6).tolist()}" for one in samples):
                whole.update(line.encode())
        return f"sha256:{whole.hexdigest()}"


# --- reading ------------------------------------------------------------------------------------------------------


def load_dataset(yaml_path: Path) -> Dataset:
    """Read and check a whole data set. Raises BadDataset with file, line and what is wrong."""
    spec = _read_yaml(yaml_path)
    classes = _class_names(spec.get("names"), yaml_path)
    root = yaml_path.parent / str(spec.get("path", "."))
    found = {split: _load_split(root, spec.get(split), split, classes, yaml_path) for split in SPLITS}
    _refuse_leak(found["train"], found["val"], yaml_path)
    _refuse_unused_class(found["train"], classes, yaml_path)
    return Dataset(yaml_path, classes, found["train"], found["val"])


def load_together(yaml_paths: Sequence[Path]) -> Dataset:
    """Several data sets of the same classes as one, checked; nothing is written. Raises BadDataset."""
    if not yaml_paths:
        raise BadDataset("no data set given (one data.yaml or more)")
    sets = [load_dataset(path) for path in yaml_paths]
    _refuse_other_classes(sets)
    _refuse_leak_between(sets)
    train = tuple(sample for one in sets for sample in one.train)
    val = tuple(sample for one in sets for sample in one.val)
    return Dataset(yaml_paths[0], sets[0].classes, train, val)


def _read_yaml(path: Path) -> dict[str, object]:
    try:
        import yaml
    except ImportError as err:
        raise TrainingMissing(f"{err.name} is not installed: pip install 'edge-inspect[cloud]'") from err
    try:
        spec = yaml.safe_load(path.read_text())
    except OSError as err:
        raise BadDataset(f"{path}: cannot be read: {err.strerror}") from err
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise BadDataset(f"{path}: is not YAML: {str(err).splitlines()[0]}") from err
    if not isinstance(spec, dict):
        raise BadDataset(f"{path}: is not a data set description (needs the keys path, train, val, names)")
    return spec


def _class_names(names: object, path: Path) -> tuple[str, ...]:
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise BadDataset(f"{path}: `names` must list the classes, found {names!r}")
    if sorted(names) != list(range(len(names))):
        raise BadDataset(f"{path}: `names` must be numbered 0 to {len(names) - 1}, found {sorted(names)}")
    ordered = tuple(str(names[number]).strip() for number in range(len(names)))
    if "" in ordered or len(set(ordered)) != len(ordered):
        raise BadDataset(f"{path}: class names must be different and not empty, found {list(ordered)}")
    return ordered


def _load_split(root: Path, place: object, split: str, classes: tuple[str, ...], yaml_path: Path) -> tuple[Sample, ...]:
    if not isinstance(place, str):
        raise BadDataset(f"{yaml_path}: `{split}` must name a folder of pictures, found {place!r}")
    folder = root / place
    if not folder.is_dir():
        raise BadDataset(f"{yaml_path}: `{split}`: {folder} is not a folder")
    pictures = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_ENDINGS)
    if not pictures:
        raise BadDataset(f"{yaml_path}: `{split}`: no pictures in {folder} ({', '.join(PICTURE_ENDINGS)})")
    labels = _labels_folder(folder)
    if not labels.is_dir():
        raise BadDataset(f"{yaml_path}: `{split}`: the labels' folder {labels} is missing")
    known = {path.stem for path in pictures}
    orphans = sorted(path for path in labels.glob("*.txt") if path.stem not in known)
    if orphans:
        raise BadDataset(f"{orphans[0]}: there is no picture for these labels in {folder}")
    return tuple(_load_sample(picture, labels / f"{picture.stem}.txt", len(classes)) for picture in pictures)


def _labels_folder(images: Path) -> Path:
    """images/train -> labels/train: the last folder named `images` is replaced."""
    parts = list(images.parts)
    if "images" not in parts:
        return images.parent / "labels"
    parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts)


def _load_sample(picture: Path, label_path: Path, n_classes: int) -> Sample:
    coded = picture.read_bytes()
    if cv2.imdecode(np.frombuffer(coded, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8) is None:
        raise BadDataset(f"{picture}: is not a picture that can be opened ({len(coded)} bytes)")
    try:
        text = label_path.read_text()
    except FileNotFoundError as err:
        raise BadDataset(f"{picture}: has no label file {label_path} (an empty file says: no defects)") from err
    except (OSError, UnicodeDecodeError) as err:
        raise BadDataset(f"{label_path}: cannot be read: {err}") from err
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    boxes = [_parse_label(line, n_classes, f"{label_path}:{number}") for number, line in lines]
    return Sample(picture, np.array(boxes, np.float64).reshape(-1, 5), hashlib.sha256(coded).hexdigest())


def _parse_label(line: str, n_classes: int, where: str) -> list[float]:
    try:
        values = [float(word) for word in line.split()]
    except ValueError as err:
        raise BadDataset(f"{where}: `{line.strip()}` is not five numbers") from err
    if len(values) != 5:
        raise BadDataset(f"{where}: {len(values)} numbers, must be 5 (class x_centre y_centre width height)")
    if values[0] not in range(n_classes):
        raise BadDataset(f"{where}: class {values[0]:g} does not exist, allowed 0 to {n_classes - 1}")
    _, x, y, w, h = values
    if not np.isfinite(values).all() or w <= 0 or h <= 0:
        raise BadDataset(f"{where}: box {w:g} x {h:g} is empty")
    low, high = -_EDGE_SLACK, 1 + _EDGE_SLACK
    if min(x - w / 2, y - h / 2) < low or max(x + w / 2, y + h / 2) > high:
        raise BadDataset(f"{where}: box reaches out of the picture (values are relative to it, 0 to 1)")
    return values


def _refuse_leak(train: Sequence[Sample], val: Sequence[Sample], yaml_path: Path) -> None:
    """A model must not be measured on what it was trained on."""
    seen = {one.digest: one.picture for one in train}
    names = {one.picture.stem: one.picture for one in train}
    for one in val:
        twin = seen.get(one.digest) or names.get(one.picture.stem)
        if twin:
            raise BadDataset(f"{yaml_path}: the same picture is in train and val: {twin} and {one.picture}")


def _refuse_other_classes(sets: Sequence[Dataset]) -> None:
    for other in sets[1:]:
        if other.classes != sets[0].classes:
            raise BadDataset(
                f"{other.yaml_path}: classes {list(other.classes)} differ from {list(sets[0].classes)} "
                f"in {sets[0].yaml_path}"
            )


def _refuse_leak_between(sets: Sequence[Dataset]) -> None:
    """Names may repeat between data sets; pictures in the train of one and the val of another may not."""
    seen = {one.digest: one.picture for dataset in sets for one in dataset.train}
    for dataset in sets:
        for one in dataset.val:
            if one.digest in seen:
                raise BadDataset(f"the same picture is in train and val: {seen[one.digest]} and {one.picture}")


def _refuse_unused_class(train: Sequence[Sample], classes: tuple[str, ...], yaml_path: Path) -> None:
    used = {int(number) for one in train for number in one.boxes[:, 0]}
    for number, name in enumerate(classes):
        if number not in used:
            raise BadDataset(f"{yaml_path}: class {number} ({name}) has no box in train; nothing can be learned of it")


# --- mixing -------------------------------------------------------------------------------------------------------


def mix(sources: Sequence[Path], out: Path, *, canvas: tuple[int, int], seed: int = 0, belt_views: int = 2) -> Dataset:
    """Write one data set of equally sized pictures from several, and return it checked.

    Each picture is letterboxed to `canvas` (height, width) as the engine will see it. A picture smaller than the canvas
    also appears `belt_views` times at its own size on a plain belt with a neighbour, as it passes a line camera.
    Raises BadDataset when a source is bad, class lists differ or a val picture of one source is in train of another.
    """
    if not sources:
        raise BadDataset("no data set given (one data.yaml or more)")
    sets = [load_dataset(source) for source in sources]
    _refuse_other_classes(sets)
    _refuse_leak_between(sets)
    if out.exists() and any(out.iterdir()):
        raise BadDataset(f"{out}: is not empty; mixing writes into a new folder")
    for number, dataset in enumerate(sets):
        for split in SPLITS:
            _write_split(dataset, split, out, f"s{number}", canvas, np.random.default_rng([seed, number]), belt_views)
    names = "".join(f"  {number}: {name}\n" for number, name in enumerate(sets[0].classes))
    path = out / "data.yaml"
    path.write_text(f"path: {out.resolve()}\ntrain: images/train\nval: images/val\nnames:\n{names}")
    return load_dataset(path)


def _write_split(
    dataset: Dataset, split: str, out: Path, prefix: str, canvas: tuple[int, int], rng: np.random.Generator, views: int
) -> None:
    samples = dataset.train if split == "train" else dataset.val
    (out / "images" / split).mkdir(parents=True, exist_ok=True)
    (out / "labels" / split).mkdir(parents=True, exist_ok=True)
    for number, sample in enumerate(samples):
        for view, (pixels, boxes) in enumerate(_views(sample, samples, canvas, rng, views)):
            name = f"{split}-{prefix}-{number:05d}-{view}"
            # PNG: a second JPEG pass would blur the hairlines that tell wear from scratch
            coded = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]
            (out / "images" / split / f"{name}.png").write_bytes(coded.tobytes())
            (out / "labels" / split / f"{name}.txt").write_text("".join(_label_line(box) for box in boxes))


def _label_line(box: Boxes) -> str:
    return f"{int(box[0])} " + " ".join(f"{value:.6f}" for value in box[1:]) + "\n"


def _views(
    sample: Sample, samples: Sequence[Sample], canvas: tuple[int, int], rng: np.random.Generator, views: int
) -> Iterator[tuple[Pixels, Boxes]]:
    pixels = _open(sample)
    yield letterboxed(pixels, sample.boxes, canvas)
    height, width = pixels.shape[:2]
    if height >= canvas[0] or width >= canvas[1]:
        return
    for _ in range(views):
        neighbour = samples[int(rng.integers(len(samples)))]
        second = _open(neighbour)
        if second.shape == pixels.shape:
            yield on_belt([(pixels, sample.boxes), (second, neighbour.boxes)], canvas, rng)


def _open(sample: Sample) -> Pixels:
    return np.asarray(cv2.imread(str(sample.picture), cv2.IMREAD_COLOR), np.uint8)


def letterboxed(pixels: Pixels, boxes: Boxes, canvas: tuple[int, int]) -> tuple[Pixels, Boxes]:
    """The picture scaled to fit `canvas` (height, width), centred on grey; boxes relative to the canvas."""
    height, width = pixels.shape[:2]
    scale = min(canvas[0] / height, canvas[1] / width)
    new_h, new_w = round(height * scale), round(width * scale)
    top, left = (canvas[0] - new_h) // 2, (canvas[1] - new_w) // 2
    whole = np.full((*canvas, 3), PAD_GREY, np.uint8)
    whole[top : top + new_h, left : left + new_w] = cv2.resize(pixels, (new_w, new_h), interpolation=cv2.INTER_LINEAR)
    return whole, _placed(boxes, left, top, new_w, new_h, canvas)


def on_belt(
    parts: Sequence[tuple[Pixels, Boxes]], canvas: tuple[int, int], rng: np.random.Generator
) -> tuple[Pixels, Boxes]:
    """Two parts side by side at their own size, as a line camera sees them; boxes cut by the edge below 30 % go."""
    height, width = parts[0][0].shape[:2]
    border = np.concatenate([parts[0][0][:, 0], parts[0][0][:, -1]])
    whole = np.empty((*canvas, 3), np.uint8)
    whole[:] = np.clip(np.median(border, axis=0) - rng.integers(0, 7), 0, 255).astype(np.uint8)
    if rng.random() < 0.5:  # a 16:9 camera leaves a strip of the letterbox above and below
        strip = max(0, (canvas[0] - canvas[1] * 9 // 16) // 2)
        whole[:strip] = whole[canvas[0] - strip :] = PAD_GREY
    top = int(np.clip((canvas[0] - height) // 2 + rng.integers(-8, 9), 0, canvas[0] - height))
    x = int(rng.integers(-width // 2, canvas[1] - width // 2))
    other = x + round(width * BELT_PITCH) * (1 if x < (canvas[1] - width) // 2 else -1)
    kept = []
    for (pixels, boxes), left in zip(parts, (x, other), strict=True):
        a, b = max(0, left), min(canvas[1], left + width)
        if a < b:
            whole[top : top + height, a:b] = pixels[:, a - left : b - left]
            kept.append(_clipped(_placed(boxes, left, top, width, height, canvas)))
    return whole, np.concatenate(kept)


def _placed(boxes: Boxes, left: int, top: int, width: int, height: int, canvas: tuple[int, int]) -> Boxes:
    """Boxes of a picture that now lies at (left, top) with this size, relative to the canvas."""
    placed = boxes.copy()
    placed[:, 1] = (boxes[:, 1] * width + left) / canvas[1]
    placed[:, 2] = (boxes[:, 2] * height + top) / canvas[0]
    placed[:, 3] = boxes[:, 3] * width / canvas[1]
    placed[:, 4] = boxes[:, 4] * height / canvas[0]
    return placed


def _clipped(boxes: Boxes, least_share: float = 0.3) -> Boxes:
    """Boxes cut to the canvas; those of which too little is left to recognise are dropped."""
    left = np.clip(boxes[:, 1] - boxes[:, 3] / 2, 0, 1)
    right = np.clip(boxes[:, 1] + boxes[:, 3] / 2, 0, 1)
    keep = right - left >= least_share * boxes[:, 3]
    cut = boxes.copy()
    cut[:, 1], cut[:, 3] = (left + right) / 2, right - left
    return np.asarray(cut[keep])
