"""docs/models.md says what the code does: the two tables, and every code of the machine."""

from __future__ import annotations

import re
from pathlib import Path

from edge_inspect.update.stages import AFTER_POWER_CUT, NEXT, Outcome, Stage

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "models.md"
SOURCES = ("machine", "acts", "choose", "store", "record", "updater", "requests", "source")
NOT_REFUSALS = {"rollout", "person", "start", "activate"}


def table() -> str:
    lines = [
        "| stage | done | nothing | later | refused | withdrawn | after a power cut |",
        "|---|---|---|---|---|---|---|",
    ]
    for stage in Stage:
        row = [NEXT[stage][outcome].name for outcome in Outcome]
        lines.append(f"| **{stage.name}** | {' | '.join(row)} | {AFTER_POWER_CUT[stage].name} |")
    return "\n".join(lines)


def test_the_tables_of_the_page_are_those_of_the_code() -> None:
    assert table() in PAGE.read_text(), "put table() into docs/models.md"


def test_every_code_of_the_machine_has_a_row() -> None:
    page = PAGE.read_text()
    said = set()
    for name in SOURCES:
        text = (ROOT / "edge" / "edge_inspect" / "update" / f"{name}.py").read_text()
        said |= set(re.findall(r'(?:Untrusted|BadModel)\(\s*"([a-z-]+)"', text))
        said |= set(re.findall(r'Result\(\s*Outcome\.\w+, "([a-z-]+)"', text))
        said |= set(re.findall(r'code="([a-z-]+)"', text))
        said |= set(re.findall(r'"(interrupted|unconfirmed-starts|rolled-back|no-end|storage-failing)"', text))
        said |= set(re.findall(r'\("(model-[a-z-]+)"', text))
    assert len(said) > 15
    assert not {code for code in said - NOT_REFUSALS if f"`{code}`" not in page}
