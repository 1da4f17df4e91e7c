"""The command line that conformance suites drive: exit codes, what lies on disk afterwards, what was asked for."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import DelegatedRole

from tests.sim.tuf_repository import TufRepository, TufServer

CLIENT = Path(__file__).resolve().parents[2] / "tuf_client_cli"
TARGETS = "targets"


@pytest.fixture
def server() -> Iterator[TufServer]:
    with TufServer(TufRepository(products=())) as server:
        server.repository.publish(TARGETS, bump=False)
        yield server


class Client:
    def __init__(self, server: TufServer, folder: Path) -> None:
        self.metadata, self.targets = folder / "metadata", folder / "targets"
        self.metadata.mkdir()
        self._server = server
        root = folder / "initial.json"
        root.write_bytes(server.repository.first_root)
        assert self.run("init", str(root)) == 0

    def run(self, *words: str) -> int:
        command = [sys.executable, str(CLIENT), "--metadata-dir", str(self.metadata), *words]
        return subprocess.run(command, timeout=60, check=False, stderr=subprocess.DEVNULL).returncode

    def refresh(self) -> int:
        return self.run("--metadata-url", f"{self._server.url}/metadata/", "refresh")

    def download(self, *names: str) -> int:
        wanted = [word for name in names for word in ("--target-name", name)]
        url = ("--metadata-url", f"{self._server.url}/metadata", "--target-base-url", f"{self._server.url}/targets/")
        return self.run(*url, *wanted, "--target-dir", str(self.targets), "download")

    def versions(self) -> dict[str, int]:
        return {p.stem: json.loads(p.read_bytes())["signed"]["version"] for p in self.metadata.glob("*.json")}

    def contents(self) -> list[bytes]:
        return sorted(path.read_bytes() for path in self.targets.glob("**/*") if path.is_file())


@pytest.fixture
def client(server: TufServer, tmp_path: Path) -> Client:
    return Client(server, tmp_path)


def test_first_refresh_asks_for_just_what_the_workflow_says(client: Client, server: TufServer) -> None:
    assert server.requests == []
    assert client.refresh() == 0
    assert [request.path.removeprefix("metadata/") for request in server.requests] == [
        "2.root.json", "timestamp.json", "1.snapshot.json", "1.targets.json",
    ]  # fmt: skip
    assert client.versions() == {"root": 1, "timestamp": 1, "snapshot": 1, "targets": 1}
    for role in ("root", "snapshot", "targets"):
        assert (client.metadata / f"{role}.json").read_bytes() == server.repository.files[f"metadata/1.{role}.json"]


def test_expired_root_is_kept_and_nothing_behind_it(client: Client, server: TufServer) -> None:
    assert client.refresh() == 0
    server.repository.root.expires = server.repository.now - timedelta(days=1)
    server.repository.publish("root", TARGETS)
    assert client.refresh() == 1
    assert client.versions() == {"root": 2, "timestamp": 1, "snapshot": 1, "targets": 1}


def test_download_refreshes_finds_its_copy_again_and_takes_no_other_content(client: Client, server: TufServer) -> None:
    repository = server.repository
    path = repository.put(TARGETS, "a/b.txt", b"content")
    repository.put(TARGETS, "c.txt", b"more")
    repository.publish(TARGETS)
    assert client.download("nobody/knows") == 1
    assert client.download("a/b.txt", "c.txt") == 0
    assert client.contents() == [b"content", b"more"]
    asked = len(server.asked("targets/*"))
    assert client.download("a/b.txt") == 0
    assert len(server.asked("targets/*")) == asked
    repository.files[path] = b"CONTENT"
    repository.put(TARGETS, "a/b.txt", b"changed")
    repository.files.pop(f"targets/a/{hashlib.sha256(b'changed').hexdigest()}.b.txt")
    repository.publish(TARGETS)
    assert client.download("a/b.txt") == 1
    assert client.contents() == [b"content", b"more"]


def test_role_known_through_one_parent_is_not_believed_through_another(client: Client, server: TufServer) -> None:
    repository = server.repository
    for parent, paths in (("a", ["a/*"]), ("b", ["b/*"])):
        repository.delegate(TARGETS, parent, paths)
        repository.delegate(parent, "shared", paths)
    key_of_b = repository.signers["shared"].pop()
    role: DelegatedRole = repository.signed("b").delegations.roles["shared"]
    assert role.keyids == [key_of_b.public_key.keyid]
    repository.put("shared", "a/x", b"by a")
    repository.put("shared", "b/x", b"by a, for b")
    repository.publish(TARGETS, "a", "b", "shared")
    assert client.download("a/x", "b/x") == 1
    assert client.contents() == [b"by a"]
