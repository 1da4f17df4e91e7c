"""What belongs to another user, or is no folder, is refused in one line that says what to do."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge_inspect.cli import run_command

NOBODY = 65534


@pytest.fixture(autouse=True)
def umask_as_before() -> Iterator[None]:
    """`run` is a process of its own and keeps its files to itself."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@contextmanager
def another_user() -> Iterator[None]:
    """Root may read everything, so it becomes somebody else; everybody else is kept out by mode 0000 already."""
    if os.geteuid() != 0:
        yield
        return
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@pytest.fixture
def closed() -> Iterator[Path]:
    """A folder of another user's that may not be looked into, with a file in it."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        folder = Path(name) / "closed"
        folder.mkdir()
        (folder / "edge.toml").write_text("")
        folder.chmod(0)
        yield folder
        folder.chmod(0o700)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["status", "--state", "{closed}"], 1),
        (["outbox", "status", "--state", "{closed}"], 1),
        (["evidence", "list", "--state", "{closed}"], 1),
        (["run", "--camera", "sim", "--state", "{closed}"], 1),
        (["line", "trigger", "--socket", "{closed}/line.sock"], 1),
        (["run", "--camera", "sim", "--model", "{closed}"], 1),
        (["run", "--camera", "sim", "--model", "{closed}/model"], 1),
        (["run", "--camera", "sim", "--recipe", "{closed}/edge.toml"], 78),
        (["run", "--config", "{closed}/edge.toml"], 78),
        (["config", "check", "{closed}/edge.toml"], 78),
        (["doctor", "--config", "{closed}/edge.toml"], 78),
        (["line", "rest", "--config", "{closed}/edge.toml"], 78),
    ],
)
def test_what_belongs_to_another_user_is_one_line_that_names_him(
    command: list[str], code: int, closed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_command(["--version"])  # everything is imported while we may read it
    with another_user():
        assert run_command([word.format(closed=closed) for word in command]) == code
    line = capsys.readouterr().err
    assert "not permitted; ask as the daemon's user: sudo -u edge-inspect" in line
    assert line.count("\n") == 1 and str(closed) in line


@pytest.mark.parametrize("command", [["status"], ["outbox", "status"], ["run", "--camera", "sim"]])
def test_state_that_systemd_named_may_be_another_users_too(
    command: list[str], closed: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(closed))
    run_command(["--version"])
    with another_user():
        assert run_command(command) == 1
    assert "not permitted; ask as the daemon's user" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["status"], ["outbox", "status"], ["run", "--camera", "sim"]])
def test_state_that_is_a_file_is_said_to_be_one(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert run_command([*command, "--state", str(file)]) == 1
    assert capsys.readouterr().err == f"edge-inspect: {file}: is a file, allowed: a folder\n"


def test_state_that_cannot_be_made_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["run", "--camera", "sim", "--state", "/proc/foo"]) == 1
    assert capsys.readouterr().err == "edge-inspect: /proc/foo: cannot be made: No such file or directory\n"


def test_what_a_daemon_keeps_is_its_owners_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "new" / "state"
    command = [sys.executable, "-m", "edge_inspect", "--camera", "sim:ng_share=1.0", "--frames", "60"]
    subprocess.run([*command, "--state", str(state)], capture_output=True, timeout=120, check=True, umask=0o022)
    kept = [state, *state.rglob("*")]
    assert len(kept) > 1
    assert [(path.name, oct(path.stat().st_mode)) for path in kept if path.stat().st_mode & 0o077] == []
