"""Parts that touch, and a web without end, are told piece by piece: nothing passes for ever without a verdict."""

from __future__ import annotations

import numpy as np

from edge_inspect.verdict.parts import part_finder
from edge_inspect.verdict.recipe import find_recipe, load_recipe

HEIGHT, WIDTH, STEP_PX = 360, 640, 8
LONGEST_PX = 9 * WIDTH


def test_parts_that_touch_get_a_verdict_at_least_every_nine_pictures() -> None:
    rng = np.random.default_rng(1)
    plates = rng.integers(40, 110, (HEIGHT, 20_000, 3)).astype(np.uint8)
    plates[:, ::500] = plates[:, 1::500] = plates[:, 2::500] = 248  # gaps far smaller than the recipe's
    belt = np.full((HEIGHT, 2 * WIDTH, 3), 248, np.uint8)
    strip = np.concatenate([belt, plates, belt], axis=1)
    finder = part_finder(load_recipe(find_recipe("metal-plate")), HEIGHT, WIDTH)
    decided: list[int] = []
    for frame in range((strip.shape[1] - WIDTH) // STEP_PX):
        left = frame * STEP_PX
        looks = finder.see(np.ascontiguousarray(strip[:, left : left + WIDTH]), frame * 40_000_000)
        if finder.unjudged() or any(look.last for look in looks):
            decided.append(left)
        assert all(look.origin is None or abs(look.origin[0]) < LONGEST_PX for look in looks)
    assert len(decided) >= 3
    assert max(np.diff(decided)) <= LONGEST_PX
