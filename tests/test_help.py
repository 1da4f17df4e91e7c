"""What `--help` prints is what was written: square brackets are words of ours (`[update]`), never markup."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from cloud_inspect.cli import app as cloud_app
from cloud_inspect.settings import MqttSettings
from edge_inspect.cli import build_app, fetch, probe
from edge_inspect.cli.single import single_app

BRACKETS = re.compile(r"\[\S*?[^\s\]]\]+")
WIDE = {"COLUMNS": "400", "TERM": "dumb"}


APPS = {
    "edge-inspect": build_app(),
    "edge-inspect-fetch": single_app(fetch.fetch, fetch.EXAMPLE),
    "edge-inspect-probe": single_app(probe.command, probe.EXAMPLE),
    "cloud-inspect": cloud_app,
}


def commands(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield words, command
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, (*words, name))


def written(command: Any) -> Iterator[str]:
    yield from filter(None, (command.help, command.epilog))
    yield from filter(None, (getattr(one, "help", None) for one in command.params))


@pytest.mark.parametrize("program", APPS)
def test_help_prints_every_word_in_brackets(program: str) -> None:
    runner = CliRunner()
    for words, command in commands(typer.main.get_command(APPS[program])):
        said = " ".join(written(command)).replace("\\[", "[")
        if BRACKETS.search(said):
            shown = runner.invoke(APPS[program], [*words, "--help"], env=WIDE).output
            missing = [found for found in BRACKETS.findall(said) if found not in shown]
            assert not missing, (words, missing)


@pytest.mark.parametrize("program", APPS)
def test_h_is_help(program: str) -> None:
    assert CliRunner().invoke(APPS[program], ["-h"], env=WIDE).exit_code == 0


def test_the_broker_that_is_asked_without_mqtt_is_in_the_help() -> None:
    shown = CliRunner().invoke(cloud_app, ["release", "announce", "--help"], env=WIDE).output
    assert f"default: (that of --config, else {MqttSettings().url})" in shown
