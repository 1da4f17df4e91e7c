"""What `edge-inspect model list|history|show` say in odd places: an unreadable state, a narrow terminal, many words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edge_inspect.cli import model_box, run_command
from edge_inspect.inference.package import ModelPackage, find_model
from edge_inspect.update.shadow import ShadowReport
from edge_inspect.update.state_file import STATE_NAME
from edge_wire.manifest import MANIFEST_NAME, Manifest
from tests.edge.update.box import GOOD_SHADOW, Box
from tests.edge.update.test_model_commands import run, updated
from tests.sim.tiny_model import write_tiny_package

__all__ = ["updated"]


def test_a_state_that_cannot_be_read_is_no_factory_model(updated: Box, capsys: pytest.CaptureFixture[str]) -> None:
    (updated.state_dir / STATE_NAME).write_text("{")
    for words in (["list"], ["list", "--json"], ["activate", "tiny", "1.2.0"], ["rollback"]):
        code, out, err = run(updated, capsys, *words)
        assert code == 1 and "state.json: cannot be read" in err and "active" not in out and err.count("\n") == 1
    assert not list(updated.state_dir.glob("*.broken-*"))  # nobody but a daemon puts it aside


def test_history_is_shown_and_checked_beside_a_state_that_cannot_be_read(
    updated: Box, capsys: pytest.CaptureFixture[str]
) -> None:
    (updated.state_dir / STATE_NAME).write_text("{")
    code, out, _ = run(updated, capsys, "history")
    assert code == 1 and "tiny 1.2.0" in out and "state.json: cannot be read" in out and "as it was written" in out
    code, out, _ = run(updated, capsys, "history", "--json")
    told = json.loads(out)
    assert code == 1 and not told["ok"] and told["state_unreadable"] and len(told["judged"]) == 4


def test_history_has_everything_in_the_order_of_time(updated: Box, capsys: pytest.CaptureFixture[str]) -> None:
    updated.shadow = ShadowReport(parts=200, same=120, new_ng=80, active_ok=190, active_ng=10, seconds=60.0)
    updated.release("c", 3, action="rollback", reason="once more")
    updated.run()
    updated.shadow = GOOD_SHADOW
    updated.release("c", 4, action="rollback", reason="and again")
    updated.run()
    updated.end()
    code, out, _ = run(updated, capsys, "history")
    heads = [line for line in out.splitlines() if line.startswith("2026-")]
    assert code == 0 and heads == sorted(heads) and "on trial" in out
    at = next(number for number, line in enumerate(heads) if "shadow-new-ng" in line)
    assert "refused  tiny 1.2.0" in heads[at] and "kept" in heads[at + 1] and at > 0
    refused = out[out.index(heads[at]) : out.index(heads[at + 1])]
    assert "released by     anna on 2026-11-22" in refused and "reason          once more" in refused


def test_history_says_once_why_a_model_went(updated: Box, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(updated, capsys, "history")
    assert out.count("600 parts, 30 NG") == 1
    assert "came because    1.2.0 went (trial-known-answer)" in out


@pytest.mark.parametrize("columns", [80, 110])
def test_list_and_history_fit_a_terminal(
    updated: Box, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr("edge_inspect.cli.folded._is_terminal", lambda stream: True)
    for words in (["list"], ["history"]):
        _, out, _ = run(updated, capsys, *words)
        assert max(map(len, out.splitlines())) <= columns
        assert updated.digests["c"].removeprefix("sha256:")[:12] in out and "trial-known-answer" in out


def test_show_takes_name_and_version(updated: Box, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(updated, capsys, "show", "tiny", "1.1.0", "--json")
    assert code == 0 and json.loads(out)["digest"] == updated.digests["b"]
    short = updated.digests["factory"].removeprefix("sha256:")[:8]
    code, out, _ = run(updated, capsys, "show", short, "--json")
    assert code == 0 and json.loads(out)["digest"] == updated.digests["factory"]
    code, _, err = run(updated, capsys, "show", "tiny")
    assert code == 1 and "is 3 models here" in err
    code, _, err = run(updated, capsys, "show", "nosuch")
    assert code == 1 and f"tiny 1.1.0 ({updated.digests['b'][7:19]})" in err


def test_show_says_how_accurate_and_in_which_unit(
    updated: Box, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load = Manifest.model_validate_json

    def measured(content: bytes) -> Manifest:
        found = load(content).model_dump(mode="json")
        tally = {"defective": 120, "escapes": 3, "good": 300, "overkill": 2}
        file = found["variants"][0]["file"]
        each = dict.fromkeys(found["classes"], tally)
        found |= {"format": 2, "measured": [{"file": file, "map50": 0.912, "pictures": tally, "classes": each}]}
        found |= {"latency_budget_ms": {"cpu-2-cores": {"value": 257.5, "how": "measured"}}}
        found |= {"memory_budget_bytes": {"cpu-2-cores": {"value": 3e8, "how": "measured"}}}
        return load(json.dumps(found).encode())

    monkeypatch.setattr(Manifest, "model_validate_json", measured)
    code, out, _ = run(updated, capsys, "show", "tiny", "1.1.0")
    assert code == 0
    for words in ("mAP50 0.912", "3 of 120 pictures with a defect missed (escapes)", "2 of 300 without", "257.5 ms",
                  "300.0 MB"):  # fmt: skip
        assert words in out, (words, out)


def test_list_claims_nothing_where_no_daemon_ran_and_says_whose_models_it_shows(
    updated: Box, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert f"of {updated.state_dir.parent}" in run(updated, capsys, "list")[1]
    nowhere = tmp_path / "nowhere"
    monkeypatch.setenv("STATE_DIRECTORY", str(nowhere))
    monkeypatch.setattr(model_box, "SERVICE_CONFIG", tmp_path / "none.toml")
    monkeypatch.setattr(model_box, "SERVICE_STATE_DIR", tmp_path / "none")
    capsys.readouterr()
    assert run_command(["model", "list"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert f"{nowhere}: no daemon with `[update]` has run" in out and "factory" in out and "active" not in out
    assert run_command(["model", "list", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["state_dir"] == str(nowhere) and ["factory"] in [model["roles"] for model in said["models"]]


def test_without_a_name_it_is_the_model_that_judges_here(updated: Box, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["show"], ["verify"]):
        code, out, _ = run(updated, capsys, *words, "--json")
        assert code == 0 and json.loads(out)["digest"] == updated.digests["b"]


def test_a_shipped_name_is_asked_about_where_the_box_has_another_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = json.loads((find_model() / MANIFEST_NAME).read_text())
    assert run_command(["model", "show", shipped["name"], "--state", str(tmp_path)]) == 0
    write_tiny_package(tmp_path / "new", name=shipped["name"], version="1.1.0")
    digest = ModelPackage.load(tmp_path / "new").digest.removeprefix("sha256:")
    shutil.copytree(tmp_path / "new", tmp_path / "models" / "packages" / digest)
    for what in ("show", "verify"):
        capsys.readouterr()
        assert run_command(["model", what, shipped["name"], "--state", str(tmp_path)]) == 1
        err = capsys.readouterr().err
        assert "is 2 models here" in err and digest[:12] in err


def test_help_says_what_state_is(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("list", "show", "verify", "history", "import", "activate", "rollback", "watch"):
        run_command(["model", name, "--help"])
        said = " ".join(capsys.readouterr().out.split())
        assert "outbox" not in said and "Example: edge-inspect model" in said, name


def test_what_was_revoked_is_not_offered_for_activation(updated: Box, capsys: pytest.CaptureFixture[str]) -> None:
    """Its package has gone, too; who revoked it and why lies in the offer that said so."""
    rollout = updated.release("b", 3, revoked=(updated.digests["c"],), reason="cracks on cold steel")
    updated.run()
    updated.end()
    offers = updated.models_dir / "offers"
    offers.mkdir()
    said = {"format": 1, "content": rollout.model_dump_json(), "package": None, "metadata": {}}
    (offers / "tiny-stable.json").write_text(json.dumps(said))
    _move_away(updated.folder_of(updated.digests["c"]))
    code, _, err = run(updated, capsys, "activate", "tiny", "1.2.0")
    assert code == 1
    assert "was revoked by anna (tiny/stable no. 3): cracks on cold steel; not here any more" in err
    assert "allowed" not in err


def _move_away(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))
