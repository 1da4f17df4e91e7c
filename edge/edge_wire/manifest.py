"""What a model package says about itself: `manifest.json`, read by the edge and written by the retraining service.

1. A manifest is complete: every file of the package stands in it with its size and SHA-256; what does not is no part.
2. It is the model's contract: input and output shape, dtype and layout, classes, letterbox. The ONNX file must agree.
3. File names are plain and relative; none can point outside the package.
4. Unknown keys, wrong types and contradictions (a threshold for a class that is not there, an output of another class
   count) are errors. Whoever needs a new key raises `format`: an older reader then says that it is too old.

    manifest = Manifest.model_validate_json(path.read_bytes())
    manifest.variants[0].input.shape        # (1, 3, 384, 640)

Contradictions are raised as `PydanticCustomError` whose `type` is one of `CONTRADICTIONS`: stable, meant for machines.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from edge_wire.release import ModelVersion

FORMAT: Final = 2
"""Raised when a key changes its meaning or a new one appears. 2: memory budget, provenance, what was measured; all keys
of 1 mean the same, and 1 is read for ever."""

MANIFEST_NAME = "manifest.json"
MOST_MANIFEST_BYTES = 1 << 20
"""Nobody reads more."""

KEYS_OF_FORMAT_2 = frozenset({"memory_budget_bytes", "accuracy_budget", "measured", "left_out", "provenance"})

CONTRADICTIONS = frozenset(
    {
        "class-repeated",
        "threshold-classes",
        "file-repeated",
        "no-classes",
        "input-not-multiple-of-32",
        "output-shape",
        "output-classes",
        "golden-class",
        "golden-variant",
        "golden-box",
        "created-without-zone",
        "key-of-format-2",
        "measured-variant",
        "measured-classes",
        "measured-counts",
    }
)


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


FileName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?$", max_length=120)
]
"""`model.onnx` or `golden/plate-1.png`: at most one folder, every part starts with a letter or digit, so never `..`."""
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""64 lower-case hex digits, without a prefix."""
ClassName = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f]{1,60}$")]
VersionText = Annotated[str, StringConstraints(pattern=r"^\d+(\.\d+){0,3}([-+.]?[0-9A-Za-z.+-]{1,40})?$")]
ShortText = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]*$", max_length=300)]
ToolName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,60}$")]
ToolVersion = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+_-]{0,60}$")]
Count = Annotated[int, Field(ge=0, le=1 << 31)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Layout = Literal["raw", "end2end"]
Precision = Literal["fp32", "fp16", "int8"]
Tensor = Literal["float32"]
"""Inputs and outputs of every variant, fp16 and int8 ones too: conversions belong into the graph."""


def _contradiction(code: str, message: str) -> PydanticCustomError:
    assert code in CONTRADICTIONS
    return PydanticCustomError(code, "{why}", {"why": message})


def _nchw(shape: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    batch, channels, height, width = shape
    sides = (height, width)
    if batch != 1 or channels != 3 or any(side < 32 or side > 4096 or side % 32 for side in sides):
        raise _contradiction(
            "input-not-multiple-of-32",
            f"input shape is {list(shape)}, must be [1, 3, H, W], H and W multiples of 32",
        )
    return shape


class File(_Model):
    file: FileName
    sha256: Sha256
    size_bytes: Annotated[int, Field(gt=0, le=1 << 31)]


class InputContract(_Model):
    name: Annotated[str, StringConstraints(min_length=1, max_length=100)]
    shape: Annotated[tuple[int, int, int, int], AfterValidator(_nchw)]
    """(1, 3, height, width); height and width in px, multiples of 32 (the network's largest stride)."""
    dtype: Tensor = "float32"


class OutputContract(_Model):
    name: Annotated[str, StringConstraints(min_length=1, max_length=100)]
    shape: tuple[int, int, int]
    """raw: (1, 4 + classes, anchors), rows cx cy w h in network px, then class scores 0..1.
    end2end: (1, most detections, 6), rows x1 y1 x2 y2 score class."""
    dtype: Tensor = "float32"
    layout: Layout


class Variant(File):
    """One ONNX file of the same weights: a precision and a static input shape."""

    size_bytes: Annotated[int, Field(gt=0, le=1 << 29)]
    precision: Precision
    input: InputContract
    output: OutputContract

    @property
    def height_px(self) -> int:
        return self.input.shape[2]

    @property
    def width_px(self) -> int:
        return self.input.shape[3]


class LetterboxContract(_Model):
    """How a picture becomes the input tensor. Only this one way is built; written down so that nobody has to guess."""

    colour: Literal["RGB"] = "RGB"
    scale: Literal["1/255"] = "1/255"
    fill: Literal[114] = 114
    interpolation: Literal["linear"] = "linear"
    centred: Literal[True] = True
    enlarge: Literal[True] = True


class Measure(_Model):
    """A number that somebody measured, and how."""

    value: float
    how: Annotated[str, StringConstraints(min_length=3, max_length=500)]
    """Data, conditions and command, so that it can be measured again."""


class Dataset(_Model):
    name: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    digest: Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
    pictures: Annotated[int, Field(ge=0)]


class RuntimeFloor(_Model):
    """What the model needs: a runtime older than this must not load it."""

    onnxruntime: VersionText = "1.23"
    opset: Annotated[int, Field(ge=7, le=17)]
    ir: Annotated[int, Field(ge=3, le=10)]


class Expected(_Model):
    cls: ClassName
    confidence: Fraction
    box: tuple[float, float, float, float]
    """x1, y1, x2, y2 in px of the golden picture."""


class Tolerance(_Model):
    confidence: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    box_px: Annotated[float, Field(gt=0, le=50)] = 3.0


class Golden(File):
    """A known-answer picture: what the model must find on it at the manifest's thresholds, no more and no less.

    What lies nearer to its threshold than the tolerance may be found or not.
    """

    size_bytes: Annotated[int, Field(gt=0, le=1 << 25)]
    expect: tuple[Expected, ...]
    tolerance: Tolerance = Tolerance()
    variants: tuple[FileName, ...] = ()
    """Which variants this holds for; empty means all of them."""


class AccuracyBudget(_Model):
    """How much worse than the first variant another one may be, on the same pictures; what is over it is left out."""

    most_map50_loss: Fraction = 0.02
    most_escape_rise: Fraction = 0.01
    """Of the defective pictures."""
    most_overkill_rise: Fraction = 0.01
    """Of the good pictures."""


class Tally(_Model):
    """Pictures with a defect, and how many of them nothing was found on; pictures without, and how many of them
    something was found on."""

    defective: Count
    escapes: Count
    good: Count
    overkill: Count


class Measured(_Model):
    """One variant on the validation pictures, at the manifest's thresholds."""

    file: FileName
    map50: Fraction
    """By pycocotools."""
    pictures: Tally
    """A picture of any defect counts as found when any defect is found on it, as a part would."""
    classes: dict[ClassName, Tally]
    """Each class for itself: its pictures, and whether that class was found on them."""


class LeftOut(_Model):
    """A variant that was made and not taken."""

    precision: Precision
    why: ShortText


class Provenance(_Model):
    """Where the weights come from; the data set stands in `dataset`."""

    training_run: ShortText = ""
    training_digest: Annotated[str, StringConstraints(pattern=r"^(sha256:[0-9a-f]{64})?$")] = ""
    """Of the training's record, training.json."""
    git_revision: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{40}(-dirty)?)?$")] = ""
    tools: Annotated[dict[ToolName, ToolVersion], Field(max_length=50)] = {}


class Manifest(_Model):
    format: Literal[1, 2] = 1
    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    version: ModelVersion
    task: Literal["detect"] = "detect"
    description: Annotated[str, StringConstraints(max_length=2000)] = ""
    classes: Annotated[tuple[ClassName, ...], Field(max_length=1000)]
    """Index in this tuple = class number in the network's output."""
    thresholds: dict[ClassName, Fraction]
    """Least confidence per class; a recipe may set its own."""
    variants: Annotated[tuple[Variant, ...], Field(min_length=1, max_length=20)]
    letterbox: LetterboxContract = LetterboxContract()
    dataset: Dataset
    accuracy: dict[str, Measure] = {}
    latency_budget_ms: dict[str, Measure] = {}
    """Longest time a frame may take, by kind of machine, e.g. {"cpu-2-cores": {"value": 60, "how": "..."}}."""
    memory_budget_bytes: dict[str, Measure] = {}
    """How much memory loading and running may take, by kind of machine: see `machine_kind`."""
    accuracy_budget: AccuracyBudget | None = None
    measured: Annotated[tuple[Measured, ...], Field(max_length=20)] = ()
    left_out: Annotated[tuple[LeftOut, ...], Field(max_length=20)] = ()
    provenance: Provenance | None = None
    runtime: RuntimeFloor
    golden: Annotated[tuple[Golden, ...], Field(max_length=20)]
    created: datetime
    licence: Annotated[str, StringConstraints(min_length=1, max_length=100)]
    source: Annotated[str, StringConstraints(max_length=500)] = ""
    """Where the weights come from: command, seed, commit."""

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Manifest:
        _check_format(self)
        _check_classes(self)
        _check_files(self)
        for measured in self.measured:
            _check_measured(measured, self)
        for variant in self.variants:
            _check_output(variant, len(self.classes))
        for golden in self.golden:
            _check_golden(golden, self)
        if self.created.tzinfo is None:
            raise _contradiction("created-without-zone", "created must carry a time zone, e.g. 2026-11-22T08:00:00Z")
        return self

    def files(self) -> tuple[File, ...]:
        """Every file the package consists of, besides the manifest."""
        return (*self.variants, *self.golden)


def machine_kind(provider: str, cores: int) -> str:
    """The name by which budgets are given: `cpu-2-cores`, `openvino-4-cores`, `cuda`, `tensorrt`."""
    return f"{provider}-{cores}-cores" if provider in ("cpu", "openvino") else provider


def _check_format(manifest: Manifest) -> None:
    newer = manifest.model_fields_set & KEYS_OF_FORMAT_2
    if manifest.format < 2 and newer:
        raise _contradiction("key-of-format-2", f"format 1 has no {', '.join(sorted(newer))}")


def _check_measured(measured: Measured, manifest: Manifest) -> None:
    if measured.file not in {variant.file for variant in manifest.variants}:
        raise _contradiction("measured-variant", f"measured: {measured.file} is no variant")
    if set(measured.classes) != set(manifest.classes):
        raise _contradiction("measured-classes", f"measured {measured.file}: not the classes of the model")
    for tally in (measured.pictures, *measured.classes.values()):
        if tally.escapes > tally.defective or tally.overkill > tally.good:
            raise _contradiction("measured-counts", f"measured {measured.file}: more escapes or overkill than pictures")


def _check_classes(manifest: Manifest) -> None:
    classes = manifest.classes
    if not classes:
        raise _contradiction("no-classes", "classes is empty")
    if len(set(classes)) != len(classes):
        raise _contradiction("class-repeated", f"classes names one class twice: {', '.join(classes)}")
    if set(manifest.thresholds) != set(classes):
        raise _contradiction(
            "threshold-classes", f"thresholds are for {sorted(manifest.thresholds)}, classes are {sorted(classes)}"
        )


def _check_files(manifest: Manifest) -> None:
    names = [f.file for f in manifest.variants] + [g.file for g in manifest.golden]
    if len({name.lower() for name in names}) != len(names) or MANIFEST_NAME in names:
        raise _contradiction("file-repeated", f"one file is named twice: {', '.join(names)}")


def _check_output(variant: Variant, classes: int) -> None:
    batch, rows, columns = variant.output.shape
    if batch != variant.input.shape[0] or rows < 1 or columns < 1:
        raise _contradiction(
            "output-shape",
            f"{variant.file}: output {list(variant.output.shape)} does not go with input {list(variant.input.shape)}",
        )
    if variant.output.layout == "raw" and rows != 4 + classes:
        raise _contradiction(
            "output-classes", f"{variant.file}: output has {rows} rows, 4 + {classes} classes need {4 + classes}"
        )
    if variant.output.layout == "end2end" and columns != 6:
        raise _contradiction("output-shape", f"{variant.file}: end2end output has {columns} columns, must be 6")


def _check_golden(golden: Golden, manifest: Manifest) -> None:
    for found in golden.expect:
        if found.cls not in manifest.classes:
            raise _contradiction(
                "golden-class", f"{golden.file}: expects class {found.cls!r}, which the model does not know"
            )
        x1, y1, x2, y2 = found.box
        if not (0 <= x1 < x2 and 0 <= y1 < y2):
            raise _contradiction(
                "golden-box", f"{golden.file}: box {list(found.box)} is not x1 < x2, y1 < y2 in the picture"
            )
    strangers = set(golden.variants) - {variant.file for variant in manifest.variants}
    if strangers:
        raise _contradiction("golden-variant", f"{golden.file}: holds for {', '.join(strangers)}, which is no variant")
