"""Every code by which a model can be refused is explained in docs/model-packages.md or docs/models.md."""

from __future__ import annotations

import re
from pathlib import Path

from edge_wire.manifest import CONTRADICTIONS

ROOT = Path(__file__).resolve().parents[3]


def test_every_refusal_code_is_explained() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "edge" / "edge_inspect").rglob("*.py"))
    raised = set(re.findall(r'BadModel\(\s*f?"([a-z0-9{}-]+)"', sources))
    both_sides = {code.replace("{side}", side) for code in raised for side in ("input", "output")}
    codes = both_sides | {f"manifest-{kind}" for kind in CONTRADICTIONS}
    pages = "".join((ROOT / "docs" / name).read_text() for name in ("model-packages.md", "models.md"))
    explained = set(re.findall(r"`([a-z0-9-]+)`", pages))
    assert codes
    assert not codes - explained
