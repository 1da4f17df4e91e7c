"""Looking into a database needs neither the right to write to it nor an MQTT library."""

from __future__ import annotations

import os
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cloud_inspect.cli import main
from cloud_inspect.db.engine import open_engine, opened
from cloud_inspect.db.upgrade import current, upgrade
from cloud_inspect.settings import DatabaseSettings

LOOKING = (["devices"], ["reports", "list"], ["gaps"], ["quarantine", "list"], ["db", "current"])
NOBODY = 65534


@pytest.fixture
def file() -> Iterator[Path]:
    """A database with our tables, in a folder that everybody may enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        path = Path(name) / "inspect.sqlite3"
        engine = open_engine(DatabaseSettings(url=f"sqlite:///{path}"))
        upgrade(engine)
        engine.dispose()
        yield path
        Path(name).chmod(0o755)


@contextmanager
def may_only_read(file: Path) -> Iterator[None]:
    """Root may write everywhere, so it becomes somebody else for a while."""
    for beside in file.parent.iterdir():
        beside.chmod(0o444)
    file.parent.chmod(0o555)
    is_root = os.geteuid() == 0
    if is_root:
        os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        if is_root:
            os.setresuid(0, 0, 0)


def run(command: list[str], file: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["cloud-inspect", *command, "--db", f"sqlite:///{file}"])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize("is_written_to", [False, True])
def test_a_file_that_may_only_be_read_can_be_looked_into(
    is_written_to: bool, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = [run(command, file, monkeypatch) for command in LOOKING]  # and all that they need is imported
    writer = sqlite3.connect(file, isolation_level=None)
    if is_written_to:
        writer.execute("CREATE TABLE more (a)")  # its log and what readers share lie beside the file
    else:
        writer.close()
    with may_only_read(file):
        codes += [run(command, file, monkeypatch) for command in LOOKING]
    writer.close()
    assert codes == [0] * 2 * len(LOOKING), capsys.readouterr().err


@pytest.mark.parametrize("command", LOOKING)
def test_looking_needs_no_mqtt_library(command: list[str], file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiomqtt", None)
    assert run(command, file, monkeypatch) == 0
    assert run(["resync", "box", "a-b", "1-2"], file, monkeypatch) == 1


def test_asking_for_the_revision_makes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(["db", "current"], tmp_path / "none.sqlite3", monkeypatch) == 0
    assert list(tmp_path.iterdir()) == []


def held_by_us(file: Path) -> int:
    """How many descriptors of this process are that file."""
    return sum(os.path.realpath(f"/proc/self/fd/{name}") == str(file.resolve()) for name in os.listdir("/proc/self/fd"))


def test_what_fails_in_the_middle_leaves_no_connection_behind(file: Path) -> None:
    with pytest.raises(ZeroDivisionError), opened(DatabaseSettings(url=f"sqlite:///{file}"), reads=True) as engine:
        assert current(engine) is not None
        assert held_by_us(file) > 0
        raise ZeroDivisionError
    assert held_by_us(file) == 0
