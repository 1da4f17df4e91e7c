"""`edge-inspect model watch`: it follows a model through its stages, and its exit code says what became of it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from edge_inspect.cli import model_watch, run_command
from edge_inspect.cli.model_watch import Watched, page
from edge_inspect.errors import Refusal
from edge_inspect.update.history import FILE_NAME, Entry, History
from edge_inspect.update.shadow import ShadowReport
from edge_inspect.update.stages import Stage
from edge_inspect.update.store import FOLDER
from tests.edge.update.box import GOOD_SHADOW, Box

NOW = datetime.now(timezone.utc).replace(microsecond=0)
OLD, NEW, OTHER = ("sha256:" + letter * 64 for letter in "abc")
MODEL = {"name": "metal-plate", "version": "1.1.0", "digest": NEW}
SHADOW = {
    "stage": "shadow", "parts": 84, "parts_wanted": 200, "seconds": 31.0, "least_rejected": 10, "progress": 0.42,
    "active_ok": 70, "new_ng": 1, "active_ng": 14, "new_ok": 0,
}  # fmt: skip
TRIAL = {
    "stage": "trial", "parts": 300, "parts_wanted": 500, "seconds": 40.0, "least_s": 60, "progress": 0.6, "ng": 30,
    "compared": 250, "active_ok": 230, "new_ng": 0, "active_ng": 20, "new_ok": 9,
}  # fmt: skip


def told(stage: str, *, active: str = OLD, counts: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    since = (NOW - timedelta(seconds=31)).isoformat().replace("+00:00", "Z")
    candidate = None if stage in ("idle", "fetch") else MODEL
    said = {
        "stage": stage, "since": since, "active": active, "previous": None, "candidate": candidate, "progress": None,
        "refused": None, "sequence": 1, "counts": counts,
    }  # fmt: skip
    return {"update": {**said, **changes}}


def refused(code: str, digest: str = NEW, *, at: datetime | None = None) -> dict[str, str]:
    at = at or NOW + timedelta(days=1)  # after any watch began
    return {"digest": digest, "code": code, "at": at.isoformat().replace("+00:00", "Z")}


KEPT = [
    told("idle"), told("fetch", progress=0.5), told("verify"), told("probe"), told("shadow", counts=SHADOW),
    told("trial", active=NEW, counts=TRIAL), told("keep", active=NEW), told("idle", active=NEW),
]  # fmt: skip
BACK = [
    told("trial", active=NEW, counts=TRIAL), told("revert", refused=refused("trial-new-ok")),
    told("idle", refused=refused("trial-new-ok")),
]  # fmt: skip


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the daemon says, one after the other; an error is raised."""
    waiting: list[Any] = []

    def fetch(state_dir: Path) -> Any:
        answer = waiting.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("edge_inspect.cli.status.fetch", fetch)
    monkeypatch.setattr(model_watch, "EVERY_S", 0.0)
    return waiting


def watched(tmp_path: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[str], str]:
    code = run_command(["model", "watch", "--state", str(tmp_path), *words])
    said = capsys.readouterr()
    return code, said.out.splitlines(), said.err


def test_exit_code_is_0_when_it_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str], answers: list[Any]) -> None:
    answers += KEPT
    code, lines, _ = watched(tmp_path, capsys)
    assert code == 0 and lines[-1] == f"metal-plate 1.1.0 ({'b' * 12}) is kept"
    assert [line.split()[-1] for line in lines if "%" not in line][:2] == ["idle", "verify"]


def test_exit_code_is_1_when_it_goes_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], answers: list[Any]
) -> None:
    answers += BACK
    code, lines, _ = watched(tmp_path, capsys)
    assert code == 1 and lines[-1].endswith("is not kept: trial-new-ok; see `model history`")


def test_the_last_words_are_those_of_the_history(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], answers: list[Any]
) -> None:
    """More was counted after the last look, before it was decided."""
    why = "318 parts, 40 NG; beside: 262 parts compared, 0 of 241 OK became NG, 12 of 21 NG became OK"
    answers += BACK
    (tmp_path / FOLDER).mkdir()
    said = Entry(
        at=NOW + timedelta(days=1), event="activated", digest=OLD, role="previous", replaced=NEW, code="trial-new-ok",
        why=why,
    )  # fmt: skip
    History(tmp_path / FOLDER / FILE_NAME).append(said)
    code, lines, _ = watched(tmp_path, capsys)
    assert code == 1 and lines[-1] == (
        f"metal-plate 1.1.0 ({'b' * 12}) is not kept: trial-new-ok: {why}; see `model history`"
    )
    assert run_command(["model", "history", "--state", str(tmp_path)]) == 0
    assert why in " ".join(capsys.readouterr().out.split())


def test_json_says_each_change_and_the_outcome_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], answers: list[Any]
) -> None:
    answers += [KEPT[0], KEPT[0], *KEPT[1:]]
    code, lines, _ = watched(tmp_path, capsys, "--json")
    said = [json.loads(line) for line in lines]
    assert code == 0 and [one["stage"] for one in said[:-1]] == [
        "idle", "fetch", "verify", "probe", "shadow", "trial", "keep", "idle",
    ]  # fmt: skip
    assert said[4]["counts"]["parts"] == 84 and said[4]["progress"] == 0.42
    assert said[-1]["ok"] is True and said[-1]["outcome"] == "kept"


@pytest.mark.parametrize(
    ("after", "outcome"),
    [
        (told("idle", refused=refused("probe-crash")), "probe-crash"),
        (told("idle", active=NEW), "kept"),
        (told("idle", refused=refused("shadow-new-ng", at=NOW - timedelta(hours=1))), None),
        (told("idle"), None),
    ],
)
def test_what_went_by_between_two_looks_is_seen_by_what_it_left(after: dict[str, Any], outcome: str | None) -> None:
    seen = Watched(NOW)
    seen.see(told("idle")["update"], NOW)
    seen.see(after["update"], NOW)
    assert seen.outcome == outcome


def test_a_refusal_of_another_model_is_not_the_candidates() -> None:
    seen = Watched(NOW)
    seen.see(told("shadow", counts=SHADOW)["update"], NOW)
    seen.see(told("idle", refused=refused("rollout-older", OTHER))["update"], NOW)
    assert seen.outcome == "withdrawn"


def test_a_daemon_that_starts_anew_is_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], answers: list[Any]
) -> None:
    answers += [told("trial", active=NEW, counts=TRIAL), Refusal("gone"), Refusal("gone"), *KEPT[-2:]]
    assert watched(tmp_path, capsys)[0] == 0


@pytest.mark.parametrize(
    ("answer", "says"),
    [({"update": None}, "has no `[update]`"), (Refusal("no daemon runs"), "no daemon runs")],
)
def test_without_anything_to_watch_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], answers: list[Any], answer: Any, says: str
) -> None:
    answers += [answer]
    code, _, err = watched(tmp_path, capsys)
    assert code == 1 and says in err and err.count("\n") == 1


def test_it_gives_up_when_it_is_told_to(tmp_path: Path, capsys: pytest.CaptureFixture[str], answers: list[Any]) -> None:
    answers += [told("idle")]
    code, _, err = watched(tmp_path, capsys, "--timeout", "0")
    assert code == 1 and "no model came to an end within 0 s; the daemon goes on" in err


@pytest.mark.parametrize("width", [80, 110])
def test_the_page_fits_a_terminal(width: int) -> None:
    seen = Watched(NOW)
    for answer in (*KEPT[1:5], told("shadow", counts=SHADOW, refused=refused("probe-hang", OTHER))):
        seen.see(answer["update"], NOW)
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(page(seen))
    said = console.file.getvalue()  # type: ignore[attr-defined]
    for words in ("42%", "84 of 200 parts compared", "14 of 10 NG", "31 s", "of 70 OK it rejected 1", "probe-hang"):
        assert words in said, said
    assert max(map(len, said.splitlines())) <= width


def test_the_updater_tells_what_its_shadow_has_counted(box: Box) -> None:
    """And nothing of it in another stage."""
    seen: list[dict[str, float | str] | None] = []
    box.release("b")
    updater = box.start()
    assert box.live is not None
    reports: Iterator[ShadowReport] = iter([ShadowReport(parts=50, same=50, active_ok=45, active_ng=5, seconds=9.0)])

    def report() -> ShadowReport:
        seen.append(updater.counts())
        return next(reports, GOOD_SHADOW)

    box.live.shadow_report = report  # type: ignore[method-assign]
    assert box.store is not None
    for _ in range(12):
        updater.step()
        if box.store.state.stage is Stage.IDLE:
            break
    assert seen[0] is None and seen[1] is not None
    assert (seen[1]["parts"], seen[1]["parts_wanted"], seen[1]["progress"]) == (50, 200, 0.25)
    assert updater.counts() is None
