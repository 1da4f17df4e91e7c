"""An annotated copy of a recording: every frame, a line with the counts, and the newest verdict as an inset.

H.264 in MP4, as browsers and phones play it. A `Watcher` of the pipeline: sees frames while their slot is leased.
"""

from __future__ import annotations

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
from edge_inspect.cli.drawing import COLOURS, drawn, shrunk, words, write
from edge_inspect.errors import StorageFailing, Usage
from edge_inspect.inference.decode import Detections
from edge_inspect.pipeline import Judged, Lane
from edge_inspect.verdict.judge import Kind
from edge_inspect.verdict.parts import Look

INSET_SHARE = 0.34
STRIP_PX = 26


class AnnotatedVideo:
    """`with AnnotatedVideo(path, fps) as video:` and hand it to the appliance as a watcher. Raises StorageFailing."""

    def __init__(self, path: Path, fps: float | None) -> None:
        if path.suffix.lower() != ".mp4":
            raise Usage(f"--annotate {path}: allowed: a file that ends in .mp4")
        self.path = path
        self._rate = Fraction(fps or 25).limit_denominator(1000)
        self._stream: av.VideoStream | None = None
        self._counts = dict.fromkeys(Kind, 0)
        self._inset: Pixels | None = None
        self._newest = ""
        self._colour = COLOURS[Kind.OK]
        self._on_this_frame: list[Judged] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = av.open(str(path), "w")
        except OSError as err:
            raise StorageFailing(f"{path}: cannot be written: {err.strerror or err}") from err

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._file.mux(self._stream.encode(None))
        self._file.close()

    def judged(self, lane: Lane, judged: Judged, pixels: Pixels | None) -> None:
        kind = judged.verdict.kind
        self._counts[kind] += 1
        self._newest, self._colour = words(judged), COLOURS[kind]
        if pixels is not None:
            self._on_this_frame.append(judged)
            self._inset = shrunk(drawn(pixels, judged), round(pixels.shape[1] * INSET_SHARE))

    def frame(self, lane: Lane, slot: Slot, looks: list[Look], found: Detections | None) -> None:
        picture = slot.pixels
        for judged in self._on_this_frame:
            picture = drawn(picture, judged)
        self._on_this_frame.clear()
        canvas = cv2.copyMakeBorder(picture, 0, STRIP_PX, 0, 0, cv2.BORDER_CONSTANT, value=(32, 28, 24))
        counts = "  ".join(f"{kind.value} {number}" for kind, number in self._counts.items())
        cv2.putText(
            canvas, counts, (8, canvas.shape[0] - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (235, 235, 235), 1, cv2.LINE_AA
        )
        if self._inset is not None:
            height, width = self._inset.shape[:2]
            canvas[6 : 6 + height, 6 : 6 + width] = self._inset
            cv2.rectangle(canvas, (5, 5), (6 + width, 6 + height), self._colour, 2)
            write(canvas, self._newest, (6, 6 + height + 20), self._colour)
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
