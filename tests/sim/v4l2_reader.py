"""Started by tests with the V4L2 shim preloaded: reads a camera and prints one JSON object for each thing it saw.

    python v4l2_reader.py '{"device": "/dev/video0", "frames": 20}'

`frames` pictures, then the end; `pause`: [[after picture, seconds], ...]; `reopen_s`: after a loss try again for so
long; `patience_s`: the same for the first open; `cycles`: instead open, read two
pictures and close so often, and tell memory and files before and after.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from edge_inspect.capture.protocol import Read, Stamp
from edge_inspect.capture.v4l2 import V4L2Camera
from edge_inspect.errors import CameraLost, InspectError
from tests.sim.v4l2 import numbers_in

UNTOUCHED = 77


def tell(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def mappings() -> int:
    """How many of the driver's buffers (and the shim's own view on them) are mapped."""
    return Path("/proc/self/maps").read_text().count("memfd:v4l2")


def opened(camera: V4L2Camera, give_up: float) -> np.ndarray | None:
    while True:
        try:
            form = camera.open()
        except InspectError as err:
            if not isinstance(err, CameraLost) or time.monotonic() > give_up:
                tell(kind=type(err).__name__, why=str(err))
                return None
            time.sleep(0.02)
            continue
        tell(kind="open", width=form.width_px, height=form.height_px, fps=form.fps, pixel_format=form.pixel_format,
             settings=dict(form.settings), files=len(os.listdir("/proc/self/fd")), mappings=mappings())  # fmt: skip
        return np.empty((form.height_px, form.width_px, 3), np.uint8)


def watch(camera: V4L2Camera, plan: dict[str, Any]) -> None:
    stamp, seen, pauses = Stamp(), 0, dict(plan.get("pause", []))
    pixels = opened(camera, time.monotonic() + plan.get("patience_s", 0))
    while pixels is not None and seen < plan["frames"]:
        pixels[:] = UNTOUCHED
        called = time.monotonic()
        try:
            read = camera.read_into(pixels, stamp)
        except CameraLost as err:
            tell(kind=type(err).__name__, why=str(err), untouched=bool((pixels == UNTOUCHED).all()))
            camera.close()
            if "reopen_s" not in plan:
                return
            pixels = opened(camera, time.monotonic() + plan["reopen_s"])
            continue
        waited = time.monotonic() - called
        if read is Read.NOTHING:
            tell(kind="nothing", waited_s=waited)
            if waited > 0.3 and plan.get("until_silent"):
                return
            continue
        top, bottom = numbers_in(pixels)
        tell(kind="frame", index=stamp.index, missed=stamp.missed, broken=stamp.broken, top=top, bottom=bottom,
             age_s=time.monotonic() - stamp.captured_ns / 1e9, utc_age_s=time.time() - stamp.utc_ns / 1e9,
             captured_ns=stamp.captured_ns, waited_s=waited, pixels=pixels.ctypes.data,
             untouched=bool((pixels == UNTOUCHED).all()))  # fmt: skip
        time.sleep(pauses.pop(seen, 0))
        seen += 1


def cycle(camera: V4L2Camera, cycles: int) -> None:
    stamp, marks = Stamp(), []
    for number in range(cycles):
        form = camera.open()
        pixels = np.empty((form.height_px, form.width_px, 3), np.uint8)
        seen = 0
        while seen < 2:
            seen += camera.read_into(pixels, stamp) is Read.FRAME
        camera.close()
        if number in (cycles // 4, cycles - 1):
            rss = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            marks.append((rss, len(os.listdir("/proc/self/fd")), mappings()))
    tell(kind="cycles", before=marks[0], after=marks[1])


def main() -> None:
    plan = json.loads(sys.argv[1])
    camera = V4L2Camera(plan["device"], **plan.get("options", {}))
    try:
        if "cycles" in plan:
            cycle(camera, plan["cycles"])
        else:
            watch(camera, plan)
    finally:
        camera.close()
        camera.close()
    tell(kind="end")


if __name__ == "__main__":
    main()
