"""From an fp32 ONNX file and labelled pictures to a model package that may be released.

In order, and every step can say no:

1. the gate that devices ask too, and a head that goes with the data set's classes;
2. judged on the val pictures; with `than`, not worse than that package in any class (`judge.compare`);
3. fp16 and INT8 made (INT8 calibrated on train pictures), judged on the same pictures, left out when over the budget;
4. golden pictures on which the model is right by the labels and all variants agree;
5. what it costs here, times a factor, as budget; provenance; then the package, whole or not at all.

    built = build(Plan(Path("model.onnx"), (Path("data.yaml"),), "metal-plate", "1.1.0", out=Path("metal-plate/1.1.0")))
    built.manifest.left_out
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from cloud_inspect.errors import BadPackage, BadRelease
from cloud_inspect.learning.datasets import Dataset, Sample, load_together
from cloud_inspect.release import golden, variants
from cloud_inspect.release.cost import RUNS, Cost, measure_cost
from cloud_inspect.release.judge import Looks, Step, compare, look, measured, outcomes, renumbered
from cloud_inspect.release.limits import allowed
from cloud_inspect.release.package import Draft, Picture, build_package, gated
from cloud_inspect.release.provenance import provenance_of
from edge_wire.manifest import (
    MANIFEST_NAME,
    AccuracyBudget,
    LeftOut,
    Manifest,
    Measure,
    Measured,
    Tolerance,
    machine_kind,
)
from edge_wire.manifest import Dataset as DatasetFacts
from edge_wire.mistake import first_mistake
from edge_wire.release import ModelName, ModelVersion

DEFAULT_THRESHOLD = 0.25
PRECISIONS: tuple[variants.Shorter, ...] = ("fp16", "int8")
TOLERANCE = Tolerance(confidence=0.1, box_px=5.0)
"""As between one CPU, another CPU and a GPU."""
MEMORY_SLACK_BYTES = 64 << 20


@dataclass(frozen=True)
class Plan:
    model: Path
    data: tuple[Path, ...]
    name: str
    version: str
    out: Path
    classes: tuple[str, ...] = ()
    """Empty: the data set's. Otherwise they must be the same: a model's numbers mean nothing without them."""
    thresholds: Mapping[str, float] = field(default_factory=dict)
    """Of classes that are not named: the reference package's, else DEFAULT_THRESHOLD."""
    than: Path | None = None
    precisions: tuple[variants.Shorter, ...] = PRECISIONS
    budget: AccuracyBudget = field(default_factory=AccuracyBudget)
    golden: tuple[Path, ...] = ()
    """Labelled pictures of the data set; none: chosen from val."""
    cost_factor: float = 3.0
    training: Path | None = None
    """A training's record, training.json."""
    description: str = ""
    licence: str = "AGPL-3.0-or-later"
    extra: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Built:
    manifest: Manifest
    folder: Path
    compared: bool
    """With a reference package, and found not to be worse."""


@dataclass(frozen=True)
class _Reference:
    manifest: Manifest
    model: Path


@dataclass(frozen=True)
class _Candidate:
    """One variant, judged."""

    path: Path
    looks: Looks
    measured: Measured


def build(plan: Plan, step: Step | None = None) -> Built:
    """Raises BadPackage, BadRelease, BadDataset, BadWeights, TrainingMissing."""
    step = step or _quiet
    _check_name(plan)
    dataset = load_together(plan.data)
    classes = _classes(plan, dataset)
    _check_head(plan.model, classes)
    reference = read_reference(plan.than, classes) if plan.than else None
    thresholds = _thresholds(plan, classes, reference)
    _refuse_missing(plan, dataset)
    with tempfile.TemporaryDirectory(prefix="release-build-") as work:
        source = Path(shutil.copyfile(plan.model, Path(work) / "model.onnx"))
        looks = look(source, dataset.val, step)
        if reference:
            _refuse_worse(looks, reference, classes, thresholds, step)
        first = _Candidate(source, looks, measured(source.name, looks, classes, thresholds))
        kept, left = _variants(plan, first, dataset, classes, thresholds, step)
        pictures, kept, left = _golden(plan, kept, left, dataset, classes, thresholds, step)
        step("measuring what it costs", 0, 1)
        cost = measure_cost(source)
        step("measuring what it costs", 1, 1)
        draft = _draft(plan, dataset, classes, thresholds, kept, left, cost)
        paths = [candidate.path for candidate in kept]
        manifest = build_package(plan.out, draft, variants=paths, golden=pictures, extra=plan.extra)
    return Built(manifest, plan.out, reference is not None)


def read_reference(folder: Path, classes: tuple[str, ...]) -> _Reference:
    """The package to compare with, its first variant verified. Raises BadPackage, BadRelease `class-forgotten`."""
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST_NAME).read_bytes())
        model = folder / manifest.variants[0].file
        content = model.read_bytes()
    except OSError as err:
        raise BadPackage(f"{folder}: not a package to compare with: {err.strerror}: {err.filename}") from err
    except ValidationError as err:
        raise BadPackage(f"{folder / MANIFEST_NAME}: {first_mistake(err, 'whole')}") from err
    if hashlib.sha256(content).hexdigest() != manifest.variants[0].sha256:
        raise BadPackage(f"{model}: SHA-256 is not the manifest's")
    gated(model)
    lost = [name for name in manifest.classes if name not in classes]
    if lost:
        raise BadRelease("class-forgotten", f"{folder} knows {', '.join(lost)}; the data set and the new model do not")
    return _Reference(manifest, model)


def _quiet(what: str, done: int, of: int) -> None: ...


def _check_name(plan: Plan) -> None:
    if plan.out.exists():
        raise BadPackage(f"{plan.out}: exists already; a released package is never changed")
    for key, value, kind in (("name", plan.name, ModelName), ("version", plan.version, ModelVersion)):
        try:
            TypeAdapter(kind).validate_python(value)
        except ValidationError as err:
            raise BadPackage(f"--{key} {value!r}: {allowed(key, err.errors(include_url=False)[0])}") from err


def _refuse_missing(plan: Plan, dataset: Dataset) -> None:
    """Files that go into the package at its end: before hours of judging."""
    for path in plan.extra:
        if not path.is_file():
            raise BadPackage(f"{path}: no such file", "file-missing")
    _golden_samples(plan, dataset)


def _classes(plan: Plan, dataset: Dataset) -> tuple[str, ...]:
    if plan.classes and plan.classes != dataset.classes:
        raise BadPackage(f"classes {list(plan.classes)} are not the data set's, {list(dataset.classes)}, in its order")
    return dataset.classes


def _check_head(model: Path, classes: tuple[str, ...]) -> None:
    """The gate, and an output that goes with the classes; the rest is said when the package is built."""
    if not model.is_file():
        raise BadPackage(f"{model}: no such file")
    contract = gated(model)
    if any(isinstance(side, str) for tensor in contract.inputs for side in tensor.shape):
        raise BadPackage(f"{model}: dynamic axes {list(contract.inputs[0].shape)}; export it static", "dynamic-axes")
    shapes = [tensor.shape for tensor in contract.outputs]
    if len(shapes) != 1 or len(shapes[0]) != 3 or (shapes[0][1] != 4 + len(classes) and shapes[0][2] != 6):
        raise BadPackage(
            f"{model}: outputs {[list(shape) for shape in shapes]}; {len(classes)} classes need "
            f"[1, {4 + len(classes)}, n] or [1, n, 6]",
            "output-shape",
        )


def _thresholds(plan: Plan, classes: tuple[str, ...], reference: _Reference | None) -> dict[str, float]:
    strangers = sorted(set(plan.thresholds) - set(classes))
    if strangers:
        raise BadPackage(f"threshold for {', '.join(strangers)}: the classes are {', '.join(classes)}")
    then = reference.manifest.thresholds if reference else {}
    return {name: plan.thresholds.get(name, then.get(name, DEFAULT_THRESHOLD)) for name in classes}


def _refuse_worse(
    looks: Looks, reference: _Reference, classes: tuple[str, ...], thresholds: Mapping[str, float], step: Step
) -> None:
    theirs = look(reference.model, looks.samples, step, "the reference")
    theirs = renumbered(theirs, reference.manifest.classes, classes)
    least = {name: reference.manifest.thresholds.get(name, 1.0) for name in classes}
    then = outcomes(theirs, classes, least)
    for name in classes:
        if name not in reference.manifest.classes:
            del then[name]
    compare(outcomes(looks, classes, thresholds), then)


def _variants(
    plan: Plan,
    first: _Candidate,
    dataset: Dataset,
    classes: tuple[str, ...],
    thresholds: Mapping[str, float],
    step: Step,
) -> tuple[list[_Candidate], list[LeftOut]]:
    kept, left = [first], []
    calibration = variants.evenly([sample.picture for sample in dataset.train])
    for precision in plan.precisions:
        step(f"making {precision}", 0, 1)
        made = variants.make(precision, first.path, first.path.parent, calibration)
        step(f"making {precision}", 1, 1)
        if isinstance(made, LeftOut):
            left.append(made)
            continue
        looks = look(made, dataset.val, step)
        one = _Candidate(made, looks, measured(made.name, looks, classes, thresholds))
        why = variants.loss(first.measured, one.measured, plan.budget)
        if why:
            left.append(variants.left_out(precision, why))
        else:
            kept.append(one)
    return kept, left


def _golden(
    plan: Plan,
    kept: list[_Candidate],
    left: list[LeftOut],
    dataset: Dataset,
    classes: tuple[str, ...],
    thresholds: Mapping[str, float],
    step: Step,
) -> tuple[list[Picture], list[_Candidate], list[LeftOut]]:
    """The golden pictures; a variant that agrees with the labels on none that would do is left out."""
    if plan.golden:
        return _given_golden(plan, kept[0].path, dataset, classes, thresholds, step), kept, left
    while True:
        try:
            numbers = golden.choose([one.looks for one in kept], classes, thresholds, TOLERANCE)
        except BadRelease as err:
            if len(kept) == 1:
                raise
            precision = next(p for p in PRECISIONS if kept[-1].path.name == f"model-{p}.onnx")
            left = [*left, variants.left_out(precision, f"no golden picture: {err}")]
            kept = kept[:-1]
            continue
        return [_named(dataset.val[number], place) for place, number in enumerate(numbers)], kept, left


def _golden_samples(plan: Plan, dataset: Dataset) -> list[Sample]:
    by_path = {sample.picture.resolve(): sample for sample in (*dataset.val, *dataset.train)}
    for path in plan.golden:
        if path.resolve() not in by_path:
            raise BadRelease("golden-unlabelled", f"{path}: not a picture of the data set: no labels")
    return [by_path[path.resolve()] for path in plan.golden]


def _given_golden(
    plan: Plan,
    model: Path,
    dataset: Dataset,
    classes: tuple[str, ...],
    thresholds: Mapping[str, float],
    step: Step,
) -> list[Picture]:
    samples = _golden_samples(plan, dataset)
    looks = look(model, samples, step)
    least = np.array([thresholds[name] for name in classes])
    for sample, found, (truth, _) in zip(samples, looks.found, looks.truth, strict=True):
        wrong = golden.contradiction(found, truth, least)
        if wrong:
            raise BadRelease("golden-wrong", f"{sample.picture}: the model is wrong about it by its labels: {wrong}")
    return [_named(sample, place) for place, sample in enumerate(samples)]


def _named(sample: Sample, place: int) -> Picture:
    kind = "ng" if len(sample.boxes) else "good"
    return Picture(sample.picture, f"{place}-{kind}{sample.picture.suffix.lower()}")


def _draft(
    plan: Plan,
    dataset: Dataset,
    classes: tuple[str, ...],
    thresholds: Mapping[str, float],
    kept: list[_Candidate],
    left: list[LeftOut],
    cost: Cost,
) -> Draft:
    kind = machine_kind("cpu", cost.cores)
    how = f"{plan.cost_factor:g} times what model.onnx took here, {RUNS} runs, CPU provider, {cost.cores} cores"
    latency = plan.cost_factor * cost.latency_ms
    memory = plan.cost_factor * cost.memory_bytes + MEMORY_SLACK_BYTES
    names = ", ".join(path.parent.name or path.name for path in plan.data)
    try:
        return Draft(
            name=plan.name,
            version=plan.version,
            classes=classes,
            thresholds=dict(thresholds),
            description=plan.description,
            licence=plan.licence,
            dataset=DatasetFacts(
                name=names[:200], digest=dataset.digest, pictures=len(dataset.train) + len(dataset.val)
            ),
            latency_budget_ms={kind: Measure(value=round(latency, 1), how=f"{how}, the fastest")},
            memory_budget_bytes={kind: Measure(value=float(round(memory)), how=f"{how}, and 64 MiB")},
            accuracy_budget=plan.budget,
            measured=tuple(one.measured for one in kept),
            left_out=tuple(left),
            provenance=provenance_of(plan.training),
            tolerance=TOLERANCE,
        )
    except ValidationError as err:
        raise BadPackage(first_mistake(err, "whole")) from err
