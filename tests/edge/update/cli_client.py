"""Drives `tests/tuf_client_cli` the way a conformance suite does, in this process: what it leaves, what it asks for.

A process of its own for each command would say the same, ten times slower; test_tuf_client_cli.py has some.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone, tzinfo
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

from edge_inspect.update import clock
from tests.sim.tuf_repository import TufServer

COMMAND = Path(__file__).resolve().parents[2] / "tuf_client_cli"


def _command() -> ModuleType:
    loader = SourceFileLoader("tuf_client_cli", str(COMMAND))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


_MODULE = _command()


class Client:
    """below: a path before `metadata/` and `targets/` in every url. root: None: the repository's first."""

    def __init__(self, server: TufServer, folder: Path, *, below: str = "", root: bytes | None = None) -> None:
        self.metadata, self.targets = folder / "metadata", folder / "targets"
        for new in (self.metadata, self.targets):
            new.mkdir()
        self.server = server
        self._url = f"{server.url}/{below}"
        initial = folder / "initial.json"
        initial.write_bytes(server.repository.first_root if root is None else root)
        self._seen = len(server.requests)
        assert self.run("init", str(initial)) == 0
        assert self.asked() == []

    def run(self, *words: str) -> int:
        code = _MODULE.main(["--metadata-dir", str(self.metadata), *words])
        assert isinstance(code, int)
        return code

    def refresh(self) -> int:
        return self.run("--metadata-url", f"{self._url}metadata/", "refresh")

    def download(self, *names: str) -> int:
        wanted = [word for name in names for word in ("--target-name", name)]
        return self.run(
            "--metadata-url", f"{self._url}metadata/", *wanted, "--target-dir", str(self.targets),
            "--target-base-url", f"{self._url}targets/", "download",
        )  # fmt: skip

    def asked(self, kind: str = "") -> list[str]:
        """Paths asked for since the last call that begin with `kind`."""
        new, self._seen = self.server.requests[self._seen :], len(self.server.requests)
        return [request.path for request in new if request.path.startswith(kind)]

    def trusted(self) -> str:
        """Versions of the metadata on disk in the order of the workflow, then delegated roles: `root 1 timestamp 2`."""
        found = {p.stem: json.loads(p.read_bytes())["signed"]["version"] for p in self.metadata.glob("*.json")}
        order = ["root", "timestamp", "snapshot", "targets"]
        names = [*(name for name in order if name in found), *sorted(found.keys() - set(order))]
        return " ".join(f"{name} {found[name]}" for name in names)

    def contents(self) -> list[bytes]:
        """Every target on disk, as they were written one after the other."""
        files = [path for path in self.targets.rglob("*") if path.is_file()]
        return [path.read_bytes() for path in sorted(files, key=lambda path: path.stat().st_mtime_ns)]


def set_clock(monkeypatch: pytest.MonkeyPatch, days: float) -> None:
    """What the client takes for now."""

    class Later(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Later:
            return cls.fromtimestamp((datetime.now(timezone.utc) + timedelta(days=days)).timestamp(), tz)

    monkeypatch.setattr(clock, "datetime", Later)
