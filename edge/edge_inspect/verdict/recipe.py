"""What counts as a defect on this line, and what one part is: one TOML file, checked when it is read.

1. A recipe that loads makes sense: unknown keys, impossible values and contradictions between settings are BadConfig.
2. Lengths along the belt are shares of the picture, so that a recipe survives another camera resolution;
   what people read off a report (regions, least sizes) is in px, or in mm where `scale.mm_per_px` is given.
3. The digest changes when the meaning changes: comments, spacing, order of keys and spelled-out defaults do not count.

    recipe = load_recipe(find_recipe("metal-plate"))
    recipe.thresholds(("scratch",))             # float32 [0.25]
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from edge_inspect.errors import BadConfig
from edge_inspect.toml_model import read_toml
from edge_wire.fields import Label, digest_of
from edge_wire.manifest import ClassName

Direction = Literal["auto", "left", "right", "up", "down"]
Severity = Literal["critical", "major", "minor", "info"]
Byte = Annotated[int, Field(ge=0, le=255)]
Share = Annotated[float, Field(ge=0, le=1)]
Point = tuple[float, float]
OFF = 2.0
"""The threshold of a class that this recipe does not name: no confidence reaches it."""
ANY_CLASS = "*"


def _encloses_something(points: tuple[Point, ...]) -> tuple[Point, ...]:
    """Shoelace formula; a line or a point encloses nothing."""
    following = points[1:] + points[:1]
    area = sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in zip(points, following, strict=True)) / 2
    if abs(area) < 1:
        raise ValueError("allowed: at least 3 points that enclose at least 1 px2")
    return points


Polygon = Annotated[tuple[Point, ...], Field(min_length=3, max_length=1000), AfterValidator(_encloses_something)]


class Table(BaseModel):
    """A TOML table: closed and unchangeable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DefectClass(Table):
    """`[classes.NAME]`: when a detection of this class is a defect. NAME is the model's; `"*"` is every other class."""

    threshold: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Least confidence."""
    min_size_px: Annotated[float, Field(ge=0)] = 0.0
    """Longer side of the box; smaller ones are no defects."""
    min_size_mm: Annotated[float | None, Field(gt=0)] = None
    """The same in mm; needs `scale.mm_per_px`."""
    severity: Severity = "major"
    """`info` is listed in a report but makes no part NG."""
    ng_defects: Annotated[int | None, Field(ge=1)] = None
    """This many defects of this class make a part NG, whatever `verdict.ng_defects` says."""


class VerdictRule(Table):
    """`[verdict]`"""

    ng_defects: Annotated[int, Field(ge=1)] = 1
    """This many defects (all classes but severity `info`) make a part NG."""
    confirm: Annotated[int, Field(ge=1)] = 1
    """On how many looks a defect must be seen, or on all of them if fewer were usable: a lost frame hides no defect."""


class PartRule(Table):
    """`[part]`"""

    mode: Literal["frame", "barrier", "trigger"] = "frame"
    """`frame`: each frame is a part. `barrier`: a light barrier in the picture finds the parts as they pass. `trigger`:
    the line says when one is in front of the camera; needs a `[[line]]` in the configuration."""
    deadline_ms: Annotated[float | None, Field(gt=0, le=60_000)] = None
    """The line is answered before so long after the trigger, with UNKNOWN if need be; required with mode `trigger`.
    With the other modes: after the frame was captured; without, a verdict is told whenever it is there."""
    delay_ms: Annotated[float, Field(ge=0, le=60_000)] = 0.0
    """Mode `trigger`: the part's picture is the first one captured so long after the trigger."""
    window_ms: Annotated[float, Field(gt=0, le=60_000)] = 100.0
    """Mode `trigger`: a picture that was captured even later than this shows something else: UNKNOWN `no-frame`. At
    least the time between two frames."""


class Barrier(Table):
    """`[barrier]`: how the software light barrier finds parts."""

    direction: Direction = "auto"
    """Where parts travel to in the picture; `auto` finds out whether left or right."""
    belt_bgr: tuple[Byte, Byte, Byte] | None = None
    """Colour of the empty belt; without it, learnt from the two edges of the picture along which parts travel."""
    contrast: Annotated[int, Field(ge=2, le=200)] = 20
    """Grey levels by which a part differs from the belt, at least. Higher for stained or unevenly lit belts, lower for
    parts that hardly stand out; noise is allowed for by itself."""
    min_length: Annotated[float, Field(gt=0, lt=1)] = 0.06
    """Along the belt, share of the picture: anything shorter is no part (dirt, crumbs)."""
    gap: Annotated[float, Field(ge=0, lt=0.5)] = 0.04
    """Share of the picture: pieces closer than this belong to one part."""
    looks: Annotated[int, Field(ge=1, le=20)] = 1
    """On how many frames each part is inspected, spread evenly over its way through the picture."""
    band: tuple[Share, Share] = (0.0, 1.0)
    """Across the belt, share of the picture in which to look for parts: leave rails and machine frames out."""

    @model_validator(mode="after")
    def _band_has_width(self) -> Barrier:
        if self.band[1] - self.band[0] < 0.1:
            raise ValueError(f"key `barrier.band`: found {list(self.band)}, allowed: [from, to], at least 0.1 apart")
        return self


class Area(Table):
    """`[[region]]` and `[[ignore]]`: a polygon; a defect is inside when the centre of its box is."""

    of: Literal["part", "frame"]
    """`part`: px from the part's upper left corner, as `part_box_px` in a report. `frame`: px of the picture."""
    polygon: Polygon
    """[[x, y], ...]: at least three points."""


class Scale(Table):
    """`[scale]`"""

    mm_per_px: Annotated[float, Field(gt=0, le=1000)]
    """Size of a pixel where the parts lie; with it, reports give sizes in mm."""


class ReportRule(Table):
    """`[report]`"""

    thumbnail: bool = True
    """Send a small picture of the defects with each report."""
    thumbnail_max_bytes: Annotated[int, Field(ge=500, le=65_536)] = 2_500
    """Largest thumbnail (JPEG); quality and then size are lowered until it fits."""
    thumbnail_px: Annotated[int, Field(ge=16, le=2_000)] = 128
    """Longer side of the thumbnail, at most."""


class FrameRule(Table):
    """`[frames]`"""

    policy: Literal["newest", "every", "trigger"] = "newest"
    """What happens when frames come faster than they are inspected; see `capture/ring.py`."""


class Recipe(Table):
    """What counts as a defect on a line, and what one part is."""

    name: Label
    """Letters, digits, space and `._+-`; goes into every report."""
    version: Label
    """The same; change it whenever the recipe changes."""
    classes: Annotated[dict[ClassName, DefectClass], Field(min_length=1, max_length=1000)]
    part: PartRule = PartRule()
    barrier: Barrier = Barrier()
    verdict: VerdictRule = VerdictRule()
    region: tuple[Area, ...] = ()
    """Where defects count; everywhere when there is none."""
    ignore: tuple[Area, ...] = ()
    """Where they do not."""
    scale: Scale | None = None
    report: ReportRule = ReportRule()
    frames: FrameRule = FrameRule()

    @model_validator(mode="after")
    def _makes_sense(self) -> Recipe:
        for name, rule in self.classes.items():
            if rule.min_size_mm is not None and self.scale is None:
                raise ValueError(f"key `classes.{name}.min_size_mm`: sizes in mm need `scale.mm_per_px`")
            if rule.min_size_mm is not None and rule.min_size_px:
                raise ValueError(f"key `classes.{name}.min_size_mm`: allowed: either min_size_px or min_size_mm")
        if all(rule.severity == "info" for rule in self.classes.values()):
            raise ValueError("key `classes`: every severity is `info`: no part could ever be NG")
        if "barrier" in self.model_fields_set and self.part.mode != "barrier":
            raise ValueError(f"key `barrier`: needs part.mode = 'barrier', found '{self.part.mode}'")
        looks = self.barrier.looks if self.part.mode == "barrier" else 1
        if self.verdict.confirm > looks:
            raise ValueError(f"key `verdict.confirm`: found {self.verdict.confirm}, a part has only {looks} look(s)")
        if self.frames.policy == "trigger" and self.part.mode == "barrier":
            raise ValueError("key `frames.policy`: 'trigger' needs part.mode = 'frame', allowed here: newest, every")
        self._trigger_makes_sense()
        return self

    def _trigger_makes_sense(self) -> None:
        part = self.part
        if part.mode != "trigger":
            for name in ("delay_ms", "window_ms"):
                if name in part.model_fields_set:
                    raise ValueError(f"key `part.{name}`: needs part.mode = 'trigger', found '{part.mode}'")
            return
        if part.deadline_ms is None:
            raise ValueError("key `part.deadline_ms`: missing, part.mode = 'trigger' needs it")
        if part.delay_ms >= part.deadline_ms:
            raise ValueError(
                f"key `part.delay_ms`: found {part.delay_ms:g}, allowed: less than deadline_ms = {part.deadline_ms:g}"
            )
        if self.frames.policy == "every":
            raise ValueError("key `frames.policy`: 'every' waits, a line does not; allowed here: newest, trigger")

    def rule(self, cls: str) -> DefectClass | None:
        """The rule for a class of the model; None when this recipe does not care about it."""
        return self.classes.get(cls) or self.classes.get(ANY_CLASS)

    def thresholds(self, classes: Sequence[str]) -> NDArray[np.float32]:
        """Least confidence per class of the model, shape (classes,). Raises BadConfig for a class it does not have."""
        for name in self.classes:
            if name not in classes and name != ANY_CLASS:
                near = difflib.get_close_matches(name, classes, n=1)
                hint = f"; did you mean `{near[0]}`?" if near else ", or a model that has it (--model)"
                known = ", ".join(classes)[:300]
                raise BadConfig(
                    f"recipe {self.name} {self.version}: key `classes.{name}`: not a class of the model; "
                    f"allowed: {known}{hint}"
                )
        rules = [self.rule(name) for name in classes]
        return np.array([rule.threshold if rule else OFF for rule in rules], dtype=np.float32)

    @property
    def digest(self) -> str:
        """`sha256:...` of what the recipe means. What came into recipes later counts only where it is used."""
        facts = self.model_dump(mode="json")
        if self.part.mode != "trigger":
            del facts["part"]["delay_ms"], facts["part"]["window_ms"]
        if self.part.deadline_ms is None:
            del facts["part"]["deadline_ms"]
        return digest_of(facts)


def load_recipe(path: Path) -> Recipe:
    """Read and check one recipe. Raises BadConfig, one line."""
    return read_toml(path, Recipe)


def find_recipe(name_or_path: str | Path = "metal-plate") -> Path:
    """A path as it is; a bare name is one of the recipes shipped in `models/recipes`. Raises BadConfig, naming them."""
    path = Path(name_or_path)
    if path.suffix == ".toml" or path.parent != Path():
        return path
    known = {found.stem: found for folder in _shipped() for found in sorted(folder.glob("*.toml"))}
    if path.name not in known:
        near = difflib.get_close_matches(path.name, known, n=1)
        hint = f"; did you mean `{near[0]}`?" if near else ""
        allowed = ", ".join([*known, "a path to a .toml file"])
        raise BadConfig(f"recipe `{path.name}`: not shipped; allowed: {allowed}{hint}")
    return known[path.name]


def _shipped() -> list[Path]:
    """In an installed wheel beside the package's code, in a source checkout at its root."""
    package = Path(__file__).resolve().parents[1]
    return [package / "models" / "recipes", package.parents[1] / "models" / "recipes"]
