"""How our programs end where their caller goes, or his stdout: without a traceback, and with a code that says which."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cloud_inspect.cli import output as cloud_output
from cloud_inspect.cli import run_command as cloud_inspect
from cloud_inspect.errors import BadRelease
from cloud_inspect.release.packages import read_package
from edge_inspect.cli import output as edge_output
from edge_inspect.cli import run_command as edge_inspect
from edge_inspect.errors import BadModel
from edge_inspect.inference.package import ModelPackage
from edge_inspect.update.store import FOLDER
from tests.conftest import ROOT

INTERRUPTED = """
import os, runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins with it ignored
class CtrlC:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[0]:
            os.kill(os.getpid(), signal.SIGINT)
program, sys.argv = sys.argv[1], sys.argv[2:]
sys.meta_path.insert(0, CtrlC())
runpy.run_module(program, run_name="__main__", alter_sys=False)
"""
ENV = {**os.environ, "PYTHONPATH": f"{ROOT / 'edge'}:{ROOT / 'cloud'}", "COLUMNS": "100"}


def run(program: str, *words: str, stdout: int = subprocess.PIPE, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", program, *words]
    return subprocess.run(
        command, stdout=stdout, stderr=subprocess.PIPE, text=True, env=ENV | env, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("program", "module", "words"),
    [
        ("edge_inspect", "edge_inspect.cli", ["model", "verify"]),
        ("edge_inspect", "typer", ["model", "verify"]),
        ("edge_inspect", "edge_inspect.cli.model_import", ["model", "import", "stick"]),
        ("cloud_inspect", "typer", ["release", "sign"]),
        ("cloud_inspect", "cloud_inspect.learning.datasets", ["release", "publish", "models"]),
        ("cloud_inspect", "cloud_inspect.release.repository", ["release", "list", "models"]),
    ],
)
def test_ctrl_c_while_modules_are_imported_ends_without_a_word(
    program: str, module: str, words: list[str], tmp_path: Path
) -> None:
    (tmp_path / "models" / "metadata").mkdir(parents=True)
    (tmp_path / "models" / "metadata" / "1.root.json").write_text("{}")
    child = [sys.executable, "-c", INTERRUPTED, program, module, *words]
    ended = subprocess.run(
        child, cwd=tmp_path, capture_output=True, text=True, env=ENV, timeout=60, check=False, restore_signals=True
    )
    assert (ended.stdout, ended.stderr) == ("", "")
    assert ended.returncode in (-signal.SIGINT, 130)


@pytest.fixture
def history(tmp_path: Path) -> list[str]:
    (tmp_path / FOLDER).mkdir()
    return ["model", "history", "--state", str(tmp_path)]


@pytest.mark.parametrize("program", ["edge-inspect", "cloud-inspect"])
def test_a_stdout_that_takes_nothing_is_one_line(program: str, history: list[str]) -> None:
    words = history if program == "edge-inspect" else ["release", "--help"]
    with open("/dev/full", "w") as full:
        ended = run(program.replace("-", "_"), *words, stdout=full.fileno())
    said = f"{program}: stdout: No space left on device; what was to be printed is lost [stdout]\n"
    assert (ended.returncode, ended.stderr) == (74, said)


def test_a_reader_that_went_away_is_no_changed_history(history: list[str]) -> None:
    """`model history` ends with 1 where a line was changed: `| head -1` must not."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        ended = run("edge_inspect", *history, stdout=write_end)
    finally:
        os.close(write_end)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_letters_that_stdout_has_no_code_for_are_escaped() -> None:
    """In the help of `run` stands `rtsp://` with an ellipsis."""
    ended = run("edge_inspect", "run", "--help", PYTHONIOENCODING="ascii")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "rtsp://\\u2026" in ended.stdout


@pytest.mark.parametrize("emit", [edge_output.emit, cloud_output.emit])
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_stays_json_where_stdout_has_no_umlauts(
    encoding: str, emit: Callable[[dict[str, str]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(printed, encoding, errors="backslashreplace"))
    emit({"by": "Jürgen …"})
    assert json.loads(printed.getvalue().decode(encoding)) == {"by": "Jürgen …"}


def test_a_closed_stdout_takes_everything(tmp_path: Path) -> None:
    (tmp_path / "speaks.py").write_text("import sys\ndef main():\n    print('Grüße')\n    sys.exit(3)\n")
    script = "from edge_wire.program import run_program; run_program('speaks', 'speaks')"
    ended = subprocess.run(
        ["sh", "-c", 'exec "$0" -c "$1" >&-', sys.executable, script],
        cwd=tmp_path, capture_output=True, text=True, env=ENV, timeout=60, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "", "")


def test_a_cloud_command_that_fails_says_why_in_json_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cloud_inspect(["release", "list", str(tmp_path), "--json"]) == 1
    printed = capsys.readouterr()
    why = printed.err.removeprefix("cloud-inspect: ").removesuffix("\n")
    assert why.endswith("[not-a-repository]")
    assert json.loads(printed.out) == {"ok": False, "exit_code": 1, "code": "not-a-repository", "error": why}


def test_an_error_without_a_code_of_its_own_ends_with_that_of_its_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert cloud_inspect(["gaps", "--db", "sqlite:////nowhere/x"]) == 1
    assert capsys.readouterr().err == "cloud-inspect: /nowhere/x: its folder is not there [database-gone]\n"


def test_a_model_command_that_fails_says_its_code_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert edge_inspect(["model", "show", str(tmp_path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["code"] == "manifest-missing"


def test_a_family_alone_prints_its_help_and_where_there_is_more(capsys: pytest.CaptureFixture[str]) -> None:
    assert cloud_inspect(["release"]) == 64
    printed = capsys.readouterr()
    assert "cloud-inspect release init" in printed.out
    assert printed.err == "cloud-inspect: See `cloud-inspect release --help`.\n"


def test_a_package_without_its_manifest_has_one_code_on_both_sides(tmp_path: Path) -> None:
    with pytest.raises(BadModel) as edge_said:
        ModelPackage.load(tmp_path)
    with pytest.raises(BadRelease) as cloud_said:
        read_package(tmp_path)
    assert edge_said.value.code == cloud_said.value.code == "manifest-missing"
