"""`edge-inspect model list|history|activate|rollback|import`, with and without a daemon."""

from __future__ import annotations

import itertools
import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edge_inspect.cli import run_command
from edge_inspect.update.history import FILE_NAME
from edge_inspect.update.stages import Stage
from edge_inspect.update.store import Store
from edge_wire.release import ShadowLimits, TrialLimits
from tests.edge.update.box import GOOD_SHADOW, GOOD_TRIAL, Box
from tests.sim.tuf_repository import PRODUCT, TufRepository


@pytest.fixture
def updated(box: Box, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    """A box on which "b" judges, and "c" was taken back."""
    monkeypatch.setenv("USER", "anna")
    monkeypatch.setenv("LOGNAME", "anna")
    monkeypatch.delenv("SUDO_USER", raising=False)
    config = box.root / "line.toml"
    (box.root / "root.json").write_text("{}")
    config.write_text(
        f'state_dir = "."\n[[camera]]\nname = "left"\nsource = "sim"\n[model]\ndir = "{box.factory}"\n'
        '[update]\nproduct = "tiny"\nroot = "root.json"\n'
    )
    box.release("b")
    box.run()
    box.trial = replace(GOOD_TRIAL, known_answer_failures=1)
    box.release("c", 2)
    box.run()
    box.trial = GOOD_TRIAL
    box.end()
    return box


def run(box: Box, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = run_command(["model", *words, "--config", str(box.root / "line.toml")])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_list_says_what_each_package_is(updated: Box, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(updated, capsys, "list", "--json")
    roles = {model["digest"]: model["roles"] for model in json.loads(out)["models"]}
    assert code == 0
    assert roles[updated.digests["b"]] == ["active"]
    assert roles[updated.digests["factory"]] == ["factory", "previous"]
    assert roles[updated.digests["c"]] == ["refused: trial-known-answer"]
    code, out, _ = run(updated, capsys, "list")
    assert code == 0 and updated.digests["c"].removeprefix("sha256:")[:12] in out


def test_a_damaged_package_is_listed_as_such(updated: Box, capsys: pytest.CaptureFixture[str]) -> None:
    (updated.folder_of(updated.digests["c"]) / "manifest.json").write_text("{")
    _, out, _ = run(updated, capsys, "list", "--json")
    damaged = next(m for m in json.loads(out)["models"] if m["digest"] == updated.digests["c"])
    assert any(role.startswith("damaged: ") for role in damaged["roles"])
    assert (damaged["name"], damaged["version"]) == ("tiny", "1.2.0")  # the history knows


def test_what_was_here_once_is_listed_too(updated: Box, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(updated.folder_of(updated.digests["c"]))
    _, out, _ = run(updated, capsys, "list", "--json")
    gone = next(m for m in json.loads(out)["models"] if m["digest"] == updated.digests["c"])
    assert gone["roles"] == ["refused: trial-known-answer", "not here any more"] and gone["version"] == "1.2.0"


def test_show_and_verify_take_a_digest_of_this_box(updated: Box, capsys: pytest.CaptureFixture[str]) -> None:
    short = updated.digests["b"].removeprefix("sha256:")[:8]
    code, out, _ = run(updated, capsys, "show", short, "--json")
    assert code == 0 and json.loads(out)["digest"] == updated.digests["b"]
    code, out, _ = run(updated, capsys, "verify", short, "--json")
    assert code == 0 and json.loads(out)["ok"] is True


def test_history_reads_like_a_log(updated: Box, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(updated, capsys, "history")
    assert code == 0
    for words in (
        "tiny 1.0.0", "tiny 1.1.0", "released by     anna", "tiny/stable no. 1", "model b", "200 parts judged by both",
        "of 190 OK it rejected 0, of 10 NG it passed 0", "trial-known-answer", "kept", " - now", "as it was written",
    ):  # fmt: skip
        assert words in out, (words, out)


def test_history_says_from_when_to_when_and_verifies(updated: Box, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(updated, capsys, "history", "--json")
    told = json.loads(out)
    assert code == 0 and told["ok"] and told["verified_lines"] == len(told["entries"])
    spans = told["judged"]
    assert [span["version"] for span in spans] == ["1.0.0", "1.1.0", "1.2.0", "1.1.0"]
    assert all(before["to"] == after["from"] for before, after in itertools.pairwise(spans))
    assert spans[-1]["to"] is None and spans[2]["replaced_because"] == "trial-known-answer"


def test_a_changed_history_is_named_and_fails(updated: Box, capsys: pytest.CaptureFixture[str]) -> None:
    path = updated.state_dir / FILE_NAME
    path.write_bytes(path.read_bytes().replace(b'"released_by":"anna"', b'"released_by":"eve_"', 1))
    code, out, _ = run(updated, capsys, "history")
    assert code == 1 and "CHANGED  line 2: is not the line" in out and "was changed after it was written" in out
    marked = [line for line in out.splitlines() if line.endswith("  CHANGED?")]
    assert len(marked) == 2 and "replaced        by tiny 1.1.0" in marked[0] and "tiny 1.1.0" in marked[1]
    assert json.loads(run(updated, capsys, "history", "--json")[1])["doubtful"] == [2]


def test_rollback_without_a_daemon_holds_at_its_next_start(updated: Box, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(updated, capsys, "rollback", "--why", "too strict")
    assert code == 0 and "next start" in err
    updated.source.rollout = None
    updated.run()
    assert updated.live is not None and updated.store is not None
    assert updated.live.judging == updated.digests["factory"]
    last = updated.store.history.entries[-1]
    assert (last.event, last.code, last.by, last.why) == ("activated", "rolled-back", "anna", "too strict")
    updated.end()
    code, _, err = run(updated, capsys, "rollback")
    assert code == 1 and "[no-previous]" in err


def test_activate_takes_even_what_was_taken_back_through_its_stages(
    updated: Box, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(updated, capsys, "activate", "tiny", "1.2.0", "--why", "new steel")
    assert code == 0, err
    updated.run()
    assert updated.live is not None and updated.store is not None
    assert updated.live.judging == updated.digests["c"]
    assert updated.store.history.entries[-1].by == "anna"
    assert updated.store.state.refusal_of(updated.digests["c"]) is None


@pytest.mark.parametrize("words", [("tiny", "1.1.0"), ("tiny", "1.2.0")])
def test_a_rollback_without_a_daemon_leaves_the_choice_free(
    updated: Box, capsys: pytest.CaptureFixture[str], words: tuple[str, str]
) -> None:
    """No start of the daemon has to come first, and the history says who went back."""
    updated.source.rollout = None
    for _ in range(2):  # of what judges; then of the candidate that was chosen
        assert run(updated, capsys, "rollback", "--why", "too strict")[0] == 0
        code, _, err = run(updated, capsys, "activate", *words, "--why", "right after all")
        assert code == 0 and "next start takes it through its stages" in err
    updated.run()
    assert updated.live is not None and updated.store is not None
    assert updated.live.judging == updated.digests["b" if words[1] == "1.1.0" else "c"]
    went, *_, kept = [entry for entry in updated.store.history.entries if entry.line > 6]
    assert (went.event, went.code, went.by, went.why) == ("activated", "rolled-back", "anna", "too strict")
    assert (kept.event, kept.by, kept.reason) == ("kept", "anna", "right after all")


def stricter(box: Box) -> None:
    """Of the parts that the model before passes half are NG to the new one: more than by default, less than said."""
    box.shadow = replace(GOOD_SHADOW, active_ok=100, active_ng=100, same=150, new_ng=50)
    box.trial = replace(GOOD_TRIAL, parts=600, ng=450, beside=replace(box.shadow, parts=600))


def test_what_was_kept_under_its_rollouts_limits_is_taken_again_under_them(
    box: Box, updated: Box, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistaken rollback costs nothing but the way through the stages."""
    stricter(updated)
    limits = {"shadow": ShadowLimits(parts=200, most_new_ng=0.7), "trial": TrialLimits(most_rate_shift=0.9)}
    updated.release("c", 3, action="rollback", **limits)
    updated.run()
    updated.end()
    assert run(updated, capsys, "rollback", "--why", "mistaken")[0] == 0
    updated.run()
    updated.end()
    code, _, err = run(updated, capsys, "activate", "tiny", "1.2.0", "--why", "was right after all")
    assert code == 0 and "limits (its rollout's): shadow 200 parts, 70% new NG, 5% new OK; trial 500 parts" in err
    updated.run()
    assert updated.live is not None and updated.store is not None
    assert updated.live.judging == updated.digests["c"] and updated.store.history.entries[-1].event == "kept"


def test_refusal_of_what_a_person_asked_for_says_who_and_why(updated: Box, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the rollout's limits are not known the defaults count, and the command says so."""
    with Store.open(updated.state_dir, updated.models_dir, updated.factory) as store:
        store.save(store.state.model_copy(update={"limits": {}}))
    stricter(updated)
    code, _, err = run(updated, capsys, "activate", "tiny", "1.2.0", "--why", "new steel")
    assert code == 0 and "limits (defaults): shadow 200 parts, 5% new NG, 5% new OK; trial 500 parts" in err
    updated.run()
    assert updated.store is not None
    refused = updated.store.history.entries[-1]
    assert (refused.event, refused.code, refused.by, refused.reason) == (
        "refused",
        "shadow-new-ng",
        "anna",
        "new steel",
    )
    assert "50 of 100 OK became NG" in refused.why
    updated.end()
    page = run(updated, capsys, "history")[1]
    assert "asked for by    anna" in page and "reason          new steel" in page


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("activate", "tiny", "9.9.9"),
            "allowed: a digest of `model list`, or NAME VERSION of: tiny 1.0.0 (factory), tiny 1.1.0, tiny 1.2.0",
        ),
        (("activate", "tiny", "1.1.0"), "[already-active]"),
        (("activate", "ffffff"), "no package of this box"),
        (("import", "/nowhere"), "[not-a-repository]"),
        (("rollback", "--why", "x" * 201), "--why: found 201 letters; allowed: one line of at most 200 letters"),
        (("activate", "tiny", "1.2.0", "--why", "too\nstrict"), "--why: found a letter that no line can hold"),
        (("activate",), "See `edge-inspect model activate --help`"),
    ],
)
def test_a_mistake_is_one_line(
    updated: Box, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], says: str
) -> None:
    code, _, err = run(updated, capsys, *words)
    assert code in (1, 64) and says in err and err.count("\n") == 1


def test_an_odd_name_behind_sudo_is_no_traceback(
    updated: Box, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUDO_USER", "anna\n" * 90)
    code, _, err = run(updated, capsys, "rollback")
    assert code == 0 and "next start" in err


def test_history_says_when_a_shadow_saw_too_few_bad_parts(
    box: Box, updated: Box, capsys: pytest.CaptureFixture[str]
) -> None:
    box.shadow = replace(GOOD_SHADOW, active_ok=197, active_ng=3, seconds=1e9)
    box.release("c", 3, action="rollback")
    box.run()
    box.end()
    code, out, _ = run(updated, capsys, "history")
    assert code == 0 and "of 3 NG it passed 0; 7 NG fewer than asked for, the time was over" in out


def test_without_any_update_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["model", "rollback", "--state", str(tmp_path)]) == 1
    assert "no daemon with `[update]` has run" in capsys.readouterr().err
    for words in (["history"], ["list"], ["history", "--json"]):
        assert run_command(["model", *words, "--state", str(tmp_path)]) == 1
        said = capsys.readouterr()
        assert "is it another? --state DIR" in said.err and "active" not in said.out
        assert run_command(["model", *words, "--state", str(tmp_path / "nowhere")]) == 1
        assert "no such folder" in capsys.readouterr().err
    (tmp_path / "update").mkdir()
    assert run_command(["model", "history", "--state", str(tmp_path)]) == 0
    assert "no model has judged here" in capsys.readouterr().out
    assert run_command(["model", "import", str(tmp_path), "--state", str(tmp_path)]) == 78


def test_a_running_daemon_answers(updated: Box, capsys: pytest.CaptureFixture[str]) -> None:
    updated.source.rollout = None
    updater = updated.start()
    stop = threading.Event()
    thread = threading.Thread(target=updater.run, args=(stop,))
    thread.start()
    try:
        code, _, err = run(updated, capsys, "activate", "tiny", "1.1.0")
        assert code == 1 and "[already-active]" in err
        code, _, err = run(updated, capsys, "rollback", "--why", "too strict")
        assert code == 0 and "judges now" in err
        assert updated.live is not None and updated.live.judging == updated.digests["factory"]
        code, _, err = run(updated, capsys, "rollback")
        assert code == 1 and "[no-previous]" in err
        assert updated.store is not None and updated.store.state.stage is Stage.IDLE
        code, _, err = run(updated, capsys, "activate", "tiny", "1.1.0")
        assert code == 0 and "limits (its rollout's): shadow 200 parts" in err
    finally:
        stop.set()
        thread.join(timeout=20)


def test_a_release_is_imported_from_a_stick(
    box: Box, models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = TufRepository()
    rollout = repository.release(models["b"])
    repository.write_to(tmp_path / "stick")
    (box.root / "root.json").write_bytes(repository.first_root)
    (box.root / "line.toml").write_text(
        f'state_dir = "box"\n[[camera]]\nname = "left"\nsource = "sim"\n[model]\ndir = "{box.factory}"\n'
        f'[update]\nproduct = "{PRODUCT}"\nroot = "root.json"\nkeep_free_bytes = 0\n'
    )
    code, out, _ = run(box, capsys, "import", str(tmp_path / "stick"), "--json")
    assert code == 0 and json.loads(out)["digest"] == rollout.model.digest
    packages = box.root / "box" / "models" / "packages"
    assert [path.name for path in packages.iterdir()] == [rollout.model.digest.removeprefix("sha256:")]
