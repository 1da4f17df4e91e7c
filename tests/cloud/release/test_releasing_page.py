"""docs/releasing.md: its commands work in their order, and every code that we raise stands in it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cloud_inspect.cli.release
import cloud_inspect.release
from cloud_inspect.cli import app
from tests.conftest import ROOT
from tests.sim.tiny_model import write_tiny_package

PAGE = (ROOT / "docs/releasing.md").read_text()
RAISED = re.compile(r'(?:BadRelease|BadKey|StoreGone)\(\s*"([a-z0-9-]+)"|\[((?:target|expired|metadata)[a-z-]*)\]"')
STAY = ("serve", "announce")
"""They have tests of their own."""


def test_commands_of_the_page_work_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "passphrase").write_text("secret\n")
    (tmp_path / "stick").mkdir()
    write_tiny_package(tmp_path / "metal-plate-1.1.0", name="metal-plate", version="1.1.0")
    commands = re.findall(r"^    cloud-inspect (release .*)$", PAGE, re.MULTILINE)
    assert len(commands) > 12
    for command in commands:
        words = shlex.split(command)
        if words[1] in STAY:
            continue
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, f"{command}: {result.exception}"
    again = CliRunner().invoke(app, ["release", "verify", "models", "--root", "keys/root.json"])
    assert again.exit_code == 0 and "0 troubles" in again.stdout


def test_every_code_stands_in_the_page() -> None:
    told = set(re.findall(r"`([a-z0-9-]+)`", PAGE))
    sources = [*Path(cloud_inspect.release.__path__[0]).glob("*.py"), Path(cloud_inspect.cli.release.__file__)]
    ours = [path for path in sources if path.name not in OF_BUILD]
    raised = {one or other for path in ours for one, other in RAISED.findall(path.read_text())}
    assert len(raised) > 40
    assert raised - told == set()


OF_BUILD = {"build.py", "package.py", "judge.py", "variants.py", "golden.py", "cost.py"}
"""docs/model-packages.md has theirs."""
