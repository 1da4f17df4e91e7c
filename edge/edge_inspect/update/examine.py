"""What a candidate is asked before it may see the line: run here, in the process that may be lost (see `probe`).

1. The model that judges now is loaded first and runs in turn with the candidate: what a busy machine does to one it
   does to both, so load is never taken for a slow model.
2. The candidate's own golden pictures are asked, and those of the model that judges, by class and place: a package
   whose own pictures were made to fit is found out.
3. The first thing that is wrong is a BadModel with a code; how fast and how large it is comes back otherwise.

    examine(Request(package=Path("candidate"), golden_of=Path("active")))

What lies near its threshold may be found or not, as in `inference.engine`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_inspect.errors import BadModel, InspectError, ProviderMissing, RuntimeMissing, StorageFailing
from edge_inspect.inference.decode import Decoder, Detections
from edge_inspect.inference.engine import Engine
from edge_inspect.inference.package import ModelPackage
from edge_inspect.update.probe_costs import (
    Loaded,
    Pixels,
    check_latency,
    check_memory,
    resident_bytes,
    timed,
    unbudgeted,
)
from edge_wire.manifest import Golden

LEAST_IOU = 0.3
"""A retrained model draws a thin scratch's box anew; elsewhere than the old one it must not be."""
MOST_BOXES = 100
"""On one picture; a part has a few defects."""
MOST_OUTSIDE = 0.1
"""Of the input's side: so far may a box's middle lie outside."""


@dataclass(frozen=True)
class Request:
    """What is examined, and as what it shall run: the same as on the line."""

    package: Path
    golden_of: Path | None = None
    """The package that judges now."""
    provider: str = "auto"
    threads: int = 0
    precision: str = "auto"
    shape: tuple[int, int] | None = None
    sources: tuple[tuple[int, int], ...] = ()
    """(height, width) of the cameras' pictures; each may take another variant."""
    latency_factor: float = 2.0
    """How many times slower than the model that judges it may be."""


@dataclass(frozen=True)
class Probed:
    """What a candidate costs here; `active_...`: the model that judges, in the same process, turn by turn, else 0."""

    provider: str
    variants: tuple[str, ...]
    latency_p50_ms: float
    latency_p99_ms: float
    active_p50_ms: float
    active_p99_ms: float
    memory_bytes: int
    active_memory_bytes: int
    network: str
    """`cut off`, or why not."""
    remark: str = ""
    """What could not be compared or was not checked, and why."""


def request_from(facts: dict[str, Any]) -> Request:
    """The way back from `as_facts`."""
    return Request(
        package=Path(facts["package"]),
        golden_of=Path(facts["golden_of"]) if facts["golden_of"] else None,
        provider=facts["provider"],
        threads=facts["threads"],
        precision=facts["precision"],
        shape=(facts["shape"][0], facts["shape"][1]) if facts["shape"] else None,
        sources=tuple((height, width) for height, width in facts["sources"]),
        latency_factor=facts["latency_factor"],
    )


def as_facts(request: Request) -> dict[str, Any]:
    facts = asdict(request)
    return facts | {
        "package": str(request.package.absolute()),
        "golden_of": str(request.golden_of.absolute()) if request.golden_of else "",
    }


def examine(request: Request, network: str = "") -> Probed:
    """Raises BadModel: what `ModelPackage.load` and `Engine` say, and probe-provider, non-finite, constant-output,
    boxes-outside, too-many-boxes, known-answer, golden-of-active, probe-latency, probe-memory. StorageFailing."""
    package = ModelPackage.load(request.package)
    active_package, why = _active_package(request)
    remarks = [why]
    probed: list[Probed] = []
    for source in request.sources or (None,):
        active, why = _active(active_package, request, source)
        try:
            candidate = load(package, request, source)
            try:
                probed.append(_examine_one(candidate, active, package, active_package, request, network))
            finally:
                candidate.engine.close()
        finally:
            if active is not None:
                active.engine.close()
        remarks.append(why)
    slowest = max(probed, key=lambda one: one.latency_p99_ms)
    variants = tuple(dict.fromkeys(name for one in probed for name in one.variants))
    remarks.append(slowest.remark)
    return replace(slowest, variants=variants, remark="; ".join(dict.fromkeys(filter(None, remarks))))


def _examine_one(
    candidate: Loaded,
    active: Loaded | None,
    package: ModelPackage,
    active_package: ModelPackage | None,
    request: Request,
    network: str,
) -> Probed:
    if active is not None and candidate.engine.provider != active.engine.provider:
        used = f"{candidate.engine.provider}, the model that judges on {active.engine.provider}"
        raise BadModel("probe-provider", f"{package.dir}: would run on {used}")
    goldens = [(golden, _open(package, golden)) for golden in package.manifest.golden]
    others = []
    if active_package is not None:
        others = [(golden, _open(active_package, golden)) for golden in active_package.manifest.golden]
    _check_outputs(candidate, package, [pixels for _, pixels in (*goldens, *others)])
    candidate.engine.known_answer()
    if active_package is not None:
        for golden, pixels in others:
            wrong = _unlike(candidate, golden, pixels, active_package)
            if wrong:
                raise BadModel(
                    "golden-of-active",
                    f"{package.dir}: {active_package.dir.name}/{golden.file} is judged wrongly: {wrong}",
                )
    pictures = [pixels for _, pixels in goldens] or [_grey(candidate.engine)]
    mine, theirs = timed(candidate, active, pictures[-1])
    check_latency(mine, theirs, candidate, request.latency_factor)
    check_memory(candidate, active)
    return Probed(
        provider=candidate.engine.provider,
        variants=(candidate.engine.variant.file,),
        latency_p50_ms=mine.p50,
        latency_p99_ms=mine.p99,
        active_p50_ms=theirs.p50,
        active_p99_ms=theirs.p99,
        memory_bytes=candidate.memory_bytes,
        active_memory_bytes=active.memory_bytes if active else 0,
        network=network,
        remark=unbudgeted(candidate),
    )


# --- loading --------------------------------------------------------------------------------------------------------


def _active_package(request: Request) -> tuple[ModelPackage | None, str]:
    if request.golden_of is None:
        return None, "no model judges yet: nothing to compare with"
    try:
        return ModelPackage.load(request.golden_of), ""
    except (BadModel, StorageFailing) as err:
        return None, f"the model that judges cannot be compared with: {err}"


def _active(
    package: ModelPackage | None, request: Request, source: tuple[int, int] | None
) -> tuple[Loaded | None, str]:
    """What is wrong with the old model is not the candidate's fault."""
    if package is None:
        return None, ""
    try:
        return load(package, request, source), ""
    except InspectError as err:
        return None, f"the model that judges cannot be run here: {err}"


def load(package: ModelPackage, request: Request, source: tuple[int, int] | None) -> Loaded:
    before = resident_bytes()
    try:
        engine = Engine(
            package,
            provider=request.provider,
            threads=request.threads,
            shape=request.shape,
            precision=request.precision,
            source=source,
            spin=False,  # the threads of two engines must not wait busily on each other's cores
        )
    except (ProviderMissing, RuntimeMissing) as err:
        raise BadModel("probe-provider", f"{package.dir}: {err}") from err
    engine.warm_up()
    grown = max(0, resident_bytes() - before)
    return Loaded(engine, engine.thresholds(), Decoder(engine.layout, engine.classes), request.threads, grown)


def _open(package: ModelPackage, golden: Golden) -> Pixels:
    pixels = cv2.imdecode(np.frombuffer(package.read(golden), np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise BadModel("golden-unreadable", f"{package.dir / golden.file}: not a picture that can be decoded")
    return np.asarray(pixels, np.uint8)


def _grey(engine: Engine) -> Pixels:
    return np.full((engine.height, engine.width, 3), 114, np.uint8)


# --- what it answers ------------------------------------------------------------------------------------------------


def _check_outputs(candidate: Loaded, package: ModelPackage, golden: Sequence[Pixels]) -> None:
    """Nothing that no network for inspection answers, on golden pictures, on grey and on noise."""
    noise = np.random.default_rng(1).integers(0, 256, _grey(candidate.engine).shape, np.uint8)
    first: NDArray[np.float32] | None = None
    constant = True
    for pixels in (*golden, _grey(candidate.engine), noise):
        found = candidate.judge(pixels, candidate.letterbox(pixels))
        if not found.finite:
            raise BadModel("non-finite", f"{package.dir}: the output holds NaN or infinity")
        _check_boxes(candidate, package)
        if found.n >= MOST_BOXES:
            raise BadModel("too-many-boxes", f"{package.dir}: {found.n} boxes on one picture, at most {MOST_BOXES}")
        if first is None:
            first = candidate.engine.output.copy()
        elif constant:
            constant = bool(np.array_equal(first, candidate.engine.output))
    if constant:
        raise BadModel("constant-output", f"{package.dir}: answers the same to every picture")


def _check_boxes(candidate: Loaded, package: ModelPackage) -> None:
    """What is found lies in the picture; the decoder would clip it there."""
    engine, head = candidate.engine, candidate.engine.output[0]
    if engine.layout == "raw":
        above = (head[4:] > candidate.thresholds[:, None]).any(axis=0)
        middles, sizes = head[:2, above].T, head[2:4, above].T
    else:
        rows = head[head[:, 4] > candidate.thresholds.min()]
        middles, sizes = (rows[:, :2] + rows[:, 2:4]) / 2, rows[:, 2:4] - rows[:, :2]
    sides = np.array([engine.width, engine.height], np.float32)
    wrong = (
        (middles < -MOST_OUTSIDE * sides) | (middles > (1 + MOST_OUTSIDE) * sides) | (sizes < 0) | (sizes > 2 * sides)
    )
    if wrong.any():
        row = int(wrong.any(axis=1).argmax())
        box = [round(float(value)) for value in (*middles[row], *sizes[row])]
        raise BadModel("boxes-outside", f"{package.dir}: a box (middle and size {box} px) that is not in the picture")


def _unlike(candidate: Loaded, golden: Golden, pixels: Pixels, active: ModelPackage) -> str:
    """Empty when the candidate sees on the active package's picture what that one expects, by class and place."""
    found = candidate.judge(pixels, candidate.letterbox(pixels))
    classes, least, slack = candidate.engine.classes, active.manifest.thresholds, golden.tolerance.confidence
    open_rows = set(range(found.n))
    for expected in golden.expect:
        rows = [
            row
            for row in sorted(open_rows)
            if classes[found.classes[row]] == expected.cls and _iou(found.boxes[row], expected.box) >= LEAST_IOU
        ]
        if rows:
            open_rows.discard(rows[0])
        elif expected.confidence >= least[expected.cls] + slack:
            return f"{expected.cls} at {[round(side) for side in expected.box]} is not found (found {found.n})"
    for row in sorted(open_rows):
        name, score = classes[found.classes[row]], float(found.scores[row])
        if name in least and score >= candidate.thresholds[found.classes[row]] + slack and not _doubled(found, row):
            return (
                f"{name} {score:.2f} at {[round(float(side)) for side in found.boxes[row]]} is found and not expected"
            )
    return ""


def _doubled(found: Detections, row: int) -> bool:
    """A second, weaker box over the same place says nothing new."""
    return any(_iou(found.boxes[row], found.boxes[other]) >= LEAST_IOU for other in range(row))


def _iou(one: Any, other: Any) -> float:
    """Intersection over union of two boxes x1, y1, x2, y2."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(0.0, float(wide)) * max(0.0, float(high))
    whole = sum(float(box[2] - box[0]) * float(box[3] - box[1]) for box in (one, other)) - shared
    return shared / whole if whole > 0 else 0.0
