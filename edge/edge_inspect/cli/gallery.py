"""`index.html`: the pictures of the parts that were not OK, so that a person can look instead of reading numbers.

With a truth, escapes are shown too, what they missed drawn dashed, and both kinds of mistake come first. Where nothing
was inspected the page says so, and why.
Plain files beside each other, no script, nothing fetched: it can be mailed or put on a share. A `Watcher` of the
pipeline; pictures are written as they come, the page at the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import cv2

from edge_inspect.capture.protocol import Pixels
from edge_inspect.capture.ring import Slot
from edge_inspect.cli.drawing import COLOURS, drawn, shrunk, unit
from edge_inspect.cli.plural import counted
from edge_inspect.cli.scoring import missed_boxes, mistake
from edge_inspect.cli.summary import why_nothing
from edge_inspect.errors import StorageFailing
from edge_inspect.inference.decode import Detections
from edge_inspect.pipeline import Judged, Lane
from edge_inspect.verdict.judge import Kind
from edge_inspect.verdict.parts import Look

MOST_PICTURES = 2_000
WIDEST_PX = 960
STYLE = """
:root { color-scheme: light dark; --line: #8884; --ng: #d32f2f; --unknown: #e08a00; --ok: #2e8b57 }
body { font: 16px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1280px; padding: 0 1rem }
h1 { font-size: 1.5rem; margin-bottom: .2rem } .sub { opacity: .7; margin-top: 0 }
dl { display: flex; flex-wrap: wrap; gap: .6rem 2rem; padding: 1rem; border: 1px solid var(--line); border-radius: 8px }
dt { font-size: .8rem; opacity: .7 } dd { margin: 0; font-size: 1.35rem; font-variant-numeric: tabular-nums }
.parts { display: grid; grid-template-columns: repeat(auto-fill, minmax(340px, 1fr)); gap: 1rem }
figure { margin: 0; border: 1px solid var(--line); border-left: 5px solid var(--ng); border-radius: 8px }
figure { overflow: hidden }
figure.unknown { border-left-color: var(--unknown) } img { width: 100%; display: block }
figcaption { padding: .5rem .8rem; font-size: .9rem } figcaption b { color: var(--ng) }
.unknown figcaption b { color: var(--unknown) } .ok figcaption b { color: var(--ok) }
figure.ok { border-left-color: var(--ok) }
.wrong { background: var(--ng); color: #fff; padding: .1rem .45rem; border-radius: 4px; text-transform: uppercase }
.nothing { padding: .8rem 1rem; border-left: 5px solid var(--unknown); font-weight: 600 }
footer { margin: 2rem 0; font-size: .85rem; opacity: .7 }
"""


class Gallery:
    """Collects parts into `folder`. Raises StorageFailing when it cannot be written."""

    def __init__(self, folder: Path, title: str, truth: Mapping[str, Any] | None = None) -> None:
        self._folder = folder
        self._title = title
        self._truth = truth
        self._mistakes: list[str] = []
        self._cards: list[str] = []
        self._left_out = 0
        try:
            (folder / "parts").mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise StorageFailing(f"{folder}: cannot be made: {err.strerror}") from err

    @property
    def shown(self) -> int:
        """So many parts are on the page."""
        return len(self._cards) + len(self._mistakes)

    def frame(self, lane: Lane, slot: Slot, looks: list[Look], found: Detections | None) -> None:
        """Frames without a verdict are not shown."""

    def judged(self, lane: Lane, judged: Judged, pixels: Pixels | None) -> None:
        wrong = mistake(self._truth, judged) if self._truth else ""
        if judged.verdict.kind is Kind.OK and not wrong:
            return
        if self.shown >= MOST_PICTURES:
            self._left_out += 1
            return
        missed = missed_boxes(self._truth, judged) if self._truth and wrong == "escape" else []
        picture = ""
        if pixels is not None:
            name = f"parts/{lane.name}-{judged.part:06d}.jpg"
            image = drawn(pixels, judged)
            if missed:
                _draw_missed(image, [box for _, box in missed])
            if image.shape[1] > WIDEST_PX:
                image = shrunk(image, WIDEST_PX)
            if not cv2.imwrite(str(self._folder / name), image, [cv2.IMWRITE_JPEG_QUALITY, 85]):
                raise StorageFailing(f"{self._folder / name}: cannot be written")
            picture = f'<img src="{escape(name)}" loading="lazy" alt="part {judged.part} with its defects">'
        (self._mistakes if wrong else self._cards).append(
            _card(lane.name, judged, picture, wrong, [_class_name(cls, lane.engine.classes) for cls, _ in missed])
        )

    def close(self, result: Mapping[str, Any]) -> Path:
        """Write the page; its path."""
        page = self._folder / "index.html"
        more = f"<p>{counted(self._left_out, 'more part')} in parts.jsonl.</p>" if self._left_out else ""
        nothing = escape(why_nothing(result))
        note = f'<p class="nothing">{nothing[:1].upper()}{nothing[1:]}.</p>\n' if nothing else ""
        cards = "\n".join(self._mistakes + self._cards) or ("" if nothing else "<p>No part was NG or UNKNOWN.</p>")
        title = escape(self._title)
        try:
            page.write_text(
                f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title>\n'
                f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{STYLE}</style>\n'
                f'<h1>{title}</h1>\n{_figures(result)}\n{note}<div class="parts">\n{cards}\n</div>\n{more}'
                f"<footer>edge-inspect, model {escape(str(result['model']))}, {escape(str(result['provider']))}; "
                "the reports are in report.jsonl, all parts in parts.jsonl.</footer></html>\n",
                encoding="utf-8",
            )
        except OSError as err:
            raise StorageFailing(f"{page}: cannot be written: {err.strerror}") from err
        return page


def _figures(result: Mapping[str, Any]) -> str:
    shown = {
        "parts": result["parts"], "OK": result["ok"], "NG": result["ng"], "UNKNOWN": result["unknown"],
        "escapes": result["escapes"], "overkill": result["overkill"],
        "mAP50": result["map50"], "frames": result["frames"],
    }  # fmt: skip
    cells = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in shown.items() if value is not None)
    return f"<dl>{cells}</dl>"


def _class_name(cls: str | float, classes: Sequence[str]) -> str:
    """Of a class that the truth gives by name or by number."""
    if isinstance(cls, str):
        return cls
    return classes[int(cls)] if 0 <= cls < len(classes) else f"class {cls:g}"


def _draw_missed(picture: Pixels, boxes: Sequence[Sequence[float]]) -> None:
    """Dashed, a little outside of what is there: not to be taken for something that was found."""
    size = unit(picture)
    dash, weight, away = round(8 * size), round(2 * size), round(3 * size)
    for box in boxes:
        x1, y1, x2, y2 = (round(side) for side in box)
        x1, y1, x2, y2 = x1 - away, y1 - away, x2 + away, y2 + away
        for x in range(x1, x2, 2 * dash):
            for y in (y1, y2):
                cv2.line(picture, (x, y), (min(x + dash, x2), y), COLOURS[Kind.NG], weight)
        for y in range(y1, y2, 2 * dash):
            for x in (x1, x2):
                cv2.line(picture, (x, y), (x, min(y + dash, y2)), COLOURS[Kind.NG], weight)


def _card(camera: str, judged: Judged, picture: str, wrong: str, missed: Sequence[str] = ()) -> str:
    verdict = judged.verdict
    found = "; ".join(
        f"{escape(defect.cls)} {defect.confidence:.2f} ({escape(defect.severity)})" for defect in verdict.defects
    )
    not_found = f"; dashed, not found: {escape(', '.join(missed))}" if missed else ""
    badge = f'<span class="wrong">{wrong}</span> ' if wrong else ""
    return (
        f'<figure class="{verdict.kind.value.lower()}">{picture}<figcaption>{badge}<b>{verdict.kind.value}</b> '
        f"part {judged.part}, {escape(camera)}, frame {judged.frame_index}: "
        f"{found or escape(verdict.reason)}{not_found}"
        "</figcaption></figure>"
    )
