"""A verified model package, loaded and bound: write `input`, call `run`, read `output`. The loop does nothing else.

1. Shapes are fixed and memory is bound once; nothing is rebound or allocated per frame.
2. What runs is what was asked for: provider, precision and shape, or an error.
3. `known_answer` proves on the package's golden pictures that this machine computes what the model's maker measured;
   it is run at start and every few minutes, since a broken runtime answers quickly, confidently and wrongly.

    engine = Engine(ModelPackage.load(find_model()), source=(1080, 1920))
    engine.warm_up()
    engine.known_answer()
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_inspect.errors import BadModel, Usage
from edge_inspect.inference.decode import Decoder, Detections
from edge_inspect.inference.letterbox import GREY, Letterbox
from edge_inspect.inference.package import PRECISIONS, ModelPackage
from edge_inspect.inference.providers import Tuning, check_runtime_floor, choose, computes_int8_fast, open_binding
from edge_wire.manifest import Expected, Golden, Layout, Precision

WARM_UP_RUNS = 3


def preferred(provider: str) -> tuple[Precision, ...]:
    """Which precision `auto` takes, best first: the fastest at equal accuracy (docs/measurements/pipeline.md)."""
    if provider in ("cuda", "tensorrt"):
        return ("fp16", "fp32", "int8")
    return ("int8", "fp32", "fp16") if computes_int8_fast() else ("fp32", "int8", "fp16")


class Engine:
    """One model on one provider. Not thread-safe: the inspect thread owns it."""

    def __init__(
        self,
        package: ModelPackage,
        *,
        provider: str = "auto",
        threads: int = 0,
        shape: tuple[int, int] | None = None,
        precision: str = "auto",
        source: tuple[int, int] | None = None,
        spin: bool = True,
        cuda_graph: bool = False,
        cache_dir: Path | None = None,
    ) -> None:
        """
        shape: (height, width) of the input in px; None takes the variant that fits pictures of size `source` best.
        precision: auto takes what `preferred` says and lets the provider compute as it is fastest; fp32 holds it to
        float32 arithmetic.
        Raises BadModel, ProviderMissing, RuntimeMissing, Usage.
        """
        if precision not in PRECISIONS:
            raise Usage(f"--precision {precision}: allowed are {', '.join(PRECISIONS)}")
        chosen = choose(provider)
        check_runtime_floor(chosen, package.manifest.runtime.onnxruntime)
        self.package = package
        self.variant = package.variant(precision, shape, source=source, prefer=preferred(chosen))
        self.classes: tuple[str, ...] = package.manifest.classes
        self.layout: Layout = self.variant.output.layout
        self.height, self.width = self.variant.height_px, self.variant.width_px
        self._known = [KnownAnswer(package, golden, self) for golden in self._golden()]
        tuning = Tuning(threads, spin=spin, exact=precision == "fp32", cuda_graph=cuda_graph, cache_dir=cache_dir)
        self._binding = open_binding(package.read(self.variant), self.variant, chosen, tuning)
        self.provider: str = self._binding.provider
        self.input: NDArray[np.uint8] = self._binding.input
        """(1, 3, height, width) RGB; always the same memory."""
        self.output: NDArray[np.float32] = self._binding.output
        """As in the manifest's output contract; always the same memory, overwritten by `run`."""
        self.run = self._binding.run
        """Compute `output` from `input`; returns when it is there."""

    def thresholds(self) -> NDArray[np.float32]:
        """The manifest's least confidence per class, shape (classes,)."""
        return np.array([self.package.manifest.thresholds[name] for name in self.classes], np.float32)

    def warm_up(self) -> None:
        """Let the runtime allocate and choose its kernels before the first real frame."""
        self.input[:] = GREY
        for _ in range(WARM_UP_RUNS):
            self.run()

    @property
    def known_answers(self) -> int:
        """How many golden pictures there are to ask."""
        return len(self._known)

    def known_answer(self, number: int | None = None) -> None:
        """Ask all golden pictures, or one of them. Overwrites `input` and `output`.

        Raises BadModel `known-answer` when one is judged wrongly.
        """
        thresholds = self.thresholds()
        for known in self._known if number is None else [self._known[number]]:
            wrong = known.ask(self, thresholds)
            if wrong:
                where = f"{self.package.dir} {self.variant.file} on {self.provider}"
                raise BadModel("known-answer", f"{where}: {known.golden.file}: {wrong}")

    def close(self) -> None:
        """Free the runtime's memory; `run` must not be called any more. May be called twice."""
        self._binding.close()

    def _golden(self) -> list[Golden]:
        return [g for g in self.package.manifest.golden if not g.variants or self.variant.file in g.variants]


class KnownAnswer:
    """One golden picture, decoded and ready to be asked again and again."""

    def __init__(self, package: ModelPackage, golden: Golden, engine: Engine) -> None:
        self.golden = golden
        self._classes = engine.classes
        content = np.frombuffer(package.read(golden), np.uint8)
        pixels = cv2.imdecode(content, cv2.IMREAD_COLOR)
        if pixels is None:
            raise BadModel("golden-unreadable", f"{package.dir / golden.file}: not a picture that can be decoded")
        self._pixels = np.asarray(pixels, np.uint8)
        height, width = self._pixels.shape[:2]
        self._letterbox = Letterbox(height, width, engine.height, engine.width)
        self._decoder = Decoder(engine.layout, engine.classes)

    def ask(self, engine: Engine, thresholds: NDArray[np.float32]) -> str:
        """Empty when the picture is judged as expected, else what is wrong."""
        self._letterbox(self._pixels, out=engine.input)
        engine.run()
        found = self._decoder.decode(engine.output, self._letterbox, thresholds)
        return compare(self.golden, found, self._classes, thresholds)


def compare(golden: Golden, found: Detections, classes: tuple[str, ...], thresholds: NDArray[np.float32]) -> str:
    """Empty when `found` is what `golden` expects within its tolerance, else the first difference.

    What lies nearer to its class's threshold than the tolerance may be there or not.
    """
    if not found.finite:
        return "output is not finite"
    open_rows = set(range(found.n))
    for expected in golden.expect:
        cls = classes.index(expected.cls)
        row = next((r for r in sorted(open_rows) if _same(golden, expected, cls, found, r)), None)
        if row is not None:
            open_rows.discard(row)
        elif expected.confidence >= thresholds[cls] + golden.tolerance.confidence:
            box = [round(side) for side in expected.box]
            return f"{expected.cls} {expected.confidence:.2f} at {box} is not found (found {found.n})"
    for row in sorted(open_rows):
        cls, score = int(found.classes[row]), float(found.scores[row])
        if score >= thresholds[cls] + golden.tolerance.confidence:
            box = [round(float(side)) for side in found.boxes[row]]
            return f"{classes[cls]} {score:.2f} at {box} is found and not expected"
    return ""


def _same(golden: Golden, expected: Expected, cls: int, found: Detections, row: int) -> bool:
    return (
        int(found.classes[row]) == cls
        and abs(float(found.scores[row]) - expected.confidence) <= golden.tolerance.confidence
        and float(np.abs(found.boxes[row] - np.array(expected.box, np.float32)).max()) <= golden.tolerance.box_px
    )
