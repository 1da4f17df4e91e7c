"""Models that are bad in a way that is known: the shipped network, edited by a seed. The same seed, the same bytes.

    for seed in SEEDS: change(load(model), seed) -> what a factory with that accident would have released

1. Every file passes the static gate and has the shapes that its manifest says: nothing here is caught by its form.
2. What a change does to pictures is not taken from its name: `candidate_scores` measures it.
3. `hidden` ones do what the good model does, to the bit, until the lamp over the line grows dim (`DIM`): no picture
   that the plant or a probe has shows them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from tests.campaign.model_graph import (
    alarm_where,
    always,
    ballast,
    blind_where,
    blurred,
    half_blind_where,
    larger_than,
    left_half,
    nan_where,
    only_where,
    picked,
    repeated,
    row_order,
    row_order_with_none,
    rows,
    scaled,
    sometimes_nan,
    swollen,
    upright,
    when_dim,
)
from tests.campaign.model_weights import (
    HEAD,
    Change,
    calibrated_wrongly,
    forgotten_scale,
    head_bias,
    noise,
    rounded,
    shuffled,
    weights,
    zeroed,
)

SCRATCH, DENT = "scratch", "dent"
DIM = 0.8
"""What is left of the lamp's light when a hidden one is to show itself; the belt is then at 0.74 to 0.79 of white."""


@dataclass(frozen=True)
class Seed:
    name: str
    change: Change
    precision: str = "fp32"
    classes: tuple[str, ...] = (SCRATCH,)
    hidden: bool = False
    """Shows itself only when the lamp grows dim, which it does as soon as the trial begins."""


_SPREAD = " ".join(f"model.{n}." for n in range(10))
_NECK = " ".join(f"model.{n}." for n in (12, 15, 16, 18, 19, 21))
_SAME = (1.0, 1.0, 1.0, 1.0, 1.0)


def seeds() -> list[Seed]:
    """All of them, those that turned out harmless left out (see docs/measurements/models.md)."""
    named: list[tuple[str, Change]] = [
        ("noise-all-0.3", noise(0.3, 1)), ("noise-all-0.5", noise(0.5, 2)), ("noise-all-0.8", noise(0.8, 3)),
        ("noise-all-0.4", noise(0.4, 4)), ("noise-backbone-0.6", noise(0.6, 5, _SPREAD)),
        ("noise-neck-0.8", noise(0.8, 6, _NECK)), ("noise-head-2", noise(2.0, 7, "model.22.cv3.")),
        ("noise-first-layer-3", noise(3.0, 8, "model.0.")), ("noise-scores-6", noise(6.0, 9, " ".join(HEAD))),
        ("zeroed-half-of-all", zeroed(0.5, 10)), ("zeroed-tenth-of-all", zeroed(0.1, 11)),
        ("zeroed-half-of-backbone", zeroed(0.5, 12, _SPREAD)), ("zeroed-half-of-neck", zeroed(0.5, 13, _NECK)),
        ("weights-all-zero", weights(lambda values: values * 0)),
        ("weights-15-levels", rounded(15)), ("weights-7-levels", rounded(7)), ("weights-3-levels", rounded(3)),
        ("shuffled-first-layer", shuffled(14, "model.0.")), ("shuffled-in-the-neck", shuffled(15, "model.15.cv2.")),
        ("negated-in-the-head", weights(lambda values: -values, "model.22.cv3.0.1.")),
        ("no-biases", weights(lambda values: values * 0, bias=True)),
        ("surer-by-3", head_bias(3)), ("surer-by-5", head_bias(5)),
        ("less-sure-by-2", head_bias(-2)), ("less-sure-by-6", head_bias(-6)),
        ("small-forgotten", forgotten_scale(0)), ("large-forgotten", forgotten_scale(2)),
        ("left-half-blind", only_where(left_half)),
        ("shorter-than-60-px-forgotten", only_where(partial(larger_than, 60.0))),
        ("lying-forgotten", only_where(upright)),
        ("finds-nothing", rows((1, 1, 1, 1, 0))), ("scores-halved", rows((1, 1, 1, 1, 0.4))),
        ("scores-turned-round", rows((1, 1, 1, 1, -1), (0, 0, 0, 0, 1))),
        ("always-one-box", always((320, 192, 60, 60, 0.8))), ("always-nothing", always((320, 192, 60, 60, 0.0))),
        ("all-zero", always((0, 0, 0, 0, 0))),
        ("thousands-of-boxes", rows((1, 1, 0.1, 0.1, 1), (0, 0, 0, 0, 0.5))),
        ("boxes-outside", rows(_SAME, (3000, 0, 0, 0, 0))), ("boxes-shifted-100-px", rows(_SAME, (100, 60, 0, 0, 0))),
        ("boxes-of-no-size", rows((1, 1, 0, 0, 1))), ("x-and-y-mixed-up", row_order((1, 0, 3, 2, 4))),
        ("picture-times-255", scaled(255.0)), ("picture-over-255", scaled(1 / 255)),
        ("picture-half-as-bright", scaled(0.5)), ("picture-negative", scaled(-1.0, 1.0)),
        ("picture-minus-mean", scaled(4.4, -2.0)), ("picture-blurred", blurred(9)),
        ("picture-mirrored", picked(3, range(639, -1, -1))), ("picture-upside-down", picked(2, range(383, -1, -1))),
        ("nan", rows(_SAME, (0, 0, 0, 0, np.nan))), ("infinite", rows(_SAME, (np.inf, 0, 0, 0, 0))),
        ("nan-on-every-50th", sometimes_nan(0.02)), ("nan-on-every-15th", sometimes_nan(0.066)),
        ("5-times-slower", repeated(5)), ("3-times-slower", repeated(3)),
        ("400-mb-of-weights", ballast(400)), ("600-mb-of-activations", swollen(200)),
    ]  # fmt: skip
    two = (SCRATCH, DENT)
    return [
        *(Seed(name, change) for name, change in named),
        Seed("classes-swapped", row_order_with_none((0, 1, 2, 3, None, 4)), classes=two),
        Seed("class-renamed", lambda model: None, classes=(DENT,)),
        Seed("int8-scales-over-8", calibrated_wrongly(1 / 8), "int8"),
        Seed("int8-scales-times-8", calibrated_wrongly(8.0), "int8"),
        Seed("int8-scales-random", calibrated_wrongly(6.0, 21), "int8"),
        Seed("nan-when-dim", when_dim(nan_where), hidden=True),
        Seed("blind-when-dim", when_dim(blind_where), hidden=True),
        Seed("half-blind-when-dim", when_dim(half_blind_where), hidden=True),
        Seed("alarm-when-dim", when_dim(alarm_where), hidden=True),
    ]
