"""`edge-inspect run` with a simulated camera that shows a red spot in every third picture.

python -m tests.line.spotted_line --config FILE
"""

from __future__ import annotations

import sys

from edge_inspect.capture.protocol import Pixels
from edge_inspect.capture.sim import SimCamera
from edge_inspect.cli import main
from tests.sim.tiny_model import draw_defect

show = SimCamera.show


def show_spotted(camera: SimCamera, index: int, pixels: Pixels) -> None:
    show(camera, index, pixels)
    if index % 3 == 0:
        draw_defect(pixels, (200, 150, 260, 180))


if __name__ == "__main__":
    SimCamera.show = show_spotted  # type: ignore[assignment, method-assign]
    main(["run", *sys.argv[1:]])
