"""The whole table of bad artefacts, for the tests and for people.

python -m tests.edge.update.bad_table        # writes it into docs/models.md
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.edge.update.bad_case import Case
from tests.edge.update.bad_disks import STARTED, TOLD
from tests.edge.update.bad_metadata import METADATA
from tests.edge.update.bad_packages import TRIED
from tests.edge.update.bad_rollouts import ROLLOUTS
from tests.edge.update.bad_transfers import TRANSFERS

PAGE = Path(__file__).resolve().parents[3] / "docs" / "models.md"
BEGIN, END = "<!-- table of bad artefacts: begin -->", "<!-- table of bad artefacts: end -->"
WHERE = {
    "fetch": "fetch", "verify": "verify", "probe": "probe", "shadow": "shadow", "trial": "trial",
    "start": "start of the daemon", "running": "while it judges",
}  # fmt: skip


@dataclass(frozen=True)
class Running:
    """What happens to the model that judges: told by a test of its own."""

    fault: str
    story: str
    code: str
    stage: str = "running"


FETCHED = (*TRANSFERS, *METADATA, *ROLLOUTS)
RUNNING = (
    Running("C17", "the disk takes no more in the middle of a file", "storage-failing", "fetch"),
    Running("C18", "a bit of the model that judges rots: found by the weekly look, and healed", "digest-mismatch"),
    Running("C20", "the model that judges is revoked, by a rollout for this box", "revoked"),
    Running("C20", "the model that judges is revoked, by a rollout for others", "revoked"),
)
TABLE: tuple[Case | Running, ...] = (*FETCHED, *TRIED, *TOLD, *STARTED, *RUNNING)


def as_markdown() -> str:
    """Sorted by fault, in the order of the stages."""
    order = list(WHERE)
    rows = sorted(TABLE, key=lambda case: (int(case.fault[1:]), order.index(case.stage)))
    lines = [f"{len(rows)} cases.", "", "| | what comes | code | where |", "|---|---|---|---|"]
    for case in rows:
        code = f"`{case.code}`" if case.code else "left alone"
        lines.append(f"| {case.fault} | {case.story.replace('|', '/')} | {code} | {WHERE[case.stage]} |")
    return "\n".join(lines)


def written(page: str) -> str:
    """The page with the table as it is now."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{as_markdown()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
