"""`index.html` of exported evidence: every part's picture with its boxes, so that a person can look through them.

Plain files, no script, nothing fetched. The boxes are drawn over the pictures (SVG), not into them.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from edge_inspect.cli.gallery import STYLE
from edge_inspect.delivery.evidence_file import Mark, Record

MOST_PARTS = 2_000
MORE_STYLE = """
figure .look { position: relative; display: block }
figure svg { position: absolute; inset: 0; width: 100%; height: 100% }
rect { fill: none; stroke: var(--ng); stroke-width: 2; vector-effect: non-scaling-stroke } code { font-size: .8rem }
"""


def contact_sheet(title: str, parts: Sequence[tuple[Record, Sequence[tuple[str, Record]]]]) -> str:
    """The page. Each part with its pictures as (relative file name, record), the one to show first."""
    shown = "\n".join(_card(record, pictures) for record, pictures in parts[:MOST_PARTS])
    more = f"<p>{len(parts) - MOST_PARTS} more parts are in evidence.json.</p>" if len(parts) > MOST_PARTS else ""
    counts = {kind: sum(record.verdict == kind for record, _ in parts) for kind in ("NG", "UNKNOWN", "OK")}
    figures = "".join(f"<div><dt>{kind}</dt><dd>{count}</dd></div>" for kind, count in counts.items())
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{STYLE}{MORE_STYLE}</style>\n'
        f'<h1>{escape(title)}</h1>\n<dl>{figures}</dl>\n<div class="parts">\n{shown or "<p>No pictures.</p>"}\n</div>\n'
        f"{more}<footer>Boxes are what the model found, not what is true.</footer></html>\n"
    )


def _card(record: Record, pictures: Sequence[tuple[str, Record]]) -> str:
    file, shown = pictures[0]
    x0, y0, x1, y1 = shown.crop_px
    boxes = "".join(_box(mark, x0, y0) for mark in record.defects)
    others = "".join(f' <a href="{escape(name)}">{escape(each.what)}</a>' for name, each in pictures[1:])
    found = "; ".join(f"{escape(mark.cls)} {mark.confidence:.2f}" for mark in record.defects) or escape(record.reason)
    return (
        f'<figure class="{record.verdict.lower()}"><a class="look" href="{escape(file)}">'
        f'<img src="{escape(file)}" loading="lazy" alt="part {record.part}">'
        f'<svg viewBox="0 0 {x1 - x0} {y1 - y0}" preserveAspectRatio="none">{boxes}</svg></a>'
        f"<figcaption><b>{record.verdict}</b> part {record.part}, {escape(record.camera)}, "
        f"{record.captured_utc:%Y-%m-%d %H:%M:%S} UTC: {found}{others}<br><code>{escape(record.id)}</code>"
        "</figcaption></figure>"
    )


def _box(mark: Mark, left: int, top: int) -> str:
    x1, y1, x2, y2 = mark.box_px
    name = f"{escape(mark.cls)} {mark.confidence:.2f}"
    return (
        f'<rect x="{x1 - left:.1f}" y="{y1 - top:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}">'
        f"<title>{name}</title></rect>"
    )
