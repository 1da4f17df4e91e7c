"""What the docs tell people to install is enough: each program runs with its extras, and with nothing else.

The tests are installed with every extra, so a requirement that is missing from one of them is seen nowhere else. What
an extra brings is read from pyproject.toml and from what is installed; a child process can import nothing else.
"""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from edge_inspect.toml_model import tomllib
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS = canonicalize_name(PROJECT["name"])
LINE = ("edge_inspect.line.gpio", "edge_inspect.line.modbus", "edge_inspect.line.plc_sim")
BROKER = "edge_inspect.cli.broker"
MIGRATIONS = "cloud_inspect.db.migrations"


@dataclass(frozen=True)
class Promise:
    extras: str
    commands: tuple[str, ...]
    """Each says its --help."""
    modules: tuple[str, ...] = ()
    """They and all below them can be imported,"""
    left_out: tuple[str, ...] = ()
    """but those: they belong to another extra, and only commands that name it import them. Or Alembic calls them."""


EDGE = ("edge-inspect", "edge-inspect run", "edge-inspect model", "edge-inspect doctor", "edge-inspect line")
LATE = ("yaml", "fsspec")
"""Imported by the functions that need them: data sets, repositories that are no folder."""
CLOUD = ("cloud-inspect", "cloud-inspect ingest", "cloud-inspect train", "cloud-inspect release")
PROMISES = (
    Promise("cpu", (*EDGE, "edge-inspect-fetch", "edge-inspect-probe"), ("edge_inspect",), (*LINE, BROKER)),
    Promise("cpu", ("cloud-inspect",)),
    Promise("cpu,line", ("edge-inspect line",), ("edge_inspect.line",)),
    Promise("cpu,demo", ("edge-inspect demo",), (BROKER, "edge_inspect.line.plc_sim")),
    Promise("cloud", CLOUD, ("cloud_inspect", *LATE), (MIGRATIONS, *(f"{name}." for name in LATE))),
    Promise("train", ("cloud-inspect train", "cloud-inspect measure", "cloud-inspect release build")),
)


def requirements(name: str, extras: frozenset[str]) -> list[Requirement]:
    """What a distribution asks for here; nothing where it is not installed. Ours: as pyproject.toml has it now, not as
    it was when it was installed."""
    if name == OURS:
        own = PROJECT["optional-dependencies"]
        texts = [*PROJECT["dependencies"], *(text for extra in extras for text in own[extra])]
    else:
        texts = [text for found in metadata.distributions(name=name) for text in found.requires or ()]
    found = [Requirement(text) for text in texts]
    return [one for one in found if one.marker is None or _applies(one, extras)]


def _applies(requirement: Requirement, extras: frozenset[str]) -> bool:
    assert requirement.marker is not None
    return any(requirement.marker.evaluate({"extra": extra}) for extra in (extras or {""}))


def brought_by(extras: str) -> set[str]:
    """Names of all distributions that `pip install 'edge-inspect[extras]'` brings."""
    todo = [(str(OURS), frozenset(extras.split(",")))]
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        if (wanted := todo.pop()) not in seen:
            seen.add(wanted)
            todo += [(canonicalize_name(one.name), frozenset(one.extras)) for one in requirements(*wanted)]
    return {name for name, _ in seen}


def modules_of(found: metadata.Distribution) -> set[str]:
    """Top-level ones."""
    names = {inspect.getmodulename(file.name) if len(file.parts) == 1 else file.parts[0] for file in found.files or ()}
    return {name for name in names if name and name.isidentifier()}


def refused_with(extras: str) -> list[str]:
    brought = brought_by(extras)
    allowed: set[str] = set()
    others: set[str] = set()
    for found in metadata.distributions():
        (allowed if canonicalize_name(found.name) in brought else others).update(modules_of(found))
    return sorted(others - allowed - {"tests"})


def only_with(extras: str, *runs: list[str], modules: tuple[str, ...] = (), left_out: tuple[str, ...] = ()) -> None:
    asked = {"refused": refused_with(extras), "runs": runs, "modules": modules, "left_out": left_out}
    child = [sys.executable, "-m", "tests.only_installed", json.dumps(asked)]
    told = subprocess.run(child, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert told.returncode == 0, told.stderr[-3000:]


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: f"{promise.commands[0]}-{promise.extras}")
def test_a_program_runs_with_nothing_but_its_extras(promise: Promise) -> None:
    words = [command.split() for command in promise.commands]
    helps = [[PROJECT["scripts"][program], *command, "--help"] for program, *command in words]
    only_with(promise.extras, *helps, modules=promise.modules, left_out=promise.left_out)


def test_modules_that_no_extra_brings_are_refused() -> None:
    """Or the tests above would promise nothing."""
    assert {"yaml", "pytest", "alembic", "pymodbus", "amqtt"} <= set(refused_with("cpu"))
    with pytest.raises(AssertionError, match="No module named 'sqlalchemy'"):
        only_with("cpu", modules=("cloud_inspect.db.tables",))


def test_the_walk_through_runs_with_what_its_page_installs() -> None:
    page = (ROOT / "docs" / "models.md").read_text()
    for extras in ("cpu,cloud,train,dev", "cpu,cloud,dev"):
        assert f"pip install '.[{extras}]'" in page
    only_with("cpu,cloud,dev", ["tests.line.prepared_models:main", "--help"])
