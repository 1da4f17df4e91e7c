"""The same weights as fp16 and INT8: made, gated, judged on the val pictures, and left out when they lose too much.

made = make("int8", Path("model.onnx"), folder, evenly(train_pictures))     # a file, or LeftOut with its reason
why = loss(measured_of_fp32, measured_of_int8, AccuracyBudget())            # empty: within the budget
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from cloud_inspect.errors import BadPackage, CloudError
from cloud_inspect.learning.export import convert_fp16, quantise_int8
from cloud_inspect.release.package import gated
from edge_wire.manifest import AccuracyBudget, LeftOut, Measured

Shorter = Literal["fp16", "int8"]
CALIBRATION_PICTURES = 150


def make(precision: Shorter, source: Path, folder: Path, calibration: Sequence[Path]) -> Path | LeftOut:
    """`source` (fp32) in another precision, written to `folder`; or why there is none."""
    out = folder / f"model-{precision}.onnx"
    try:
        _convert(precision, source, out, calibration)
        gated(out)
    except CloudError as err:
        return left_out(precision, f"cannot be made: {err}")
    return out


def evenly(pictures: Sequence[Path], most: int = CALIBRATION_PICTURES) -> list[Path]:
    """At most so many, from the whole range."""
    return list(pictures[:: max(1, len(pictures) // most)][:most])


def loss(reference: Measured, other: Measured, budget: AccuracyBudget) -> str:
    """Empty when `other` is within the budget, else in what it is not."""
    then, now = reference.pictures, other.pictures
    if reference.map50 - other.map50 > budget.most_map50_loss:
        return f"mAP50 {other.map50:.4f}, fp32 has {reference.map50:.4f}: more than {budget.most_map50_loss:g} lost"
    for what, more, of, most in (
        ("escapes", now.escapes - then.escapes, now.defective, budget.most_escape_rise),
        ("overkill", now.overkill - then.overkill, now.good, budget.most_overkill_rise),
    ):
        if more > most * of:
            return f"{what} on {more} pictures of {of} more than fp32: allowed are {most:.1%}"
    return ""


def left_out(precision: Shorter, why: str) -> LeftOut:
    return LeftOut(precision=precision, why="".join(c if c.isprintable() else " " for c in why)[:300])


def _convert(precision: Shorter, source: Path, out: Path, calibration: Sequence[Path]) -> None:
    try:
        if precision == "fp16":
            convert_fp16(source, out)
        else:
            quantise_int8(source, out, calibration)
    except CloudError:
        raise
    except Exception as err:  # the converters' exceptions share no base class
        raise BadPackage(f"{type(err).__name__}: {str(err).splitlines()[0] if str(err) else ''}") from err
