"""Is fast still right: mAP50 of every provider, precision and shape on labelled pictures, beside ultralytics predict.

    python tests/bench/accuracy.py data.yaml [--model DIR] [--ultralytics yolov8n-finetuned.onnx 640 640]

Found: docs/measurements/README.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cloud_inspect.learning.datasets import load_dataset
from cloud_inspect.learning.measure import average_precision, boxes_px
from edge_inspect.errors import BadModel
from edge_inspect.inference.decode import Decoder
from edge_inspect.inference.engine import Engine
from edge_inspect.inference.letterbox import Letterbox
from edge_inspect.inference.package import ModelPackage, find_model
from edge_inspect.inference.providers import survey

FLOOR = 0.001
Finder = Callable[[NDArray[np.uint8]], NDArray[np.float64]]


def ours(engine: Engine) -> Finder:
    decoder, floor = Decoder(engine.layout, engine.classes), np.full(len(engine.classes), FLOOR, np.float32)

    def find(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        letterbox = Letterbox(*pixels.shape[:2], engine.height, engine.width)
        letterbox(pixels, out=engine.input)
        engine.run()
        found = decoder.decode(engine.output, letterbox, floor)
        return np.column_stack((found.boxes, found.scores, found.classes))[: found.n].astype(np.float64)

    return find


def theirs(model: str, shape: tuple[int, int]) -> Finder:
    from ultralytics import YOLO

    yolo = YOLO(model, task="detect")

    def find(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        result = yolo.predict(pixels, imgsz=shape, conf=FLOOR, iou=0.7, max_det=300, verbose=False)
        boxes: NDArray[np.float64] = result[0].boxes.data.numpy().astype(np.float64)
        return boxes

    return find


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("data", type=Path)
    options.add_argument("--model", default=None)
    options.add_argument("--ultralytics", nargs=3, metavar=("ONNX", "HEIGHT", "WIDTH"), action="append", default=[])
    given = options.parse_args()
    dataset = load_dataset(given.data)
    pictures = [np.asarray(cv2.imread(str(sample.picture)), np.uint8) for sample in dataset.val]
    truth = [
        (boxes_px(sample, pixels.shape[1], pixels.shape[0]), pixels.shape[:2])
        for sample, pixels in zip(dataset.val, pictures, strict=True)
    ]

    def tell(name: str, find: Finder) -> None:
        map50, map50_95 = average_precision(truth, [find(pixels) for pixels in pictures], dataset.classes)
        print(f"{name:40} mAP50 {map50:.4f}  mAP50-95 {map50_95:.4f}", flush=True)

    package = ModelPackage.load(find_model(given.model) if given.model else find_model())
    for provider in [offer.provider for offer in survey() if offer.there]:
        for variant in package.manifest.variants:
            for precision in ("auto", "fp32") if variant.precision == "fp32" else (variant.precision,):
                shape = (variant.height_px, variant.width_px)
                try:
                    engine = Engine(package, provider=provider, precision=precision, shape=shape)
                except BadModel as refusal:
                    print(f"{provider} {variant.file} {precision}: {refusal}")
                    continue
                tell(f"{engine.provider} {engine.variant.file} {precision}", ours(engine))
                engine.close()
    for model, height, width in given.ultralytics:
        tell(f"YOLO({model}) {height}x{width}", theirs(model, (int(height), int(width))))


if __name__ == "__main__":
    main()
