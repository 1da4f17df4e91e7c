"""An annotated copy of a recording: each part framed and followed through the picture, with its verdict and defects
once it is judged; below it a line with the counts, beside it the newest verdict.

H.264 in MP4, as browsers and phones play it. It is written beside its name and renamed at the end: there is a whole
video or none, and what bore the name before stays until then. A `Watcher` of the pipeline: sees frames while their slot
is leased.
"""

from __future__ import annotations

import contextlib
import os
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import av.error
import cv2
import numpy as np
from typing_extensions import Self

from edge_inspect.capture.protocol import Pixels
from edge_inspect.capture.ring import Slot
from edge_inspect.cli.drawing import COLOURS, FONT, draw_part, drawn, shrunk, words, write
from edge_inspect.errors import StorageFailing, Usage
from edge_inspect.inference.decode import Detections
from edge_inspect.pipeline import Judged, Lane
from edge_inspect.verdict.judge import Kind, Verdict
from edge_inspect.verdict.parts import Look

INSET_SHARE = 0.34
STRIP_PX = 26
MOST_LINES = 8
VERDICTS_KEPT = 100
"""Of parts that may still be in the picture."""


class AnnotatedVideo:
    """`with AnnotatedVideo(path, fps) as video:` and hand it to the appliance as a watcher. Raises StorageFailing.

    `written`: the file is there and whole; without a single frame it is not.
    """

    def __init__(self, path: Path, fps: float | None) -> None:
        if path.suffix.lower() != ".mp4":
            raise Usage(f"--annotate {path}: allowed: a file that ends in .mp4")
        self.path = path
        self.written = False
        self._unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
        self._rate = Fraction(fps or 25).limit_denominator(1000)
        self._stream: av.VideoStream | None = None
        self._counts = dict.fromkeys(Kind, 0)
        self._inset: Pixels | None = None
        self._newest: list[str] = []
        self._colour = COLOURS[Kind.OK]
        self._verdicts: dict[int, Verdict] = {}
        try:
            self._file = av.open(str(self._unfinished), "w", format="mp4")
        except OSError as err:
            raise StorageFailing(f"{path}: cannot be written: {err.strerror or err}") from err

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._stream is not None:
                self._finish(self._stream)
        finally:
            with contextlib.suppress(OSError):
                self._file.close()
            self._unfinished.unlink(missing_ok=True)

    def _finish(self, stream: av.VideoStream) -> None:
        try:
            self._file.mux(stream.encode(None))
            self._file.close()
            self._unfinished.replace(self.path)
        except OSError as err:
            raise StorageFailing(f"{self.path}: cannot be written: {err.strerror or err}") from err
        self.written = True

    def judged(self, lane: Lane, judged: Judged, pixels: Pixels | None) -> None:
        kind = judged.verdict.kind
        self._counts[kind] += 1
        self._newest, self._colour = words(judged)[:MOST_LINES], COLOURS[kind]
        self._verdicts[judged.part] = judged.verdict
        if len(self._verdicts) > VERDICTS_KEPT:
            del self._verdicts[next(iter(self._verdicts))]
        if pixels is not None:
            self._inset = shrunk(drawn(pixels, judged), round(pixels.shape[1] * INSET_SHARE))

    def frame(self, lane: Lane, slot: Slot, looks: list[Look], found: Detections | None) -> None:
        height, width = slot.pixels.shape[:2]
        panel_px = round(width * INSET_SHARE) + 12
        canvas = cv2.copyMakeBorder(slot.pixels, 0, STRIP_PX, 0, panel_px, cv2.BORDER_CONSTANT, value=(32, 28, 24))
        for sighting in lane.finder.in_sight():
            verdict = None if sighting.part is None else self._verdicts.get(sighting.part)
            draw_part(canvas[:height, :width], sighting, verdict)
        counts = "   ".join(f"{kind.value} {number}" for kind, number in self._counts.items())
        cv2.putText(canvas, counts, (8, canvas.shape[0] - 8), FONT, 0.5, (235, 235, 235), 1, cv2.LINE_AA)
        if self._inset is not None:
            inset_height, inset_width = self._inset.shape[:2]
            left = width + 6
            canvas[6 : 6 + inset_height, left : left + inset_width] = self._inset
            cv2.rectangle(canvas, (left - 1, 5), (left + inset_width, 6 + inset_height), self._colour, 2)
            for number, line in enumerate(self._newest):
                write(canvas, line, (left, 6 + inset_height + 22 + 22 * number), self._colour, 0.45)
        self._encode(np.asarray(canvas, np.uint8))

    def _encode(self, canvas: Pixels) -> None:
        height, width = canvas.shape[0] // 2 * 2, canvas.shape[1] // 2 * 2
        if self._stream is None:
            self._stream = self._file.add_stream(
                "libx264", rate=self._rate, options={"preset": "veryfast", "crf": "23"}
            )
            self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        even = np.ascontiguousarray(canvas[:height, :width])
        try:
            self._file.mux(self._stream.encode(av.VideoFrame.from_ndarray(even, format="bgr24")))
        except OSError as err:
            raise StorageFailing(f"{self.path}: cannot be written: {err.strerror or err}") from err
