"""Every code by which trust or a fetch can fail is explained in docs/models.md."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
MODULES = ("trust", "transport", "download", "shelf", "released", "offers", "offline", "fetch")
CODE = re.compile(r'(?:Untrusted|SourceGone|BadModel)\(\s*"([a-z0-9-]+)"|return "([a-z0-9-]+)"|: "(metadata-[a-z-]+)",')


def test_every_code_of_trust_and_fetch_is_explained() -> None:
    folder = ROOT / "edge" / "edge_inspect" / "update"
    source = "".join((folder / f"{name}.py").read_text() for name in MODULES)
    codes = {next(filter(None, found)) for found in CODE.findall(source)}
    pages = "".join((ROOT / "docs" / name).read_text() for name in ("models.md", "model-packages.md"))
    assert len(codes) > 35
    assert sorted(code for code in codes if f"`{code}`" not in pages) == []
