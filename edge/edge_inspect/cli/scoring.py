"""Verdicts against the truth, in the plant's words: escapes and overkill; and mAP50 as everyone computes it.

1. A part of the truth counts once its way through the picture is over; a recording cut short is nobody's escape.
2. Escape: a defective part that was passed as OK, or that was never found. Overkill: a good part that was rejected.
   UNKNOWN is neither, and is counted apart.
3. mAP50 comes from pycocotools, over the frames that were inspected, all detections down to LEAST_SCORE.

Truth is the format of the recorded clips: `{fps, px_per_frame, parts: [{id, x, w, verdict, enter_frame, exit_frame}],
frames: [[{part, cls, bbox}]]}` with parts travelling to the left and classes by name or number; or, for wear that
grows, `{onset_frame, frames: [...]}`.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import structlog
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_inspect.capture.protocol import Format, Pixels
from edge_inspect.capture.ring import Slot
from edge_inspect.errors import Refusal, Usage
from edge_inspect.inference.decode import Decoder, Detections
from edge_inspect.pipeline import Judged, Lane
from edge_inspect.verdict.judge import Kind
from edge_inspect.verdict.parts import Look
from edge_wire.mistake import first_mistake

log = structlog.get_logger()

LEAST_SCORE = 0.001
FRAMES_SPARE = 2
FPS_SPARE_SHARE = 0.01
Box = tuple[int, int, int, int]


class LookRecord(NamedTuple):
    """One part on one inspected frame, and all that the network said about that frame."""

    frame: int
    box: Box
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: tuple[str, ...]


class Score(NamedTuple):
    escapes: int | None
    overkill: int | None
    map50: float | None
    parts_missed: int | None
    """Parts of the truth that no verdict was given for; the defective ones among them are escapes too."""
    parts_found_twice: int | None
    parts_invented: int | None
    """Verdicts on something that is no part of the truth."""
    first_alarm_frame: int | None
    onset_frame: int | None


class _Checked(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)


class _Part(_Checked):
    id: int
    x: float
    w: Annotated[float, Field(gt=0)]
    verdict: Literal["OK", "NG"]
    enter_frame: int
    exit_frame: int


class _Box(_Checked):
    part: int
    cls: str | float
    bbox: tuple[float, float, float, float]


class _LineTruth(_Checked):
    fps: Annotated[float, Field(gt=0)]
    px_per_frame: float
    parts: list[_Part]
    frames: list[list[_Box]]


class _WearTruth(_Checked):
    onset_frame: Annotated[int, Field(ge=0)]
    frames: list[Any]


def load_truth(path: Path) -> dict[str, Any]:
    """Read a ground-truth file. Raises Refusal, one line."""
    try:
        truth: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise Refusal(f"truth {path}: cannot be read: {err.strerror}") from err
    except (ValueError, RecursionError) as err:
        raise Refusal(f"truth {path}: not JSON: {err}") from err
    kind = _WearTruth if isinstance(truth, dict) and "onset_frame" in truth else _LineTruth
    try:
        kind.model_validate(truth)
    except ValidationError as err:
        mistake, allowed = first_mistake(err, "the file"), ", ".join(kind.model_fields)
        raise Refusal(f"truth {path}: {mistake}; allowed: an object with {allowed}") from err
    return truth


def check_same_recording(path: Path, truth: Mapping[str, Any], given: Format) -> None:
    """Picture size, frames and frames a second, where truth and recording both say them. Raises Usage.

    Pictures in a folder have no rate of their own. Containers may be off by FRAMES_SPARE in what they state.
    """
    frames, fps = given.settings.get("frames"), truth.get("fps")
    size, given_size = (truth.get("width"), truth.get("height")), (given.width_px, given.height_px)
    told = []
    if all(isinstance(side, int) for side in size) and size != given_size:
        told.append(f"{size[0]}x{size[1]} px, the recording {given.width_px}x{given.height_px} px")
    if isinstance(frames, int) and frames > 0 and abs(frames - len(truth["frames"])) > FRAMES_SPARE:
        told.append(f"{len(truth['frames'])} frames, the recording {frames}")
    paced = given.fps if given.pixel_format != "pictures" else None
    if paced and isinstance(fps, (int, float)) and abs(fps - paced) > FPS_SPARE_SHARE * paced:
        told.append(f"{fps:g} frames a second, the recording {paced:g}")
    if told:
        raise Usage(f"truth {path}: is of another recording: it has {'; '.join(told)}")


class DeepLook:
    """Decodes the network's output once more, down to LEAST_SCORE; what the line judges stays what it is."""

    def __init__(self) -> None:
        self._decoders: dict[str, Decoder] = {}

    def __call__(self, lane: Lane) -> Detections:
        if lane.name not in self._decoders:
            self._decoders[lane.name] = Decoder(lane.engine.layout, lane.engine.classes)
        thresholds = np.full_like(lane.thresholds, LEAST_SCORE)
        return self._decoders[lane.name].decode(lane.engine.output, lane.letterbox, thresholds)


class Scorer:
    """A watcher that keeps what scoring needs. `score` compares it with the truth.

    look_deeper: all that the network said about this frame, below the recipe's thresholds too; mAP50 needs it.
    """

    def __init__(self, look_deeper: Callable[[Lane], Detections] | None = None) -> None:
        self.verdicts: list[Judged] = []
        self.looks: list[LookRecord] = []
        self.frames = 0
        self._look_deeper = look_deeper
        self._last_look: dict[int, tuple[int, Box]] = {}

    def judged(self, lane: Lane, judged: Judged, pixels: Pixels | None) -> None:
        self.verdicts.append(judged)

    def frame(self, lane: Lane, slot: Slot, looks: list[Look], found: Detections | None) -> None:
        self.frames = max(self.frames, slot.stamp.index + 1)
        self._last_look.update((look.part, (slot.stamp.index, look.box)) for look in looks)
        if found is None or not found.finite:
            return
        if self._look_deeper is not None:
            found = self._look_deeper(lane)
        classes = tuple(lane.engine.classes[index] for index in found.classes[: found.n])
        for look in looks:
            self.looks.append(
                LookRecord(
                    slot.stamp.index, look.box, found.boxes[: found.n].copy(), found.scores[: found.n].copy(), classes
                )
            )

    def score(self, truth: Mapping[str, Any], classes: Sequence[str], *, with_map50: bool = True) -> Score:
        """classes: of the model; truth of other classes is not asked for in mAP50, which takes a while."""
        if "parts" not in truth:
            return self._score_wear(truth)
        matches, doubtful = self._match(truth)
        passed = [part for part in truth["parts"] if part["exit_frame"] < self.frames]
        bad = [part for part in passed if part["verdict"] == "NG"]
        good = [part for part in passed if part["verdict"] == "OK"]
        kinds = {part["id"]: [judged.verdict.kind for judged in matches[part["id"]]] for part in passed}
        missed = [part for part in passed if not kinds[part["id"]] and part["id"] not in doubtful]
        return Score(
            escapes=sum(Kind.NG not in kinds[p["id"]] and (Kind.OK in kinds[p["id"]] or p in missed) for p in bad),
            overkill=sum(Kind.NG in kinds[part["id"]] for part in good),
            map50=self._map50(truth, classes) if with_map50 else None,
            parts_missed=len(missed),
            parts_found_twice=sum(len(found) > 1 for found in kinds.values()),
            parts_invented=len(matches[None]),
            first_alarm_frame=None,
            onset_frame=None,
        )

    def _score_wear(self, truth: Mapping[str, Any]) -> Score:
        alarms = [judged.frame_index for judged in self.verdicts if judged.verdict.kind is Kind.NG]
        return Score(None, None, None, None, None, None, min(alarms, default=None), int(truth["onset_frame"]))

    def _match(self, truth: Mapping[str, Any]) -> tuple[dict[int | None, list[Judged]], set[int]]:
        """Verdicts by the truth's part id (None: of no part), and parts that a verdict without a look may stand for."""
        matches: dict[int | None, list[Judged]] = defaultdict(list)
        blind: list[Judged] = []
        for judged in self.verdicts:
            look = self._last_look.get(judged.part)
            if look is None:
                blind.append(judged)
            else:
                matches[part_at(truth, *look)].append(judged)
        doubtful: set[int] = set()
        for judged in blind:
            near = [
                part["id"]
                for part in truth["parts"]
                if part["id"] not in matches
                and part["id"] not in doubtful
                and part["enter_frame"] <= judged.frame_index <= part["exit_frame"] + truth["fps"]
            ]
            doubtful.update(near[:1])
        return matches, doubtful

    def _map50(self, truth: Mapping[str, Any], classes: Sequence[str]) -> float | None:
        try:
            from pycocotools.coco import COCO
            from pycocotools.cocoeval import COCOeval
        except ImportError:
            log.warning("scoring.no_map50", why="pycocotools is missing", cure="pip install 'edge-inspect[train]'")
            return None
        pictures, boxes, results = self._coco(truth, list(classes))
        if not boxes or not results:
            return 0.0 if boxes else None
        ground = COCO()
        ground.dataset = {
            "info": {},
            "images": [{"id": number} for number in pictures],
            "annotations": boxes,
            "categories": [{"id": number, "name": name} for number, name in enumerate(classes)],
        }
        with contextlib.redirect_stdout(io.StringIO()):
            ground.createIndex()
            evaluation = COCOeval(ground, ground.loadRes(results), "bbox")
            evaluation.params.iouThrs = np.array([0.5])
            evaluation.evaluate()
            evaluation.accumulate()
        precision = evaluation.eval["precision"][0, :, :, 0, -1]
        known = precision[precision > -1]
        return round(float(known.mean()), 4) if known.size else None

    def _coco(
        self, truth: Mapping[str, Any], classes: list[str]
    ) -> tuple[list[int], list[dict[str, Any]], list[dict[str, Any]]]:
        """Each look of a part that the truth knows is one picture: its true boxes and what was found within it."""
        pictures: list[int] = []
        boxes: list[dict[str, Any]] = []
        results: list[dict[str, Any]] = []
        for number, look in enumerate(self.looks, start=1):
            part = part_at(truth, look.frame, look.box)
            if part is None or look.frame >= len(truth["frames"]):
                continue
            pictures.append(number)
            for known in truth["frames"][look.frame]:
                category = _class_number(known["cls"], classes)
                if known["part"] == part and category is not None:
                    box = _xywh(known["bbox"])
                    boxes.append(
                        {"id": len(boxes) + 1, "image_id": number, "category_id": category,
                         "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
                    )  # fmt: skip
            for found, score, cls in zip(look.boxes.tolist(), look.scores.tolist(), look.classes, strict=True):
                if _centre_inside(found, look.box):
                    results.append(
                        {"image_id": number, "category_id": classes.index(cls), "bbox": _xywh(found), "score": score}
                    )
        return pictures, boxes, results


def part_at(truth: Mapping[str, Any], frame: int, box: Box) -> int | None:
    """The id of the truth's part that fills `box` on `frame`: at least half of the shorter of both, the most."""
    best, best_share = None, 0.5
    for part in truth["parts"]:
        x = part["x"] - truth["px_per_frame"] * frame
        both = min(box[2], x + part["w"]) - max(box[0], x)
        share = both / max(1, min(box[2] - box[0], part["w"]))
        if share >= best_share:
            best, best_share = part["id"], share
    return best


def mistake(truth: Mapping[str, Any], judged: Judged) -> str:
    """`escape`, `overkill`, or nothing, for a part that was looked at; nothing for wear clips."""
    if judged.box_px is None or "parts" not in truth:
        return ""
    number = part_at(truth, judged.frame_index, judged.box_px)
    known = next((part["verdict"] for part in truth["parts"] if part["id"] == number), "")
    return {("NG", Kind.OK): "escape", ("OK", Kind.NG): "overkill"}.get((known, judged.verdict.kind), "")


def missed_boxes(truth: Mapping[str, Any], judged: Judged) -> list[tuple[str | float, tuple[float, ...]]]:
    """(class, x1 y1 x2 y2 in px of the frame) of the truth's defects on the part of an escape, on its frame."""
    if judged.box_px is None or judged.frame_index >= len(truth["frames"]):
        return []
    number = part_at(truth, judged.frame_index, judged.box_px)
    return [(box["cls"], tuple(box["bbox"])) for box in truth["frames"][judged.frame_index] if box["part"] == number]


def _class_number(cls: str | float, classes: Sequence[str]) -> int | None:
    """Of a class that the truth gives by name or by number; None when the model does not know it."""
    if isinstance(cls, str):
        return classes.index(cls) if cls in classes else None
    return int(cls) if 0 <= cls < len(classes) else None


def _xywh(box: Sequence[float]) -> list[float]:
    x1, y1, x2, y2 = box
    return [x1, y1, x2 - x1, y2 - y1]


def _centre_inside(box: Sequence[float], area: Box) -> bool:
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return area[0] <= x < area[2] and area[1] <= y < area[3]
